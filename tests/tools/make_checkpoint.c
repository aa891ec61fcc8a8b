// make_checkpoint.c: pdq-make-checkpoint writes a Hugging Face checkpoint of a given shape with random weights and a
// made-up tokenizer: a fixture of any real model's size without the model. What it wrote is opened again at the end.
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/options.h"
#include "common/model/safetensors.h"
#include "common/model/save.h"
#include "common/text/tokenizer.h"
#include "tests/tools/made_tokenizer.h"

struct make_options {
    char *output;
    int64_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab, context, window, shards, seed;
    double rope_theta;
    int tied, biases, dtype, model_type, tokenizer, split;
};

#define TYPES "llama|mistral|qwen2|qwen3|gemma2|minicpm|granite"
#define ROW(name, type, initial, min, max, choices, metavar, help) \
    { #name, type, offsetof(struct make_options, name), initial, min, max, choices, metavar, help }

static const struct option table[] = {
    ROW(output, OPTION_STRING, NULL, 0, 0, NULL, "DIR",
        "where to write (made when absent; files there are replaced)"),
    ROW(model_type, OPTION_CHOICE, "llama", 0, 0, TYPES, NULL, "family"),
    ROW(layers, OPTION_INT, "2", 1, 1024, NULL, "N", "layers"),
    ROW(hidden, OPTION_INT, "64", 1, 1 << 20, NULL, "N", "hidden width"),
    ROW(heads, OPTION_INT, "4", 1, 1 << 16, NULL, "N", "query heads"),
    ROW(kv_heads, OPTION_INT, "2", 1, 1 << 16, NULL, "N", "key/value heads"),
    ROW(head_dim, OPTION_INT, "0", 0, 1 << 16, NULL, "N", "head dimension (0: hidden / heads)"),
    ROW(ffn, OPTION_INT, "128", 1, 1 << 22, NULL, "N", "feed-forward width"),
    ROW(vocab, OPTION_INT, "512", 1, MADE_SIZE_MAX, NULL, "N", "tokens"),
    ROW(context, OPTION_INT, "2048", 1, 1 << 30, NULL, "N", "positions"),
    ROW(window, OPTION_INT, "0", 0, 1 << 30, NULL, "N", "mistral, gemma2: sliding window (0: none)"),
    ROW(rope_theta, OPTION_DOUBLE, "10000", 1, 1e12, NULL, "X", "base of the rotary frequencies"),
    ROW(tied, OPTION_BOOL, "true", 0, 0, NULL, NULL, "the output head is the embedding"),
    ROW(biases, OPTION_BOOL, "false", 0, 0, NULL, NULL, "llama: attention and MLP biases"),
    ROW(dtype, OPTION_CHOICE, "bf16", 0, 0, "f32|f16|bf16", NULL, "stored type"), // in the order of enum dtype
    ROW(shards, OPTION_INT, "1", 1, 512, NULL, "N", "files for the weights"),
    ROW(seed, OPTION_INT, "1", 0, 1e15, NULL, "N", "seed of the weights"),
    ROW(tokenizer, OPTION_CHOICE, "bytelevel", 0, 0, "bytelevel|spm-like", NULL, "kind of tokenizer.json"),
    ROW(split, OPTION_CHOICE, "smollm", 0, 0, "gpt2|smollm|llama-bpe", NULL, "bytelevel: its pre-tokenizer"),
    {0},
};

// Through config_from_json, so that an impossible shape gets the message that a checkpoint's would get.
static int make_config(const struct make_options *o, struct config *c, struct error *err) {
    static const char *const types[] = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "minicpm", "granite"};
    struct json *j = json_object();
    json_set_string(j, "model_type", types[o->model_type]);
    json_set_number(j, "num_hidden_layers", (double)o->layers);
    json_set_number(j, "hidden_size", (double)o->hidden);
    json_set_number(j, "intermediate_size", (double)o->ffn);
    json_set_number(j, "num_attention_heads", (double)o->heads);
    json_set_number(j, "num_key_value_heads", (double)o->kv_heads);
    if (o->head_dim)
        json_set_number(j, "head_dim", (double)o->head_dim);
    json_set_number(j, "vocab_size", (double)o->vocab);
    json_set_number(j, "max_position_embeddings", (double)o->context);
    json_set_number(j, "rms_norm_eps", 1e-5);
    json_set_number(j, "rope_theta", o->rope_theta);
    json_set_bool(j, "tie_word_embeddings", o->tied);
    json_set_bool(j, "attention_bias", o->biases);
    json_set_bool(j, "mlp_bias", o->biases);
    json_set_number(j, "bos_token_id", MADE_BOS(o->tokenizer));
    json_set_number(j, "eos_token_id", MADE_EOS(o->tokenizer));
    json_set(j, "sliding_window", o->window ? json_from_number((double)o->window) : json_null());
    json_set_number(j, "query_pre_attn_scalar", (double)(o->head_dim ? o->head_dim : o->hidden / o->heads)); // of Gemma 2
    json_set_number(j, "scale_emb", 12); // of MiniCPM, as its 2B model has them
    json_set_number(j, "scale_depth", 1.4);
    json_set_number(j, "dim_model_base", (double)o->hidden / 9);
    json_set_number(j, "embedding_multiplier", 12); // of Granite, as its 3.0 2B model has them
    json_set_number(j, "residual_multiplier", 0.22);
    json_set_number(j, "attention_multiplier", 0.015625);
    json_set_number(j, "logits_scaling", 8);
    int rc = config_from_json(c, j, "the options", err);
    json_free(j);
    if (rc == 0) { // written anew, with architectures and all
        json_free(c->source);
        c->source = NULL;
    }
    return rc;
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const struct parameter *const *)a)->name, (*(const struct parameter *const *)b)->name);
}

static int64_t shards_of(struct parameter *const *sorted, int n, int64_t element, int64_t shard_bytes) {
    int64_t shards = 1, used = 0;
    for (int i = 0; i < n; i++) {
        int64_t bytes = tensor_count(&sorted[i]->t) * element;
        if (used && used + bytes > shard_bytes) {
            shards++;
            used = 0;
        }
        used += bytes;
    }
    return shards;
}

// The smallest shard size that gives no more than the wanted number of files, by halving.
static int64_t choose_shard_bytes(struct model *m, int64_t element, int64_t wanted) {
    if (wanted == 1)
        return 0;
    struct parameter **sorted = xmalloc((size_t)m->n_parameter * sizeof(struct parameter *), "parameters");
    for (int i = 0; i < m->n_parameter; i++)
        sorted[i] = &m->parameter[i];
    qsort(sorted, (size_t)m->n_parameter, sizeof *sorted, compare_names);
    int64_t low = 1, high = m->n_element * element;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (shards_of(sorted, m->n_parameter, element, middle) <= wanted)
            high = middle;
        else
            low = middle + 1;
    }
    free(sorted);
    return low;
}

static int check_written(const struct make_options *o, struct error *err) {
    static const char text[] = "The house, in 1984: \"naïve\"\n\tnot so.";
    struct safetensors s;
    struct token_list ids = {0};
    size_t len;
    TRY(safetensors_open(&s, o->output, err));
    int files = s.n_map;
    safetensors_close(&s);
    struct tokenizer *t = tokenizer_open(o->output, err);
    if (!t)
        return -1;
    tokenizer_encode(t, text, strlen(text), 0, &ids, NULL);
    char *back = tokenizer_decode(t, ids.id, ids.count, &len);
    int same = strcmp(back, text) == 0;
    int64_t size = tokenizer_size(t), count = (int64_t)ids.count;
    free(back);
    token_list_free(&ids);
    tokenizer_free(t);
    if (files != o->shards)
        return error_set(err, "%s: %d files of weights; expected %lld (its tensors do not divide so)", o->output,
                         files, (long long)o->shards);
    if (!same || size != o->vocab)
        return error_set(err, "%s: the tokenizer has %lld tokens (expected %lld) and %s its text", o->output,
                         (long long)size, (long long)o->vocab, same ? "keeps" : "changes");
    printf("%s: %d file%s of weights, %lld tokens, %zu bytes of text are %lld tokens\n", o->output, files,
           files == 1 ? "" : "s", (long long)size, strlen(text), (long long)count);
    return 0;
}

static int make(const struct make_options *o, struct error *err) {
    struct config c;
    TRY(make_config(o, &c, err));
    struct model *m = model_new(&c, 1);
    config_release(&c);
    model_initialise(m, (uint64_t)o->seed);
    struct save_options save = {.dtype = (enum dtype)o->dtype};
    save.shard_bytes = choose_shard_bytes(m, (int64_t)dtype_size(save.dtype), o->shards);
    int rc = model_save(m, o->output, &save, err);
    model_free(m);
    TRY(rc);
    TRY(made_tokenizer_write(o->output, (enum made_kind)o->tokenizer, (enum made_split)o->split, o->vocab, err));
    return check_written(o, err);
}

int main(int argc, char **argv) {
    struct make_options o;
    struct error err;
    const char **words = NULL;
    int n_words = 0, status = 2;
    options_init(table, &o);
    if (options_parse(table, &o, NULL, NULL, argc - 1, argv + 1, &words, &n_words, &err) < 0) {
        fprintf(stderr, "pdq-make-checkpoint: %s\n", err.text);
    } else if (!o.output || n_words) {
        fprintf(stderr, "usage: pdq-make-checkpoint --output DIR [options]\n");
        options_help(table, stderr);
    } else {
        status = make(&o, &err) < 0;
        if (status)
            fprintf(stderr, "pdq-make-checkpoint: %s\n", err.text);
    }
    free(words);
    options_release(table, &o);
    return status;
}
