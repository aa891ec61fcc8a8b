// report_html.c: see report_html.h.
#include "recipes/report_html.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/file.h"
#include "recipes/html.h"
#include "recipes/lottery_report.h"

static int put_curve(FILE *f, const char *out, const char *folder, const char *curve, const struct json *sources) {
    char *inside = path_join(folder, curve), *path = path_join(out, inside), *weights = xasprintf("weights of sources: %s", inside);
    int drawn = plot_training(f, inside, path);
    plot_weights(f, weights, path, sources);
    free(weights);
    free(inside);
    free(path);
    return drawn;
}

static int put_curves(FILE *f, const struct json *stages, const char *out, const struct json *sources) {
    int missing = 0;
    for (const struct json *s = json_first(stages); s; s = json_next(s))
        for (const struct json *t = json_first(json_get(s, "trainings")); t; t = json_next(t))
            if (put_curve(f, out, json_string(json_get(s, "folder")), json_string(json_get(t, "curve")), sources) == 0)
                missing = 1;
    return missing;
}

// Size against loss, one point a row.
static int put_trade(FILE *f, const struct json *rows) {
    struct plot p;
    int n = 0;
    plot_begin(&p, "loss against bytes on disk");
    FILE *s = p.script;
    fputs("$d << EOD\n", s);
    for (const struct json *r = json_first(rows); r; r = json_next(r))
        if (json_kind(json_get(r, "nll")) == JSON_NUMBER && json_get(r, "nll")) {
            fprintf(s, "%.17g %.17g \"%s\"\n", json_number(json_get(r, "bytes")) / 1e6,
                    json_number(json_get(r, "nll")), json_string(json_get(r, "name")));
            n++;
        }
    fputs("EOD\nset xlabel 'MB'\nset ylabel 'nats per token'\nunset key\nset offsets graph 0.05, graph 0.15, graph "
          "0.1, graph 0.1\n"
          "plot $d using 1:2 with points pt 7 ps 0.8, '' using 1:2:3 with labels left offset 0.8,0.4\n",
          s);
    if (n)
        return plot_put(&p, f);
    plot_drop(&p);
    return 1;
}

// Which channels stayed: a mark at (channel, layer).
static int put_channels(FILE *f, const struct json *plan) {
    struct plot p;
    int layer = 0;
    plot_begin(&p, "FFN channels that stayed");
    FILE *s = p.script;
    fputs("$d << EOD\n", s);
    for (const struct json *l = json_first(json_get(plan, "layers")); l; l = json_next(l), layer++)
        for (const struct json *c = json_first(json_get(l, "ff")); c; c = json_next(c))
            fprintf(s, "%.0f %d\n", json_number(c), layer);
    fprintf(s,
            "EOD\nset xlabel 'channel'\nset ylabel 'layer'\nunset key\nset yrange [-0.7:%.1f]\nset ytics 1\n"
            "plot $d using 1:2:(0):(0.6) with vectors nohead lw 0.5\n",
            layer - 0.3);
    return plot_put(&p, f);
}

// ---- parts of the page ----

struct column {
    const char *title, *key;
    int digits;
    double scale;
    int is_speed; // from what was measured on this machine
};
static const struct column text_columns[] = {
    {"parameters, M", "parameters", 3, 1e-6, 0},
    {"MFLOP/token", "flops_per_token", 2, 1e-6, 0},
    {"MB on disk", "bytes", 2, 1e-6, 0},
    {"bits/weight", "bits_per_weight", 2, 1, 0},
    {"MB after gzip", "gzip_bytes", 2, 1e-6, 0},
    {"loss", "nll", 4, 1, 0},
    {"&plusmn;", "nll_se", 4, 1, 0},
    {"perplexity", "ppl", 3, 1, 0},
    {"over the parent's", "ppl_ratio", 4, 1, 0},
    {"KLD", "kld", 4, 1, 0},
    {"top-1", "top1", 4, 1, 0},
    {"prefill, tok/s", "prefill_tokens_per_second", 0, 1, 1},
    {"decode, tok/s", "decode_tokens_per_second", 0, 1, 1},
    {"llama-bench prefill", "llama_bench_prefill", 0, 1, 1},
    {"llama-bench decode", "llama_bench_decode", 0, 1, 1},
    {NULL, NULL, 0, 0, 0},
}, image_columns[] = {
    {"parameters, M", "parameters", 3, 1e-6, 0},
    {"MFLOP", "flops_per_token", 2, 1e-6, 0},
    {"MB on disk", "bytes", 2, 1e-6, 0},
    {"loss", "nll", 4, 1, 0},
    {"&plusmn;", "nll_se", 4, 1, 0},
    {"errors", "errors", 0, 1, 0},
    {"accuracy, %", "accuracy", 2, 1, 0},
    {"F1, %", "f1", 2, 1, 0},
    {NULL, NULL, 0, 0, 0},
};

static int of_images(const struct json *rows) { return json_get(json_first(rows), "errors") != NULL; }

static void put_rows(FILE *f, const struct json *rows, const struct json *speeds) {
    const struct column *columns = of_images(rows) ? image_columns : text_columns;
    const struct json *speed = json_first(speeds);
    fputs("<table><tr><th></th>", f);
    for (const struct column *c = columns; c->title; c++)
        fprintf(f, "<th>%s</th>", c->title);
    fputs("</tr>\n", f);
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        fputs("<tr>", f);
        html_text(f, "th", json_string(json_get(r, "name")));
        for (const struct column *c = columns; c->title; c++)
            html_number(f, json_get(c->is_speed ? speed : r, c->key), c->digits, c->scale);
        fputs("</tr>\n", f);
        speed = speed ? json_next(speed) : NULL;
    }
    fputs(of_images(rows) ? "</table>\n<p>On the test images; loss in nats per image, with its standard error.</p>\n"
                          : "</table>\n<p>Loss in nats per token on the held-out text, with its standard error; KLD and top-1 "
                            "agreement against the parent on the same tokens.</p>\n",
          f);
}

// The loss on each source's own held-out text.
static void put_sources(FILE *f, const struct json *rows) {
    const struct json *first = json_get(json_first(rows), "sources");
    if (!first)
        return;
    fputs("<h2>Loss by source</h2><table><tr><th></th>", f);
    for (const struct json *s = json_first(first); s; s = json_next(s))
        html_text(f, "th", json_string(json_get(s, "name")));
    fputs("</tr>\n", f);
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        fputs("<tr>", f);
        html_text(f, "th", json_string(json_get(r, "name")));
        for (const struct json *s = json_first(json_get(r, "sources")); s; s = json_next(s))
            html_number(f, json_get(s, "nll"), 4, 1);
        fputs("</tr>\n", f);
    }
    fputs("</table>\n", f);
}

static void put_loads(FILE *f, const struct json *rows) {
    fputs("<h2>Where the files load</h2><table>\n", f);
    int first = 1;
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        const struct json *loads = json_get(r, "loads");
        if (first) {
            fputs("<tr><th>file</th>", f);
            for (const struct json *l = json_first(loads); l; l = json_next(l))
                html_text(f, "th", json_key(l));
            fputs("<th>hash</th></tr>\n", f);
            first = 0;
        }
        fputs("<tr>", f);
        html_text(f, "th", json_string(json_get(r, "path")));
        for (const struct json *l = json_first(loads); l; l = json_next(l))
            html_text(f, "td", json_string(l));
        html_text(f, "td", json_string(json_get(r, "hash")));
        fputs("</tr>\n", f);
    }
    fputs("</table>\n", f);
}

// What the layers of each model share with the parent's.
static void put_similarity(FILE *f, const struct json *rows) {
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        const struct json *table = json_get(r, "cka");
        if (!table)
            continue;
        fputs("<h2>Knowledge kept: ", f);
        html_escaped(f, json_string(json_get(r, "name")));
        fputs("</h2><p>Linear CKA between its layers (rows) and the parent's (columns), the embeddings first: 1 where the hidden states are the "
              "same up to rotation and scale.</p><table class=cka><tr><th></th>", f);
        for (int64_t j = 0; j < json_count(json_first(table)); j++)
            fprintf(f, "<th>%ld</th>", (long)j);
        fputs("</tr>\n", f);
        int64_t i = 0;
        for (const struct json *row = json_first(table); row; row = json_next(row)) {
            fprintf(f, "<tr><th>%ld</th>", (long)i++);
            for (const struct json *v = json_first(row); v; v = json_next(v)) {
                const double value = json_number(v), shade = value > 0 ? value : 0; // an unbiased estimate of 0 may be below it
                if (json_kind(v) == JSON_NUMBER)
                    fprintf(f, "<td style=\"background:rgba(31,119,180,%.2f)\">%.2f</td>", shade * shade, value);
                else
                    fputs("<td></td>", f);
            }
            fputs("</tr>\n", f);
        }
        fputs("</table>\n", f);
    }
}

static void put_weight_errors(FILE *f, const struct json *rows) {
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        const struct json *list = json_get(r, "weight_errors");
        if (!list)
            continue;
        fputs("<h2>Weights in the file: ", f);
        html_escaped(f, json_string(json_get(r, "name")));
        fputs("</h2><p>Each matrix's distance from the one that it was made from, over that one's length (Frobenius norms), and the largest "
              "difference of a weight.</p><table><tr><th></th><th>bits</th><th>error</th><th>largest</th></tr>\n", f);
        for (const struct json *t = json_first(list); t; t = json_next(t)) {
            fputs("<tr>", f);
            html_text(f, "th", json_string(json_get(t, "name")));
            html_number(f, json_get(t, "bits"), 2, 1);
            html_number(f, json_get(t, "relative_error"), 5, 1);
            html_number(f, json_get(t, "largest_error"), 5, 1);
            fputs("</tr>\n", f);
        }
        fputs("</table>\n", f);
    }
}

// Heads of the parent, layer by layer: those that stayed are filled.
static void put_heads(FILE *f, const struct json *plan, int64_t n_head) {
    int layer = 0;
    fputs("<table class=heads>", f);
    for (const struct json *l = json_first(json_get(plan, "layers")); l; l = json_next(l)) {
        fprintf(f, "<tr><th>layer %d</th>", layer++);
        const struct json *kept = json_first(json_get(l, "heads"));
        for (int64_t h = 0; h < n_head; h++) {
            int stays = kept && (int64_t)json_number(kept) == h;
            fprintf(f, "<td class=%s>%ld</td>", stays ? "on" : "off", (long)h);
            if (stays)
                kept = json_next(kept);
        }
        fputs("</tr>\n", f);
    }
    fputs("</table>\n", f);
}

static int put_plans(FILE *f, const struct json *stages, const struct json *rows) {
    int missing = 0;
    const struct json *parent = json_get(json_first(rows), "shape");
    for (const struct json *s = json_first(stages); s; s = json_next(s)) {
        const struct json *plan = json_get(s, "plan");
        if (!plan)
            continue;
        fputs("<h2>What stayed: ", f);
        html_escaped(f, json_string(json_get(s, "folder")));
        fprintf(f,
                "</h2><p>Query heads (filled: kept). The masked and the sliced model differ by %.2g of the largest "
                "logit.</p>\n",
                json_number(json_get(s, "mask_difference")));
        put_heads(f, plan, (int64_t)json_number(json_get(parent, "heads")));
        if (!put_channels(f, plan))
            missing = 1;
    }
    return missing;
}

static void put_variants(FILE *f, const struct json *report) {
    const int is_images = of_images(json_get(report, "variants"));
    fprintf(f,
            "<table><tr><th>variant</th><th>seeds</th><th>parameters, M</th><th>loss</th><th>%s</th><th>loss by seed</th></tr>\n",
            is_images ? "errors" : "perplexity");
    for (const struct json *v = json_first(json_get(report, "variants")); v; v = json_next(v)) {
        fputs("<tr>", f);
        html_text(f, "th", json_string(json_get(v, "name")));
        fprintf(f, "<td>%ld</td>", (long)json_count(json_get(v, "seeds")));
        html_number(f, json_get(v, "parameters"), 3, 1e-6);
        html_number(f, json_get(v, "nll"), 4, 1);
        html_number(f, json_get(v, is_images ? "errors" : "ppl"), is_images ? 1 : 3, 1);
        fputs("<td>", f);
        for (const struct json *n = json_first(json_get(v, "nll_by_seed")); n; n = json_next(n))
            fprintf(f, "%.4f ", json_number(n));
        fputs("</td></tr>\n", f);
    }
    fprintf(f,
            "</table><h2>Paired differences</h2><table><tr><th></th><th>nats per %s</th><th>95 %% from</th><th>to</th></tr>\n",
            is_images ? "image" : "token");
    for (const struct json *c = json_first(json_get(report, "comparisons")); c; c = json_next(c)) {
        fputs("<tr><th>", f);
        html_escaped(f, json_string(json_get(c, "variant")));
        fputs(" &minus; ", f);
        html_escaped(f, json_string(json_get(c, "versus")));
        fputs("</th>", f);
        html_number(f, json_get(c, "difference"), 4, 1);
        html_number(f, json_get(c, "difference_low"), 4, 1);
        html_number(f, json_get(c, "difference_high"), 4, 1);
        fputs("</tr>\n", f);
    }
    fputs("</table>\n", f);
}

static void put_page(FILE *f, const struct json *report, const char *out) {
    const struct json *rows = json_get(report, "rows"), *measured = json_get(report, "measured");
    const char *name = json_string(json_get(report, "name"));
    int missing = 0;
    html_begin(f, name);
    fprintf(f, "<p>pdq %s, seed %.0f, precision %s</p>\n", json_string(json_get(report, "pdq")),
            json_number(json_get(report, "seed")), json_string(json_get(report, "precision")));
    if (rows) {
        put_rows(f, rows, json_get(measured, "rows"));
        put_sources(f, rows);
        if (json_get(report, "rounds"))
            missing |= !lottery_html(f, json_get(report, "rounds"));
        if (!of_images(rows))
            missing |= !put_trade(f, rows);
        fputs("<h2>Loss curves</h2>\n", f);
        missing |= put_curves(f, json_get(report, "stages"), out, json_get(json_get(json_get(report, "inputs"), "train"), "sources"));
        missing |= put_plans(f, json_get(report, "stages"), rows);
        put_similarity(f, rows);
        put_weight_errors(f, rows);
        put_loads(f, rows);
    } else {
        put_variants(f, report);
    }
    if (missing)
        fputs("<p>The plots are left out: gnuplot was not found on this machine.</p>\n", f);
    html_json(f, "Recipe as it ran", json_get(report, "recipe"));
    html_json(f, "Inputs", json_get(report, "inputs"));
    html_json(f, "Measured on this machine", measured);
    html_end(f);
}

int report_html_write(const struct json *report, const char *out, const char *path, struct error *err) {
    struct file_writer w;
    TRY(file_writer_open(&w, path, err));
    put_page(w.stream, report, out);
    return file_writer_commit(&w, err);
}
