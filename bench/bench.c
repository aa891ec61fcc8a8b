// bench.c: pdq-bench, the program behind bench/run. Measured once in a while by hand, never part of a test.

#include "bench/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/tensor/machine.h"

const struct bench_shape bench_shapes[BENCH_SHAPES] = {
    {"d288", 288, 6, 6, 768, 32000, 256, 8, 384, 6},
    {"d256", 256, 4, 4, 1024, 2048, 256, 8, 512, 2},
};

static const struct option table[] = {
    {"threads", OPTION_INT, offsetof(struct bench_options, threads), "0", 0, 1024, NULL, "N", "0: all"},
    {"shape", OPTION_CHOICE, offsetof(struct bench_options, shape), "all", 0, 0, "d288|d256|all", NULL,
     "model shapes"},
    {"precision", OPTION_CHOICE, offsetof(struct bench_options, precision), "both", 0, 0, "f32|bf16|both", NULL,
     "of products"},
    {"csv", OPTION_STRING, offsetof(struct bench_options, csv), NULL, 0, 0, NULL, "DIR",
     "append the rows to files here"},
    {0}};

static const struct {
    const char *name;
    void (*run)(const struct bench_options *o);
    const char *what;
} benches[] = {{"gemm", bench_gemm, "products of the two distillation cases, GFLOP/s"},
               {"ops", bench_ops, "every op, forward and backward, against what memory allows"},
               {"losses", bench_losses, "every loss of distillation, with its gradient"},
               {"step", bench_step, "the distillation step: tokens/s, share of products, peak memory"},
               {"cache", bench_cache, "a step from a file of the teacher's answers, beside labels alone and the teacher"},
               {"quantize", bench_quant, "block formats: encode, decode, dot"},
               {"lenet", bench_lenet, "a training step of LeNet-300-100, dense and sparse"}};
#define BENCHES (sizeof benches / sizeof *benches)

void table_open(struct table *t, const char *folder, const char *name, const char *title, const char *columns) {
    *t = (struct table){.columns = columns, .at = columns};
    printf("\n%s\n", title);
    if (folder) {
        struct error err;
        char *file = xasprintf("%s.csv", name), *path = path_join(folder, file);
        if (directory_make(folder, &err) < 0)
            log_warn("%s; no CSV is written", err.text);
        t->csv = fopen(path, "a");
        free(file);
        free(path);
    }
    int fresh = t->csv && ftell(t->csv) == 0;
    FILE *csv = t->csv;
    t->csv = fresh ? csv : NULL;
    for (const char *at = columns; *at;) {
        char cell[64];
        snprintf(cell, sizeof cell, "%.*s", (int)strcspn(at, ":"), at);
        table_text(t, cell);
        at += strcspn(at, "|");
        at += *at == '|';
    }
    t->csv = csv;
}

void table_close(struct table *t) {
    if (t->csv)
        fclose(t->csv);
    fflush(stdout);
}

static void table_cell(struct table *t, const char *shown, const char *exact) {
    int width = atoi(t->at + strcspn(t->at, ":") + 1);
    t->at += strcspn(t->at, "|");
    int last = !*t->at;
    printf("%*s%s", width, shown, last ? "\n" : "  ");
    if (t->csv)
        fprintf(t->csv, "%s%s", exact, last ? "\n" : ",");
    t->at = last ? t->columns : t->at + 1;
    if (last)
        fflush(stdout);
}

void table_text(struct table *t, const char *text) { table_cell(t, text, text); }

void table_number(struct table *t, double value, int decimals) {
    char shown[40] = "", exact[40] = "";
    if (!isnan(value)) {
        snprintf(shown, sizeof shown, "%.*f", decimals, value);
        snprintf(exact, sizeof exact, "%.6g", value);
    }
    table_cell(t, shown, exact);
}

void table_integer(struct table *t, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    table_text(t, text);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_time(void (*run)(void *context), void *context, double budget) {
    double seconds[101], end;
    int n = 0;

    run(context);
    end = timer_now() + budget;
    do {
        double start = timer_now();
        run(context);
        seconds[n++] = timer_now() - start;
    } while (n < 101 && (n < 3 || timer_now() < end));
    qsort(seconds, (size_t)n, sizeof *seconds, compare_doubles);
    return seconds[n / 2];
}

int bench_wants(const struct bench_options *o, enum precision precision) {
    const char *why;
    return (o->precision == BENCH_BOTH || o->precision == (int)precision) &&
           gemm_precision(precision, &why) == precision;
}

int bench_wants_shape(const struct bench_options *o, int shape) {
    return o->shape == BENCH_SHAPES || o->shape == shape;
}

float *bench_floats(int64_t n, double scale) {
    struct random r;
    float *to = xmalloc((size_t)n * sizeof *to, "numbers to measure with");
    // Drawing them all would take longer than measuring.
    int64_t drawn = n < 65536 ? n : 65536;

    random_init(&r, 1, "bench", 0);
    for (int64_t i = 0; i < drawn; i++)
        to[i] = (float)(scale * random_normal(&r));
    for (int64_t i = drawn; i < n; i++)
        to[i] = to[i - drawn];
    return to;
}

double bench_bandwidth(void) {
    static double bandwidth;
    if (bandwidth == 0) {
        struct machine m;
        machine_measure(&m);
        bandwidth = 1e9 * machine_full_rate(&m)->triad_gbs;
    }
    return bandwidth;
}

static int usage(void) {
    fputs("usage: pdq-bench BENCH... [options]\n\n", stderr);
    for (size_t i = 0; i < BENCHES; i++)
        fprintf(stderr, "  %-9s %s\n", benches[i].name, benches[i].what);
    fputs("\noptions:\n", stderr);
    options_help(table, stderr);
    return 2;
}

int main(int argc, char **argv) {
    struct bench_options o;
    struct error err;
    const char **words;
    int n_words, status = 2;

    options_init(table, &o);
    if (options_parse(table, &o, NULL, NULL, argc - 1, argv + 1, &words, &n_words, &err) < 0) {
        fprintf(stderr, "pdq-bench: %s\n", err.text);
        return 2;
    }
    log_level = LOG_WARN;
    threads_set((int)o.threads);
    for (int i = 0; i < n_words; i++) {
        size_t b = 0;
        while (b < BENCHES && strcmp(benches[b].name, words[i]))
            b++;
        if (b == BENCHES) {
            fprintf(stderr, "pdq-bench: unknown benchmark %s\n", words[i]);
            goto out;
        }
    }
    if (n_words == 0) {
        usage();
        goto out;
    }
    for (int i = 0; i < n_words; i++)
        for (size_t b = 0; b < BENCHES; b++)
            if (!strcmp(benches[b].name, words[i]))
                benches[b].run(&o);
    status = 0;
out:
    free(words);
    options_release(table, &o);
    return status;
}
