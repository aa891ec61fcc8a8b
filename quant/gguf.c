// gguf.c: reading the container. See gguf.h for the layout and for what is checked.
//
// Invariant: after gguf_open every key and tensor lies inside the map, so the accessors need no further checks.
#include "quant/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NAME 65535 // bytes of a key
#define MAX_TENSOR_NAME 255
#define MAX_ALIGNMENT 65536

struct cursor {
    const char *path;
    const unsigned char *data;
    uint64_t size, at;
};

static int truncated(const struct cursor *c, const char *what, uint64_t need, struct error *err)
{
    return error_set(err,
                     "%s: the file ends at byte %" PRIu64 ", inside %s (%" PRIu64 " bytes at offset %" PRIu64
                     "): it is damaged "
                     "or was not copied whole",
                     c->path, c->size, what, need, c->at);
}

// The next bytes; NULL when the file has fewer.
static const unsigned char *take(struct cursor *c, uint64_t bytes, const char *what, struct error *err)
{
    if (bytes > c->size - c->at) {
        truncated(c, what, bytes, err);
        return NULL;
    }
    const unsigned char *at = c->data + c->at;
    c->at += bytes;
    return at;
}

static int take_u32(struct cursor *c, uint32_t *v, const char *what, struct error *err)
{
    const unsigned char *at = take(c, 4, what, err);
    if (!at)
        return -1;
    memcpy(v, at, 4);
    return 0;
}

static int take_u64(struct cursor *c, uint64_t *v, const char *what, struct error *err)
{
    const unsigned char *at = take(c, 8, what, err);
    if (!at)
        return -1;
    memcpy(v, at, 8);
    return 0;
}

static int take_name(struct cursor *c, char **name, uint64_t max, const char *what, struct error *err)
{
    uint64_t length;
    TRY(take_u64(c, &length, what, err));
    if (length == 0 || length > max)
        return error_set(err, "%s: %s has %" PRIu64 " bytes; expected 1 to %" PRIu64, c->path, what, length, max);
    const unsigned char *at = take(c, length, what, err);
    if (!at)
        return -1;
    if (memchr(at, 0, length))
        return error_set(err, "%s: %s at offset %" PRIu64 " contains a zero byte", c->path, what, c->at - length);
    *name = xmalloc(length + 1, "GGUF name");
    memcpy(*name, at, length);
    (*name)[length] = 0;
    return 0;
}

static uint64_t scalar_bytes(uint32_t type) // 0: not a scalar
{
    static const unsigned char bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

// Moves over one array's elements or one value.
static int take_elements(struct cursor *c, struct gguf_key *k, struct error *err)
{
    k->data = c->data + c->at;
    if (k->type == GGUF_STRING) {
        for (int64_t i = 0; i < k->count; i++) {
            uint64_t length;
            TRY(take_u64(c, &length, k->name, err));
            if (!take(c, length, k->name, err))
                return -1;
        }
        return 0;
    }
    const uint64_t bytes = scalar_bytes(k->type);
    if (bytes == 0)
        return error_set(err, "%s: key %s has value type %u%s, which does not exist%s", c->path, k->name, k->type,
                         k->type == GGUF_ARRAY ? " (an array of arrays)" : "",
                         k->type == GGUF_ARRAY ? " in models" : "");
    if ((uint64_t)k->count > (c->size - c->at) / bytes)
        return truncated(c, k->name, (uint64_t)k->count, err);
    return take(c, (uint64_t)k->count * bytes, k->name, err) ? 0 : -1;
}

static int take_key(struct cursor *c, struct gguf_key *k, struct error *err)
{
    uint32_t type;
    uint64_t count = 1;
    TRY(take_name(c, &k->name, MAX_NAME, "the name of a key", err));
    TRY(take_u32(c, &type, k->name, err));
    if (type == GGUF_ARRAY) {
        k->is_array = 1;
        TRY(take_u32(c, &type, k->name, err));
        TRY(take_u64(c, &count, k->name, err));
        if (count > c->size)
            return error_set(err, "%s: key %s claims %" PRIu64 " elements in a file of %" PRIu64 " bytes", c->path,
                             k->name, count, c->size);
    }
    k->type = type;
    k->count = (int64_t)count;
    return take_elements(c, k, err);
}

// Name, shape and type of one tensor, and its size; *offset is relative to the data.
static int take_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t *offset, struct error *err)
{
    uint32_t n_dim, type;
    TRY(take_name(c, &t->name, MAX_TENSOR_NAME, "the name of a tensor", err));
    TRY(take_u32(c, &n_dim, t->name, err));
    if (n_dim < 1 || n_dim > GGUF_DIMS)
        return error_set(err, "%s: tensor %s has %u dimensions; expected 1 to %d", c->path, t->name, n_dim,
                         GGUF_DIMS);
    t->n_dim = (int)n_dim;
    uint64_t elements = 1;
    for (uint32_t i = 0; i < n_dim; i++) {
        uint64_t dim;
        TRY(take_u64(c, &dim, t->name, err));
        if (dim == 0 || dim > ((uint64_t)1 << 48) / elements)
            return error_set(err,
                             "%s: tensor %s: dimension %u is %" PRIu64
                             "; expected at least 1, and at most 2^48 elements in all",
                             c->path, t->name, i, dim);
        elements *= dim;
        t->dim[n_dim - 1 - i] = (int64_t)dim;
    }
    TRY(take_u32(c, &type, t->name, err));
    TRY(take_u64(c, offset, t->name, err));
    t->format = block_format_by_type(type);
    if (!t->format)
        return error_set(
            err,
            "%s: tensor %s has type %s (%u), which pdq does not read; expected " BLOCK_TYPES
            ": write the file again with one of them",
            c->path, t->name, block_type_name(type), type);
    const int64_t columns = t->dim[n_dim - 1], row = block_row_bytes(t->format, columns);
    if (row < 0)
        return error_set(err, "%s: tensor %s has rows of %" PRId64 " values; type %s needs a multiple of %" PRId64,
                         c->path, t->name, columns, t->format->name, t->format->elements);
    t->bytes = (int64_t)elements / columns * row;
    return 0;
}

static int by_key_name(const void *a, const void *b)
{
    return strcmp((*(struct gguf_key *const *)a)->name, (*(struct gguf_key *const *)b)->name);
}

static int by_tensor_name(const void *a, const void *b)
{
    return strcmp((*(struct gguf_tensor *const *)a)->name, (*(struct gguf_tensor *const *)b)->name);
}

static int by_place(const void *a, const void *b)
{
    const unsigned char *p = (*(struct gguf_tensor *const *)a)->data, *q = (*(struct gguf_tensor *const *)b)->data;
    return p < q ? -1 : p > q;
}

static int check_keys(const struct gguf *g, struct error *err)
{
    struct gguf_key **sorted = xmalloc((size_t)(g->n_key + 1) * sizeof *sorted, "GGUF keys");
    for (int64_t i = 0; i < g->n_key; i++)
        sorted[i] = &g->key[i];
    qsort(sorted, (size_t)g->n_key, sizeof *sorted, by_key_name);
    int rc = 0;
    for (int64_t i = 1; i < g->n_key && rc == 0; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            rc = error_set(err, "%s: key %s stands in the file twice", g->map.path, sorted[i]->name);
    free(sorted);
    return rc;
}

static int check_tensors(const struct gguf *g, struct error *err)
{
    struct gguf_tensor **sorted = xmalloc((size_t)(g->n_tensor + 1) * sizeof *sorted, "GGUF tensors");
    for (int64_t i = 0; i < g->n_tensor; i++)
        sorted[i] = &g->tensor[i];
    qsort(sorted, (size_t)g->n_tensor, sizeof *sorted, by_tensor_name);
    int rc = 0;
    for (int64_t i = 1; i < g->n_tensor && rc == 0; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            rc = error_set(err, "%s: tensor %s stands in the file twice", g->map.path, sorted[i]->name);
    qsort(sorted, (size_t)g->n_tensor, sizeof *sorted, by_place);
    for (int64_t i = 1; i < g->n_tensor && rc == 0; i++)
        if (sorted[i - 1]->data + sorted[i - 1]->bytes > sorted[i]->data)
            rc = error_set(err, "%s: the data of tensors %s and %s overlap", g->map.path, sorted[i - 1]->name,
                           sorted[i]->name);
    free(sorted);
    return rc;
}

static int take_head(struct cursor *c, struct gguf *g, struct error *err)
{
    uint64_t n_tensor, n_key;
    const unsigned char *magic = take(c, 4, "the first four bytes", err);
    if (!magic)
        return -1;
    if (memcmp(magic, "GGUF", 4) != 0)
        return error_set(err, "%s: not a GGUF file: it begins with bytes %02x %02x %02x %02x; expected \"GGUF\"",
                         c->path, magic[0], magic[1], magic[2], magic[3]);
    TRY(take_u32(c, &g->version, "the version", err));
    if (g->version != 2 && g->version != 3)
        return error_set(err, "%s: GGUF version %u is not supported%s; expected 2 or 3", c->path, g->version,
                         g->version && !(g->version & 0xffffff) ? " (a big-endian file)" : "");
    TRY(take_u64(c, &n_tensor, "the tensor count", err));
    TRY(take_u64(c, &n_key, "the key count", err));
    // The shortest key takes 14 bytes (name of one byte, U8), the shortest tensor 33: a larger count is nonsense, and
    // without this check it would be memory.
    const uint64_t rest = c->size - c->at;
    if (n_key > rest / 14 || n_tensor > rest / 33)
        return error_set(err,
                         "%s: %" PRIu64 " keys and %" PRIu64 " tensors cannot stand in %" PRIu64
                         " bytes: the file is damaged",
                         c->path, n_key, n_tensor, rest);
    g->key = xcalloc((size_t)n_key + 1, sizeof *g->key, "GGUF keys");
    g->tensor = xcalloc((size_t)n_tensor + 1, sizeof *g->tensor, "GGUF tensors");
    g->n_key = (int64_t)n_key;
    g->n_tensor = (int64_t)n_tensor;
    return 0;
}

// Gives each tensor its place in the map.
static int place_tensors(struct cursor *c, struct gguf *g, const uint64_t *offset, struct error *err)
{
    const uint64_t start = (c->at + (uint64_t)g->alignment - 1) / (uint64_t)g->alignment * (uint64_t)g->alignment;
    for (int64_t i = 0; i < g->n_tensor; i++) {
        struct gguf_tensor *t = &g->tensor[i];
        if (offset[i] % (uint64_t)g->alignment)
            return error_set(
                err, "%s: tensor %s begins at offset %" PRIu64 "; expected a multiple of the alignment, %" PRId64,
                c->path, t->name, offset[i], g->alignment);
        if (start > c->size || offset[i] > c->size - start || (uint64_t)t->bytes > c->size - start - offset[i])
            return error_set(err,
                             "%s: tensor %s needs %" PRId64 " bytes at offset %" PRIu64
                             " of the data, but the file ends at byte %" PRIu64
                             ": it is damaged or was not copied whole",
                             c->path, t->name, t->bytes, offset[i], c->size);
        t->data = c->data + start + offset[i];
    }
    return check_tensors(g, err);
}

static int read_all(struct gguf *g, struct error *err)
{
    struct cursor c = {.path = g->map.path, .data = g->map.data, .size = g->map.size};
    TRY(take_head(&c, g, err));
    for (int64_t i = 0; i < g->n_key; i++)
        TRY(take_key(&c, &g->key[i], err));
    TRY(check_keys(g, err));
    TRY(gguf_get_int(g, "general.alignment", 32, 1, MAX_ALIGNMENT, &g->alignment, err));
    if (g->alignment & (g->alignment - 1))
        return error_set(err, "%s: general.alignment is %" PRId64 "; expected a power of two", c.path, g->alignment);
    uint64_t *offset = xcalloc((size_t)g->n_tensor + 1, sizeof *offset, "GGUF offsets");
    int rc = 0;
    for (int64_t i = 0; i < g->n_tensor && rc == 0; i++)
        rc = take_tensor(&c, &g->tensor[i], &offset[i], err);
    if (rc == 0)
        rc = place_tensors(&c, g, offset, err);
    free(offset);
    return rc;
}

int gguf_open(struct gguf *g, const char *path, struct error *err)
{
    *g = (struct gguf){0};
    TRY(file_map(&g->map, path, err));
    if (read_all(g, err) == 0)
        return 0;
    gguf_close(g);
    return -1;
}

void gguf_close(struct gguf *g)
{
    for (int64_t i = 0; i < g->n_key; i++)
        free(g->key[i].name);
    for (int64_t i = 0; i < g->n_tensor; i++)
        free(g->tensor[i].name);
    free(g->key);
    free(g->tensor);
    if (g->map.path)
        file_unmap(&g->map);
    *g = (struct gguf){0};
}

const struct gguf_key *gguf_find_key(const struct gguf *g, const char *name)
{
    for (int64_t i = 0; i < g->n_key; i++)
        if (strcmp(g->key[i].name, name) == 0)
            return &g->key[i];
    return NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    for (int64_t i = 0; i < g->n_tensor; i++)
        if (strcmp(g->tensor[i].name, name) == 0)
            return &g->tensor[i];
    return NULL;
}

int gguf_is_int(const struct gguf_key *k)
{
    return k->type <= GGUF_I32 || k->type == GGUF_U64 || k->type == GGUF_I64;
}

int gguf_is_float(const struct gguf_key *k) { return k->type == GGUF_F32 || k->type == GGUF_F64; }

int64_t gguf_int_at(const struct gguf_key *k, int64_t i)
{
    const uint64_t bytes = scalar_bytes(k->type);
    if (!gguf_is_int(k) || i < 0 || i >= k->count)
        BUG("gguf_int_at: key %s, type %d, element %" PRId64 " of %" PRId64, k->name, (int)k->type, i, k->count);
    uint64_t raw = 0;
    memcpy(&raw, k->data + (uint64_t)i * bytes, bytes);
    switch (k->type) {
    case GGUF_I8: return (int8_t)raw;
    case GGUF_I16: return (int16_t)raw;
    case GGUF_I32: return (int32_t)raw;
    case GGUF_U64: return raw > INT64_MAX ? INT64_MAX : (int64_t)raw;
    default: return (int64_t)raw;
    }
}

double gguf_float_at(const struct gguf_key *k, int64_t i)
{
    if (!gguf_is_float(k) || i < 0 || i >= k->count)
        BUG("gguf_float_at: key %s, type %d, element %" PRId64 " of %" PRId64, k->name, (int)k->type, i, k->count);
    float f;
    double d;
    if (k->type == GGUF_F32) {
        memcpy(&f, k->data + i * 4, 4);
        return (double)f;
    }
    memcpy(&d, k->data + i * 8, 8);
    return d;
}

static const char *type_name(const struct gguf_key *k)
{
    static const char *const names[] = {"U8",     "I8",       "U16",      "I16", "U32", "I32", "F32",
                                        "a bool", "a string", "an array", "U64", "I64", "F64"};
    return k->is_array ? "an array" : names[k->type];
}

int gguf_get_int(const struct gguf *g, const char *name, int64_t def, int64_t min, int64_t max, int64_t *out,
                 struct error *err)
{
    const struct gguf_key *k = gguf_find_key(g, name);
    *out = def;
    if (!k)
        return 0;
    if (k->is_array || !gguf_is_int(k))
        return error_set(err, "%s: key %s is %s; expected a whole number", g->map.path, name, type_name(k));
    *out = gguf_int_at(k, 0);
    if (*out < min || *out > max)
        return error_set(err, "%s: key %s is %" PRId64 "; expected %" PRId64 " to %" PRId64, g->map.path, name, *out,
                         min, max);
    return 0;
}

int gguf_get_float(const struct gguf *g, const char *name, double def, double min, double max, double *out,
                   struct error *err)
{
    const struct gguf_key *k = gguf_find_key(g, name);
    *out = def;
    if (!k)
        return 0;
    if (k->is_array || !gguf_is_float(k))
        return error_set(err, "%s: key %s is %s; expected F32", g->map.path, name, type_name(k));
    *out = gguf_float_at(k, 0);
    if (!(*out >= min && *out <= max))
        return error_set(err, "%s: key %s is %g; expected %g to %g", g->map.path, name, *out, min, max);
    return 0;
}

int gguf_get_bool(const struct gguf *g, const char *name, int def, int *out, struct error *err)
{
    const struct gguf_key *k = gguf_find_key(g, name);
    *out = def;
    if (!k)
        return 0;
    if (k->is_array || k->type != GGUF_BOOL)
        return error_set(err, "%s: key %s is %s; expected a bool", g->map.path, name, type_name(k));
    *out = k->data[0] != 0;
    return 0;
}

// The string at *at as a fresh C string (cut at a zero byte); *at moves behind it.
static char *next_string(const unsigned char **at)
{
    uint64_t length;
    memcpy(&length, *at, 8);
    char *s = xmalloc(length + 1, "GGUF string");
    memcpy(s, *at + 8, length);
    s[length] = 0;
    *at += 8 + length;
    return s;
}

int gguf_get_string(const struct gguf *g, const char *name, char **out, struct error *err)
{
    const struct gguf_key *k = gguf_find_key(g, name);
    *out = NULL;
    if (!k)
        return 0;
    if (k->is_array || k->type != GGUF_STRING)
        return error_set(err, "%s: key %s is %s; expected a string", g->map.path, name, type_name(k));
    const unsigned char *at = k->data;
    *out = next_string(&at);
    return 0;
}

char **gguf_strings(const struct gguf_key *k)
{
    if (!k->is_array || k->type != GGUF_STRING)
        return NULL;
    char **list = xmalloc((size_t)(k->count + 1) * sizeof *list, "GGUF strings");
    const unsigned char *at = k->data;
    for (int64_t i = 0; i < k->count; i++)
        list[i] = next_string(&at);
    list[k->count] = NULL;
    return list;
}

#define SHOWN 8 // elements of an array

char *gguf_key_text(const struct gguf_key *k)
{
    char *text = xstrdup(k->is_array ? "[" : "");
    const unsigned char *at = k->data;
    for (int64_t i = 0; i < k->count && i < SHOWN; i++) {
        char *longer, *item;
        if (k->type == GGUF_STRING)
            item = next_string(&at);
        else if (k->type == GGUF_BOOL)
            item = xstrdup(k->data[i] ? "true" : "false");
        else if (gguf_is_float(k))
            item = xasprintf("%.9g", gguf_float_at(k, i));
        else
            item = xasprintf("%" PRId64, gguf_int_at(k, i));
        longer = xasprintf("%s%s%s", text, i ? ", " : "", item);
        free(item);
        free(text);
        text = longer;
    }
    if (k->is_array) {
        char *longer = xasprintf("%s%s] (%" PRId64 ")", text, k->count > SHOWN ? ", ..." : "", k->count);
        free(text);
        text = longer;
    }
    return text;
}
