// importance.h: how much the columns of each matrix matter: the mean squares of what they are multiplied by, in llama.cpp's file.
//
// The file (llama-imatrix's of before mid 2025), little endian: entry count i32; entries (name: i32 length and bytes; calls i32; value
// count i32; values f32: mean square times calls); then, since 2024, chunks i32 and the text's name. Names are GGUF's. Read from a
// safetensors file of pdq calibrate (calibration_write), too.
#ifndef PDQ_IMPORTANCE_H
#define PDQ_IMPORTANCE_H

#include "quant/gguf_export.h"

struct importance_entry {
    char name[GGUF_NAME_MAX];
    int64_t n;
    float *value; // [n] mean squares
};

struct importance { // lifetime: the caller's
    struct importance_entry *entry;
    int64_t n_entry, chunks; // windows of text that it was computed from
    char *text;              // the text's name; NULL: not said
    char *path;              // of the file, for messages; NULL: computed here
};

// Takes `square`, sums over `rows` rows; an entry of that name stays as it is.
void importance_add(struct importance *to, const char *name, const double *square, int64_t n, int64_t rows);
const float *importance_find(const struct importance *i, const char *name); // NULL: none
int64_t importance_length(const struct importance *i, const char *name);     // of an entry; -1: none
int importance_read(struct importance *to, const char *path, struct error *err);
int importance_write(const struct importance *from, const char *path, struct error *err);
// Is it of the model that the plan is for? Every matrix of a layer has an entry of its own length; entries for nothing are refused.
int importance_check(const struct importance *i, const struct gguf_plan *plan, struct error *err);
void importance_release(struct importance *i); // fine on a zeroed one

#endif
