// sampled.c: see sampled.h.
#include "recipes/sampled.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/progress.h"
#include "common/base/threads.h"

static int draw_batches(struct file_writer *w, struct model *m, const struct sample_plan *p, int32_t *ids, struct error *err) {
    const int64_t bytes = p->length * (int64_t)sizeof *ids, batch = p->batch * bytes;
    int64_t whole = w->offset < p->documents * bytes ? w->offset / batch : p->documents / p->batch;
    TRY(file_writer_cut(w, whole * batch, err));
    struct progress progress;
    progress_begin(&progress, "sample", "tokens", p->documents * p->length, whole * p->batch * p->length);
    for (int64_t first = whole * p->batch; first < p->documents; first += p->batch) {
        const int64_t n = p->documents - first < p->batch ? p->documents - first : p->batch;
        sample_batch(m, p, first, n, ids);
        if (interrupted()) { // what a full disk keeps back is drawn again
            fflush(w->stream);
            return error_set(err, "sample: interrupted after %ld of %ld documents; run the same command again to go on", (long)first,
                             (long)p->documents);
        }
        TRY(file_writer_put(w, ids, (size_t)(n * bytes), err));
        progress_update(&progress, (first + n) * p->length, "%s", "");
    }
    progress_end(&progress, "%s", "");
    return 0;
}

int sampled_write(const char *path, struct model *m, const struct sample_plan *p, struct error *err) {
    struct file_writer w;
    TRY(file_writer_continue(&w, path, err));
    int32_t *ids = xmalloc((size_t)(p->batch * p->length) * sizeof *ids, "sampled tokens");
    int status = draw_batches(&w, m, p, ids, err);
    if (status == 0)
        status = file_writer_commit(&w, err);
    else
        file_writer_abort(&w);
    free(ids);
    return status;
}

int sampled_read(struct text_input *to, const char *path, const struct tokenizer *t, struct error *err) {
    struct file_map map; // not file_read: that gunzips, and tokens may begin with anything
    size_t len = 0;
    TRY(file_map(&map, path, err));
    const size_t n = map.size / sizeof *to->data.token;
    *to = (struct text_input){.sampled = 1, .data = {.token = xmalloc((n + 1) * sizeof *to->data.token, "sampled tokens"), .n_token = (int64_t)n}};
    memcpy(to->data.token, map.data, n * sizeof *to->data.token);
    file_unmap(&map);
    if (dataset_check(&to->data, tokenizer_size(t), path, err) < 0) {
        dataset_release(&to->data);
        return error_prefix(err, "damaged; remove the stage's folder to draw again");
    }
    free(tokenizer_decode(t, to->data.token, n, &len));
    to->data.text_bytes = (int64_t)len;
    return 0;
}
