// machine_cache.c: see machine_cache.h. The file is only a cache: whatever is wrong with it, the machine is measured
// again.
#include "recipes/machine_cache.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/tensor/machine.h"

static char *cache_path(void) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache)
        return path_join(cache, "pdq/machine.json");
    return home && *home ? path_join(home, ".cache/pdq/machine.json") : NULL;
}

static void keep(const struct json *o) {
    char *path = cache_path();
    if (!path)
        return;
    char *folder = path_folder(path), *text = json_text(o, 1);
    struct error err;
    if (directory_make(folder, &err) < 0 || file_write(path, text, strlen(text), &err) < 0)
        log_debug("the machine's speed is not kept: %s", err.text);
    free(folder);
    free(text);
    free(path);
}

// Key of a measurement: it holds for one CPU, number of threads and version.
static char *machine_key(void) {
    return xasprintf("%s, %d threads, pdq %s", cpu_get()->name, threads_count(), PDQ_VERSION);
}

struct json *machine_measured(void) {
    struct machine m;
    machine_measure(&m);
    const struct machine_rate *rate = machine_full_rate(&m);
    struct json *o = machine_json(&m);
    char *key = machine_key();
    json_set_string(o, "key", key);
    json_set_number(o, "f32", rate->f32_gflops);
    json_set_number(o, "bf16", rate->bf16_gflops);
    json_set_number(o, "gbs", rate->triad_gbs);
    free(key);
    keep(o);
    return o;
}

static struct json *cached(void) {
    struct error err;
    char *path = cache_path(), *key = machine_key();
    struct json *o = path && file_exists(path) ? json_read(path, &err) : NULL;
    const char *found = json_string(json_get(o, "key"));
    if (!found || strcmp(found, key) != 0 || !(json_number(json_get(o, "f32")) > 0) ||
        !(json_number(json_get(o, "gbs")) > 0)) {
        json_free(o);
        o = NULL;
    }
    free(path);
    free(key);
    return o;
}

double machine_gflops(enum precision precision) {
    const char *why;
    struct json *o = cached();
    if (!o)
        o = machine_measured();
    double f32 = json_number(json_get(o, "f32")), bf16 = json_number(json_get(o, "bf16"));
    json_free(o);
    return gemm_precision(precision, &why) == PRECISION_BF16 && bf16 > 0 ? bf16 : f32;
}

double machine_gbs(void) {
    struct json *o = cached();
    if (!o)
        o = machine_measured();
    double gbs = json_number(json_get(o, "gbs"));
    json_free(o);
    return gbs;
}
