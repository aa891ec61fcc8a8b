// block_choices.c: see block_choices.h. Choices lie as the model's weights do, blocks as the file's: gguf_rows.h leads from one to the other.
#include "quant/block_choices.h"

#include <stdlib.h>

#include "quant/block_codes.h"

// Of a row of the file: the choices of its part and its first place in them. NULL: padding.
static struct rounding_choice *choices_of_row(const struct gguf_rows *rows, struct rounding_choice *const choice[], int64_t row, int64_t *first)
{
    int64_t own;
    const struct parameter *p = gguf_rows_source(rows, row, &own);
    *first = 0;
    for (int k = 0; p && k < rows->tensor->n_part; k++)
        if (rows->tensor->source[k] == p) {
            *first = own * rows->own_columns;
            return choice[k];
        }
    return NULL;
}

static int64_t own_column(const struct gguf_rows *rows, int64_t column) { return rows->column ? rows->column[column] : column; }

// One value at place k of its choices: returns the lower level's code.
static uint8_t find(struct rounding_choice *c, int64_t k, const float *level, int levels, float x)
{
    const int low = block_level_below(level, levels, x);
    rounding_choice_set(c, k, level[low], level[low + 1], x);
    return (uint8_t)low;
}

void block_choices_find(const struct gguf_rows *rows, const float *W, const unsigned char *blocks, struct rounding_choice *const choice[],
                        uint8_t *low_code)
{
    const struct block_format *f = rows->tensor->format;
    const int64_t D = rows->tensor->dim[0], C = rows->tensor->dim[1], n = f->elements, row_bytes = block_row_bytes(f, C);
    struct block_coder coder;
    if (block_coder_init(&coder, f) < 0)
        BUG("block_choices_find: %s has no codes", f->name);
    const int levels = 1 << coder.bits;
#pragma omp parallel
    {
        float *level = xmalloc((size_t)(n * levels + n) * sizeof *level + (size_t)f->bytes, "levels of a block");
#pragma omp for schedule(static)
        for (int64_t d = 0; d < D; d++) {
            int64_t first;
            struct rounding_choice *c = choices_of_row(rows, choice, d, &first);
            for (int64_t j = 0; j < C; j++) {
                const float x = W[d * C + j], *of_column = level + j % n * levels;
                const int64_t own = own_column(rows, j);
                if (j % n == 0)
                    block_levels(&coder, blocks + d * row_bytes + j / n * f->bytes, level, level + n * levels);
                low_code[d * C + j] = c && own >= 0 ? find(c, first + own, of_column, levels, x)
                                                    : (uint8_t)block_level_nearest(of_column, levels, x);
            }
        }
        free(level);
    }
}

void block_choices_put(const struct gguf_rows *rows, struct rounding_choice *const choice[], const uint8_t *low_code, unsigned char *blocks)
{
    const struct block_format *f = rows->tensor->format;
    const int64_t D = rows->tensor->dim[0], C = rows->tensor->dim[1], n = f->elements, row_bytes = block_row_bytes(f, C);
    struct block_coder coder;
    if (block_coder_init(&coder, f) < 0)
        BUG("block_choices_put: %s has no codes", f->name);
#pragma omp parallel for schedule(static)
    for (int64_t d = 0; d < D; d++) {
        int64_t first;
        uint8_t code[CODE_ELEMENTS_MAX];
        const struct rounding_choice *c = choices_of_row(rows, choice, d, &first);
        for (int64_t j = 0; j < C; j++) {
            const int64_t own = own_column(rows, j);
            code[j % n] = (uint8_t)(low_code[d * C + j] + (c && own >= 0 ? c->up[first + own] : 0));
            if (j % n == n - 1)
                block_put_codes(&coder, blocks + d * row_bytes + j / n * f->bytes, code);
        }
    }
}
