// feature_attention.c: losses on attention maps and on MiniLM's relations.
//
// Attention never holds its maps, so they are made again here, from q and k as attention read them: scores z = scale q k^T of each
// head, softmax over the keys that a query sees. A relation is the same with q = k = x cut into relation heads, over all tokens of the
// sequence. Tiles of queries are walked; a tile's scores become their gradient in place, which is multiplied out at once. One thread does
// one (sequence, key group), its heads and tiles in order, so every sum has one order.
//
// To add a loss on maps: a row_function, a feature_function of one line.
#include <math.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/tensor/vecmath.h"
#include "distill/feature.h"

#define TILE 64 // queries at a time

struct side { // one model's: z = scale a b^T of every head
    const float *a, *b; // [N, heads * E], [N, groups * E]
    int64_t heads, groups, E;
    float scale;
};

struct normal { // what the loss of a row counts, and with the weight its gradient
    double row, entry; // 1 / all rows of all heads; 1 / all their entries
    double k;
};

// From the scores of one query over n keys, of student and teacher, to its share of the loss; zs becomes k times the gradient. zt is scratch.
typedef double row_function(float *zs, float *zt, int64_t n, const struct normal *normal);

// log sum exp(z)
static float log_sum(const float *z, int64_t n)
{
    const float top = vec_max(z, n);
    double total = 0;
    for (int64_t i = 0; i < n; i += SUM_BLOCK) {
        float sum = 0;
        const int64_t end = min_i64(n, i + SUM_BLOCK);
#pragma omp simd reduction(+ : sum)
        for (int64_t j = i; j < end; j++)
            sum += vec_exp(z[j] - top);
        total += (double)sum;
    }
    return top + (float)log(total);
}

// KL(teacher || student).
static double row_kl(float *zs, float *zt, int64_t n, const struct normal *normal)
{
    const float lse_s = log_sum(zs, n), lse_t = log_sum(zt, n), k = (float)(normal->k * normal->row);
    double total = 0;
    for (int64_t i = 0; i < n; i += SUM_BLOCK) {
        float sum = 0;
        const int64_t end = min_i64(n, i + SUM_BLOCK);
#pragma omp simd reduction(+ : sum)
        for (int64_t j = i; j < end; j++) {
            const float log_s = zs[j] - lse_s, log_t = zt[j] - lse_t, p = vec_exp(log_t);
            sum += p * (log_t - log_s);
            zs[j] = k * (vec_exp(log_s) - p);
        }
        total += (double)sum;
    }
    return normal->row * total;
}

static double row_score_mse(float *zs, float *zt, int64_t n, const struct normal *normal)
{
    const float k = (float)(2 * normal->k * normal->entry);
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        const float d = zs[i] - zt[i];
        total += (double)d * (double)d;
        zs[i] = k * d;
    }
    return normal->entry * total;
}

// of_mse MSE(p, teacher's p) + of_entropy (H - teacher's H)^2 with the row's entropy H = - sum p log p. With p = softmax(z):
// d MSE / dz = p (g - sum p g) for g = 2 (p - p_t), dH / dz = - p (log p + H).
static double row_maps(float *zs, float *zt, int64_t n, const struct normal *normal, double of_mse, double of_entropy)
{
    const float lse_s = log_sum(zs, n), lse_t = log_sum(zt, n);
    double squares = 0, mean = 0, entropy_s = 0, entropy_t = 0;
    for (int64_t i = 0; i < n; i++) {
        const float log_s = zs[i] - lse_s, log_t = zt[i] - lse_t, p = vec_exp(log_s), q = vec_exp(log_t), d = p - q;
        squares += (double)d * (double)d;
        mean += (double)p * (double)d;
        entropy_s -= (double)p * (double)log_s;
        entropy_t -= (double)q * (double)log_t;
        zt[i] = d;
    }
    const double gap = entropy_s - entropy_t;
    const float mse = (float)(2 * of_mse * normal->k * normal->entry), entropy = (float)(-2 * of_entropy * gap * normal->k * normal->row);
    for (int64_t i = 0; i < n; i++) {
        const float log_s = zs[i] - lse_s;
        zs[i] = vec_exp(log_s) * (mse * (zt[i] - (float)mean) + entropy * (log_s + (float)entropy_s));
    }
    return of_mse * normal->entry * squares + of_entropy * normal->row * gap * gap;
}

static double row_mse(float *zs, float *zt, int64_t n, const struct normal *normal) { return row_maps(zs, zt, n, normal, 1, 0); }
static double row_mse_entropy(float *zs, float *zt, int64_t n, const struct normal *normal) { return row_maps(zs, zt, n, normal, 0.8, 0.2); }

struct maps {
    const struct feature_input *in;
    struct side student, teacher;
    int causal;
    int64_t window; // 0: none
    struct normal normal;
    row_function *row;
    float *da, *db; // gradients of the student's a and b; NULL: not wanted
};

// Keys that a query sees of the `n` up to the last one that it may see.
static int64_t seen_keys(const struct maps *m, int64_t n) { return m->window ? min_i64(n, m->window) : n; }
static int64_t tokens(const struct maps *m, int64_t b) { return m->in->length ? m->in->length[b] : m->in->T; }

static struct side side_of(const struct tensor *const tensor[2], const int64_t heads[2], double scale)
{
    const struct tensor *b = tensor[1] ? tensor[1] : tensor[0];
    const int64_t E = tensor_columns(tensor[0]) / heads[0];
    return (struct side){tensor[0]->data, b->data, heads[0], heads[1], E, scale > 0 ? (float)scale : 1.0f / sqrtf((float)E)};
}

struct scratch { // of one thread
    float *zs, *zt;                    // [TILE, T]
    float *student_b, *teacher_b;      // packed b^T [E, T]
    float *student_rows, *student_a;   // packed b [T, E], a tile's a [TILE, E]
};

static int64_t scratch_floats(const struct maps *m)
{
    const int64_t T = m->in->T, E = m->student.E;
    return 2 * TILE * T + gemm_packed_floats(T, E) + gemm_packed_floats(T, m->teacher.E) + gemm_packed_floats(E, T) + gemm_packed_floats(E, TILE);
}

static struct scratch scratch_at(const struct maps *m, float *at)
{
    const int64_t T = m->in->T, E = m->student.E;
    struct scratch s = {.zs = at, .zt = at + TILE * T, .student_b = at + 2 * TILE * T};
    s.teacher_b = s.student_b + gemm_packed_floats(T, E);
    s.student_rows = s.teacher_b + gemm_packed_floats(T, m->teacher.E);
    s.student_a = s.student_rows + gemm_packed_floats(E, T);
    return s;
}

// First values of head h of sequence b, and of its keys.
static const float *head_a(const struct maps *m, const struct side *s, int64_t b, int64_t h) { return s->a + b * m->in->T * s->heads * s->E + h * s->E; }

static int64_t key_offset(const struct maps *m, const struct side *s, int64_t b, int64_t h)
{
    return b * m->in->T * s->groups * s->E + h / (s->heads / s->groups) * s->E;
}

static void pack_keys(const struct maps *m, const struct side *s, int64_t b, int64_t h, float *packed)
{
    gemm_pack(TRANSPOSED, tokens(m, b), s->E, s->scale, s->b + key_offset(m, s, b, h), s->groups * s->E, packed);
}

static double tile_loss(const struct maps *m, const struct scratch *s, int64_t b, int64_t h, int64_t t0)
{
    const struct side *own = &m->student, *other = &m->teacher;
    const int64_t n = tokens(m, b), rows = min_i64(TILE, n - t0), keys = m->causal ? t0 + rows : n;
    const int64_t stride = own->heads * own->E, other_stride = other->heads * other->E, key_stride = own->groups * own->E;
    const float *a = head_a(m, own, b, h) + t0 * stride, *other_a = head_a(m, other, b, h) + t0 * other_stride;
    gemm_packed(PLAIN, rows, keys, own->E, a, stride, s->student_b, own->E, 0, s->zs, keys);
    gemm_packed(PLAIN, rows, keys, other->E, other_a, other_stride, s->teacher_b, other->E, 0, s->zt, keys);
    double loss = 0;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t seen = m->causal ? t0 + r + 1 : keys, from = seen - seen_keys(m, seen);
        loss += m->row(s->zs + r * keys + from, s->zt + r * keys + from, seen - from, &m->normal);
        memset(s->zs + r * keys, 0, (size_t)from * sizeof(float));
        memset(s->zs + r * keys + seen, 0, (size_t)(keys - seen) * sizeof(float));
    }
    if (m->da)
        gemm_packed(PLAIN, rows, own->E, keys, s->zs, keys, s->student_rows, n, 1, m->da + (a - own->a), stride);
    if (m->db) {
        gemm_pack(PLAIN, own->E, rows, own->scale, a, stride, s->student_a);
        gemm_packed(TRANSPOSED, keys, own->E, rows, s->zs, keys, s->student_a, rows, 1, m->db + key_offset(m, own, b, h), key_stride);
    }
    return loss;
}

static double group_loss(const struct maps *m, const struct scratch *s, int64_t b, int64_t group)
{
    const struct side *own = &m->student;
    const int64_t heads = own->heads / own->groups, n = tokens(m, b);
    double loss = 0;
    for (int64_t h = group * heads; h < (group + 1) * heads; h++) {
        if (h == group * heads) { // the heads of a group share their keys
            pack_keys(m, own, b, h, s->student_b);
            gemm_pack(PLAIN, own->E, n, own->scale, own->b + key_offset(m, own, b, h), own->groups * own->E, s->student_rows);
        }
        pack_keys(m, &m->teacher, b, h, s->teacher_b);
        for (int64_t t0 = 0; t0 < n; t0 += TILE)
            loss += tile_loss(m, s, b, h, t0);
    }
    return loss;
}

static double maps_loss(struct arena *arena, const struct feature_input *in, int causal, double k, float *const gradient[2], row_function *row)
{
    struct maps m = {.in = in, .causal = causal, .window = causal ? in->window : 0, .row = row, .da = gradient[0],
                     .db = in->student[1] ? gradient[1] : gradient[0]};
    m.student = side_of((const struct tensor *const *)in->student, in->student_heads, in->student_scale);
    m.teacher = side_of(in->teacher, in->teacher_heads, in->teacher_scale);
    if (m.student.heads != m.teacher.heads)
        BUG("attention maps of %ld and %ld heads", (long)m.student.heads, (long)m.teacher.heads);
    double rows = 0, entries = 0;
    for (int64_t b = 0; b < in->B; b++) {
        const double n = (double)tokens(&m, b), w = (double)seen_keys(&m, tokens(&m, b));
        rows += n;
        entries += causal ? w * (w + 1) / 2 + (n - w) * w : n * n;
    }
    m.normal = (struct normal){1 / (rows * (double)m.student.heads), 1 / (entries * (double)m.student.heads), k};
    const int64_t tasks = in->B * m.student.groups, slots = min_i64(tasks, threads_count()), size = scratch_floats(&m);
    const size_t mark = arena_mark(arena);
    float *room = arena_alloc(arena, (size_t)(slots * size) * sizeof *room);
    double *loss = arena_alloc(arena, (size_t)tasks * sizeof *loss), sum = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)slots)
    for (int64_t i = 0; i < tasks; i++) {
        const struct scratch s = scratch_at(&m, room + thread_number() * size);
        loss[i] = group_loss(&m, &s, i / m.student.groups, i % m.student.groups);
    }
    for (int64_t i = 0; i < tasks; i++)
        sum += loss[i];
    arena_reset(arena, mark);
    return sum;
}

// Mean over sequences, heads and queries of KL(teacher's map || student's) (MiniLM, Wang et al. 2020, section 3.1).
double attention_kl(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return maps_loss(arena, in, in->causal, k, gradient, row_kl);
}

// Mean over heads and the entries that are seen of the maps' squared difference: of probabilities.
double attention_mse(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return maps_loss(arena, in, in->causal, k, gradient, row_mse);
}

// The same of scores before the softmax (TinyBERT, Jiao et al. 2020, equation 7, which found that this learns faster).
double attention_score_mse(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return maps_loss(arena, in, in->causal, k, gradient, row_score_mse);
}

// 0.8 attention_mse + 0.2 mean over queries of (H(student's row) - H(teacher's row))^2: how sharply a query looks, beside where.
double attention_mse_entropy(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return maps_loss(arena, in, in->causal, k, gradient, row_mse_entropy);
}

// Mean over sequences, relation heads and tokens of KL between rows of softmax(x x^T / sqrt(d)), x the queries, keys or values cut into
// relation heads of width d: MiniLM (Wang et al. 2020, section 3.2, values) and MiniLMv2 (Wang et al. 2021, section 3.1).
double relation_kl(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return maps_loss(arena, in, 0, k, gradient, row_kl);
}
