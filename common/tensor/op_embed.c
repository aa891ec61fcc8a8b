// op_embed.c: rows of a table by id.
#include <string.h>

#include "common/base/error.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"
#include "common/tensor/weight.h"

#define COLUMN_BLOCK 64 // columns that one thread adds, for all rows in order: rows may repeat

struct embed_saved {
    const int32_t *ids;
};

static void embed_backward(struct tape *tape, struct node *node)
{
    struct tensor *table = node->in[0];
    const int32_t *ids = ((struct embed_saved *)node->saved)->ids;
    const int64_t N = node->out->dim[0], D = table->dim[1];
    const float *dy = node->out->grad;
    const int hooked = weight_changes_gradient(table);
    const size_t mark = arena_mark(&tape->arena);
    float *grad = hooked ? arena_zalloc(&tape->arena, (size_t)tensor_count(table) * sizeof(float)) : table->grad;
#pragma omp parallel for schedule(static) if (N * D > PARALLEL_MIN)
    for (int64_t c = 0; c < D; c += COLUMN_BLOCK) {
        const int64_t end = min_i64(D, c + COLUMN_BLOCK);
        for (int64_t n = 0; n < N; n++)
            for (int64_t i = c; i < (ids[n] == NO_TOKEN ? c : end); i++)
                grad[ids[n] * D + i] += dy[n * D + i];
    }
    if (hooked)
        weight_add_effective(table, grad);
    arena_reset(&tape->arena, mark);
}

struct tensor *op_embed(struct tape *tape, struct tensor *table, const int32_t *ids, int64_t N)
{
    const int64_t V = table->dim[0], D = table->dim[1];
    struct tensor *y = tape_tensor(tape, "embedding", 2, N, D, 1);
    for (int64_t n = 0; n < N; n++) {
        if (ids[n] < NO_TOKEN || ids[n] >= V)
            BUG("op_embed: id %d at row %ld, table %s[%ld,%ld]", (int)ids[n], (long)n, table->name, (long)V, (long)D);
        if (ids[n] == NO_TOKEN)
            memset(y->data + n * D, 0, (size_t)D * sizeof(float));
        else if (table->hook)
            table->hook->rows(table->hook->context, table, ids[n], 1, y->data + n * D);
        else
            memcpy(y->data + n * D, table->data + ids[n] * D, (size_t)D * sizeof(float));
    }
    struct node *node = tape_record(tape, embed_backward, y, table, NULL, NULL, NULL);
    if (node) {
        struct embed_saved *s = arena_alloc(&tape->arena, sizeof *s);
        int32_t *copy = arena_alloc(&tape->arena, (size_t)N * sizeof *copy);
        memcpy(copy, ids, (size_t)N * sizeof *copy);
        s->ids = copy;
        node->saved = s;
    }
    return y;
}
