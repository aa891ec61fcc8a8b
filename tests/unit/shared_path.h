// shared_path.h: where the checkpoints and reference values are that the project does not carry. They lie in
// $PDQ_SHARED or in ../shared beside the repository; a test that needs one skips when shared_path gives NULL.
#ifndef PDQ_SHARED_PATH_H
#define PDQ_SHARED_PATH_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// The path of a file or directory below the shared folder, or NULL when it is absent. Valid for eight more calls.
static inline const char *shared_path(const char *relative) {
    static char paths[8][4096];
    static int next;
    char *path = paths[next++ % 8];
    const char *shared = getenv("PDQ_SHARED");
    if (shared && *shared)
        snprintf(path, sizeof paths[0], "%s/%s", shared, relative);
    else
        snprintf(path, sizeof paths[0], "%s/../shared/%s", PDQ_SOURCE_DIR, relative);
    return access(path, R_OK) == 0 ? path : NULL;
}

#endif
