// test_feature.c: every row of feature_loss_table against PyTorch (tests/golden/features.txt, which tests/ref/feature_golden.py writes and
// explains), finite differences, and itself at another number of threads; layer maps and weights.
#include "tests/unit/golden.h"

#include "common/base/threads.h"
#include "common/tensor/gradcheck.h"
#include "distill/distill.h"
#include "distill/feature.h"
#include "tests/unit/tolerance.h"

// f32 products and softmaxes of some dozens of terms, sums in double: the largest errors seen are 3e-7 of a loss and 2e-6 of a gradient's
// largest element.
#define LOSS_TOLERANCE 2e-6
#define GRADIENT_TOLERANCE 1e-5
#define WEIGHT 0.7 // the losses' factor on the tape

#define MOST_ROWS 256

struct feature_case {
    const struct feature_loss *loss;
    struct feature_input in;
    struct tensor tensor[4]; // s0 s1 t0 t1; data NULL: absent
    struct tensor *input[2];
    int n_input;
    int32_t length[8];
    int64_t start[9], row[MOST_ROWS];
    double value; // of the last build
};

static const struct feature_loss *loss_named(const char *name)
{
    for (const struct feature_loss *l = feature_loss_table; l->name; l++)
        if (strcmp(l->name, name) == 0)
            return l;
    BUG("no loss %s", name);
}

static void read_tensor(struct tensor *t, const struct golden *g, int set, const char *name, int is_student)
{
    char key[32];
    snprintf(key, sizeof key, "set%d.%s", set, name);
    const struct golden_tensor *from = golden_find(g, NULL, key);
    if (!from)
        return;
    *t = (struct tensor){.name = name, .n_dim = 2, .dim = {from->dim[0], from->dim[1], 1}, .needs_grad = is_student};
    t->data = xmalloc((size_t)from->count * sizeof(float), "test");
    t->grad = is_student ? xcalloc((size_t)from->count, sizeof(float), "test") : NULL;
    for (int64_t i = 0; i < from->count; i++)
        t->data[i] = (float)from->value[i];
}

// The samples as the golden file's script takes them.
static void make_samples(struct feature_case *c, int first, int64_t most)
{
    int64_t n = 0, groups = first ? 1 : c->in.B;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t of = first ? c->in.B : c->length[g], count = most && most < of ? most : of;
        c->start[g] = n;
        for (int64_t i = 0; i < count; i++)
            c->row[n++] = first ? i * of / count * c->in.T : g * c->in.T + i * of / count;
    }
    c->start[groups] = n;
    c->in.n_group = groups;
    c->in.start = c->start;
    c->in.row = c->row;
}

static void case_init(struct feature_case *c, const struct golden *g, const char *key)
{
    static const char *const names[4] = {"s0", "s1", "t0", "t1"};
    char name[96];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(key, "."), key);
    *c = (struct feature_case){.loss = loss_named(name)};
    const double *s = golden_get(g, key, "settings")->value;
    c->in = (struct feature_input){.B = (int64_t)s[1], .T = (int64_t)s[2], .length = c->length, .causal = s[3] != 0};
    for (int64_t b = 0; b < c->in.B; b++)
        c->length[b] = (int32_t)s[10 + b];
    make_samples(c, s[4] != 0, (int64_t)s[5]);
    const int two = golden_find(g, key, "d1") != NULL;
    for (int k = 0; k < 4; k++)
        if (k % 2 == 0 || two)
            read_tensor(&c->tensor[k], g, (int)s[0], names[k], k < 2);
    for (int k = 0; k < 2; k++) {
        c->in.student_heads[k] = (int64_t)s[6 + k];
        c->in.teacher_heads[k] = (int64_t)s[8 + k];
        c->in.student[k] = c->tensor[k].data ? &c->tensor[k] : NULL;
        c->in.teacher[k] = c->tensor[2 + k].data ? &c->tensor[2 + k] : NULL;
        if (c->in.student[k])
            c->input[c->n_input++] = &c->tensor[k];
    }
}

static void case_release(struct feature_case *c)
{
    for (int k = 0; k < 4; k++) {
        free(c->tensor[k].data);
        free(c->tensor[k].grad);
    }
}

static double build(void *context, struct tape *tape, struct tensor **root)
{
    struct feature_case *c = context;
    *root = feature_record(tape, c->loss, &c->in, WEIGHT, &c->value);
    return WEIGHT * c->value;
}

static void run(struct feature_case *c, int threads)
{
    threads_set(threads);
    for (int k = 0; k < c->n_input; k++)
        memset(c->input[k]->grad, 0, (size_t)tensor_count(c->input[k]) * sizeof(float));
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    struct tensor *root;
    build(c, &tape, &root);
    cr_expect_float_eq((double)root->data[0], WEIGHT * c->value, FLOAT_FEW * fabs(c->value));
    tape_backward(&tape, root);
    tape_release(&tape);
}

static void check_case(const struct golden *g, const char *key)
{
    struct feature_case c;
    case_init(&c, g, key);
    run(&c, 1);
    const double loss = golden_number(g, key, "loss"), one = c.value;
    cr_expect(fabs(c.value - loss) <= LOSS_TOLERANCE * loss, "%s: loss %.9g, PyTorch %.9g", key, c.value, loss);
    float *kept[2];
    for (int k = 0; k < c.n_input; k++) {
        const int64_t n = tensor_count(c.input[k]);
        kept[k] = xmalloc((size_t)n * sizeof(float), "test");
        memcpy(kept[k], c.input[k]->grad, (size_t)n * sizeof(float));
        for (int64_t i = 0; i < n; i++)
            c.input[k]->grad[i] /= (float)WEIGHT;
        golden_expect(golden_get(g, key, k ? "d1" : "d0"), c.input[k]->grad, GRADIENT_TOLERANCE, g->path);
    }
    run(&c, 2);
    cr_expect(c.value == one, "%s: loss with 1 and 2 threads: %.17g, %.17g", key, one, c.value);
    for (int k = 0; k < c.n_input; k++) {
        cr_expect(memcmp(kept[k], c.input[k]->grad, (size_t)tensor_count(c.input[k]) * sizeof(float)) == 0, "%s: gradient with 1 and 2 threads", key);
        free(kept[k]);
    }
    threads_set(1);
    // gradcheck.h has the errors' sizes. Losses with a norm or Huber's corner in them bend faster than others; their steps are shorter.
    const struct gradcheck check = {build, &c, c.input, c.n_input, PRECISION_F32, 1.0 / 256, 3, 0, 3};
    struct gradcheck_result r;
    gradcheck_run(&check, &r);
    cr_expect(r.worst <= 2 * BY_DIFFERENCES, "%s: finite differences at %s give %.7g, the tape %.7g (error %.2g)", key, r.where, r.expected, r.found, r.worst);
    case_release(&c);
}

Test(feature, every_loss_against_pytorch_and_differences)
{
    gemm_init();
    struct golden g = golden_open("features.txt");
    static const char suffix[] = ".settings";
    int seen[64] = {0};
    for (int i = 0; i < g.n; i++) {
        const size_t n = strlen(g.tensor[i].name);
        if (n <= sizeof suffix || strcmp(g.tensor[i].name + n - sizeof suffix + 1, suffix) != 0)
            continue;
        char key[96];
        snprintf(key, sizeof key, "%.*s", (int)(n - sizeof suffix + 1), g.tensor[i].name);
        check_case(&g, key);
        char loss[96];
        snprintf(loss, sizeof loss, "%.*s", (int)strcspn(key, "."), key);
        seen[loss_named(loss) - feature_loss_table]++;
    }
    for (int k = 0; feature_loss_table[k].name; k++)
        cr_expect(seen[k] > 0, "%s has no case in the golden file", feature_loss_table[k].name);
    golden_close(&g);
}

Test(feature, a_student_that_is_its_teacher_loses_nothing)
{
    gemm_init();
    struct golden g = golden_open("features.txt");
    static const char *const keys[] = {"hidden_mse.padded", "hidden_cosine.padded", "hidden_pkd.padded", "fsp.padded", "similarity.padded", "rkd_distance.padded",
                                       "rkd_angle.padded",  "cka.padded",           "attention_kl.tiles", "value_relation.padded"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct feature_case c;
        case_init(&c, &g, keys[i]);
        for (int k = 0; k < 2; k++) {
            c.in.teacher[k] = c.in.student[k];
            c.in.teacher_heads[k] = c.in.student_heads[k];
        }
        run(&c, 1);
        cr_expect(fabs(c.value) < FLOAT_FEW, "%s: loss %g", keys[i], c.value);
        for (int k = 0; k < c.n_input; k++)
            for (int64_t j = 0; j < tensor_count(c.input[k]); j++)
                cr_expect(fabs((double)c.input[k]->grad[j]) < FLOAT_FEW, "%s: gradient %g", keys[i], (double)c.input[k]->grad[j]);
        case_release(&c);
    }
    golden_close(&g);
}

// A score of head h, as attention makes it.
static double score_of(const struct tensor *q, const struct tensor *k, const int64_t heads[2], double scale, int64_t h, int64_t row, int64_t key)
{
    const int64_t E = tensor_columns(q) / heads[0], group = h / (heads[0] / heads[1]);
    double sum = 0;
    for (int64_t e = 0; e < E; e++)
        sum += (double)q->data[row * heads[0] * E + h * E + e] * (double)k->data[key * heads[1] * E + group * E + e];
    return scale * sum;
}

static double naive_attention_kl(const struct feature_input *in)
{
    double total = 0, rows = 0;
    for (int64_t b = 0; b < in->B; b++)
        for (int64_t t = 0; t < in->length[b]; t++, rows++)
            for (int64_t h = 0; h < in->student_heads[0]; h++) {
                const int64_t from = in->window && t + 1 > in->window ? t + 1 - in->window : 0, at = b * in->T;
                double s[MOST_ROWS], z[MOST_ROWS], sum_s = 0, sum_z = 0;
                for (int64_t j = from; j <= t; j++) {
                    s[j] = score_of(in->student[0], in->student[1], in->student_heads, in->student_scale, h, at + t, at + j);
                    z[j] = score_of(in->teacher[0], in->teacher[1], in->teacher_heads, in->teacher_scale, h, at + t, at + j);
                    sum_s += exp(s[j]);
                    sum_z += exp(z[j]);
                }
                for (int64_t j = from; j <= t; j++)
                    total += exp(z[j]) / sum_z * (z[j] - log(sum_z) - s[j] + log(sum_s));
            }
    return total / rows / (double)in->student_heads[0];
}

// Gemma's and Granite's factor of the scores, Mistral's windows: the maps are those that attention made, not others.
Test(feature, maps_have_the_models_own_factor_and_window)
{
    gemm_init();
    struct golden g = golden_open("features.txt");
    for (int64_t window = 0; window < 8; window += 7) {
        struct feature_case c;
        case_init(&c, &g, "attention_kl.tiles");
        c.in.causal = 1;
        c.in.student_scale = 0.25;
        c.in.teacher_scale = 0.5;
        c.in.window = window;
        const double expected = naive_attention_kl(&c.in);
        run(&c, 1);
        cr_expect(fabs(c.value - expected) < LOSS_TOLERANCE * expected, "window %ld: %.9g, naively %.9g", (long)window, c.value, expected);
        const struct gradcheck check = {build, &c, c.input, c.n_input, PRECISION_F32, 1.0 / 256, 3, 0, 3};
        struct gradcheck_result r;
        gradcheck_run(&check, &r);
        cr_expect(r.worst <= 2 * BY_DIFFERENCES, "window %ld: finite differences at %s give %.7g, the tape %.7g", (long)window, r.where, r.expected, r.found);
        c.loss = loss_named("attention_mse");
        for (int k = 0; k < 2; k++) {
            c.in.teacher[k] = c.in.student[k];
            c.in.teacher_heads[k] = c.in.student_heads[k];
        }
        c.in.teacher_scale = c.in.student_scale;
        run(&c, 1);
        cr_expect(c.value < DOUBLE_SUM, "window %ld: a student that is its teacher loses %g", (long)window, c.value);
        case_release(&c);
    }
    golden_close(&g);
}

// ---- what a recipe says ------------------------------------------------------------------------------------------------

static struct json *parsed(const char *text)
{
    struct error err;
    struct json *v = json_parse(text, strlen(text), "test", 0, &err);
    cr_assert_not_null(v, "%s", err.text);
    return v;
}

static struct config shape(struct layer_shape *layer, int64_t n_layer, int64_t heads)
{
    for (int64_t l = 0; l < n_layer; l++)
        layer[l] = (struct layer_shape){.n_head = heads, .n_kv_head = heads / 2, .n_ff = 32};
    return (struct config){.model_type = "llama", .n_layer = n_layer, .hidden = 8 * heads, .head_dim = 8, .vocab = 100, .layer = layer};
}

static void expect_map(const char *map, int64_t students, int64_t teachers, const char *wanted)
{
    struct layer_shape own[12], other[12];
    const struct config student = shape(own, students, 4), teacher = shape(other, teachers, 4);
    other[1].n_head = 2;
    struct json *v = parsed(map);
    int64_t *from, *to;
    struct error err;
    char found[ERROR_MAX] = "";
    const int64_t n = layer_map_read(v, NULL, "map", &student, &teacher, &from, &to, &err);
    for (int64_t i = 0; i < n; i++)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%ld-%ld ", (long)from[i], (long)to[i]);
    if (n < 0)
        snprintf(found, sizeof found, "%s", err.text);
    cr_expect(n < 0 ? strstr(found, wanted) != NULL : strcmp(found, wanted) == 0, "%s of %ld and %ld: %s, wanted %s", map, (long)students,
              (long)teachers, found, wanted);
    free(from);
    free(to);
    json_free(v);
}

Test(feature, layer_maps)
{
    expect_map("\"uniform\"", 6, 12, "0-1 1-3 2-5 3-7 4-9 5-11 ");
    expect_map("\"uniform\"", 2, 3, "0-1 1-2 ");
    expect_map("\"last\"", 6, 12, "0-6 1-7 2-8 3-9 4-10 "); // PKD's 7 to 11, from 1
    expect_map("\"skip\"", 6, 12, "0-1 1-3 2-5 3-7 4-9 ");  // and 2, 4, 6, 8, 10
    expect_map("\"first\"", 3, 12, "0-0 1-1 2-2 ");
    expect_map("\"final\"", 3, 12, "2-11 ");
    expect_map("\"width\"", 2, 4, "0-0 1-3 "); // layer 1 has other heads
    expect_map("[[0, 3], [1, 1]]", 2, 4, "0-3 1-1 ");
    expect_map("\"skip\"", 1, 4, "leaves no pair");
    expect_map("\"last\"", 4, 3, "at least the student's layers");
    expect_map("\"middle\"", 4, 3, "expected one of uniform|last");
    expect_map("[[0, 4]]", 2, 4, "map[0]: expected a teacher layer from 0 to 3");
    expect_map("[]", 2, 4, "pairs");
    expect_map("3", 2, 4, "pairs");
}

static void expect_features(const char *list, int checkpoint, const char *says)
{
    struct layer_shape own[2], other[3];
    const struct config student = shape(own, 2, 4), teacher = shape(other, 3, 8);
    struct distill_options o = {.features = parsed(list), .train.checkpoint = checkpoint};
    struct features f;
    struct error err = {""};
    const int status = features_read(&f, &o, &student, (const struct config *[]){&teacher}, 1, "distill", &err);
    cr_expect(says ? status < 0 && strstr(err.text, says) : status == 0, "%s: %s, wanted %s", list, err.text, says ? says : "no error");
    if (status == 0)
        features_release(&f);
    json_free(o.features);
}

Test(feature, lists)
{
    expect_features("[{\"loss\": \"hidden_mse\"}, {\"loss\": \"similarity\", \"weight\": [0, 2], \"map\": \"last\", \"tokens\": \"first\"}]", 1, NULL);
    expect_features("[{\"loss\": \"value_relation\", \"weight\": {\"from\": 1, \"to\": 0, \"start\": 0.2, \"end\": 0.5}, \"relation_heads\": 8}]", 0, NULL);
    expect_features("{\"loss\": \"hidden_mse\"}", 0, "distill.features: expected a list");
    expect_features("[{\"loss\": \"hiden_mse\"}]", 0, "distill.features[0].loss: found \"hiden_mse\"; did you mean \"hidden_mse\"?");
    expect_features("[{\"weight\": 1}]", 0, "loss: is missing, expected one of embedding_mse");
    expect_features("[{\"loss\": \"cka\", \"wieght\": 1}]", 0, "did you mean \"weight\"");
    expect_features("[{\"loss\": \"cka\", \"weight\": 0}]", 0, "is 0 over the whole run");
    expect_features("[{\"loss\": \"cka\", \"weight\": [0, 0]}]", 0, "is 0 over the whole run");
    expect_features("[{\"loss\": \"cka\", \"weight\": -1}]", 0, "expected a number from 0");
    expect_features("[{\"loss\": \"cka\", \"weight\": {\"from\": 1, \"start\": 0.5, \"end\": 0.5}}]", 0, "expected an end after the start");
    expect_features("[{\"loss\": \"cka\", \"map\": [[2, 0]]}]", 0, "distill.features[0].map[0]: expected a student layer from 0 to 1");
    expect_features("[{\"loss\": \"embedding_mse\", \"map\": \"last\"}]", 0, "reads no layers");
    expect_features("[{\"loss\": \"attention_kl\"}]", 0, "student layer 0 has 4 heads, teacher layer 1 8; expected as many");
    expect_features("[{\"loss\": \"value_relation\"}]", 1, "with \"checkpoint\" a layer keeps only its output");
    expect_features("[{\"loss\": \"value_relation\", \"relation_heads\": 3}]", 0, "3 do not divide the widths 16");
    expect_features("[{\"loss\": \"value_relation\", \"tokens\": \"first\"}]", 0, "takes all tokens");
    expect_features("[{\"loss\": \"cka\", \"relation_heads\": 2}]", 0, "is for relations");
}

static void expect_rules(double cap, int64_t window, const char *says)
{
    struct layer_shape own[2], other[2];
    struct config student = shape(own, 2, 4), teacher = shape(other, 2, 4);
    struct distill_options o = {.features = parsed("[{\"loss\": \"attention_mse\"}]")};
    struct features f;
    struct error err = {""};
    student.attention_cap = teacher.attention_cap = cap;
    student.window = 16;
    teacher.window = window;
    student.sliding[0] = teacher.sliding[0] = 2;
    const int status = features_read(&f, &o, &student, (const struct config *[]){&teacher}, 1, "distill", &err);
    cr_expect(says ? status < 0 && strstr(err.text, says) : status == 0, "%s, wanted %s", err.text, says ? says : "no error");
    if (status == 0)
        features_release(&f);
    json_free(o.features);
}

Test(feature, maps_of_other_rules_are_refused)
{
    expect_rules(0, 16, NULL);
    expect_rules(50, 16, "a llama model bends its attention's scores by a soft cap");
    expect_rules(0, 32, "student layer 1 has a window of 16 keys, teacher layer 1 one of 32");
}

Test(feature, weights)
{
    const struct loss_weight w = {.from = 2, .to = 4, .start = 0.25, .end = 0.75};
    const double share[] = {0, 0.25, 0.5, 0.75, 1}, wanted[] = {2, 2, 3, 4, 4};
    for (int i = 0; i < 5; i++)
        cr_expect_eq(loss_weight_at(&w, share[i]), wanted[i]);
}
