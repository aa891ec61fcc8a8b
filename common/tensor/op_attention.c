// op_attention.c: grouped-query attention, causal or over padded sequences, tiled over queries so that no T x T map is kept.
//
// Forward keeps the logarithm of each row's sum of exponentials; backward makes a tile's probabilities again from it
// (Dao et al. 2022, section 3 and appendix B). Keys and values of a (sequence, group) are packed once for all its tiles.
// Backward, one thread does one (sequence, group) at a time, its heads in order, so the sums over the heads of a group have
// one order.
#include <math.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"

#define TILE 64 // queries at a time
#define PART 16 // queries that are multiplied with the same keys: what the mask hides from all of them is left out
#define FEW 4   // up to this many queries, plain loops beat a matrix product

struct attention {
    int64_t B, T, S, H, G, E;
    int64_t room;          // rows of k and v from one sequence to the next: S, or more in a cache
    int both_ways;         // else causal
    const int32_t *length; // [B] of sequences seen both ways; NULL: T
    const float *q, *k, *v;
    float *y;
    float *lse; // [B, H, T]
    float scale;
};

struct attention_saved {
    int64_t B, T, S, room, E;
    int both_ways;
    const int32_t *length;
    float *lse;
};

// One tile: `rows` queries from t0 on of one head see the first `keys` positions.
struct tile {
    int64_t t0, rows, keys;
    int both_ways; // every row sees all keys
    const float *q, *k, *v; // first row of the tile, of the head; position 0 of the group
    int64_t q_stride, k_stride;
};

static struct tile tile_at(const struct attention *a, int64_t b, int64_t h, int64_t t0)
{
    const int64_t rows = min_i64(TILE, a->T - t0), group = h / (a->H / a->G);
    return (struct tile){
        .t0 = t0,
        .rows = rows,
        .keys = !a->both_ways ? a->S - a->T + t0 + rows : a->length ? a->length[b] : a->T,
        .both_ways = a->both_ways,
        .q = a->q + (b * a->T + t0) * a->H * a->E + h * a->E,
        .k = a->k + b * a->room * a->G * a->E + group * a->E,
        .v = a->v + b * a->room * a->G * a->E + group * a->E,
        .q_stride = a->H * a->E,
        .k_stride = a->G * a->E,
    };
}

// Keys that a row of the tile sees, and that any row of its part of the tile sees.
static int64_t row_keys(const struct tile *t, int64_t row) { return t->both_ways ? t->keys : t->keys - t->rows + row + 1; }

static int64_t part_keys(const struct tile *t, int64_t row)
{
    return row_keys(t, min_i64(row / PART * PART + PART, t->rows) - 1);
}

// A thread's packed copy of one (sequence, group): what tiles are multiplied with.
struct packed {
    int64_t task; // sequence * G + group; -1: none yet
    float *k_t;   // scale k^T [E, S]
    float *v_t;   // v^T [E, S], backward only
    float *rows;  // forward v, backward k [S, E]
    float *q, *dy; // of one tile [rows, E], backward only
};

static int64_t packed_floats(const struct attention *a) { return gemm_packed_floats(a->S, a->E) + gemm_packed_floats(a->E, a->S); }

static void pack_group(const struct attention *a, struct packed *p, int64_t task)
{
    const int64_t stride = a->G * a->E, at = task / a->G * a->room * stride + task % a->G * a->E;
    if (p->task == task)
        return;
    p->task = task;
    gemm_pack(TRANSPOSED, a->S, a->E, a->scale, a->k + at, stride, p->k_t);
    if (p->v_t)
        gemm_pack(TRANSPOSED, a->S, a->E, 1, a->v + at, stride, p->v_t);
    gemm_pack(PLAIN, a->E, a->S, 1, (p->v_t ? a->k : a->v) + at, stride, p->rows);
}

// to [rows, keys] = x [rows, E] b [E, S], as far as a part's keys go.
static void product_over_keys(const struct attention *a, const struct tile *t, const float *x, const float *b, float *to)
{
    for (int64_t r = 0; r < t->rows; r += PART)
        gemm_packed(PLAIN, min_i64(PART, t->rows - r), part_keys(t, r), a->E, x + r * t->q_stride, t->q_stride, b, a->E, 0,
                    to + r * t->keys, t->keys);
}

// to [rows, E] = p [rows, keys] b [S, E] + beta to
static void sum_over_keys(const struct attention *a, const struct tile *t, const float *p, const float *b, float beta, float *to)
{
    for (int64_t r = 0; r < t->rows; r += PART)
        gemm_packed(PLAIN, min_i64(PART, t->rows - r), a->E, part_keys(t, r), p + r * t->keys, t->keys, b, a->S, beta,
                    to + r * t->q_stride, t->q_stride);
}

// to [keys, E] += p^T [keys, rows] x [rows, E]: all rows for the keys that all see, then part by part.
static void sum_over_rows(const struct attention *a, const struct tile *t, const float *p, const float *x, float *to)
{
    for (int64_t r = 0, key = 0; r < t->rows; r += PART) {
        const int64_t end = part_keys(t, r);
        if (end == key)
            break; // all rows see the same keys
        gemm_packed(TRANSPOSED, end - key, a->E, t->rows - r, p + r * t->keys + key, t->keys, x + r * GEMM_PANEL, t->rows, 1,
                    to + key * t->k_stride, t->k_stride);
        key = end;
    }
}

// score [rows, keys] = scale q k^T
static void tile_scores(const struct attention *a, const struct tile *t, const struct packed *p, float *score)
{
    if (a->T > FEW) {
        product_over_keys(a, t, t->q, p->k_t, score);
        return;
    }
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t s = 0; s < t->keys; s++) {
            float sum = 0;
            const float *q = t->q + r * t->q_stride, *k = t->k + s * t->k_stride;
#pragma omp simd reduction(+ : sum)
            for (int64_t e = 0; e < a->E; e++)
                sum += q[e] * k[e];
            score[r * t->keys + s] = a->scale * sum;
        }
}

// y [rows, E] = probability [rows, keys] v
static void tile_values(const struct attention *a, const struct tile *t, const struct packed *p, const float *probability,
                        float *y)
{
    if (a->T > FEW) {
        sum_over_keys(a, t, probability, p->rows, 0, y);
        return;
    }
    for (int64_t r = 0; r < t->rows; r++) {
        memset(y + r * t->q_stride, 0, (size_t)a->E * sizeof(float));
        for (int64_t s = 0; s < t->keys; s++)
            for (int64_t e = 0; e < a->E; e++)
                y[r * t->q_stride + e] += probability[r * t->keys + s] * t->v[s * t->k_stride + e];
    }
}

static void tile_forward(const struct attention *a, const struct packed *p, int64_t b, int64_t h, int64_t t0, float *score)
{
    const struct tile t = tile_at(a, b, h, t0);
    tile_scores(a, &t, p, score);
    for (int64_t r = 0; r < t.rows; r++) {
        float *row = score + r * t.keys;
        const int64_t seen = row_keys(&t, r);
        const float top = vec_max(row, seen);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t s = 0; s < seen; s++) {
            row[s] = vec_exp(row[s] - top);
            sum += row[s];
        }
        const float inverse = 1.0f / sum;
        for (int64_t s = 0; s < seen; s++)
            row[s] *= inverse;
        memset(row + seen, 0, (size_t)(part_keys(&t, r) - seen) * sizeof(float));
        a->lse[(b * a->H + h) * a->T + t0 + r] = top + logf(sum);
    }
    tile_values(a, &t, p, score, a->y + (b * a->T + t0) * a->H * a->E + h * a->E);
}

#define TASKS_AT_ONCE 16 // tiles that a thread takes at most; fewer than a group's would pack the group for two threads

// Scratch for every thread, in the step arena: taken before the parallel region, found by its number.
static void attention_forward(struct tape *tape, const struct attention *a)
{
    const int64_t tiles = (a->T + TILE - 1) / TILE, heads = a->H / a->G, of_group = heads * tiles;
    const int64_t tasks = a->B * a->G * of_group, slots = min_i64(tasks, threads_count());
    const int64_t score = min_i64(TILE, a->T) * a->S, size = score + (a->T > FEW ? packed_floats(a) : 0);
    const size_t mark = arena_mark(&tape->arena);
    float *scratch = arena_alloc(&tape->arena, (size_t)(slots * size) * sizeof(float));
#pragma omp parallel num_threads((int)slots)
    {
        float *mine = scratch + thread_number() * size;
        struct packed p = {.task = -1, .k_t = mine + score, .rows = mine + score + gemm_packed_floats(a->S, a->E)};
#pragma omp for schedule(dynamic, min_i64(of_group, TASKS_AT_ONCE))
        for (int64_t i = 0; i < tasks; i++) {
            const int64_t group = i / of_group, h = group % a->G * heads + i / tiles % heads;
            if (a->T > FEW)
                pack_group(a, &p, group);
            tile_forward(a, &p, group / a->G, h, i % tiles * TILE, mine);
        }
    }
    arena_reset(&tape->arena, mark);
}

struct attention_gradients {
    const float *dy;
    float *dq, *dk, *dv;
    float dq_beta;
};

// For one tile: dv += p^T dy, dp = dy v^T, ds = p (dp - sum(dy y)) scale, dq += ds k, dk += ds^T q.
static void tile_backward(const struct attention *a, const struct attention_gradients *g, const struct packed *packed, int64_t b,
                          int64_t h, int64_t t0, float *p, float *dp)
{
    const struct tile t = tile_at(a, b, h, t0);
    const int64_t at = (b * a->T + t0) * a->H * a->E + h * a->E;
    const int64_t group_at = t.k - a->k;
    product_over_keys(a, &t, t.q, packed->k_t, p);
    product_over_keys(a, &t, g->dy + at, packed->v_t, dp);
    for (int64_t r = 0; r < t.rows; r++) {
        float *row = p + r * t.keys;
        const int64_t seen = row_keys(&t, r);
        const float lse = a->lse[(b * a->H + h) * a->T + t0 + r];
        for (int64_t s = 0; s < seen; s++)
            row[s] = vec_exp(row[s] - lse);
        memset(row + seen, 0, (size_t)(part_keys(&t, r) - seen) * sizeof(float));
    }
    if (g->dv) {
        gemm_pack(PLAIN, a->E, t.rows, 1, g->dy + at, t.q_stride, packed->dy);
        sum_over_rows(a, &t, p, packed->dy, g->dv + group_at);
    }
    for (int64_t r = 0; r < t.rows; r++) {
        const float delta = (float)vec_dot(g->dy + at + r * t.q_stride, a->y + at + r * t.q_stride, a->E);
        float *row = p + r * t.keys;
        const int64_t end = part_keys(&t, r);
        for (int64_t s = 0; s < end; s++)
            row[s] *= a->scale * (dp[r * t.keys + s] - delta);
    }
    if (g->dq)
        sum_over_keys(a, &t, p, packed->rows, g->dq_beta, g->dq + at);
    if (g->dk) {
        gemm_pack(PLAIN, a->E, t.rows, 1, t.q, t.q_stride, packed->q);
        sum_over_rows(a, &t, p, packed->q, g->dk + group_at);
    }
}

static void attention_backward(struct tape *tape, struct node *node)
{
    struct tensor *q = node->in[0], *k = node->in[1], *v = node->in[2];
    const struct attention_saved *s = node->saved;
    const struct attention a = {.B = s->B, .T = s->T, .S = s->S, .room = s->room, .E = s->E, .H = tensor_columns(q) / s->E,
                                .G = tensor_columns(k) / s->E, .q = q->data, .k = k->data, .v = v->data,
                                .both_ways = s->both_ways, .length = s->length, .y = node->out->data, .lse = s->lse, .scale = 1.0f / sqrtf((float)s->E)};
    struct attention_gradients g = {.dy = node->out->grad};
    float k_beta = 1, v_beta = 1;
    g.dq = tape_grad(tape, q, &g.dq_beta);
    g.dk = tape_grad(tape, k, &k_beta);
    g.dv = tape_grad(tape, v, &v_beta);
    if (g.dk && k_beta == 0.0f) // many tiles add here
        memset(g.dk, 0, (size_t)tensor_count(k) * sizeof(float));
    if (g.dv && v_beta == 0.0f)
        memset(g.dv, 0, (size_t)tensor_count(v) * sizeof(float));
    const int64_t tasks = a.B * a.G, heads = a.H / a.G, slots = min_i64(tasks, threads_count());
    const int64_t score = min_i64(TILE, a.T) * a.S, columns = gemm_packed_floats(a.S, a.E), rows = gemm_packed_floats(a.E, a.S);
    const int64_t tile = gemm_packed_floats(a.E, min_i64(TILE, a.T)), size = 2 * (score + columns + tile) + rows;
    const size_t mark = arena_mark(&tape->arena);
    float *scratch = arena_alloc(&tape->arena, (size_t)(slots * size) * sizeof(float));
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)slots)
    for (int64_t i = 0; i < tasks; i++) {
        float *p = scratch + thread_number() * size, *k_t = p + 2 * score, *of_tile = k_t + 2 * columns + rows;
        struct packed packed = {-1, k_t, k_t + columns, k_t + 2 * columns, of_tile, of_tile + tile};
        pack_group(&a, &packed, i);
        for (int64_t h = i % a.G * heads; h < (i % a.G + 1) * heads; h++)
            for (int64_t t0 = 0; t0 < a.T; t0 += TILE)
                tile_backward(&a, &g, &packed, i / a.G, h, t0, p, p + score);
    }
    arena_reset(&tape->arena, mark);
}

static struct tensor *attend(struct tape *tape, struct tensor *q, struct tensor *k, struct tensor *v, struct attention_saved shape)
{
    const int64_t C = tensor_columns(q), K = tensor_columns(k), B = shape.B, T = shape.T, S = shape.S, E = shape.E;
    if (tensor_rows(q) != B * T || tensor_rows(k) != B * shape.room || tensor_rows(v) != B * shape.room || tensor_columns(v) != K || C % K ||
        K % E || S < T || S > shape.room)
        BUG("op_attention: q[%ld,%ld] k[%ld,%ld] v[%ld,%ld], B %ld T %ld S %ld E %ld", (long)tensor_rows(q), (long)C,
            (long)tensor_rows(k), (long)K, (long)tensor_rows(v), (long)tensor_columns(v), (long)B, (long)T, (long)S, (long)E);
    struct attention_saved *s = arena_alloc(&tape->arena, sizeof *s);
    *s = shape;
    s->lse = arena_alloc(&tape->arena, (size_t)(B * C / E * T) * sizeof(float));
    struct tensor *y = tape_tensor(tape, "attention", 2, B * T, C, 1);
    const struct attention a = {.B = B, .T = T, .S = S, .room = shape.room, .H = C / E, .G = K / E, .E = E, .q = q->data, .k = k->data,
                                .both_ways = s->both_ways, .length = s->length,
                                .v = v->data, .y = y->data, .lse = s->lse, .scale = 1.0f / sqrtf((float)E)};
    attention_forward(tape, &a);
    struct node *node = tape_record(tape, attention_backward, y, q, k, v, NULL);
    if (node)
        node->saved = s;
    return y;
}

struct tensor *op_attention(struct tape *tape, struct tensor *q, struct tensor *k, struct tensor *v, int64_t B, int64_t T,
                            int64_t S, int64_t E)
{
    return attend(tape, q, k, v, (struct attention_saved){.B = B, .T = T, .S = S, .room = S, .E = E});
}

struct tensor *op_attention_cached(struct tape *tape, struct tensor *q, struct tensor *k, struct tensor *v, int64_t B, int64_t T,
                                   int64_t S, int64_t room, int64_t E)
{
    if (tape->recording)
        BUG("op_attention_cached: what a cache holds has no gradient");
    return attend(tape, q, k, v, (struct attention_saved){.B = B, .T = T, .S = S, .room = room, .E = E});
}

struct tensor *op_attention_both_ways(struct tape *tape, struct tensor *q, struct tensor *k, struct tensor *v, int64_t B, int64_t T,
                                      int64_t E, const int32_t *length)
{
    for (int64_t b = 0; length && b < B; b++)
        if (length[b] < 1 || length[b] > T)
            BUG("op_attention_both_ways: sequence %ld has %d of %ld positions", (long)b, (int)length[b], (long)T);
    return attend(tape, q, k, v, (struct attention_saved){.B = B, .T = T, .S = T, .room = T, .E = E, .both_ways = 1, .length = length});
}
