// stage_sample.c: text drawn from the teacher, for the stages after it to learn from instead of data.train: recovery without any text.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/text/utf8.h"
#include "recipes/sampled.h"
#include "recipes/stage.h"

struct sample_stage_options {
    char *teacher;
    int64_t tokens, length, batch, top_k;
    double temperature, top_p;
    int start;
};
#define ROW(name, kind, field) name, kind, offsetof(struct sample_stage_options, field)
static const struct option table[] = {
    {ROW("teacher", OPTION_STRING, teacher), NULL, 0, 0, NULL, "MODEL", "directory or .gguf file; by default the recipe's model"},
    {ROW("tokens", OPTION_INT, tokens), "262144", 2, 1e12, NULL, "N", "how many, rounded up to whole documents"},
    {ROW("length", OPTION_INT, length), "0", 0, 1 << 20, NULL, "N", "tokens of a document; 0: data.seq_len"},
    {ROW("temperature", OPTION_DOUBLE, temperature), "1", 0, 100, NULL, "T", "1: as the model says; 0: always the most likely token"},
    {ROW("top_k", OPTION_INT, top_k), "0", 0, 1e9, NULL, "K", "draw from the K most likely tokens; 0: from all"},
    {ROW("top_p", OPTION_DOUBLE, top_p), "1", 1e-6, 1, NULL, "P", "draw from the most likely tokens that together reach this probability"},
    {ROW("start", OPTION_CHOICE, start), "bos", 0, 0, "bos|token", NULL,
     "a document begins with BOS and what the model writes then, or with BOS and any token of the vocabulary"},
    {ROW("batch", OPTION_INT, batch), "32", 1, 65536, NULL, "N", "documents at a time"},
    {.name = NULL}};
#undef ROW

static const char *teacher_path(const struct stage *s, size_t i) {
    return i == 0 ? ((const struct sample_stage_options *)s->options)->teacher : NULL;
}

static struct sample_plan make_plan(const struct recipe *r, const struct sample_stage_options *o, const struct tokenizer *t) {
    const int64_t length = o->length ? o->length : r->data.seq_len;
    return (struct sample_plan){.documents = (o->tokens + length - 1) / length,
                                .length = length,
                                .batch = o->batch,
                                .start = o->start,
                                .bos = tokenizer_bos(t),
                                .eos = tokenizer_eos(t),
                                .draw = {o->temperature, o->top_k, o->top_p},
                                .seed = (uint64_t)r->seed};
}

static int check_teacher(const struct forecast *f, const struct config *teacher, int64_t length, struct error *err) {
    const char *where = f->recipe->where;
    if (!model_is_causal(teacher))
        return error_set(err, "%s: stages[%d].sample: a %s model writes no text; expected one that predicts the next token", where, f->index,
                         teacher->model_type);
    if (teacher->vocab != f->in.vocab)
        return error_set(err, "%s: stages[%d].sample: the teacher's vocabulary has %ld entries, the model's %ld; take a teacher with the model's "
                         "tokenizer", where, f->index, (long)teacher->vocab, (long)f->in.vocab);
    if (length < 2 || (teacher->context > 0 && length > teacher->context))
        return error_set(err, "%s: stages[%d].sample.length: found %ld, expected 2 to the teacher's context, %ld tokens", where, f->index,
                         (long)length, (long)teacher->context);
    return 0;
}

static int forecast(struct forecast *f, struct error *err) {
    const struct sample_stage_options *o = f->recipe->stage[f->index].options;
    struct config teacher = {0};
    if (o->teacher) {
        char *path = recipe_path(f->recipe, o->teacher);
        int status = shape_read(&teacher, path, err);
        free(path);
        TRY(status);
    } else {
        config_copy(&teacher, f->parent);
    }
    const int64_t length = o->length ? o->length : f->recipe->data.seq_len;
    int status = check_teacher(f, &teacher, length, err);
    if (status == 0) {
        const int64_t tokens = (o->tokens + length - 1) / length * length;
        int64_t cached = 0;
        for (int64_t l = 0; l < teacher.n_layer; l++)
            cached += 2 * axis_size(&teacher, AXIS_GROUPS, (int)l);
        f->flops = (double)tokens * model_flops_per_token(&teacher, length);
        f->memory = 4 * (o->batch * length * cached + o->batch * teacher.vocab) + (o->teacher ? 4 * config_parameters(&teacher) : 0);
        f->uses_parent = !o->teacher;
        f->disk = tokens * 10; // an id, and about the characters of a token
        snprintf(f->what, sizeof f->what, "draw %ld tokens from %s in documents of %ld: the text for the stages after it", (long)tokens,
                 o->teacher ? o->teacher : "the parent", (long)length);
    }
    config_release(&teacher);
    return status;
}

// What was drawn, as text: {"text": ...} a document.
static int write_text(const struct stage_run *s, const struct text_input *drawn, int64_t length, struct error *err) {
    char *path = path_join(s->folder, SAMPLED_TEXT);
    struct text all = {0}, valid = {0};
    for (int64_t i = 0; i + length <= drawn->data.n_token; i += length) {
        size_t len;
        char *decoded = tokenizer_decode(s->run->parent.tokenizer, drawn->data.token + i, (size_t)length, &len);
        struct json *o = json_object();
        text_clear(&valid);
        text_append_valid(&valid, decoded, len);
        json_set_string(o, "text", valid.data);
        char *line = json_text(o, 0);
        text_append(&all, line, strlen(line));
        text_append(&all, "\n", 1);
        free(line);
        free(decoded);
        json_free(o);
    }
    int status = file_write(path, all.data, all.len, err);
    text_release(&all);
    text_release(&valid);
    free(path);
    return status;
}

static int open_teacher(const struct stage_run *s, struct opened *other, struct model **teacher, struct error *err) {
    const struct sample_stage_options *o = s->stage->options;
    if (!o->teacher && s->run->parent_is_shape)
        return error_set(err, "%s: the recipe's model has no weights to draw from; name a \"teacher\"", s->recipe->where);
    if (!o->teacher) {
        *teacher = run_parent(s->run, err);
        return *teacher ? 0 : -1;
    }
    char *path = recipe_path(s->recipe, o->teacher);
    int status = opened_open(other, path, err);
    free(path);
    *teacher = other->model;
    return status < 0 ? error_prefix(err, "the teacher") : 0;
}

static int run(struct stage_run *s, struct error *err) {
    const struct sample_plan plan = make_plan(s->recipe, s->stage->options, s->run->parent.tokenizer);
    struct opened other = {0};
    struct model *teacher = NULL;
    struct text_input drawn = {0};
    char *path = path_join(s->folder, SAMPLED_TOKENS);
    int status = open_teacher(s, &other, &teacher, err);
    if (status == 0)
        status = sampled_write(path, teacher, &plan, err);
    if (status == 0)
        status = sampled_read(&drawn, path, s->run->parent.tokenizer, err);
    if (status == 0)
        status = write_text(s, &drawn, plan.length, err);
    json_set_number(s->facts, "documents", (double)plan.documents);
    json_set_number(s->facts, "tokens", (double)drawn.data.n_token);
    json_set_number(s->facts, "bytes", (double)drawn.data.text_bytes);
    opened_release(&other);
    dataset_release(&drawn.data);
    free(path);
    return status;
}

const struct stage_type stage_sample = {.name = "sample",
                                        .table = table,
                                        .size = sizeof(struct sample_stage_options),
                                        .keeps_model = 1,
                                        .makes_text = 1,
                                        .teacher = teacher_path,
                                        .forecast = forecast,
                                        .run = run};
