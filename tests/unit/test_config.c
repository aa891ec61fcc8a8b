// test_config.c: config.json to struct config and back, and everything in it that must be refused by name.
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/model/config.h"
#include "tests/unit/shared_path.h"
#include "tests/unit/tolerance.h"

static const char base_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 64, "
    "\"intermediate_size\": 96,"
    " \"num_hidden_layers\": 3, \"num_attention_heads\": 8, \"vocab_size\": 100, \"max_position_embeddings\": 512}";

// The base config with the keys of `change` (an object's text) put over it; a key set to "absent" is removed.
static struct json *changed(const char *change) {
    struct error err;
    struct json *o = json_parse(base_text, strlen(base_text), "base", 0, &err);
    struct json *c = json_parse(change, strlen(change), "change", 0, &err);
    cr_assert(o && c, "%s", err.text);
    for (const struct json *item = json_first(c); item; item = json_next(item)) {
        if (json_string(item) && strcmp(json_string(item), "absent") == 0)
            json_remove(o, json_key(item));
        else
            json_set(o, json_key(item), json_copy(item));
    }
    json_free(c);
    return o;
}

static struct config accepted(const char *change) {
    struct error err;
    struct config c;
    struct json *o = changed(change);
    cr_assert(config_from_json(&c, o, "test.json", &err) == 0, "%s: %s", change, err.text);
    json_free(o);
    return c;
}

Test(config, defaults) {
    struct config c = accepted("{}");
    cr_assert_str_eq(c.model_type, "llama");
    cr_assert(c.n_layer == 3 && c.hidden == 64 && c.head_dim == 8 && c.vocab == 100 && c.context == 512);
    for (int l = 0; l < 3; l++)
        cr_assert(c.layer[l].n_head == 8 && c.layer[l].n_kv_head == 8 && c.layer[l].n_ff == 96);
    cr_assert(c.norm_eps == 1e-6 && c.rope_theta == 10000 && c.rope.type == ROPE_PLAIN);
    cr_assert(!c.tie_embeddings && !c.qkv_bias && !c.out_bias && !c.mlp_bias && c.bos_id == -1 && c.eos_id == -1);
    config_release(&c);
}

Test(config, given_keys) {
    struct config c =
        accepted("{\"num_key_value_heads\": 2, \"head_dim\": 12, \"rope_theta\": 5e5, \"rms_norm_eps\": 1e-5,"
                 "\"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true,"
                 "\"bos_token_id\": 1, \"eos_token_id\": [7, 8], \"hidden_act\": \"silu\"}");
    cr_assert(c.head_dim == 12 && c.layer[2].n_kv_head == 2 && c.rope_theta == 5e5 && c.norm_eps == 1e-5);
    cr_assert(c.tie_embeddings && c.qkv_bias && c.out_bias && c.mlp_bias && c.bos_id == 1 && c.eos_id == 7);
    // embedding, final norm; per layer q o k v, gate up down, norms; biases q k v o, gate up down
    int64_t layer = 2 * 96 * 64 + 2 * 24 * 64 + 3 * 96 * 64 + 2 * 64 + (96 + 24 + 24 + 64) + (96 + 96 + 64);
    cr_assert_eq(config_parameters(&c), 100 * 64 + 64 + 3 * layer);
    config_release(&c);
}

Test(config, families) {
    struct config c = accepted("{\"model_type\": \"qwen2\", \"use_sliding_window\": false, \"sliding_window\": 64,"
                               "\"max_window_layers\": 1}");
    cr_assert(c.qkv_bias && !c.out_bias && !c.mlp_bias);
    config_release(&c);
    static const char *const windows[] = {"null", "512", "4096", "\"absent\""};
    for (int i = 0; i < 4; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"model_type\": \"mistral\", \"attention_bias\": true, \"sliding_window\": %s}",
                 windows[i]);
        c = accepted(text);
        cr_assert(!c.qkv_bias && c.layer[0].n_head == 8); // mistral knows no attention_bias
        config_release(&c);
    }
}

static int near(double a, double b) { return fabs(a - b) <= DOUBLE_FEW * fabs(b); }

// What transformers takes where Gemma 2's, Qwen 3's, MiniCPM's and Granite's keys are absent, and what the keys become.
Test(config, relatives) {
    struct config c = accepted("{\"model_type\": \"qwen3\"}");
    cr_assert(c.head_dim == 128 && c.qk_norm && !c.qkv_bias && !c.out_bias && !c.window && !c.tie_embeddings);
    config_release(&c);
    c = accepted("{\"model_type\": \"qwen3\", \"attention_bias\": true, \"head_dim\": 8, \"use_sliding_window\": true, \"max_window_layers\": 2}");
    cr_assert(c.qkv_bias && c.out_bias && c.window == 4096 && !config_slides(&c, 1) && config_slides(&c, 2) && !config_windows_matter(&c));
    config_release(&c);
    c = accepted("{\"model_type\": \"gemma2\"}");
    cr_assert(c.head_dim == 256 && c.tie_embeddings && c.post_norms && c.norm_shift == 1 && c.activation == ACTIVATION_GELU_TANH);
    cr_assert(near(c.embed_scale, 8) && near(c.attention_scale, 1.0 / 16) && c.attention_cap == 50 && c.logit_cap == 30);
    cr_assert(c.window == 4096 && config_slides(&c, 0) && !config_slides(&c, 1) && config_slides(&c, 2));
    config_release(&c);
    c = accepted("{\"model_type\": \"gemma2\", \"attn_logit_softcapping\": null, \"final_logit_softcapping\": null, \"sliding_window\": null}");
    cr_assert(c.attention_cap == 0 && c.logit_cap == 0 && c.window == 0);
    config_release(&c);
    c = accepted("{\"model_type\": \"minicpm\", \"scale_emb\": 12, \"scale_depth\": 1.4, \"dim_model_base\": 16, \"num_experts\": 0}");
    cr_assert(c.tie_embeddings && c.embed_scale == 12 && near(c.residual_scale, 1.4 / sqrt(3)) && near(c.logit_scale, 0.25));
    config_release(&c);
    c = accepted("{\"model_type\": \"granite\", \"logits_scaling\": 8, \"attention_bias\": true, \"mlp_bias\": true}");
    cr_assert(c.embed_scale == 1 && c.residual_scale == 1 && c.attention_scale == 1 && near(c.logit_scale, 0.125) && c.mlp_bias && c.qkv_bias);
    config_release(&c);
    c = accepted("{\"model_type\": \"mistral\", \"sliding_window\": 256}");
    cr_assert(c.window == 256 && config_slides(&c, 2) && config_windows_matter(&c));
    config_release(&c);
}

// What is cut keeps its factors and its windows in what is written.
Test(config, relatives_written_and_read_again) {
    static const char *const texts[] = {
        "{\"model_type\": \"gemma2\", \"sliding_window\": 64, \"query_pre_attn_scalar\": 144, \"head_dim\": 8}",
        "{\"model_type\": \"minicpm\", \"scale_emb\": 12, \"scale_depth\": 1.4, \"dim_model_base\": 16}",
        "{\"model_type\": \"granite\", \"embedding_multiplier\": 12.0, \"residual_multiplier\": 0.22, \"attention_multiplier\": 0.1, "
        "\"logits_scaling\": 8.0}",
        "{\"model_type\": \"qwen3\", \"head_dim\": 8, \"use_sliding_window\": true, \"sliding_window\": 64, \"max_window_layers\": 1}",
    };
    for (int i = 0; i < 4; i++)
        for (int with_source = 0; with_source < 2; with_source++) {
            struct error err;
            struct config c = accepted(texts[i]), again;
            c.n_layer = 2; // the second of three is gone
            config_set_sliding(&c, 1, config_slides(&c, 2));
            if (!with_source) {
                json_free(c.source);
                c.source = NULL;
            }
            struct json *o = config_to_json(&c, "float32");
            cr_assert_eq(config_from_json(&again, o, "again", &err), 0, "%s", err.text);
            cr_assert_str_eq(again.model_type, c.model_type);
            cr_assert(again.n_layer == 2 && again.qk_norm == c.qk_norm && again.tie_embeddings == c.tie_embeddings && again.window == c.window);
            cr_assert(near(again.embed_scale, c.embed_scale) && near(again.residual_scale, c.residual_scale) &&
                      near(again.logit_scale, c.logit_scale) && near(again.attention_scale, c.attention_scale), "%s", texts[i]);
            cr_assert(again.attention_cap == c.attention_cap && again.logit_cap == c.logit_cap && again.activation == c.activation);
            for (int64_t l = 0; l < 2; l++)
                cr_assert_eq(config_slides(&again, l), config_slides(&c, l), "%s: layer %ld", texts[i], (long)l);
            cr_assert_eq(json_get(o, "layer_types") != NULL, i == 0, "%s", texts[i]); // Gemma's no longer take turns
            json_free(o);
            config_release(&again);
            config_release(&c);
        }
}

Test(config, rope_scaling_spellings) {
    static const struct {
        const char *text;
        enum rope_scaling_type type;
        double theta, factor;
    } rows[] = {
        {"{\"rope_scaling\": null}", ROPE_PLAIN, 10000, 0},
        {"{\"rope_scaling\": {\"rope_type\": \"default\"}}", ROPE_PLAIN, 10000, 0},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}}", ROPE_LINEAR, 10000, 4},
        {"{\"rope_parameters\": {\"rope_theta\": 500000.0, \"rope_type\": \"default\"}}", ROPE_PLAIN, 500000, 0},
        {"{\"rope_parameters\": {\"rope_theta\": 3e5, \"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": "
         "1,"
         "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 128}}",
         ROPE_LLAMA3, 3e5, 8},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct config c = accepted(rows[i].text);
        cr_assert(c.rope.type == rows[i].type && c.rope_theta == rows[i].theta && c.rope.factor == rows[i].factor,
                  "%s", rows[i].text);
        config_release(&c);
    }
}

Test(config, rope_frequencies) {
    double f[32], g[32];
    struct config c = accepted("{\"head_dim\": 64}");
    config_rope_frequencies(&c, f);
    cr_assert_float_eq(f[0], 1, DOUBLE_FEW);
    cr_assert_float_eq(f[16], 0.01, DOUBLE_FEW);
    config_release(&c);
    c = accepted("{\"head_dim\": 64, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}");
    config_rope_frequencies(&c, g);
    for (int i = 0; i < 32; i++)
        cr_assert_float_eq(g[i], f[i] / 2, DOUBLE_FEW);
    config_release(&c);
    c = accepted(
        "{\"head_dim\": 64, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1,"
        "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}}");
    config_rope_frequencies(&c, g);
    for (int i = 0; i < 32; i++) { // the rule as published, in wavelengths
        double wave = 2 * M_PI / f[i], smooth = (8192 / wave - 1) / (4 - 1);
        double want = wave > 8192 ? f[i] / 8 : wave < 2048 ? f[i] : (1 - smooth) * f[i] / 8 + smooth * f[i];
        cr_assert_float_eq(g[i], want, DOUBLE_FEW, "frequency %d", i);
    }
    cr_assert(g[0] == f[0] && g[31] == f[31] / 8);
    config_release(&c);
}

Test(config, token_ids_outside_the_vocabulary_are_ignored) {
    log_level = LOG_QUIET;
    struct config c = accepted("{\"bos_token_id\": 100, \"eos_token_id\": [], \"pad_token_id\": -1}");
    cr_assert(c.bos_id == -1 && c.eos_id == -1);
    config_release(&c);
}

static void expect_refused(const char *change, const char *named) {
    struct error err = {""};
    struct config c;
    struct json *o = changed(change);
    cr_assert(config_from_json(&c, o, "test.json", &err) < 0, "%s was accepted", change);
    cr_assert(strstr(err.text, named) && strstr(err.text, "test.json"), "%s: %s", change, err.text);
    cr_assert(c.layer == NULL && c.source == NULL);
    json_free(o);
}

Test(config, refusals) {
    static const struct {
        const char *change, *named;
    } rows[] = {
        {"{\"model_type\": \"opt\"}", "model_type \"opt\""},
        {"{\"model_type\": \"gpt2\"}", "n_layer is missing"},
        {"{\"model_type\": \"absent\"}", "model_type is missing"},
        {"{\"model_type\": 3}", "model_type"},
        {"{\"hidden_act\": \"gelu\"}", "hidden_act \"gelu\""},
        {"{\"hidden_size\": \"absent\"}", "hidden_size is missing"},
        {"{\"hidden_size\": 0}", "hidden_size"},
        {"{\"hidden_size\": -64}", "hidden_size"},
        {"{\"hidden_size\": 64.5}", "hidden_size"},
        {"{\"hidden_size\": \"64\"}", "hidden_size"},
        {"{\"hidden_size\": 1e18}", "hidden_size"},
        {"{\"num_hidden_layers\": 1000000000}", "num_hidden_layers"},
        {"{\"vocab_size\": 1e12}", "vocab_size"},
        {"{\"intermediate_size\": []}", "intermediate_size"},
        {"{\"num_attention_heads\": 7}", "num_attention_heads"},
        {"{\"num_key_value_heads\": 3}", "num_key_value_heads"},
        {"{\"num_key_value_heads\": 16}", "num_key_value_heads"},
        {"{\"num_key_value_heads\": 0}", "num_key_value_heads"},
        {"{\"head_dim\": 7}", "even"},
        {"{\"head_dim\": 1000000}", "head_dim"},
        {"{\"max_position_embeddings\": 0}", "max_position_embeddings"},
        {"{\"rms_norm_eps\": -1}", "rms_norm_eps"},
        {"{\"rope_theta\": 0}", "rope_theta"},
        {"{\"rope_scaling\": \"linear\"}", "rope_scaling"},
        {"{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}}", "\"yarn\""},
        {"{\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 4}}", "\"dynamic\""},
        {"{\"rope_scaling\": {\"type\": \"linear\"}}", "factor is missing"},
        {"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}}", "low_freq_factor"},
        {"{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1e4}}}", "full_attention"},
        {"{\"partial_rotary_factor\": 0.5}", "partial_rotary_factor"},
        {"{\"use_sliding_window\": true}", "use_sliding_window"},
        {"{\"model_type\": \"qwen2\", \"layer_types\": [\"full_attention\", \"sliding_attention\"]}",
         "sliding_attention"},
        {"{\"model_type\": \"mistral\", \"sliding_window\": 0}", "sliding_window"},
        {"{\"model_type\": \"gemma2\", \"layer_types\": [\"full_attention\", \"sliding_attention\"]}", "layer_types has 2 elements"},
        {"{\"model_type\": \"gemma2\", \"layer_types\": [\"chunked_attention\"]}", "chunked_attention"},
        {"{\"model_type\": \"gemma2\", \"hidden_activation\": \"gelu\"}", "hidden_activation \"gelu\""},
        {"{\"model_type\": \"gemma2\", \"query_pre_attn_scalar\": 0}", "query_pre_attn_scalar"},
        {"{\"model_type\": \"gemma2\", \"attn_logit_softcapping\": -5}", "attn_logit_softcapping"},
        {"{\"model_type\": \"gemma2\", \"use_bidirectional_attention\": true}", "use_bidirectional_attention"},
        {"{\"model_type\": \"qwen3\", \"hidden_act\": \"gelu\"}", "hidden_act \"gelu\""},
        {"{\"model_type\": \"qwen3\", \"max_window_layers\": -1, \"use_sliding_window\": true}", "max_window_layers"},
        {"{\"model_type\": \"minicpm\", \"num_experts\": 8}", "num_experts"},
        {"{\"model_type\": \"minicpm\", \"sparse_config\": {}}", "sparse_config"},
        {"{\"model_type\": \"minicpm\", \"scale_depth\": \"1.4\"}", "scale_depth"},
        {"{\"model_type\": \"minicpm\", \"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 1}}", "longrope"},
        {"{\"model_type\": \"granite\", \"logits_scaling\": 0}", "logits_scaling"},
        {"{\"model_type\": \"gemma\"}", "model_type \"gemma\""},
        {"{\"model_type\": \"qwen3_moe\"}", "model_type \"qwen3_moe\""},
        {"{\"tie_word_embeddings\": 1}", "tie_word_embeddings"},
        {"{\"attention_bias\": \"yes\"}", "attention_bias"},
        {"{\"eos_token_id\": \"</s>\"}", "eos_token_id"},
        {"{\"bos_token_id\": 1.5}", "bos_token_id"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        expect_refused(rows[i].change, rows[i].named);
}

#define BERT "{\"model_type\": \"bert\", \"architectures\": [\"BertModel\"]"
#define DISTILBERT \
    "{\"model_type\": \"distilbert\", \"architectures\": [\"DistilBertModel\"], \"dim\": 64, \"n_layers\": 3, \"n_heads\": 8, \"hidden_dim\": 96"
#define ROBERTA "{\"model_type\": \"roberta\", \"architectures\": [\"RobertaModel\"]"

Test(config, bert_family) {
    struct config c = accepted(BERT ", \"type_vocab_size\": 3}");
    cr_assert(c.context == 512 && c.n_type == 3 && !c.position_offset && c.head == HEAD_NONE && c.has_pooler && c.norm_eps == 1e-12);
    config_release(&c);
    c = accepted(DISTILBERT ", \"architectures\": [\"DistilBertForMaskedLM\"], \"layer_norm_eps\": 1e-5}");
    cr_assert(c.hidden == 64 && c.layer[2].n_ff == 96 && !c.n_type && !c.has_pooler && c.tie_embeddings && c.norm_eps == 1e-12);
    config_release(&c);
    c = accepted(ROBERTA ", \"architectures\": [\"RobertaForSequenceClassification\"], \"max_position_embeddings\": 514, \"type_vocab_size\": 1}");
    cr_assert(c.context == 512 && c.position_offset == 2 && c.n_type == 1 && c.head == HEAD_CLASSES && c.n_label == 2 && !c.has_pooler);
    struct json *o = config_to_json(&c, "float32");
    cr_assert(json_number(json_get(o, "max_position_embeddings")) == 514 && json_number(json_get(o, "pad_token_id")) == 1);
    json_free(o);
    config_release(&c);
}

Test(config, bert_family_refusals) {
    static const struct {
        const char *change, *named;
    } rows[] = {
        {BERT ", \"architectures\": [\"BertForTokenClassification\"]}", "\"BertForTokenClassification\" is not supported for bert; expected BertForSequenceClassification, "
         "BertForMaskedLM, BertForPreTraining, BertForQuestionAnswering or BertModel"},
        {BERT ", \"architectures\": [\"DistilBertForMaskedLM\"]}", "\"DistilBertForMaskedLM\" is not supported for bert"},
        {BERT ", \"position_embedding_type\": \"relative_key\"}", "position_embedding_type \"relative_key\""},
        {BERT ", \"is_decoder\": true}", "is_decoder is true"},
        {BERT ", \"add_cross_attention\": true}", "add_cross_attention is true"},
        {BERT ", \"hidden_act\": \"silu\"}", "hidden_act \"silu\" is not supported for bert; expected gelu"},
        {BERT ", \"hidden_act\": \"mish\"}", "hidden_act \"mish\""},
        {BERT ", \"num_attention_heads\": 7}", "hidden_size is 64 and num_attention_heads 7; expected a multiple"},
        {BERT ", \"type_vocab_size\": 0}", "type_vocab_size"},
        {BERT ", \"intermediate_size\": \"absent\"}", "intermediate_size is missing"},
        {BERT ", \"pruned_heads\": {\"3\": [0]}}", "pruned_heads has \"3\""},
        {BERT ", \"architectures\": [\"BertForMaskedLM\"], \"tie_word_embeddings\": 1}", "tie_word_embeddings"},
        {DISTILBERT ", \"dim\": \"absent\"}", "dim is missing"},
        {DISTILBERT ", \"n_heads\": 7}", "dim is 64 and n_heads 7; expected a multiple"},
        {DISTILBERT ", \"sinusoidal_pos_embds\": true}", "sinusoidal_pos_embds is true"},
        {DISTILBERT ", \"activation\": \"swish\"}", "activation \"swish\" is not supported for distilbert"},
        {DISTILBERT ", \"architectures\": [\"DistilBertForPreTraining\"]}", "\"DistilBertForPreTraining\""},
        {ROBERTA ", \"max_position_embeddings\": 2}", "max_position_embeddings is 2; expected more than pad_token_id + 1, which is 2"},
        {ROBERTA ", \"pad_token_id\": 100}", "pad_token_id"},
        {ROBERTA ", \"architectures\": [\"RobertaForMultipleChoice\"]}", "\"RobertaForMultipleChoice\" is not supported for roberta"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        expect_refused(rows[i].change, rows[i].named);
}

Test(config, written_and_read_again) {
    struct error err;
    struct config c = accepted("{\"num_key_value_heads\": 4, \"quantization_config\": {\"bits\": 4}, \"auto_map\": "
                               "{}, \"initializer_range\": 0.02,"
                               "\"dtype\": \"bfloat16\", \"rope_parameters\": {\"rope_theta\": 3e5, \"rope_type\": "
                               "\"linear\", \"factor\": 2}}");
    struct config cut, again;
    config_copy(&cut, &c);
    for (int l = 0; l < 3; l++)
        cut.layer[l] = (struct layer_shape){4, 2, 64};
    struct json *o = config_to_json(&cut, "float32");
    cr_assert(o, "%s", err.text);
    cr_assert(json_number(json_get(o, "head_dim")) == 8 && json_number(json_get(o, "intermediate_size")) == 64);
    cr_assert(json_number(json_get(o, "initializer_range")) == 0.02 && !json_get(o, "quantization_config"));
    cr_assert(!json_get(o, "auto_map") && json_number(json_get(o, "rope_theta")) == 3e5);
    cr_assert_str_eq(json_string(json_get(json_get(o, "rope_scaling"), "rope_type")), "linear");
    cr_assert_str_eq(json_string(json_get(o, "torch_dtype")), "float32");
    cr_assert_str_eq(json_string(json_get(o, "dtype")), "float32");
    cr_assert_str_eq(json_string(json_first(json_get(o, "architectures"))), "LlamaForCausalLM");
    cr_assert(config_from_json(&again, o, "again", &err) == 0, "%s", err.text);
    cr_assert(memcmp(again.layer, cut.layer, 3 * sizeof *cut.layer) == 0 && again.head_dim == 8);
    cr_assert(again.rope.type == ROPE_LINEAR && again.rope.factor == 2 && again.rope_theta == 3e5);
    json_free(o);
    config_release(&again);
    cut.layer[1].n_ff = 32;
    cr_assert(!config_uniform(&cut) && config_uniform(&c));
    cut.layer[2] = (struct layer_shape){0, 0, 64};
    o = config_to_json(&cut, "float32");
    cr_assert(config_from_json(&again, o, "again", &err) == 0, "%s", err.text);
    cr_assert(memcmp(again.layer, cut.layer, 3 * sizeof *cut.layer) == 0);
    json_free(o);
    config_release(&again);
    cr_assert(config_to_block_configs(&cut, &err) == 0, "%s", err.text);
    o = config_to_json(&cut, "float32");
    cr_assert_str_eq(json_string(json_first(json_get(o, "architectures"))), "DeciLMForCausalLM");
    cr_assert(json_count(json_get(o, "block_configs")) == 3 && !json_get(o, "per_layer_config"));
    cr_assert(config_from_json(&again, o, "again", &err) == 0, "%s", err.text);
    cr_assert(memcmp(again.layer, cut.layer, 3 * sizeof *cut.layer) == 0);
    json_free(o);
    config_release(&again);
    cut.layer[0].n_head = cut.layer[0].n_kv_head = 1;
    cr_assert(config_to_block_configs(&cut, &err) == -1 && strstr(err.text, "query heads"), "%s", err.text);
    config_release(&cut);
    config_release(&c);
}

// A model that did not come from a config.json (a GGUF, a new one).
Test(config, written_without_a_source) {
    struct error err;
    static const char *const families[] = {"llama", "mistral", "qwen2"};
    for (int i = 0; i < 3; i++) {
        struct config again, c = {.n_layer = 2,
                                  .hidden = 16,
                                  .head_dim = 4,
                                  .vocab = 50,
                                  .context = 64,
                                  .norm_eps = 1e-5,
                                  .rope_theta = 2e4,
                                  .qkv_bias = i != 1,
                                  .out_bias = i == 0,
                                  .bos_id = 1,
                                  .eos_id = 2};
        struct layer_shape layers[2] = {{4, 2, 32}, {4, 2, 32}};
        c.layer = layers;
        c.rope = (struct rope_scaling){ROPE_LLAMA3, 8, 1, 4, 32};
        snprintf(c.model_type, sizeof c.model_type, "%s", families[i]);
        struct json *o = config_to_json(&c, "bfloat16");
        cr_assert(o && config_from_json(&again, o, "again", &err) == 0, "%s", err.text);
        cr_assert(json_count(json_get(o, "architectures")) == 1);
        cr_assert(again.qkv_bias == c.qkv_bias && again.out_bias == c.out_bias && again.bos_id == 1 &&
                  again.eos_id == 2);
        cr_assert(again.rope.type == ROPE_LLAMA3 && again.rope.original_context == 32 &&
                  again.rope.high_freq_factor == 4);
        cr_assert(again.norm_eps == 1e-5 && again.context == 64);
        json_free(o);
        config_release(&again);
    }
}

Test(config, missing_files) {
    struct error err;
    struct config c;
    char folder[] = "/tmp/pdq-config-XXXXXX", path[128];
    cr_assert(mkdtemp(folder));
    cr_assert(config_read(&c, "/nonexistent/model", &err) < 0 && strstr(err.text, "does not exist"), "%s", err.text);
    cr_assert(config_read(&c, folder, &err) < 0 && strstr(err.text, "no config.json"), "%s", err.text);
    snprintf(path, sizeof path, "%s/config.json", folder);
    cr_assert(config_read(&c, path, &err) < 0, "a file is no folder");
    cr_assert(file_write(path, "[1]", 3, &err) == 0);
    cr_assert(config_read(&c, folder, &err) < 0 && strstr(err.text, "expected an object"), "%s", err.text);
    cr_assert(file_write(path, base_text, sizeof base_text - 1, &err) == 0 && config_read(&c, folder, &err) == 0);
    config_release(&c);
    directory_remove(folder, &err);
}

Test(config, shared_models) {
    struct error err;
    struct config c;
    const char *folder = shared_path("models/tinystories-656k");
    if (!folder)
        cr_skip_test("no shared/models/tinystories-656k");
    cr_assert(config_read(&c, folder, &err) == 0, "%s", err.text);
    cr_assert(c.hidden == 128 && c.head_dim == 16 && c.layer[1].n_kv_head == 4 && c.tie_embeddings && c.eos_id == 2);
    cr_assert_eq(config_parameters(&c), 656000);
    config_release(&c);
    folder = shared_path("models/gpt-nano-sort");
    if (!folder)
        return;
    cr_assert(config_read(&c, folder, &err) == 0, "%s", err.text);
    cr_assert(c.hidden == 48 && c.head_dim == 16 && c.layer[2].n_ff == 192 && c.context == 11 && c.activation == ACTIVATION_GELU_TANH);
    config_release(&c);
}
