// html.c: see html.h.
#include "recipes/html.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "recipes/process.h"

static const char style[] =
    "body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .6em;border-bottom:1px solid "
    "#ddd;text-align:right}"
    "th{text-align:left;font-weight:600}pre{background:#f6f6f6;padding:1em;overflow:auto}figure{margin:1em 0}"
    ".heads td{text-align:center;border:2px solid "
    "#fff;font-size:12px}.on{background:#3b6ea8;color:#fff}.off{background:#e8e8e8;color:#aaa}";

void html_escaped(FILE *f, const char *s) {
    for (; s && *s; s++)
        switch (*s) {
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '&': fputs("&amp;", f); break;
        case '"': fputs("&quot;", f); break;
        default: fputc(*s, f);
        }
}

void html_number(FILE *f, const struct json *v, int digits, double scale) {
    if (!v || json_kind(v) != JSON_NUMBER)
        fputs("<td>&ndash;</td>", f);
    else
        fprintf(f, "<td>%.*f</td>", digits, json_number(v) * scale);
}

void html_text(FILE *f, const char *tag, const char *text) {
    fprintf(f, "<%s>", tag);
    html_escaped(f, text);
    fprintf(f, "</%s>", tag);
}

void html_json(FILE *f, const char *title, const struct json *v) {
    char *text = json_text(v, 1);
    fprintf(f, "<h2>%s</h2><pre>", title);
    html_escaped(f, text);
    fputs("</pre>\n", f);
    free(text);
}

void html_begin(FILE *f, const char *title) {
    fputs("<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>", f);
    html_escaped(f, title);
    fprintf(f, "</title><style>%s</style></head><body>\n<h1>", style);
    html_escaped(f, title);
    fputs("</h1>\n", f);
}

void html_end(FILE *f) { fputs("</body></html>\n", f); }

// ---- plots ----

void plot_begin(struct plot *p, const char *title) {
    p->script = open_memstream(&p->text, &p->len);
    if (!p->script)
        BUG("a page: a stream in memory cannot be opened");
    fprintf(p->script,
            "set terminal svg noenhanced size 760,340 font 'sans-serif,12' background rgb 'white'\nset title "
            "'%s'\nset grid lc rgb '#dddddd'\n"
            "set border lc rgb '#777777'\nset key outside right top\n",
            title);
}

void plot_drop(struct plot *p) {
    fclose(p->script);
    free(p->text);
}

int plot_put(struct plot *p, FILE *page) {
    const char *argv[] = {"gnuplot", NULL};
    size_t len;
    fflush(p->script);
    char *svg = process_output(argv, p->text, &len), *start = svg ? strstr(svg, "<svg") : NULL;
    if (start)
        fprintf(page, "<figure>%s</figure>\n", start);
    free(svg);
    plot_drop(p);
    return start != NULL;
}

static const struct json *item_at(const struct json *list, int index) {
    const struct json *v = json_first(list);
    while (v && index--)
        v = json_next(v);
    return v;
}

// Points of a run.jsonl: column `key`, of a list its item (-1: no list), against tokens (what comes between steps: against the last tokens seen).
// Returns how many.
static int curve_points(FILE *s, char *log, const char *key, int item) {
    int n = 0;
    double tokens = 0;
    struct error err;
    for (char *line = log, *next; *line; line = next) {
        next = strchr(line, '\n');
        size_t len = next ? (size_t)(next - line) : strlen(line);
        next = next ? next + 1 : line + len;
        struct json *o = json_parse(line, len, "run.jsonl", 0, &err);
        const struct json *v = item < 0 ? json_get(o, key) : item_at(json_get(o, key), item), *t = json_get(o, "tokens");
        tokens = t ? json_number(t) : tokens;
        if (v && json_kind(v) == JSON_NUMBER) {
            fprintf(s, "%.17g %.17g\n", tokens, json_number(v));
            n++;
        }
        json_free(o);
    }
    return n;
}

int plot_training(FILE *page, const char *title, const char *path) {
    static const char *const keys[] = {"loss", "ce", "kl", "held_out"};
    struct plot p;
    struct error err;
    char *log;
    size_t log_len;
    if (file_read(path, &log, &log_len, &err) < 0)
        return -1;
    plot_begin(&p, title);
    int n[4], any = 0;
    for (int i = 0; i < 4; i++) {
        fprintf(p.script, "$d%d << EOD\n", i);
        n[i] = curve_points(p.script, log, keys[i], -1);
        fputs("EOD\n", p.script);
    }
    fputs("set xlabel 'tokens'\nset ylabel 'nats'\n", p.script);
    for (int i = 0; i < 4; i++)
        if (n[i] > 0) {
            fprintf(p.script, "%s $d%d using 1:2 with %s title '%s'", any ? ", \\\n" : "plot", i,
                    i == 3 ? "linespoints lw 2 pt 7 ps 0.5" : "lines lw 1.2", i == 3 ? "held out" : keys[i]);
            any = 1;
        }
    fputc('\n', p.script);
    free(log);
    if (any)
        return plot_put(&p, page);
    plot_drop(&p);
    return -1;
}

// Text between gnuplot's single quotes.
static void put_quoted(FILE *s, const char *text) {
    fputc('\'', s);
    for (; *text; text++)
        fputs(*text == '\'' ? "''" : (char[]){*text, '\0'}, s);
    fputc('\'', s);
}

int plot_weights(FILE *page, const char *title, const char *path, const struct json *sources) {
    struct plot p;
    struct error err;
    char *log;
    size_t log_len;
    int n = 0, points = 0;
    if (!json_count(sources) || file_read(path, &log, &log_len, &err) < 0)
        return -1;
    plot_begin(&p, title);
    for (; n < json_count(sources); n++) {
        fprintf(p.script, "$d%d << EOD\n", n);
        points += curve_points(p.script, log, "source_weights", n);
        fputs("EOD\n", p.script);
    }
    fputs("set xlabel 'tokens'\nset ylabel 'weight'\nset yrange [0:1]\n", p.script);
    for (int i = 0; i < n; i++) {
        fprintf(p.script, "%s $d%d using 1:2 with linespoints lw 1.5 pt 7 ps 0.4 title ", i ? ", \\\n" : "plot", i);
        put_quoted(p.script, json_string(json_get(item_at(sources, i), "name")));
    }
    fputc('\n', p.script);
    free(log);
    if (points)
        return plot_put(&p, page);
    plot_drop(&p);
    return -1;
}
