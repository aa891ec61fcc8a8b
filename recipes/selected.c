// selected.c: see selected.h.
#include "recipes/selected.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "recipes/sampled.h"

int selected_write(const struct dataset *d, const char *folder, struct error *err) {
    const size_t n = (size_t)d->n_question, bytes = n * sizeof *d->start;
    int64_t *places = xmalloc(2 * bytes + sizeof *places, "places of windows");
    memcpy(places, d->start, bytes + sizeof *places);
    memcpy(places + n + 1, d->answer, bytes);
    char *tokens = path_join(folder, SAMPLED_TOKENS), *windows = path_join(folder, SELECTED_WINDOWS);
    int status = file_write(tokens, d->token, (size_t)d->n_token * sizeof *d->token, err);
    if (status == 0)
        status = file_write(windows, places, 2 * bytes + sizeof *places, err);
    free(places);
    free(tokens);
    free(windows);
    return status;
}

// Do the places rise, each window with something before what it predicts, up to the end of the tokens?
static int are_sound(const int64_t *start, const int64_t *answer, int64_t n, int64_t n_token) {
    if (start[0] != 0 || start[n] != n_token)
        return 0;
    for (int64_t i = 0; i < n; i++)
        if (answer[i] <= start[i] || answer[i] >= start[i + 1])
            return 0;
    return 1;
}

int selected_windows(struct dataset *d, const char *folder, struct error *err) {
    char *path = path_join(folder, SELECTED_WINDOWS);
    struct file_map map = {0};
    int status = 0;
    if (file_exists(path) && (status = file_map(&map, path, err)) == 0) {
        const size_t values = map.size / sizeof(int64_t), n = values / 2;
        int64_t *places = xmalloc(map.size + sizeof *places, "places of windows");
        memcpy(places, map.data, map.size);
        file_unmap(&map);
        if (values % 2 == 0 || n == 0 || !are_sound(places, places + n + 1, (int64_t)n, d->n_token))
            status = error_set(err, "%s: damaged; remove the stage's folder to select again", path);
        else {
            d->n_question = (int64_t)n;
            d->start = xmalloc((n + 1) * sizeof *d->start, "windows");
            d->answer = xmalloc(n * sizeof *d->answer, "windows");
            memcpy(d->start, places, (n + 1) * sizeof *d->start);
            memcpy(d->answer, places + n + 1, n * sizeof *d->answer);
        }
        free(places);
    }
    free(path);
    return status;
}
