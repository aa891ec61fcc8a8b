// selected.h: windows of a text that a select stage kept, as files: their tokens, and where each begins.
#ifndef PDQ_SELECTED_H
#define PDQ_SELECTED_H

#include "common/data/dataset.h"

#define SELECTED_WINDOWS "windows" // beside the tokens (sampled.h): i64, little-endian: n + 1 places where windows begin, n where what they predict does

// A dataset's tokens and windows into the folder.
int selected_write(const struct dataset *d, const char *folder, struct error *err);
// Gives tokens that were read from the folder their windows; a text without such a file stays as it is.
int selected_windows(struct dataset *d, const char *folder, struct error *err);

#endif
