// feature.c: the table of losses on features, and a micro-batch's losses: places of both models, samples, nodes on the tape.
#include "distill/feature.h"

#include <stdlib.h>
#include <string.h>

#include "common/tensor/vecmath.h"

const struct feature_loss feature_loss_table[] = {
    {"embedding_mse", READS_EMBEDDING, 1, "final", 0, hidden_mse, "mean squared error of the embedding output (TinyBERT, Jiao 2020)"},
    {"hidden_mse", READS_HIDDEN, 1, "uniform", 0, hidden_mse, "mean squared error of hidden states (TinyBERT, Jiao 2020)"},
    {"hidden_cosine", READS_HIDDEN, 1, "uniform", 0, hidden_cosine, "1 - cosine of hidden states (DistilBERT, Sanh 2019)"},
    {"hidden_pkd", READS_HIDDEN, 1, "skip", 0, hidden_pkd, "squared error of normalised hidden states (PKD, Sun 2019)"},
    {"attention_kl", READS_ATTENTION, 0, "uniform", 0, attention_kl, "KL between attention maps (MiniLM, Wang 2020)"},
    {"attention_mse", READS_ATTENTION, 0, "uniform", 0, attention_mse, "mean squared error of attention maps, as probabilities"},
    {"attention_score_mse", READS_ATTENTION, 0, "uniform", 0, attention_score_mse, "the same of scores before the softmax (TinyBERT, Jiao 2020)"},
    {"attention_mse_entropy", READS_ATTENTION, 0, "uniform", 0, attention_mse_entropy, "0.8 attention_mse + 0.2 of the entropies' squared error"},
    {"query_relation", READS_QUERIES, 0, "final", 0, relation_kl, "KL between relations of queries (MiniLMv2, Wang 2021)"},
    {"key_relation", READS_KEYS, 0, "final", 0, relation_kl, "of keys (MiniLMv2, Wang 2021)"},
    {"value_relation", READS_VALUES, 0, "final", 0, relation_kl, "of values (MiniLM, Wang 2020)"},
    {"fsp", READS_FLOW, 1, "uniform", 0, fsp, "Gram matrices between two layers (FSP, Yim 2017)"},
    {"similarity", READS_HIDDEN, 0, "uniform", 0, similarity, "similarities between samples (Tung 2019)"},
    {"rkd_distance", READS_HIDDEN, 0, "uniform", 64, rkd_distance, "distances between samples (RKD, Park 2019)"},
    {"rkd_angle", READS_HIDDEN, 0, "uniform", 32, rkd_angle, "angles between three samples (RKD, Park 2019)"},
    {"cka", READS_HIDDEN, 0, "uniform", 0, cka, "1 - linear CKA between samples (Kornblith 2019)"},
    {0}};

static int reads_qkv(const struct feature_loss *loss) { return loss->reads >= READS_ATTENTION; }

unsigned features_want(const struct features *f, int teacher)
{
    unsigned want = 0;
    for (int i = 0; i < f->n; i++)
        if (f->item[i].teacher == teacher)
            want |= reads_qkv(f->item[i].loss) ? TAP_QKV : TAP_HIDDEN;
    return want;
}

void shown_init(struct shown *s, const struct config *c, unsigned want)
{
    const size_t n = (size_t)c->n_layer + 1;
    *s = (struct shown){.room = xcalloc(4 * n, sizeof *s->room, "taps")};
    s->taps = (struct taps){.want = want, .hidden = s->room, .q = s->room + n, .k = s->room + 2 * n, .v = s->room + 3 * n};
}

void shown_release(struct shown *s) { free(s->room); }

struct saved {
    float *gradient[2]; // of student[0] and [1], for an incoming gradient of 1; NULL: not wanted
};

static void feature_backward(struct tape *tape, struct node *node)
{
    const struct saved *s = node->saved;
    const float incoming = node->out->grad[0];
    for (int k = 0; k < 2; k++) {
        if (!s->gradient[k])
            continue;
        const int64_t n = tensor_count(node->in[k]);
        float beta, *dx = tape_grad(tape, node->in[k], &beta);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
        for (int64_t i = 0; i < n; i++)
            dx[i] = incoming * s->gradient[k][i] + (beta == 0.0f ? 0.0f : dx[i]);
    }
}

struct tensor *feature_record(struct tape *tape, const struct feature_loss *loss, const struct feature_input *in, double weight,
                              double *value)
{
    struct tensor *y = tape_tensor(tape, loss->name, 1, 1, 1, 1);
    struct node *node = tape_record(tape, feature_backward, y, in->student[0], in->student[1], NULL, NULL);
    struct saved *s = arena_zalloc(&tape->arena, sizeof *s);
    for (int k = 0; node && k < 2; k++)
        if (in->student[k] && in->student[k]->needs_grad)
            s->gradient[k] = arena_zalloc(&tape->arena, (size_t)tensor_count(in->student[k]) * sizeof(float));
    if (node)
        node->saved = s;
    *value = loss->function(&tape->arena, in, weight, s->gradient);
    y->data[0] = (float)(weight * *value);
    return y;
}

// n of `of` positions from `at` on, evenly spread, `step` rows apart; returns how many.
static int64_t take_samples(int64_t *row, int64_t at, int64_t of, int64_t step, int64_t most)
{
    const int64_t n = most > 0 ? min_i64(most, of) : of;
    for (int64_t i = 0; i < n; i++)
        row[i] = at + i * of / n * step;
    return n;
}

static void find_samples(struct arena *arena, const struct feature *f, struct feature_input *in)
{
    const int64_t groups = f->first ? 1 : in->B;
    int64_t *start = arena_alloc(arena, (size_t)(groups + 1) * sizeof *start), n = 0;
    int64_t *row = arena_alloc(arena, (size_t)(f->first ? in->B : in->B * in->T) * sizeof *row);
    for (int64_t g = 0; g < groups; g++) {
        start[g] = n;
        n += f->first ? take_samples(row, 0, in->B, in->T, f->samples)
                      : take_samples(row + n, g * in->T, in->length ? in->length[g] : in->T, 1, f->samples);
    }
    start[groups] = n;
    in->n_group = groups;
    in->start = start;
    in->row = row;
}

// One model's tensors of a pair of layers; `before` is the layer of the pair before it, -1: the embedding.
static void find_tensors(const struct feature *f, const struct taps *taps, const struct config *c, int64_t before, int64_t layer,
                         struct tensor *out[2], int64_t heads[2])
{
    const int64_t H = c->layer[layer].n_head, G = c->layer[layer].n_kv_head;
    out[1] = NULL;
    heads[0] = heads[1] = f->relation_heads;
    switch (f->loss->reads) {
    case READS_EMBEDDING: out[0] = taps->hidden[0]; return;
    case READS_HIDDEN: out[0] = taps->hidden[layer + 1]; return;
    case READS_FLOW:
        out[0] = taps->hidden[before + 1];
        out[1] = taps->hidden[layer + 1];
        return;
    case READS_ATTENTION:
        out[0] = taps->q[layer];
        out[1] = taps->k[layer];
        heads[0] = H;
        heads[1] = G;
        return;
    case READS_QUERIES: out[0] = taps->q[layer]; return;
    case READS_KEYS: out[0] = taps->k[layer]; return;
    case READS_VALUES: out[0] = taps->v[layer]; return;
    }
    BUG("%s reads %d", f->loss->name, (int)f->loss->reads);
}

static void find_places(const struct feature *f, struct tape *tape, const struct feature_batch *b, int64_t pair,
                        struct feature_input *in)
{
    struct tensor *teacher[2];
    const int64_t *s = f->student_layer, *t = f->teacher_layer;
    if (f->loss->reads == READS_ATTENTION) {
        in->student_scale = b->student_config->attention_scale;
        in->teacher_scale = b->teacher_config->attention_scale;
        in->window = config_slides(b->student_config, s[pair]) ? b->student_config->window : 0;
    }
    find_tensors(f, &b->student->taps, b->student_config, pair ? s[pair - 1] : -1, s[pair], in->student, in->student_heads);
    find_tensors(f, &b->teacher->taps, b->teacher_config, pair ? t[pair - 1] : -1, t[pair], teacher, in->teacher_heads);
    for (int k = 0; k < 2; k++) {
        in->teacher[k] = teacher[k];
        if (in->student[k] && f->projection)
            in->student[k] = op_linear(tape, in->student[k], f->projection, NULL);
    }
}

struct tensor *features_loss(const struct features *f, struct tape *tape, const struct feature_batch *b, double weight, double share,
                             double *value)
{
    struct tensor *sum = NULL;
    for (int i = 0; i < f->n; i++) {
        const struct feature *item = &f->item[i];
        if (item->teacher != b->which)
            continue;
        const double factor = weight * loss_weight_at(&item->weight, share) / (double)item->n_pair;
        struct feature_input in = {.B = b->forward->B, .T = b->forward->T, .length = b->forward->length, .causal = b->causal};
        value[i] = 0;
        if (factor == 0)
            continue; // not now: what it costs is saved
        find_samples(&tape->arena, item, &in);
        for (int64_t pair = 0; pair < item->n_pair; pair++) {
            double one;
            find_places(item, tape, b, pair, &in);
            struct tensor *loss = feature_record(tape, item->loss, &in, factor, &one);
            value[i] += one / (double)item->n_pair;
            sum = sum ? op_sum(tape, sum, loss) : loss;
        }
    }
    return sum;
}
