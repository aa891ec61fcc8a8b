// report_html.c: see report_html.h.
#include "recipes/report_html.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "recipes/process.h"

static void put_escaped(FILE *f, const char *s) {
    for (; s && *s; s++)
        switch (*s) {
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '&': fputs("&amp;", f); break;
        case '"': fputs("&quot;", f); break;
        default: fputc(*s, f);
        }
}

static void put_number(FILE *f, const struct json *v, int digits, double scale) {
    if (!v || json_kind(v) != JSON_NUMBER)
        fputs("<td>&ndash;</td>", f);
    else
        fprintf(f, "<td>%.*f</td>", digits, json_number(v) * scale);
}

static void put_text_cell(FILE *f, const char *tag, const char *text) {
    fprintf(f, "<%s>", tag);
    put_escaped(f, text);
    fprintf(f, "</%s>", tag);
}

// ---- plots ----

// An SVG element by gnuplot from a script (data as here-documents); 0 when gnuplot is not there.
static int put_plot(FILE *f, const char *script) {
    const char *argv[] = {"gnuplot", NULL};
    size_t len;
    char *svg = process_output(argv, script, &len), *start = svg ? strstr(svg, "<svg") : NULL;
    if (start)
        fprintf(f, "<figure>%s</figure>\n", start);
    free(svg);
    return start != NULL;
}

// A script that grows.
static FILE *script_begin(char **text, size_t *len, const char *title) {
    FILE *s = open_memstream(text, len);
    if (!s)
        BUG("report: a stream in memory cannot be opened");
    fprintf(s,
            "set terminal svg noenhanced size 760,340 font 'sans-serif,12' background rgb 'white'\nset title "
            "'%s'\nset grid lc rgb '#dddddd'\n"
            "set border lc rgb '#777777'\nset key outside right top\n",
            title);
    return s;
}

// Points of a run.jsonl: column `key` against tokens (held_out: against the last tokens seen). Returns how many.
static int curve_points(FILE *s, char *log, const char *key) {
    int n = 0;
    double tokens = 0;
    struct error err;
    for (char *line = log, *next; *line; line = next) {
        next = strchr(line, '\n');
        size_t len = next ? (size_t)(next - line) : strlen(line);
        next = next ? next + 1 : line + len;
        struct json *o = json_parse(line, len, "run.jsonl", 0, &err);
        const struct json *v = json_get(o, key), *t = json_get(o, "tokens");
        tokens = t ? json_number(t) : tokens;
        if (v && json_kind(v) == JSON_NUMBER) {
            fprintf(s, "%.17g %.17g\n", tokens, json_number(v));
            n++;
        }
        json_free(o);
    }
    return n;
}

static int put_curve(FILE *f, const char *out, const char *folder, const char *curve) {
    static const char *const keys[] = {"loss", "ce", "kl", "held_out"};
    char *inside = path_join(folder, curve), *path = path_join(out, inside), *log, *text;
    size_t len, log_len;
    struct error err;
    int drawn = -1;
    if (file_read(path, &log, &log_len, &err) == 0) {
        FILE *s = script_begin(&text, &len, inside);
        int n[4], any = 0;
        for (int i = 0; i < 4; i++) {
            fprintf(s, "$d%d << EOD\n", i);
            n[i] = curve_points(s, log, keys[i]);
            fputs("EOD\n", s);
        }
        fputs("set xlabel 'tokens'\nset ylabel 'nats'\n", s);
        for (int i = 0; i < 4; i++)
            if (n[i] > 0) {
                fprintf(s, "%s $d%d using 1:2 with %s title '%s'", any ? ", \\\n" : "plot", i,
                        i == 3 ? "linespoints lw 2 pt 7 ps 0.5" : "lines lw 1.2", i == 3 ? "held out" : keys[i]);
                any = 1;
            }
        fputc('\n', s);
        fclose(s);
        drawn = any ? put_plot(f, text) : -1;
        free(text);
        free(log);
    }
    free(inside);
    free(path);
    return drawn;
}

static int put_curves(FILE *f, const struct json *stages, const char *out) {
    int missing = 0;
    for (const struct json *s = json_first(stages); s; s = json_next(s))
        for (const struct json *t = json_first(json_get(s, "trainings")); t; t = json_next(t))
            if (put_curve(f, out, json_string(json_get(s, "folder")), json_string(json_get(t, "curve"))) == 0)
                missing = 1;
    return missing;
}

// Size against loss, one point a row.
static int put_trade(FILE *f, const struct json *rows) {
    char *text;
    size_t len;
    int n = 0;
    FILE *s = script_begin(&text, &len, "loss against bytes on disk");
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
    fclose(s);
    int drawn = n ? put_plot(f, text) : 1;
    free(text);
    return drawn;
}

// Which channels stayed: a mark at (channel, layer).
static int put_channels(FILE *f, const struct json *plan) {
    char *text;
    size_t len;
    int layer = 0;
    FILE *s = script_begin(&text, &len, "FFN channels that stayed");
    fputs("$d << EOD\n", s);
    for (const struct json *l = json_first(json_get(plan, "layers")); l; l = json_next(l), layer++)
        for (const struct json *c = json_first(json_get(l, "ff")); c; c = json_next(c))
            fprintf(s, "%.0f %d\n", json_number(c), layer);
    fprintf(s,
            "EOD\nset xlabel 'channel'\nset ylabel 'layer'\nunset key\nset yrange [-0.7:%.1f]\nset ytics 1\n"
            "plot $d using 1:2:(0):(0.6) with vectors nohead lw 0.5\n",
            layer - 0.3);
    fclose(s);
    int drawn = put_plot(f, text);
    free(text);
    return drawn;
}

// ---- parts of the page ----

static void put_rows(FILE *f, const struct json *rows, const struct json *speeds) {
    fputs("<table><tr><th></th><th>parameters, M</th><th>MFLOP/token</th><th>MB on "
          "disk</th><th>loss</th><th>&plusmn;</th>"
          "<th>perplexity</th><th>KLD</th><th>top-1</th><th>prefill, tok/s</th><th>decode, tok/s</th>"
          "<th>llama-bench prefill</th><th>llama-bench decode</th></tr>\n",
          f);
    const struct json *speed = json_first(speeds);
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        fputs("<tr>", f);
        put_text_cell(f, "th", json_string(json_get(r, "name")));
        put_number(f, json_get(r, "parameters"), 3, 1e-6);
        put_number(f, json_get(r, "flops_per_token"), 2, 1e-6);
        put_number(f, json_get(r, "bytes"), 2, 1e-6);
        put_number(f, json_get(r, "nll"), 4, 1);
        put_number(f, json_get(r, "nll_se"), 4, 1);
        put_number(f, json_get(r, "ppl"), 3, 1);
        put_number(f, json_get(r, "kld"), 4, 1);
        put_number(f, json_get(r, "top1"), 4, 1);
        put_number(f, json_get(speed, "prefill_tokens_per_second"), 0, 1);
        put_number(f, json_get(speed, "decode_tokens_per_second"), 0, 1);
        put_number(f, json_get(speed, "llama_bench_prefill"), 0, 1);
        put_number(f, json_get(speed, "llama_bench_decode"), 0, 1);
        fputs("</tr>\n", f);
        speed = speed ? json_next(speed) : NULL;
    }
    fputs("</table>\n<p>Loss in nats per token on the held-out text, with its standard error; KLD and top-1 "
          "agreement against the "
          "parent on the same tokens.</p>\n",
          f);
}

static void put_loads(FILE *f, const struct json *rows) {
    fputs("<h2>Where the files load</h2><table>\n", f);
    int first = 1;
    for (const struct json *r = json_first(rows); r; r = json_next(r)) {
        const struct json *loads = json_get(r, "loads");
        if (first) {
            fputs("<tr><th>file</th>", f);
            for (const struct json *l = json_first(loads); l; l = json_next(l))
                put_text_cell(f, "th", json_key(l));
            fputs("<th>hash</th></tr>\n", f);
            first = 0;
        }
        fputs("<tr>", f);
        put_text_cell(f, "th", json_string(json_get(r, "path")));
        for (const struct json *l = json_first(loads); l; l = json_next(l))
            put_text_cell(f, "td", json_string(l));
        put_text_cell(f, "td", json_string(json_get(r, "hash")));
        fputs("</tr>\n", f);
    }
    fputs("</table>\n", f);
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
        put_escaped(f, json_string(json_get(s, "folder")));
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
    fputs("<table><tr><th>variant</th><th>seeds</th><th>parameters, M</th><th>loss</th><th>perplexity</th><th>loss "
          "by seed</th></tr>\n",
          f);
    for (const struct json *v = json_first(json_get(report, "variants")); v; v = json_next(v)) {
        fputs("<tr>", f);
        put_text_cell(f, "th", json_string(json_get(v, "name")));
        fprintf(f, "<td>%ld</td>", (long)json_count(json_get(v, "seeds")));
        put_number(f, json_get(v, "parameters"), 3, 1e-6);
        put_number(f, json_get(v, "nll"), 4, 1);
        put_number(f, json_get(v, "ppl"), 3, 1);
        fputs("<td>", f);
        for (const struct json *n = json_first(json_get(v, "nll_by_seed")); n; n = json_next(n))
            fprintf(f, "%.4f ", json_number(n));
        fputs("</td></tr>\n", f);
    }
    fputs("</table><h2>Paired differences</h2><table><tr><th></th><th>nats per token</th><th>95 % "
          "from</th><th>to</th></tr>\n",
          f);
    for (const struct json *c = json_first(json_get(report, "comparisons")); c; c = json_next(c)) {
        fputs("<tr><th>", f);
        put_escaped(f, json_string(json_get(c, "variant")));
        fputs(" &minus; ", f);
        put_escaped(f, json_string(json_get(c, "versus")));
        fputs("</th>", f);
        put_number(f, json_get(c, "difference"), 4, 1);
        put_number(f, json_get(c, "difference_low"), 4, 1);
        put_number(f, json_get(c, "difference_high"), 4, 1);
        fputs("</tr>\n", f);
    }
    fputs("</table>\n", f);
}

static void put_json(FILE *f, const char *title, const struct json *v) {
    char *text = json_text(v, 1);
    fprintf(f, "<h2>%s</h2><pre>", title);
    put_escaped(f, text);
    fputs("</pre>\n", f);
    free(text);
}

static const char style[] =
    "body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .6em;border-bottom:1px solid "
    "#ddd;text-align:right}"
    "th{text-align:left;font-weight:600}pre{background:#f6f6f6;padding:1em;overflow:auto}figure{margin:1em 0}"
    ".heads td{text-align:center;border:2px solid "
    "#fff;font-size:12px}.on{background:#3b6ea8;color:#fff}.off{background:#e8e8e8;color:#aaa}";

static void put_page(FILE *f, const struct json *report, const char *out) {
    const struct json *rows = json_get(report, "rows"), *measured = json_get(report, "measured");
    const char *name = json_string(json_get(report, "name"));
    int missing = 0;
    fputs("<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>", f);
    put_escaped(f, name);
    fprintf(f, "</title><style>%s</style></head><body>\n<h1>", style);
    put_escaped(f, name);
    fprintf(f, "</h1>\n<p>pdq %s, seed %.0f, precision %s</p>\n", json_string(json_get(report, "pdq")),
            json_number(json_get(report, "seed")), json_string(json_get(report, "precision")));
    if (rows) {
        put_rows(f, rows, json_get(measured, "rows"));
        missing |= !put_trade(f, rows);
        fputs("<h2>Loss curves</h2>\n", f);
        missing |= put_curves(f, json_get(report, "stages"), out);
        missing |= put_plans(f, json_get(report, "stages"), rows);
        put_loads(f, rows);
    } else {
        put_variants(f, report);
    }
    if (missing)
        fputs("<p>The plots are left out: gnuplot was not found on this machine.</p>\n", f);
    put_json(f, "Recipe as it ran", json_get(report, "recipe"));
    put_json(f, "Inputs", json_get(report, "inputs"));
    put_json(f, "Measured on this machine", measured);
    fputs("</body></html>\n", f);
}

int report_html_write(const struct json *report, const char *out, const char *path, struct error *err) {
    struct file_writer w;
    TRY(file_writer_open(&w, path, err));
    put_page(w.stream, report, out);
    return file_writer_commit(&w, err);
}
