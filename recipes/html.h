// html.h: what the pages share: escaped text, cells, and plots drawn by gnuplot as SVG inside the page.
#ifndef PDQ_HTML_H
#define PDQ_HTML_H

#include <stdio.h>

#include "common/base/json.h"

void html_begin(FILE *f, const char *title); // head, style and the heading
void html_end(FILE *f);
void html_escaped(FILE *f, const char *s);                         // NULL: nothing
void html_text(FILE *f, const char *tag, const char *text);        // <tag>text</tag>
void html_number(FILE *f, const struct json *v, int digits, double scale); // a cell; a dash where v is no number
void html_json(FILE *f, const char *title, const struct json *v);  // a heading and the text

// A gnuplot script that grows: data as here-documents. plot_put runs it, closes and frees; 0 when gnuplot is not there.
struct plot {
    FILE *script;
    char *text;
    size_t len;
};
void plot_begin(struct plot *p, const char *title);
int plot_put(struct plot *p, FILE *page);
void plot_drop(struct plot *p); // instead of plot_put
// Draws what a training logged (run.jsonl) as one plot: 1 drawn, 0 no gnuplot, -1 nothing to draw.
int plot_training(FILE *page, const char *title, const char *path);
// The same of the weights of sources, which `sources` names ({"name"} each); -1 also where they did not change.
int plot_weights(FILE *page, const char *title, const char *path, const struct json *sources);

#endif
