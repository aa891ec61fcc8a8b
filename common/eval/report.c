// report.c: see report.h.
#include "common/eval/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

int report_write(const struct json *report, const char *path, struct error *err) {
    char *text = json_text(report, 1);
    int result = file_write(path, text, strlen(text), err);
    free(text);
    return result;
}

// A number in a column, or a dash where there is none.
static void print_cell(FILE *to, const struct json *v, int width, int digits, double scale) {
    if (!v || json_kind(v) != JSON_NUMBER)
        fprintf(to, " %*s", width, "-");
    else
        fprintf(to, " %*.*f", width, digits, json_number(v) * scale);
}

// Of classifiers.
static void print_image_rows(const struct json *rows, FILE *to) {
    const int has_f1 = json_get(json_first(rows), "f1_low") != NULL; // of answers in texts, whose accuracy is exact match
    fprintf(to, "%-12s %9s %9s %9s %8s %8s%s %10s\n", "", "params M", "MFLOP", "MB", "loss", "errors", has_f1 ? "     F1 %" : "",
            has_f1 ? "exact %" : "accuracy %");
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        fprintf(to, "%-12s", json_string(json_get(r, "name")));
        print_cell(to, json_get(r, "parameters"), 9, 3, 1e-6);
        print_cell(to, json_get(r, "flops_per_token"), 9, 2, 1e-6);
        print_cell(to, json_get(r, "bytes"), 9, 2, 1e-6);
        print_cell(to, json_get(r, "nll"), 8, 4, 1);
        print_cell(to, json_get(r, "errors"), 8, 0, 1);
        if (has_f1)
            print_cell(to, json_get(r, "f1"), 8, 2, 1);
        print_cell(to, json_get(r, "accuracy"), 10, 2, 1);
        fputc('\n', to);
    }
}

static void print_rows(const struct json *rows, const struct json *speeds, FILE *to) {
    if (json_get(json_first(rows), "errors")) {
        print_image_rows(rows, to);
        return;
    }
    int has_answers = json_get(json_first(rows), "questions") != NULL;
    int has_gzip = json_get(json_first(rows), "gzip_bytes") != NULL;
    fprintf(to, "%-12s %9s %9s %9s%s %8s %9s %8s %7s%s %9s %9s\n", "", "params M", "MFLOP/tok", "MB", has_gzip ? "   gzip MB" : "",
            "loss", "ppl", "KLD", "top-1", has_answers ? "   answered" : "", "prefill/s", "decode/s");
    const struct json *speed = json_first(speeds);
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        fprintf(to, "%-12s", json_string(json_get(r, "name")));
        print_cell(to, json_get(r, "parameters"), 9, 3, 1e-6);
        print_cell(to, json_get(r, "flops_per_token"), 9, 2, 1e-6);
        print_cell(to, json_get(r, "bytes"), 9, 2, 1e-6);
        if (has_gzip)
            print_cell(to, json_get(r, "gzip_bytes"), 9, 2, 1e-6);
        print_cell(to, json_get(r, "nll"), 8, 4, 1);
        print_cell(to, json_get(r, "ppl"), 9, 3, 1);
        print_cell(to, json_get(r, "kld"), 8, 4, 1);
        print_cell(to, json_get(r, "top1"), 7, 4, 1);
        if (has_answers)
            fprintf(to, " %4.0f of %-4.0f", json_number(json_get(r, "answered")), json_number(json_get(r, "questions")));
        print_cell(to, json_get(speed, "prefill_tokens_per_second"), 9, 0, 1);
        print_cell(to, json_get(speed, "decode_tokens_per_second"), 9, 0, 1);
        fputc('\n', to);
        speed = speed ? json_next(speed) : NULL;
    }
}

// The loss on each source's own held-out text.
static void print_sources(const struct json *rows, FILE *to) {
    const struct json *first = json_get(json_first(rows), "sources");
    if (!first)
        return;
    fprintf(to, "%-14s", "loss by source");
    for (const struct json *s = json_first(first); s; s = json_next(s))
        fprintf(to, " %12s", json_string(json_get(s, "name")));
    fputc('\n', to);
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        fprintf(to, "%-14s", json_string(json_get(r, "name")));
        for (const struct json *s = json_first(json_get(r, "sources")); s; s = json_next(s))
            print_cell(to, json_get(s, "nll"), 12, 4, 1);
        fputc('\n', to);
    }
}

// Of a variant the same, of its last model: means over the seeds.
static void print_variant_sources(const struct json *variant, FILE *to) {
    const struct json *runs = json_get(variant, "runs");
    const int64_t n = json_count(runs);
    for (int64_t k = 0;; k++) {
        const char *name = NULL;
        double sum = 0;
        for (const struct json *run = json_first(runs); run; run = json_next(run)) {
            const struct json *last = NULL;
            for (const struct json *r = json_first(json_get(run, "rows")); r; r = json_next(r))
                last = json_get(r, "sources") ? json_get(r, "sources") : last;
            const struct json *s = json_first(last);
            for (int64_t i = 0; s && i < k; i++)
                s = json_next(s);
            name = json_string(json_get(s, "name"));
            sum += json_number(json_get(s, "nll"));
        }
        if (!name)
            break;
        fprintf(to, "%s %s %.4f", k ? "," : "  loss by source:", name, sum / (double)n);
    }
    if (json_get(json_first(json_get(json_first(runs), "rows")), "sources"))
        fputc('\n', to);
}

#define ENOUGH 0.9

// Where a smaller model's prefill is slower than its FLOPs promise, beside the parent's in the first row.
static void print_missed_speed(const struct json *rows, const struct json *speeds, FILE *to) {
    const struct json *speed = json_first(speeds), *parent = json_first(rows);
    for (const struct json *r = parent; r && speed; r = json_next(r), speed = json_next(speed)) {
        double by_flops = json_number(json_get(parent, "prefill_flops_per_token")) / json_number(json_get(r, "prefill_flops_per_token"));
        const struct json *speedup = json_get(speed, "batch_prefill_speedup");
        if (speedup && by_flops > 1 && json_number(speedup) < ENOUGH * by_flops)
            fprintf(to, "%s: prefill of 8 sequences is %.2f times as fast as the parent's; its FLOPs promise %.2f\n",
                    json_string(json_get(r, "name")), json_number(speedup), by_flops);
    }
}

// Of a variant's trainings that left a class out.
static void print_missing_classes(const struct json *variant, FILE *to) {
    for (const struct json *run = json_first(json_get(variant, "runs")); run; run = json_next(run))
        for (const struct json *s = json_first(json_get(run, "stages")); s; s = json_next(s)) {
            const struct json *m = json_get(s, "missing_class");
            if (m)
                fprintf(to,
                        "  without class %.0f: %.0f errors, %.0f on its %.0f images; with its bias raised by %g: %.0f errors, %.0f "
                        "on them\n",
                        json_number(json_get(m, "class")), json_number(json_get(m, "errors")),
                        json_number(json_get(m, "errors_of_class")), json_number(json_get(m, "images_of_class")),
                        json_number(json_get(m, "bias_shift")), json_number(json_get(m, "corrected_errors")),
                        json_number(json_get(m, "corrected_errors_of_class")));
        }
}

static void print_variants(const struct json *variants, const struct json *comparisons, FILE *to) {
    const int is_images = json_get(json_first(variants), "errors") != NULL;
    int width = 20;
    for (const struct json *v = json_first(variants); v; v = json_next(v))
        width = (int)strlen(json_string(json_get(v, "name"))) > width ? (int)strlen(json_string(json_get(v, "name"))) : width;
    fprintf(to, "%-*s %5s %9s %9s %9s  %s\n", width, "variant", "seeds", "params M", "loss", is_images ? "errors" : "ppl",
            "loss by seed");
    for (const struct json *v = json_first(variants); v; v = json_next(v)) {
        fprintf(to, "%-*s", width, json_string(json_get(v, "name")));
        fprintf(to, " %5ld", (long)json_count(json_get(v, "seeds")));
        print_cell(to, json_get(v, "parameters"), 9, 3, 1e-6);
        print_cell(to, json_get(v, "nll"), 9, 4, 1);
        print_cell(to, json_get(v, is_images ? "errors" : "ppl"), 9, is_images ? 1 : 3, 1);
        fputc(' ', to);
        for (const struct json *n = json_first(json_get(v, "nll_by_seed")); n; n = json_next(n))
            fprintf(to, " %.4f", json_number(n));
        fputc('\n', to);
        print_missing_classes(v, to);
        print_variant_sources(v, to);
    }
    for (const struct json *c = json_first(comparisons); c; c = json_next(c))
        fprintf(to, "%s - %s: %+.4f nats per %s, 95 %% interval %+.4f to %+.4f\n",
                json_string(json_get(c, "variant")), json_string(json_get(c, "versus")),
                json_number(json_get(c, "difference")), is_images ? "item" : "token", json_number(json_get(c, "difference_low")),
                json_number(json_get(c, "difference_high")));
}

void report_print(const struct json *report, FILE *to) {
    const struct json *variants = json_get(report, "variants");
    if (variants) {
        print_variants(variants, json_get(report, "comparisons"), to);
        return;
    }
    print_rows(json_get(report, "rows"), json_get(json_get(report, "measured"), "rows"), to);
    print_sources(json_get(report, "rows"), to);
    print_missed_speed(json_get(report, "rows"), json_get(json_get(report, "measured"), "rows"), to);
}
