// spm_model.c: SentencePiece's tokenizer.model (a protobuf message), BPE models only.
//
// The wire format is read by hand: a field is a varint tag (number << 3 | type) and a value whose length is known
// from the type; every length is checked against what is left of its message. Fields not named here are skipped, as
// protobuf wants it. Field numbers are those of sentencepiece_model.proto.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer_parts.h"

enum wire { WIRE_VARINT, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct message {
    const unsigned char *at, *end;
};

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value;       // varint, 32 or 64 bits
    struct message bytes; // WIRE_BYTES
};

static int read_varint(struct message *m, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && m->at < m->end; shift += 7) {
        unsigned char byte = *m->at++;
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return 0;
    }
    return -1;
}

static int read_fixed(struct message *m, size_t n, uint64_t *out) {
    if ((size_t)(m->end - m->at) < n)
        return -1;
    *out = 0;
    for (size_t i = 0; i < n; i++)
        *out |= (uint64_t)m->at[i] << (8 * i);
    m->at += n;
    return 0;
}

// 1: a field, 0: the message has ended, -1: damaged.
static int next_field(struct message *m, struct field *f) {
    if (m->at == m->end)
        return 0;
    uint64_t tag;
    if (read_varint(m, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > UINT32_MAX)
        return -1;
    f->number = (uint32_t)(tag >> 3);
    f->wire = (enum wire)(tag & 7);
    switch (f->wire) {
    case WIRE_VARINT: return read_varint(m, &f->value) < 0 ? -1 : 1;
    case WIRE_64: return read_fixed(m, 8, &f->value) < 0 ? -1 : 1;
    case WIRE_32: return read_fixed(m, 4, &f->value) < 0 ? -1 : 1;
    case WIRE_BYTES:
        if (read_varint(m, &f->value) < 0 || f->value > (uint64_t)(m->end - m->at))
            return -1;
        f->bytes = (struct message){m->at, m->at + f->value};
        m->at += f->value;
        return 1;
    default: return -1;
    }
}

struct spm_reader {
    struct tokenizer *t;
    struct error *err;
    int64_t model_type, unk, bos, eos;
    int byte_fallback, suffix_space, denormalizer;
    struct message charsmap;
    int dummy_prefix, squeeze, escape;
};

static int damaged(const struct spm_reader *r, const char *what) {
    return error_set(r->err, "%s: %s is damaged or this is no SentencePiece model; copy the file again", r->t->source,
                     what);
}

enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER_DEFINED, PIECE_UNUSED, PIECE_BYTE };

// The types have the numbers of enum token_type.
static int read_piece(struct spm_reader *r, struct message m) {
    struct tokenizer *t = r->t;
    struct message text = {0};
    float score = 0;
    uint64_t type = PIECE_NORMAL;
    struct field f;
    int more;
    while ((more = next_field(&m, &f)) > 0) {
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.wire == WIRE_BYTES)
            text = f.bytes;
        else if (f.number == 2 && f.wire == WIRE_32)
            memcpy(&score, &bits, sizeof score);
        else if (f.number == 3 && f.wire == WIRE_VARINT)
            type = f.value;
    }
    size_t len = (size_t)(text.end - text.at);
    if (more < 0 || len == 0 || !isfinite(score))
        return damaged(r, "a piece");
    if (type < PIECE_NORMAL || type > PIECE_BYTE)
        return error_set(r->err, "%s: piece %d has type %llu; expected 1 to 6", t->source, t->size,
                         (unsigned long long)type);
    const char *p = (const char *)text.at;
    if (!utf8_valid(p, len))
        return error_set(r->err, "%s: piece %d is not UTF-8; copy the file again", t->source, t->size);
    char *name = xmalloc(len + 1, "vocabulary");
    memcpy(name, p, len);
    name[len] = 0;
    int32_t id = t->size;
    int rc = 0;
    if (pieces_find(&t->pieces, name, len) >= 0)
        rc = error_set(r->err, "%s: piece '%s' is there twice", t->source, name);
    else
        rc = tokenizer_put(t, id, name, len, (enum token_type)type, r->err);
    if (rc == 0) {
        t->score = xrealloc(t->score, (size_t)t->pieces.capacity * sizeof *t->score, "vocabulary");
        t->score[id] = score;
        if (type == PIECE_USER_DEFINED)
            matcher_add(&t->user_defined, name, len, id);
        if (type == PIECE_UNKNOWN)
            t->bpe.unk = id;
    }
    free(name);
    return rc;
}

static int read_trainer(struct spm_reader *r, struct message m) {
    struct field f;
    int more;
    while ((more = next_field(&m, &f)) > 0) {
        int64_t value = f.wire == WIRE_VARINT ? (int64_t)f.value : 0;
        switch (f.wire == WIRE_VARINT ? f.number : 0) {
        case 3: r->model_type = value; break;
        case 24: r->suffix_space = value != 0; break;
        case 35: r->byte_fallback = value != 0; break;
        case 41: r->bos = value; break;
        case 42: r->eos = value; break;
        default: break;
        }
    }
    return more < 0 ? damaged(r, "trainer_spec") : 0;
}

static int read_normalizer_spec(struct spm_reader *r, struct message m, int forward) {
    struct field f;
    int more;
    while ((more = next_field(&m, &f)) > 0) {
        if (f.number == 2 && f.wire == WIRE_BYTES && f.value > 0 && !forward)
            r->denormalizer = 1;
        else if (f.number == 2 && f.wire == WIRE_BYTES && forward)
            r->charsmap = f.bytes;
        else if (f.number == 3 && f.wire == WIRE_VARINT && forward)
            r->dummy_prefix = f.value != 0;
        else if (f.number == 4 && f.wire == WIRE_VARINT && forward)
            r->squeeze = f.value != 0;
        else if (f.number == 5 && f.wire == WIRE_VARINT && forward)
            r->escape = f.value != 0;
    }
    return more < 0 ? damaged(r, "normalizer_spec") : 0;
}

static int read_message(struct spm_reader *r, struct message m) {
    struct field f;
    int more;
    while ((more = next_field(&m, &f)) > 0) {
        if (f.wire != WIRE_BYTES)
            continue;
        if (f.number == 1)
            TRY(read_piece(r, f.bytes));
        else if (f.number == 2)
            TRY(read_trainer(r, f.bytes));
        else if (f.number == 3 || f.number == 5)
            TRY(read_normalizer_spec(r, f.bytes, f.number == 3));
    }
    return more < 0 || r->t->size == 0 ? damaged(r, "the file") : 0;
}

static int check_supported(const struct spm_reader *r) {
    static const char *const types[] = {"unknown", "Unigram", "BPE", "Word", "Char"};
    const char *source = r->t->source;
    if (r->model_type != 2)
        return error_set(r->err,
                         "%s: SentencePiece model of type %s is not supported; expected BPE "
                         "(spm_train --model_type=bpe)",
                         source, types[r->model_type >= 1 && r->model_type <= 4 ? r->model_type : 0]);
    if (r->suffix_space)
        return error_set(r->err, "%s: treat_whitespace_as_suffix is not supported; train the model without it",
                         source);
    if (r->denormalizer)
        return error_set(r->err, "%s: a denormalizer is not supported; train the model without it", source);
    if (r->t->bpe.unk < 0)
        return error_set(r->err, "%s: no piece of type unknown; SentencePiece models have one", source);
    return 0;
}

static int set_normalizer(struct spm_reader *r) {
    struct tokenizer *t = r->t;
    struct step *s = steps_add(&t->normalizer, STEP_SENTENCEPIECE);
    s->dummy_prefix = r->dummy_prefix;
    s->squeeze = r->squeeze;
    s->escape = r->escape;
    s->untouched = t->user_defined.count ? &t->user_defined : NULL;
    size_t n = (size_t)(r->charsmap.end - r->charsmap.at);
    if (n && !(s->map = charsmap_new(r->charsmap.at, n, t->source, r->err)))
        return -1;
    return 0;
}

// A named end must be a control piece; SentencePiece itself names "<s>" and "</s>" even where they were left out.
static int32_t control_piece(const struct tokenizer *t, int64_t id) {
    return id >= 0 && id < t->size && t->type[id] == TOKEN_CONTROL ? (int32_t)id : -1;
}

// Tokens that transformers put behind the model's own pieces.
static int read_added_tokens(struct spm_reader *r, const struct json *config) {
    struct tokenizer *t = r->t;
    int32_t own = t->size;
    for (const struct json *v = member_first(config, "added_tokens_decoder"); v; v = json_next(v)) {
        const char *key = json_key(v), *content = member_string(v, "content");
        char *end = NULL;
        long id = key ? strtol(key, &end, 10) : 0;
        if (!end || *end || !content)
            return error_set(r->err,
                             "%s: added_tokens_decoder of tokenizer_config.json is not understood at '%s'; "
                             "expected {\"ID\": {\"content\": ..}}",
                             t->source, key ? key : "a list");
        if (id < own)
            continue;
        struct added_token a = {.id = (int32_t)id,
                                .special = member_flag(v, "special", 0),
                                .lstrip = member_flag(v, "lstrip", 0),
                                .rstrip = member_flag(v, "rstrip", 0),
                                .single_word = member_flag(v, "single_word", 0)};
        TRY(tokenizer_put(t, id, content, strlen(content), a.special ? TOKEN_CONTROL : TOKEN_USER_DEFINED, r->err));
        tokenizer_add(t, content, &a);
    }
    t->score = xrealloc(t->score, (size_t)t->pieces.capacity * sizeof *t->score, "vocabulary");
    for (int32_t id = own; id < t->size; id++)
        t->score[id] = -1000;
    return 0;
}

// What takes part in merging: SentencePiece keeps unknown, control and byte pieces apart.
static uint8_t *merging_pieces(const struct tokenizer *t, int32_t own) {
    uint8_t *takes_part = xcalloc((size_t)t->size, 1, "merges");
    for (int32_t id = 0; id < own; id++)
        takes_part[id] =
            t->type[id] == TOKEN_NORMAL || t->type[id] == TOKEN_USER_DEFINED || t->type[id] == TOKEN_UNUSED;
    return takes_part;
}

int tokenizer_read_model(struct tokenizer *t, const void *data, size_t len, const struct json *config,
                         struct error *err) {
    struct spm_reader r = {
        .t = t, .err = err, .model_type = 1, .bos = 1, .eos = 2, .dummy_prefix = 1, .squeeze = 1, .escape = 1};
    const unsigned char *bytes = data;
    TRY(read_message(&r, (struct message){bytes, bytes + len}));
    TRY(check_supported(&r));
    TRY(set_normalizer(&r));
    t->bos = control_piece(t, r.bos);
    t->eos = control_piece(t, r.eos);
    t->bpe.byte_fallback = r.byte_fallback;
    t->bpe.fuse_unk = 1;
    t->bpe.resegment_unused = 1;
    int32_t own = t->size;
    if (config)
        TRY(read_added_tokens(&r, config));
    int add_bos = 1, add_eos = 0; // transformers' defaults for a Llama tokenizer
    if (config) {
        TRY(json_get_bool(config, "tokenizer_config.json", "add_bos_token", 1, &add_bos, err));
        TRY(json_get_bool(config, "tokenizer_config.json", "add_eos_token", 0, &add_eos, err));
    }
    tokenizer_set_ends(t, add_bos, add_eos);
    tokenizer_sentencepiece_decoder(t, r.dummy_prefix || r.squeeze);
    uint8_t *takes_part = merging_pieces(t, own);
    tokenizer_finish(t, takes_part);
    free(takes_part);
    return 0;
}
