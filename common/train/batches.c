// batches.c: see batches.h.
#include "common/train/batches.h"

#include <stdlib.h>

void batches_init(struct batches *b, const struct trainer *t)
{
    const struct train_options *o = &t->options;
    const size_t n = (size_t)(o->batch * t->seq_len);
    *b = (struct batches){.trainer = t};
    if (t->data)
        dataset_view(&b->text, t->data);
    b->inputs = xmalloc(n * sizeof *b->inputs, "a batch of tokens");
    b->targets = xmalloc(n * sizeof *b->targets, "a batch of tokens");
    if (t->examples)
        example_batch_init(&b->examples, o->batch, t->examples->longest);
    if (t->images) {
        const int64_t columns = t->model->config.hidden;
        b->x = (struct tensor){.name = "images", .n_dim = 2, .dim = {o->batch, columns, 1}};
        b->x.data = xmalloc((size_t)(o->batch * columns) * sizeof *b->x.data, "a batch of images");
    }
}

void batches_release(struct batches *b)
{
    dataset_drop_view(&b->text);
    free(b->inputs);
    free(b->targets);
    free(b->x.data);
    example_batch_release(&b->examples);
}

int64_t batches_longest(const struct trainer *t) { return t->examples ? t->examples->longest : t->seq_len; }

const int32_t *batches_make(struct batches *b, int64_t index, const struct dropout *dropout, struct forward *forward)
{
    const struct trainer *t = b->trainer;
    const struct train_options *o = &t->options;
    const int32_t *targets = b->targets;
    *forward = (struct forward){.ids = b->inputs, .B = o->batch, .T = t->seq_len, .checkpoint = o->checkpoint};
    if (o->dropout_input > 0 || o->dropout > 0)
        forward->dropout = dropout;
    if (t->examples) {
        struct example_batch *e = &b->examples;
        examples_batch(t->examples, t->seed, index, o->batch, e);
        forward->ids = e->ids;
        forward->T = e->T;
        forward->length = e->length;
        forward->types = e->types;
        targets = example_targets(t->examples, e);
        if (o->mask_words > 0 || o->ngrams > 0)
            examples_augment(t->examples, o->mask_words, o->ngrams, t->seed, (uint64_t)index, e);
        if (t->model->config.head == HEAD_MASKED) {
            examples_mask(t->examples, o->mask_share, t->seed, (uint64_t)index, e);
            forward->rows = e->hidden;
            forward->n_rows = e->n_hidden;
            targets = e->word;
        }
    } else if (t->images) {
        forward->x = &b->x;
        images_batch(t->images, t->seed, o->jitter, index * o->batch, o->batch, b->x.data, b->targets);
    } else {
        dataset_batch(&b->text, t->seq_len, t->seed, index * o->batch, o->batch, b->inputs, b->targets);
        if (o->hide_tokens > 0 || o->replace_tokens > 0)
            dataset_noise(&b->text, o->hide_tokens, o->replace_tokens, NO_TOKEN, t->seed, (uint64_t)index, b->inputs, o->batch * t->seq_len);
    }
    return targets;
}
