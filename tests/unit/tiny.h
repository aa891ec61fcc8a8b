// tiny.h: a made-up byte-level tokenizer, a model of a few thousand weights and folders to work in, for tests of what
// stands above models and tokenizers.
#ifndef PDQ_TINY_H
#define PDQ_TINY_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/data/dataset.h"
#include "common/model/model.h"

#define TINY_VOCAB 259 // <unk> <s> </s> and 256 bytes: a text's tokens are BOS, a space and its bytes

static inline struct tokenizer *tiny_tokenizer(void)
{
    static char text[TINY_VOCAB][16];
    char *token[TINY_VOCAB];
    float score[TINY_VOCAB] = {0};
    int32_t type[TINY_VOCAB];
    for (int i = 0; i < TINY_VOCAB; i++) {
        if (i < 3)
            snprintf(text[i], sizeof text[i], "%s", (const char *const[]){"<unk>", "<s>", "</s>"}[i]);
        else
            snprintf(text[i], sizeof text[i], "<0x%02X>", (unsigned)(i - 3));
        token[i] = text[i];
        type[i] = i >= 3 ? TOKEN_BYTE : i == 0 ? TOKEN_UNKNOWN : TOKEN_CONTROL;
    }
    char model[] = "llama";
    const struct vocab v = {.model = model,
                            .size = TINY_VOCAB,
                            .token = token,
                            .score = score,
                            .type = type,
                            .bos = 1,
                            .eos = 2,
                            .unk = 0,
                            .add_bos = 1,
                            .add_eos = 0,
                            .add_space_prefix = 0};
    struct error err;
    struct tokenizer *t = tokenizer_from_vocab(&v, &err);
    cr_assert_not_null(t, "%s", err.text);
    return t;
}

// Weights are ten times GPT-2's, so that models are far from uniform and from each other.
static inline struct model *tiny_model(int64_t n_layer, int64_t hidden, uint64_t seed)
{
    struct layer_shape layer[8];
    for (int i = 0; i < 8; i++)
        layer[i] = (struct layer_shape){.n_head = 4, .n_kv_head = 2, .n_ff = 40};
    const struct config c = {.model_type = "llama",
                             .n_layer = n_layer,
                             .hidden = hidden,
                             .head_dim = 8,
                             .vocab = TINY_VOCAB,
                             .context = 64,
                             .layer = layer,
                             .norm_eps = 1e-5,
                             .rope_theta = 10000,
                             .tie_embeddings = 1,
                             .bos_id = 1,
                             .eos_id = 2};
    struct model *m = model_new(&c, 1);
    model_initialise(m, seed);
    for (int i = 0; i < m->n_parameter; i++)
        if (m->parameter[i].decay)
            for (int64_t j = 0; j < tensor_count(&m->parameter[i].t); j++)
                m->parameter[i].t.data[j] *= 10;
    return m;
}

// A text with some order in it, n tokens long.
static inline struct dataset tiny_data(int64_t n)
{
    struct dataset d = {.token = xmalloc((size_t)n * sizeof(int32_t), "test"), .n_token = n, .text_bytes = n};
    for (int64_t i = 0; i < n; i++)
        d.token[i] = (int32_t)(3 + (i * i / 7 + 3 * i) % 40);
    return d;
}

// A new folder below /tmp; tiny_remove deletes it and frees the path.
static inline char *tiny_folder(void)
{
    char *path = xstrdup("/tmp/pdq-test-XXXXXX");
    cr_assert_not_null(mkdtemp(path));
    return path;
}

static inline void tiny_remove(char *path)
{
    struct error err;
    cr_assert_eq(directory_remove(path, &err), 0, "%s", err.text);
    free(path);
}

static inline char *tiny_file(const char *folder, const char *name, const char *text)
{
    char *path = path_join(folder, name);
    struct error err;
    cr_assert_eq(file_write(path, text, strlen(text), &err), 0, "%s", err.text);
    return path;
}

#endif
