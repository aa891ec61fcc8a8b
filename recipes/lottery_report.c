// lottery_report.c: see lottery_report.h.
#include "recipes/lottery_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "recipes/html.h"

// What is said of a group of trainings that differ by their seed alone.
static const struct measure {
    const char *key, *title;
    int digits;
} measures[] = {
    {"early_stop", "early stop, step", 0},
    {"validation_loss", "least validation loss", 4},
    {"test_acc", "test accuracy there, %", 2},
    {"final_test_acc", "test accuracy at the end, %", 2},
    {"final_validation_loss", "validation loss at the end", 4},
};
#define N_MEASURE (sizeof measures / sizeof *measures)

static double number(const struct json *o, const char *key) {
    const struct json *v = json_get(o, key);
    return v && json_kind(v) == JSON_NUMBER ? json_number(v) : (double)NAN;
}

static int is_stability(const struct json *o) { return strcmp(json_string(json_get(o, "kind")), "stability") == 0; }

#define PM_SAME 0.02 // of Pm: masks of one kind and round differ by rounding alone

static int same_group(const struct json *a, const struct json *b) {
    return strcmp(json_string(json_get(a, "kind")), json_string(json_get(b, "kind"))) == 0 &&
           number(a, "round") == number(b, "round") && number(a, "rewind") == number(b, "rewind") &&
           fabs(number(a, "pm") / number(b, "pm") - 1) < PM_SAME;
}

static struct json *spread_of(const struct json *rounds, const struct json *like, const char *key) {
    double sum = 0, squares = 0, low = HUGE_VAL, high = -HUGE_VAL;
    int64_t n = 0;
    for (const struct json *o = json_first(rounds); o; o = json_next(o)) {
        if (is_stability(o) || !same_group(o, like) || isnan(number(o, key)))
            continue;
        const double x = number(o, key);
        sum += x;
        squares += x * x;
        low = fmin(low, x);
        high = fmax(high, x);
        n++;
    }
    if (n == 0)
        return json_null();
    struct json *s = json_object();
    const double mean = sum / (double)n;
    json_set_number(s, "mean", mean);
    json_set_number(s, "sd", n > 1 ? sqrt(fmax(0, (squares - (double)n * mean * mean) / (double)(n - 1))) : (double)NAN);
    json_set_number(s, "low", low);
    json_set_number(s, "high", high);
    return s;
}

static int64_t count_like(const struct json *rounds, const struct json *like) {
    int64_t n = 0;
    for (const struct json *o = json_first(rounds); o; o = json_next(o))
        n += !is_stability(o) && same_group(o, like);
    return n;
}

struct json *lottery_groups(const struct json *rounds) {
    struct json *groups = json_array();
    for (const struct json *o = json_first(rounds); o; o = json_next(o)) {
        int known = is_stability(o);
        for (const struct json *g = json_first(groups); g && !known; g = json_next(g))
            known = same_group(o, g);
        if (known)
            continue;
        struct json *g = json_object();
        json_set_string(g, "kind", json_string(json_get(o, "kind")));
        json_set_number(g, "round", number(o, "round"));
        json_set_number(g, "rewind", number(o, "rewind"));
        json_set_number(g, "pm", number(o, "pm"));
        json_set_number(g, "sparsity", 100 - number(o, "pm"));
        json_set_number(g, "seeds", (double)count_like(rounds, o));
        for (size_t i = 0; i < N_MEASURE; i++)
            json_set(g, measures[i].key, spread_of(rounds, o, measures[i].key));
        json_push(groups, g);
    }
    return groups;
}

static double mean_of_group(const struct json *groups, const char *kind, double pm, const char *key) {
    for (const struct json *g = json_first(groups); g; g = json_next(g))
        if (strcmp(json_string(json_get(g, "kind")), kind) == 0 && (isnan(pm) || fabs(number(g, "pm") / pm - 1) < PM_SAME))
            return number(json_get(g, key), "mean");
    return (double)NAN;
}

// ---- published figures ----

// Frankle and Carbin 2019, sections 2 and 3 and figure 4. The figure is of `kind` at pm relative to `versus`: a difference of test
// accuracy at early stop, or a ratio of early-stop steps.
static const struct published {
    const char *kind, *versus;
    double pm, versus_pm; // NaN: dense
    int is_ratio;
    double value;
    const char *words;
} published[] = {
    {"ticket", "dense", 21.1, (double)NAN, 1, 0.62, "ticket at Pm 21.1 %: early stop, as a share of dense"},
    {"ticket", "dense", 13.5, (double)NAN, 0, 0.3, "ticket at Pm 13.5 %: test accuracy above dense, points (published: more than)"},
    {"ticket", "dense", 3.6, (double)NAN, 0, 0, "ticket at Pm 3.6 %: test accuracy above dense, points (published: about)"},
    {"reinit", "ticket", 21.1, 21.1, 1, 2.51, "reinit at Pm 21 %: early stop, as a multiple of the ticket's"},
    {"reinit", "ticket", 21.1, 21.1, 0, -0.5, "reinit at Pm 21 %: test accuracy above the ticket's, points"},
};
#define N_PUBLISHED (sizeof published / sizeof *published)

struct json *lottery_published(const struct json *groups) {
    struct json *list = json_array();
    for (size_t i = 0; i < N_PUBLISHED; i++) {
        const struct published *p = &published[i];
        const char *key = p->is_ratio ? "early_stop" : "test_acc";
        const double a = mean_of_group(groups, p->kind, p->pm, key), b = mean_of_group(groups, p->versus, p->versus_pm, key);
        if (isnan(a) || isnan(b))
            continue;
        struct json *o = json_object();
        json_set_string(o, "what", p->words);
        json_set_number(o, "published", p->value);
        json_set_number(o, "measured", p->is_ratio ? a / b : a - b);
        json_push(list, o);
    }
    return list;
}

// ---- text ----

static void print_spread(FILE *to, const struct json *s, int digits, int width) {
    if (isnan(number(s, "mean")))
        fprintf(to, " %*s", width, "-");
    else if (isnan(number(s, "sd")))
        fprintf(to, " %*.*f", width, digits, number(s, "mean"));
    else
        fprintf(to, " %*.*f +- %-*.*f", width - 10, digits, number(s, "mean"), 6, digits, number(s, "sd"));
}

#define COLUMN 22

void lottery_print(const struct json *rounds, FILE *to) {
    struct json *groups = lottery_groups(rounds), *beside = lottery_published(groups);
    fprintf(to, "%-18s %6s %6s %7s %5s %*s %*s %*s %*s\n", "", "Pm %", "sparse", "rewind", "seeds", COLUMN, "early stop", COLUMN,
            "validation loss", COLUMN, "test % there", COLUMN, "test % at the end");
    for (const struct json *g = json_first(groups); g; g = json_next(g)) {
        fprintf(to, "%-18s %6.1f %6.1f %7.0f %5.0f", json_string(json_get(g, "kind")), number(g, "pm"), number(g, "sparsity"),
                number(g, "rewind"), number(g, "seeds"));
        for (size_t i = 0; i < 4; i++)
            print_spread(to, json_get(g, measures[i].key), measures[i].digits, COLUMN);
        fputc('\n', to);
    }
    for (const struct json *o = json_first(rounds); o; o = json_next(o))
        if (is_stability(o))
            fprintf(to, "stability, seed %.0f, round %.0f (Pm %.1f %%), from step %.0f: barrier %.4f nats, %.2f points of error\n",
                    number(o, "seed"), number(o, "round"), number(o, "pm"), number(o, "at"), number(o, "barrier"),
                    number(o, "error_barrier"));
    for (const struct json *o = json_first(beside); o; o = json_next(o))
        fprintf(to, "%s: published %.2f, measured %.2f\n", json_string(json_get(o, "what")), number(o, "published"),
                number(o, "measured"));
    json_free(groups);
    json_free(beside);
}

// ---- the page ----

// Each kind, with the step it was rewound to, is a line; "dense" is a level across the whole axis.
static int is_first_of_line(const struct json *groups, const struct json *g) {
    for (const struct json *o = json_first(groups); o != g; o = json_next(o))
        if (strcmp(json_string(json_get(o, "kind")), json_string(json_get(g, "kind"))) == 0 &&
            number(o, "rewind") == number(g, "rewind"))
            return 0;
    return 1;
}

static int put_line_data(FILE *s, const struct json *groups, const struct json *line, const char *key, int index) {
    int n = 0;
    fprintf(s, "$d%d << EOD\n", index);
    for (const struct json *g = json_first(groups); g; g = json_next(g)) {
        const struct json *v = json_get(g, key);
        if (strcmp(json_string(json_get(g, "kind")), json_string(json_get(line, "kind"))) != 0 ||
            number(g, "rewind") != number(line, "rewind") || isnan(number(v, "mean")))
            continue;
        fprintf(s, "%.17g %.17g %.17g %.17g\n", number(g, "pm"), number(v, "mean"), number(v, "low"), number(v, "high"));
        n++;
    }
    fputs("EOD\n", s);
    return n;
}

// Where a published figure lies in this plot, given what it is relative to.
static int put_published_data(FILE *s, const struct json *groups, const char *key) {
    int n = 0;
    fputs("$published << EOD\n", s);
    for (size_t i = 0; i < N_PUBLISHED; i++) {
        const struct published *p = &published[i];
        const double base = mean_of_group(groups, p->versus, p->versus_pm, key);
        if (strcmp(key, p->is_ratio ? "early_stop" : "test_acc") != 0 || isnan(base) ||
            isnan(mean_of_group(groups, p->kind, p->pm, key)))
            continue;
        fprintf(s, "%.17g %.17g\n", p->pm, p->is_ratio ? base * p->value : base + p->value);
        n++;
    }
    fputs("EOD\n", s);
    return n;
}

#define LINES_MAX 16

// 1 drawn, 0 no gnuplot, -1 nothing to draw.
static int put_plot(FILE *page, const struct json *groups, const struct measure *m) {
    const struct json *line[LINES_MAX];
    int points[LINES_MAX], n = 0, any = 0;
    struct plot p;
    plot_begin(&p, m->title);
    for (const struct json *g = json_first(groups); g && n < LINES_MAX; g = json_next(g))
        if (is_first_of_line(groups, g)) {
            points[n] = put_line_data(p.script, groups, g, m->key, n);
            line[n++] = g;
        }
    const int has_published = put_published_data(p.script, groups, m->key);
    fprintf(p.script,
            "set logscale x\nset xrange [*:110] reverse\nset xlabel 'Pm: per cent of weights remaining (100 - sparsity)'\nset "
            "ylabel '%s'\nset xtics (100, 51.2, 26.2, 13.4, 6.9, 3.5, 2)\nset style fill transparent solid 0.15 noborder\n",
            m->title);
    for (int i = 0; i < n; i++)
        for (int band = 1; band >= 0 && points[i]; band--) {
            if (points[i] == 1 && band)
                continue;
            fprintf(p.script, "%s $d%d using %s lc %d", any ? ", \\\n" : "plot", i,
                    band              ? "1:3:4 with filledcurves notitle"
                    : points[i] == 1 ? "1:2 with points pt 7"
                                      : "1:2 with linespoints lw 1.6 pt 7 ps 0.5",
                    i + 1);
            if (!band && number(line[i], "rewind") > 0)
                fprintf(p.script, " title '%s, from step %.0f'", json_string(json_get(line[i], "kind")), number(line[i], "rewind"));
            else if (!band)
                fprintf(p.script, " title '%s'", json_string(json_get(line[i], "kind")));
            any = 1;
        }
    const double dense = mean_of_group(groups, "dense", (double)NAN, m->key);
    if (any && !isnan(dense))
        fprintf(p.script, ", \\\n%.17g with lines dt 2 lc rgb '#777777' notitle", dense);
    if (any && has_published)
        fputs(", \\\n$published using 1:2 with points pt 6 ps 1.6 lw 2 lc rgb 'black' title 'published (MNIST)'", p.script);
    fputc('\n', p.script);
    if (any)
        return plot_put(&p, page);
    plot_drop(&p);
    return -1;
}

static void put_spread(FILE *f, const struct json *s, int digits) {
    if (isnan(number(s, "mean")))
        fputs("<td>&ndash;</td>", f);
    else if (isnan(number(s, "sd")))
        fprintf(f, "<td>%.*f</td>", digits, number(s, "mean"));
    else
        fprintf(f, "<td>%.*f &plusmn; %.*f</td>", digits, number(s, "mean"), digits, number(s, "sd"));
}

static void put_table(FILE *f, const struct json *groups) {
    fputs("<table><tr><th></th><th>Pm, % remaining</th><th>sparsity, % removed</th><th>rewound to</th><th>seeds</th>", f);
    for (size_t i = 0; i < N_MEASURE; i++)
        html_text(f, "th", measures[i].title);
    fputs("</tr>\n", f);
    for (const struct json *g = json_first(groups); g; g = json_next(g)) {
        fputs("<tr>", f);
        html_text(f, "th", json_string(json_get(g, "kind")));
        fprintf(f, "<td>%.1f</td><td>%.1f</td><td>%.0f</td><td>%.0f</td>", number(g, "pm"), number(g, "sparsity"),
                number(g, "rewind"), number(g, "seeds"));
        for (size_t i = 0; i < N_MEASURE; i++)
            put_spread(f, json_get(g, measures[i].key), measures[i].digits);
        fputs("</tr>\n", f);
    }
    fputs("</table>\n", f);
}

static void put_published(FILE *f, const struct json *beside) {
    if (!json_count(beside))
        return;
    fputs("<h3>Beside Frankle and Carbin 2019 (LeNet-300-100, MNIST)</h3>\n<table><tr><th></th><th>published</th><th>"
          "measured</th></tr>\n",
          f);
    for (const struct json *o = json_first(beside); o; o = json_next(o)) {
        fputs("<tr>", f);
        html_text(f, "th", json_string(json_get(o, "what")));
        html_number(f, json_get(o, "published"), 2, 1);
        html_number(f, json_get(o, "measured"), 2, 1);
        fputs("</tr>\n", f);
    }
    fputs("</table>\n", f);
}

static int put_stability(FILE *f, const struct json *rounds) {
    struct plot p;
    int n = 0;
    plot_begin(&p, "loss between two copies with different orders of the data");
    for (const struct json *o = json_first(rounds); o; o = json_next(o)) {
        if (!is_stability(o))
            continue;
        if (n == 0)
            fputs("<h3>Stability to the noise of SGD</h3>\n<table><tr><th>seed</th><th>Pm, % remaining</th><th>copies differ from "
                  "step</th><th>barrier, nats</th><th>barrier, points of error</th></tr>\n",
                  f);
        fprintf(f, "<tr><td>%.0f</td><td>%.1f</td><td>%.0f</td><td>%.4f</td>", number(o, "seed"), number(o, "pm"), number(o, "at"),
                number(o, "barrier"));
        html_number(f, json_get(o, "error_barrier"), 2, 1);
        fputs("</tr>\n", f);
        fprintf(p.script, "$s%d << EOD\n", n++);
        int k = 0;
        for (const struct json *v = json_first(json_get(o, "loss")); v; v = json_next(v))
            fprintf(p.script, "%.1f %.17g\n", 0.1 * k++, json_number(v));
        fputs("EOD\n", p.script);
    }
    if (!n) {
        plot_drop(&p);
        return 1;
    }
    fputs("</table>\n", f);
    fputs("set xlabel 'share of the second copy'\nset ylabel 'loss'\nplot", p.script);
    for (int i = 0; i < n; i++)
        fprintf(p.script, "%s $s%d using 1:2 with linespoints pt 7 ps 0.5 title '%d'", i ? ", \\\n" : "", i, i + 1);
    fputc('\n', p.script);
    return plot_put(&p, f);
}

int lottery_html(FILE *page, const struct json *rounds) {
    struct json *groups = lottery_groups(rounds), *beside = lottery_published(groups);
    int drawn = 1;
    fputs("<h2>Lottery tickets</h2>\n<p>Pm is the per cent of weights that remain, sparsity the per cent removed. Bands run from the "
          "least to the largest seed. Early stop: the step of least validation loss.</p>\n",
          page);
    for (size_t i = 0; i < N_MEASURE; i++)
        if (put_plot(page, groups, &measures[i]) == 0)
            drawn = 0;
    put_table(page, groups);
    put_published(page, beside);
    drawn &= put_stability(page, rounds);
    json_free(groups);
    json_free(beside);
    return drawn;
}
