// sweep_html.c: the page of a sweep: loss against size and speed with the Pareto front, a line for each value of the keys that
// are no numbers, bands over the seeds, controls, a table that sorts, and the loss curves of every point.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "recipes/html.h"
#include "recipes/sweep.h"

void pareto_front(const double *cost, const double *loss, int64_t n, unsigned char *front) {
    for (int64_t i = 0; i < n; i++) {
        front[i] = 1;
        for (int64_t j = 0; j < n && front[i]; j++)
            front[i] = !(cost[j] <= cost[i] && loss[j] <= loss[i] && (cost[j] < cost[i] || loss[j] < loss[i]));
    }
}

// What decides the line that a point lies on: its values that are no numbers, as text. The caller frees.
static char *line_name(const struct sweep_point *p) {
    if (p->is_control)
        return xstrdup("random (control)");
    struct json *words = json_object();
    for (const struct json *v = json_first(p->set); v; v = json_next(v))
        if (json_kind(v) != JSON_NUMBER)
            json_set(words, json_key(v), json_copy(v));
    char *name = json_count(words) ? grid_name(words) : xstrdup("points");
    json_free(words);
    return name;
}

static double fact(const struct sweep_point *p, const char *key) {
    const struct json *v = json_get(p->facts, key);
    v = v ? v : json_get(p->speed, key);
    return json_kind(v) == JSON_NUMBER ? json_number(v) : (double)NAN;
}

// Means over the seeds: the points of one line at one place of the grid.
struct mean {
    char *line;
    const struct sweep_point *first;
    double x, loss, low, high;
    int64_t n;
};

static int same_place(const struct sweep_point *a, const struct sweep_point *b) {
    char *x = grid_name(a->set), *y = grid_name(b->set);
    int same = strcmp(x, y) == 0 && a->is_control == b->is_control;
    free(x);
    free(y);
    return same;
}

static int64_t take_means(const struct sweep *s, const char *key, struct mean *mean) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const struct sweep_point *p = &s->point[i];
        int64_t k = 0;
        if (!p->facts || isnan(fact(p, key)) || isnan(fact(p, "nll")))
            continue;
        while (k < n && !same_place(mean[k].first, p))
            k++;
        double loss = fact(p, "nll");
        if (k == n)
            mean[n++] = (struct mean){.line = line_name(p), .first = p, .low = loss, .high = loss};
        struct mean *m = &mean[k];
        m->x += fact(p, key);
        m->loss += loss;
        m->low = fmin(m->low, loss);
        m->high = fmax(m->high, loss);
        m->n++;
    }
    for (int64_t k = 0; k < n; k++) {
        mean[k].x /= (double)mean[k].n;
        mean[k].loss /= (double)mean[k].n;
    }
    return n;
}

static int by_line_and_x(const void *a, const void *b) {
    const struct mean *x = a, *y = b;
    int order = strcmp(x->line, y->line);
    return order ? order : (x->x > y->x) - (x->x < y->x);
}

#define COST_STEPS 1000 // costs closer than a thousandth are one: files differ by the length of their provenance

// The means that nothing beats, as a here-document.
static void put_front(FILE *f, const struct mean *m, int64_t n, double sign) {
    double *cost = xmalloc((size_t)(2 * n + 1) * sizeof *cost, "a plot"), *loss = cost + n;
    unsigned char *front = xmalloc((size_t)n + 1, "a plot");
    for (int64_t i = 0; i < n; i++) {
        cost[i] = sign * round(COST_STEPS * log(m[i].x)); // of speeds, more is better
        loss[i] = m[i].loss;
    }
    pareto_front(cost, loss, n, front);
    fputs("$front << EOD\n", f);
    for (int64_t i = 0; i < n; i++)
        if (front[i])
            fprintf(f, "%.17g %.17g\n", m[i].x, m[i].loss);
    fputs("EOD\n", f);
    free(cost);
    free(front);
}

static int put_plot(FILE *page, const struct sweep *s, const char *title, const char *key, const char *label, double scale,
                    double sign) {
    struct mean *m = xcalloc((size_t)s->n + 1, sizeof *m, "a plot");
    int64_t n = take_means(s, key, m);
    struct plot p;
    int lines = 0, drawn = 1;
    plot_begin(&p, title);
    qsort(m, (size_t)n, sizeof *m, by_line_and_x);
    for (int64_t i = 0; i < n; i++) {
        m[i].x *= scale;
        if (i == 0 || strcmp(m[i].line, m[i - 1].line) != 0)
            fprintf(p.script, "%s$line%d << EOD\n", i ? "EOD\n" : "", lines++);
        fprintf(p.script, "%.17g %.17g %.17g %.17g\n", m[i].x, m[i].loss, m[i].low, m[i].high);
    }
    if (n > 0) {
        fputs("EOD\n", p.script);
        put_front(p.script, m, n, sign);
        fprintf(p.script, "set xlabel '%s'\nset ylabel 'nats per token'\nset style fill transparent solid 0.15 noborder\n", label);
        if (s->parent)
            fprintf(p.script, "parent = %.17g\n", json_number(json_get(s->parent, "nll")));
        fputs("plot $front using 1:2 with points pt 6 ps 1.6 lc rgb '#d08000' title 'Pareto front'", p.script);
        for (int64_t i = 0, k = 0; i < n; i++)
            if (i == 0 || strcmp(m[i].line, m[i - 1].line) != 0) {
                fprintf(p.script, ", \\\n$line%ld using 1:3:4 with filledcurves lc %ld notitle, '' using 1:2 with linespoints lc %ld pt 7 "
                                  "ps 0.6 title '%s'", (long)k, (long)k + 1, (long)k + 1, m[i].line);
                k++;
            }
        if (s->parent)
            fputs(", \\\nparent with lines dt 2 lc rgb '#555555' title 'parent'", p.script);
        fputc('\n', p.script);
        drawn = plot_put(&p, page);
    } else {
        plot_drop(&p);
    }
    for (int64_t i = 0; i < n; i++)
        free(m[i].line);
    free(m);
    return drawn;
}

static const struct {
    const char *title, *key;
    int digits;
    double scale;
} cells[] = {
    {"parameters, M", "parameters", 3, 1e-6}, {"MFLOP/token", "flops_per_token", 2, 1e-6},
    {"MB", "bytes", 3, 1e-6},                 {"loss", "nll", 4, 1},
    {"&plusmn;", "nll_se", 4, 1},             {"perplexity", "ppl", 3, 1},
    {"KLD", "kld", 4, 1},                     {"top-1", "top1", 4, 1},
    {"prefill, tok/s", "prefill_tokens_per_second", 0, 1}, {"decode, tok/s", "decode_tokens_per_second", 0, 1},
};
#define CELLS (sizeof cells / sizeof *cells)

// A click on a heading sorts by its column; a second one turns the order round.
static const char sorter[] =
    "<script>document.querySelectorAll('#points th').forEach((h,i)=>{if(h.parentNode.rowIndex==0)h.onclick=()=>{"
    "const t=document.getElementById('points'),b=t.tBodies[0],r=[...b.rows].slice(1),d=h.dataset.d=h.dataset.d=='1'?-1:1;"
    "const v=x=>{const s=x.cells[i].textContent,n=parseFloat(s);return isNaN(n)||/[a-z]/i.test(s)?s:n};"
    "r.sort((x,y)=>(v(x)>v(y)?1:v(x)<v(y)?-1:0)*d).forEach(x=>b.append(x))}})</script>\n";

static void put_row(FILE *f, const char *name, const struct json *facts, const struct json *speed) {
    fputs("<tr>", f);
    html_text(f, "th", name);
    for (size_t c = 0; c < CELLS; c++) {
        const struct json *v = json_get(facts, cells[c].key);
        html_number(f, v ? v : json_get(speed, cells[c].key), cells[c].digits, cells[c].scale);
    }
    fputs("</tr>\n", f);
}

static void put_table(FILE *f, const struct sweep *s) {
    fputs("<p>Click a heading to sort.</p><table id=points><tbody><tr><th>point</th>", f);
    for (size_t c = 0; c < CELLS; c++)
        fprintf(f, "<th style=cursor:pointer>%s</th>", cells[c].title);
    fputs("</tr>\n", f);
    if (s->parent)
        put_row(f, "parent", s->parent, NULL);
    for (int64_t i = 0; i < s->n; i++)
        if (s->point[i].facts)
            put_row(f, s->point[i].name, s->point[i].facts, s->point[i].speed);
    fprintf(f, "</tbody></table>\n%s", sorter);
}

static void put_failures(FILE *f, const struct sweep *s) {
    int any = 0;
    for (int64_t i = 0; i < s->n; i++) {
        if (!s->point[i].failure)
            continue;
        if (!any++)
            fputs("<h2>Failed</h2><ul>\n", f);
        fputs("<li>", f);
        html_escaped(f, s->point[i].name);
        fputs(": ", f);
        html_escaped(f, s->point[i].failure);
        fputs("</li>\n", f);
    }
    fputs(any ? "</ul>\n" : "", f);
}

static int put_curves(FILE *f, const struct sweep *s, const char *out) {
    int missing = 0, any = 0;
    for (int64_t i = 0; i < s->n; i++)
        for (const struct json *stage = json_first(s->point[i].same ? NULL : s->point[i].stages); stage; stage = json_next(stage))
            for (const struct json *t = json_first(json_get(stage, "trainings")); t; t = json_next(t)) {
                char *folder = path_join(out, json_string(json_get(stage, "folder")));
                char *path = path_join(folder, json_string(json_get(t, "curve")));
                if (!any++)
                    fputs("<h2>Loss curves</h2>\n", f);
                missing |= plot_training(f, s->point[i].name, path) == 0;
                free(folder);
                free(path);
            }
    return missing;
}

int sweep_html_write(const struct sweep *s, const struct json *report, const char *out, struct error *err) {
    struct file_writer w;
    char *path = path_join(out, "sweep.html");
    int status = file_writer_open(&w, path, err), missing = 0;
    free(path);
    TRY(status);
    FILE *f = w.stream;
    html_begin(f, json_string(json_get(report, "name")));
    missing |= !put_plot(f, s, "loss against parameters", "parameters", "parameters, M", 1e-6, 1);
    missing |= !put_plot(f, s, "loss against bytes", "bytes", "MB on disk", 1e-6, 1);
    missing |= !put_plot(f, s, "loss against decoding speed", "decode_tokens_per_second", "tokens/s", 1, -1);
    fputs("<p>Lines are means over the seeds, bands their range. On the front: no other point is better in both.</p>\n", f);
    put_table(f, s);
    put_failures(f, s);
    missing |= put_curves(f, s, out);
    if (missing)
        fputs("<p>The plots are left out: gnuplot was not found on this machine.</p>\n", f);
    html_json(f, "Recipe", json_get(report, "recipe"));
    html_end(f);
    return file_writer_commit(&w, err);
}
