// ops.h: the ops. Shapes in the comments, with these letters:
//
//   B sequences   T positions   N = B T rows   D hidden width   C channels   H query heads   G key/value groups (heads)
//   E width of one head   F feed-forward width   V vocabulary
//
// Every op checks shapes (BUG), computes now, and records its backward when the tape does.
#ifndef PDQ_OPS_H
#define PDQ_OPS_H

#include <stdint.h>

#include "common/tensor/divergence.h"
#include "common/tensor/tape.h"

// y[N,D] = table[ids[n]]; of id NO_TOKEN zeros. table [V,D]. Honours table->hook.
#define NO_TOKEN (-1)
struct tensor *op_embed(struct tape *tape, struct tensor *table, const int32_t *ids, int64_t N);

// y[N,O] = x[N,I] w[O,I]^T + bias[O] (bias NULL: none). Honours w->hook.
struct tensor *op_linear(struct tape *tape, struct tensor *x, struct tensor *w, struct tensor *bias);

// y = x / sqrt(mean(x^2) + eps) * w. x [N,D], w [D] (Zhang and Sennrich 2019). With w [E], E a divisor of D, each run of E neighbours
// (a head) is normalised by itself, with the same factors.
struct tensor *op_rmsnorm(struct tape *tape, struct tensor *x, struct tensor *w, double eps);
// The same with shift + w for w: Gemma's weights are distances from 1.
struct tensor *op_rmsnorm_shifted(struct tape *tape, struct tensor *x, struct tensor *w, double shift, double eps);

// y = (x - mean) / sqrt(variance + eps) * w + bias over each row. x [N,D], w and bias [D] (Ba et al. 2016).
struct tensor *op_layernorm(struct tape *tape, struct tensor *x, struct tensor *w, struct tensor *bias, double eps);

// Cosines and sines for T positions from position0 on: [T, E], E/2 cosines then E/2 sines a row, in the step arena.
const float *rope_table(struct tape *tape, const double *inverse_frequency, int64_t E, int64_t T, int64_t position0);

// Rotary embedding, rotate-half pairs (i, i + E/2) (Su et al. 2021). x [N, heads*E]; row n uses row n % T of the table.
struct tensor *op_rope(struct tape *tape, struct tensor *x, const float *table, int64_t E, int64_t T);

// Causal grouped-query attention, softmax(q k^T / sqrt(E)) v, tiled so that no T x T map is kept.
// q [B*T, H*E], k and v [B*S, G*E], H a multiple of G; query head h reads group h / (H/G). S >= T: the queries are the
// last T of S positions. y [B*T, H*E].
struct tensor *op_attention(struct tape *tape, struct tensor *q, struct tensor *k, struct tensor *v, int64_t B, int64_t T,
                            int64_t S, int64_t E);
// What of it a family may choose; zeros: as above. k and v have `room` rows a sequence, of which the first S are there: more than S in a
// cache, and then nothing may be recording.
struct attention_rule {
    double scale;   // of q k^T; 0: 1 / sqrt(E)
    double cap;     // scores become cap tanh(score / cap) (Gemma 2, 2024, section 2); 0: they do not
    int64_t window; // a query sees itself and the window - 1 positions before it; 0: all of them
};
struct tensor *op_attention_by(struct tape *tape, struct tensor *q, struct tensor *k, struct tensor *v, int64_t B, int64_t T,
                               int64_t S, int64_t room, int64_t E, const struct attention_rule *rule);
// The same in both directions: each query sees the first length[b] of the T positions of its sequence (1 to T; NULL: all).
struct tensor *op_attention_both_ways(struct tape *tape, struct tensor *q, struct tensor *k, struct tensor *v, int64_t B, int64_t T,
                                      int64_t E, const int32_t *length);

// One direction of a long short-term memory of U units (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), as
// torch.nn.LSTM has it. From c = h = 0, position by position, or with from_end from each sequence's last one back:
//   [i f g o] = z_t + h w^T + bias,   c = sigmoid(f) c + sigmoid(i) tanh(g),   h = sigmoid(o) tanh(c)
// z [B*T, 4U] (of all positions at once: op_linear of the inputs), w [4U, U], bias [4U] or NULL; length[b] positions each (1 to T; NULL: T).
// y [B*T, U]: h at each position, 0 behind a sequence's end. Honours w->hook. The recurrence is in f32 at any precision.
struct tensor *op_lstm(struct tape *tape, struct tensor *z, struct tensor *w, struct tensor *bias, int64_t B, int64_t T, const int32_t *length,
                       int from_end);

// y[N, A+C] = a[N,A] and c[N,C] side by side.
struct tensor *op_join(struct tape *tape, struct tensor *a, struct tensor *c);

// y = tanh(x).
struct tensor *op_tanh(struct tape *tape, struct tensor *x);

// y = factor x.
struct tensor *op_scale(struct tape *tape, struct tensor *x, double factor);

// y = cap tanh(x / cap) (Gemma 2, 2024, section 2).
struct tensor *op_softcap(struct tape *tape, struct tensor *x, double cap);

// y[n] = x[row[n]]: rows of x [N,D], n_row of them.
struct tensor *op_rows(struct tape *tape, struct tensor *x, const int32_t *row, int64_t n_row);

// y = silu(gate) * up. Both [N,F].
struct tensor *op_swiglu(struct tape *tape, struct tensor *gate, struct tensor *up);

// y = x Phi(x) (Hendrycks and Gimpel 2016), with Phi by erf, or by tanh(sqrt(2/pi) (x + 0.044715 x^3)), as GPT-2 has it.
enum gelu { GELU_TANH, GELU_ERF };
struct tensor *op_gelu(struct tape *tape, struct tensor *x, enum gelu kind);

// y = gelu(gate) * up, by the tanh form. Both [N,F] (Shazeer 2020).
struct tensor *op_geglu(struct tape *tape, struct tensor *gate, struct tensor *up);

// y = max(x, 0).
struct tensor *op_relu(struct tape *tape, struct tensor *x);

// While training: y = x / (1 - rate) where a draw by (seed, name, step, element) keeps it, else 0 (Srivastava et al. 2014).
struct tensor *op_dropout(struct tape *tape, struct tensor *x, double rate, uint64_t seed, const char *name, uint64_t step);

// y = a + b, same shape.
struct tensor *op_add(struct tape *tape, struct tensor *a, struct tensor *b);

// y[n, u*W + i] = x[n, u*W + i] * gate[u]: one factor for each unit of W = columns / units neighbours. gate [units].
struct tensor *op_gate(struct tape *tape, struct tensor *x, struct tensor *gate);

// loss[1] = weight * mean over all elements of (x - target)^2. target is a constant of x's shape.
struct tensor *op_mse(struct tape *tape, struct tensor *x, const float *target, double weight);

// loss[1] = a + b (scalars), in f32: it carries gradients; what is logged is summed in double from the losses' results.
struct tensor *op_sum(struct tape *tape, struct tensor *a, struct tensor *b);

// The output head and the losses on it, fused: logits of N x V are never held whole. It walks the rows in chunks,
//   z_s = x w^T + bias,  z_t = teacher_x teacher_w^T + teacher_bias   (the same vocabulary; biases NULL: none)
//   and, with caps above 0,  z = cap tanh(z / cap)  for each of the two
//   CE = -log softmax(z_s)[target],  KL = sum_v p_t (log p_t - log p_s) with p = softmax(z / temperature)
//   loss[1] = weight * mean over the rows with target >= 0 of  alpha * soft + (1 - alpha) * CE
//   soft = temperature^2 * KL, or the sum of several divergences (divergence.h), each with its weight and its power of the temperature
// (Hinton et al. 2015). Rows with target < 0 count for nothing. Without a teacher alpha is taken as 0.
// The gradients are made in the forward pass (w's goes straight into w->grad), for an incoming gradient of 1: the op must be
// a root, or reach it through op_sum only.
// Instead of the whole teacher its k likeliest entries a row may stand (top), and for all others entries drawn from them, each for an equal
// share of their mass. KL is then an unbiased estimate of the whole teacher's, and so is its gradient, because both are linear in the
// teacher's probabilities but for its entropy, of which the tail's part is kept (Anshumann et al. 2025, Sparse Logit Sampling, section 3). No
// other divergence is linear in them. A row without draws, though with a tail, is a distribution over k + 1 events: the tail's mass is
// taught, its shape is not.
struct head_top {      // of N rows, at one temperature
    int64_t k, m;      // m: draws at most
    int32_t *id;       // [N, k] rising in each row
    float *log_p;      // [N, k]
    float *log_tail;   // [N] of the mass of all others; -INFINITY: there is nothing else (k is V)
    int32_t *draws;    // [N]; all three NULL where m is 0
    int32_t *drawn;    // [N, m] the first draws of m: rising in each row, the same entry maybe several times
    float *entropy;    // [N] of all others by themselves, in nats
};
// Several teachers speak as one (You et al. 2017, section 3.1; Fukuda et al. 2017): the mean of their probabilities at the temperature,
//   p_t = sum_i weight_i softmax(z_i / temperature),  weights summing to 1,
// stands in all divergences. With mean_logits it is the mean of their logits, z_t = sum_i weight_i z_i, which mse is made from (Ba and
// Caruana 2014, section 3.3).
struct head_teacher {
    const float *x;         // [N, Dt]
    const struct tensor *w; // [V, Dt]
    const struct tensor *bias;
    double weight, cap; // cap: of its logits; 0: none
};
struct head_spec {
    const int32_t *targets;          // [N]
    const float *teacher_x;          // [N, Dt] or NULL
    const struct tensor *teacher_w;  // [V, Dt]
    double alpha, temperature, weight;
    struct tensor *bias; // [V] or NULL
    const struct tensor *teacher_bias;
    double cap, teacher_cap; // of the logits (op_softcap); 0: none
    const struct head_teacher *further; // [n_further] teachers beside that one, whose weight is 1 less theirs
    int n_further, mean_logits;
    const double *divergence; // [DIVERGENCES] weights in soft; NULL: KL alone, with 1
    double beta;              // of Jensen-Shannon
    const struct head_top *top; // of a teacher whose logits are not there (teacher_x NULL); NULL: none
};
struct head_result {   // in double
    double loss;       // the tensor's value, with its weight
    double ce, kl;     // means over the counted rows; kl at the given temperature, without its square
    int64_t count;
    double divergence[DIVERGENCES]; // the same of every divergence with a weight; KL's always
};
int64_t head_chunk_rows(int64_t N, int64_t V); // rows whose logits are held at a time
struct tensor *op_head_loss(struct tape *tape, struct tensor *x, struct tensor *w, const struct head_spec *spec,
                            struct head_result *result);

// What `top` holds, from a teacher's final hidden states x [N, D] (cap: of its logits, 0: none): fills its arrays; k is at most V. Of equal
// logits the first count. A row has a draw for every 1/m of the mass that its k entries leave, so what a draw stands for, and with it the
// noise, is about the same in all rows: for one sum of draws that is the least noise. Drawing is systematic (Madow 1949): at equal distances
// along the tail's masses in the order of ids, from a random start [N] in [0, 1).
// Not recorded.
void op_head_top(struct tape *tape, const struct tensor *x, const struct tensor *w, const struct tensor *bias, double cap, double temperature,
                 const double *start, const struct head_top *top);

// The loss on answers' spans (Devlin et al. 2019, section 4.2): logits z [B*T, 2] of where an answer starts and where it ends, each a
// distribution over the positions of its sequence: the first length[b] of T, so all but padding; [CLS] (which stands for "no answer" here) and
// the question are among them, as in the original, which counted padding, too.
//   loss[1] = weight * mean over the 2 B distributions of  alpha * temperature^2 * KL + (1 - alpha) * CE     (terms as of op_head_loss)
struct span_spec {
    const int32_t *targets; // [B, 2] positions in their sequences
    const int32_t *length;  // [B]; NULL: T
    int64_t B, T;
    const float *teacher;   // its logits [B*T, 2], or NULL: alpha is taken as 0
    double alpha, temperature, weight;
};
struct tensor *op_span_loss(struct tape *tape, struct tensor *z, const struct span_spec *spec, struct head_result *result);
// -log softmax over n positions, at target; z: the first position's logit of a start, or of an end, [n, 2].
double span_cross_entropy(const float *z, int64_t n, int32_t target);

// Evaluation: for each row with target >= 0, nll[n] = -log softmax(x w^T)[target] in double; with a reference (against_x NULL: none),
// also against_nll[n], kl[n] = KL(reference || model) at temperature 1 and agree[n] = 1 when both have the same largest logit.
// Rows with target < 0 are left untouched. Not recorded.
struct head_eval {
    const int32_t *targets;
    const float *against_x;
    const struct tensor *against_w;
    const struct tensor *bias, *against_bias; // [V] or NULL
    double cap, against_cap; // of the logits (op_softcap); 0: none
    double *nll, *against_nll, *kl; // [N]; the last two may be NULL without a reference
    unsigned char *agree;
    int32_t *top; // [N] the largest logit's index; NULL: not wanted
};
void op_head_eval(struct tape *tape, const struct tensor *x, const struct tensor *w, const struct head_eval *eval);

#endif
