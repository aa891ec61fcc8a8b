// trainer_inputs.c: see trainer_inputs.h.
#include "common/train/trainer_inputs.h"

#include <stdlib.h>

// What options ask of the model.
static int check_model(const struct trainer *t, struct error *err)
{
    struct train_extent extent;
    TRY(train_check(&t->options, t->title, err));
    if (!t->model->data)
        return error_set(err, "%s: the model's weights are quantized; train the unquantized model", t->title);
    for (int i = 0; t->options.lora && i < t->model->n_parameter; i++)
        if (t->model->parameter[i].t.hook)
            return error_set(err, "%s: %s is not multiplied as it lies (a mask, or quantization while training), so \"lora\" cannot put factors "
                             "beside it; leave one of the two out", t->title, t->model->parameter[i].name);
    if (t->remask || t->moment[0])
        TRY(train_check_plain(&t->options, t->title, err));
    return train_check_model(&t->options, t->model, t->title, &extent, err);
}

int trainer_inputs_check(const struct trainer *t, struct error *err)
{
    TRY(check_model(t, err));
    if (t->examples) {
        const struct config *c = &t->model->config;
        if (t->options.mask_words > 0 && t->examples->mask < 0)
            return error_set(err, "%s.mask_words: the tokenizer has no token that hides a word ([MASK]); leave it out", t->title);
        const int has_head = c->head == HEAD_SPANS ? t->examples->span != NULL
                                                   : c->head == HEAD_CLASSES || (c->head == HEAD_MASKED && t->examples->mask >= 0);
        return has_head && t->examples->longest <= c->context
                   ? 0
                   : error_set(err, "%s: examples of up to %lld tokens, and a model %s", t->title, (long long)t->examples->longest,
                               has_head ? "with positions for fewer" : "without a head for what they say");
    }
    if (t->images)
        return images_check(t->images, t->model->config.hidden, t->model->config.vocab, t->title, err);
    if (t->options.reweight_every && (!t->data->n_source || !t->source_losses))
        return error_set(err, "%s.reweight_every: the text has no sources with held-out text of their own, whose losses would decide their weights",
                         t->title);
    return dataset_check(t->data, t->model->config.vocab, t->title, err);
}

void trainer_inputs_hash(const struct trainer *t, char out[HASH_TEXT])
{
    struct hasher *h = hasher_new();
    struct json *options = options_json(train_option_table, &t->options);
    json_remove(options, "snapshot_every");
    char *text = json_text(options, 0);
    hasher_add_text(h, text);
    hasher_add_text(h, t->identity ? t->identity : "");
    int64_t numbers[5] = {t->seq_len, (int64_t)t->seed, t->precision, t->first_step, t->last_step};
    hasher_add(h, numbers, sizeof numbers);
    if (t->images || t->examples)
        hasher_add_text(h, t->images ? t->images->hash : t->examples->hash);
    else {
        dataset_hash_windows(t->data, h);
        if (t->data->n_source)
            hasher_add(h, mixture_weights(&t->data->mixture), (size_t)t->data->n_source * sizeof(double));
    }
    hasher_add(h, t->model->data, (size_t)t->model->n_element * sizeof *t->model->data);
    for (int k = 0; k < 2 && t->first_step; k++)
        if (t->moment[k])
            hasher_add(h, t->moment[k], (size_t)t->model->n_element * sizeof *t->moment[k]);
    if (t->beside)
        hasher_add(h, t->beside->data, (size_t)t->beside->n_element * sizeof *t->beside->data);
    for (int k = 0; k < t->n_peer; k++)
        hasher_add(h, t->peer[k]->data, (size_t)t->peer[k]->n_element * sizeof *t->peer[k]->data);
    hasher_end(h, out);
    free(text);
    json_free(options);
}
