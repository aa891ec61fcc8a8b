// teacher_answers.c: see teacher_answers.h.
#include "recipes/teacher_answers.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/tensor/gemm.h"
#include "recipes/inputs.h"

char *answers_file(const struct recipe *r, const struct distill_options *o) {
    return strcmp(o->teacher_cache, ANSWERS_AUTO) == 0 ? NULL : recipe_path(r, o->teacher_cache);
}

static void hash_tokenizer(const struct tokenizer *t, char out[HASH_TEXT]) {
    struct hasher *h = hasher_new();
    const int32_t special[] = {tokenizer_bos(t), tokenizer_eos(t), tokenizer_adds_bos(t), tokenizer_adds_eos(t)};
    for (int64_t id = 0; id < tokenizer_size(t); id++) {
        const char *token = tokenizer_id_to_token(t, (int32_t)id);
        hasher_add_text(h, token ? token : "");
    }
    hasher_add(h, special, sizeof special);
    hasher_end(h, out);
}

static int hash_teacher(const struct stage_run *s, const struct distill_options *o, char out[HASH_TEXT], struct error *err) {
    if (!o->teacher.count && !o->shape) {
        memcpy(out, s->run->parent_hash, HASH_TEXT);
        return 0;
    }
    char *path = o->teacher.count ? recipe_path(s->recipe, o->teacher.item[0]) : xstrdup(s->input);
    int status = model_hash(path, 0, out, err);
    free(path);
    return status < 0 ? error_prefix(err, "the teacher") : 0;
}

static int make_key(struct teacher_key *key, const struct stage_run *s, const struct distill_options *o, const struct trainer *t,
                    struct error *err) {
    const char *why;
    const int64_t vocab = t->model->config.vocab;
    *key = (struct teacher_key){.seq_len = t->seq_len,
                                .windows = dataset_windows(t->data, t->seq_len),
                                .vocab = vocab,
                                .top_k = o->top_k < vocab ? o->top_k : vocab,
                                .tail_draws = o->top_k < vocab ? o->tail_draws : 0,
                                .temperature = o->temperature,
                                .precision = gemm_precision(t->precision, &why)};
    hash_tokenizer(s->run->parent.tokenizer, key->tokenizer);
    memcpy(key->data, s->train->windows, HASH_TEXT);
    return hash_teacher(s, o, key->teacher, err);
}

static int complete(const char *path, const struct teacher_key *key, const unsigned char *wanted, const struct trainer *t,
                    struct model *(*open)(void *context, struct error *err), void *context, struct error *err) {
    const int64_t lacking = teacher_cache_lacks(path, key, wanted, t->data, err);
    if (lacking <= 0)
        return lacking < 0 ? -1 : 0;
    log_info("%s: the teacher is asked about %ld windows of %ld tokens that it lacks", path, (long)lacking, (long)key->seq_len);
    struct model *teacher = open(context, err);
    return teacher ? teacher_cache_make(path, key, wanted, t->data, teacher, err) : -1;
}

int answers_open(struct teacher_cache *c, struct stage_run *s, const struct distill_options *o, const struct trainer *t,
                 struct model *(*open)(void *context, struct error *err), void *context, struct error *err) {
    struct teacher_key key;
    char name[HASH_TEXT];
    *c = (struct teacher_cache){0};
    TRY(make_key(&key, s, o, t, err));
    teacher_key_hash(&key, name);
    char *path = answers_file(s->recipe, o);
    if (!path) {
        char *file = xasprintf("teacher-%.12s.cache", name);
        path = path_join(s->run->out, file);
        free(file);
    }
    unsigned char *wanted = distill_wanted_windows(t, &o->train);
    int status = complete(path, &key, wanted, t, open, context, err);
    if (status == 0)
        status = teacher_cache_open(c, path, &key, err);
    if (status == 0) {
        const double tokens = (double)(c->n_block * key.seq_len), each = (double)c->map.size / tokens;
        log_info("%s: answers for %.0f tokens, %.1f bytes each", path, tokens, each);
        json_set_number(s->measured, "teacher_cache_bytes_per_token", each);
    }
    free(wanted);
    free(path);
    return status;
}
