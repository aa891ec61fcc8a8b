// table.h: rows of tables by named columns: .tsv (tabs, no quotes), .csv (RFC 4180), .jsonl (an object a line), each plain or gzipped. The
// first line of a .tsv or .csv names the columns.
#ifndef PDQ_TABLE_H
#define PDQ_TABLE_H

#include <stdint.h>

#include "common/base/error.h"

// Gets a row's fields in the order of the columns asked for; they are its only while it runs. Returns -1, with err set, to stop.
typedef int take_row(void *context, const char *const *field, const char *where, struct error *err);

// A file without one of the columns, or a row with too few fields, is an error that says which are there. Numbers and booleans of .jsonl
// come as their text.
int table_read(const char *path, const char *const *column, int n_column, take_row *take, void *context, struct error *err);

#endif
