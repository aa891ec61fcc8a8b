// machine_cache.c: see machine_cache.h. The file is only a cache: whatever is wrong with it, the machine is measured
// again.
#include "recipes/machine_cache.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/tensor/machine.h"

static char *cache_path(const char *name) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache)
        return xasprintf("%s/pdq/%s", cache, name);
    return home && *home ? xasprintf("%s/.cache/pdq/%s", home, name) : NULL;
}

static void keep(const struct json *o, const char *name) {
    char *path = cache_path(name);
    if (!path)
        return;
    char *folder = path_folder(path), *text = json_text(o, 1);
    struct error err;
    if (directory_make(folder, &err) < 0 || file_write(path, text, strlen(text), &err) < 0)
        log_debug("%s is not kept: %s", name, err.text);
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
    keep(o, "machine.json");
    return o;
}

// What was kept under this name for this machine; NULL: nothing.
static struct json *kept(const char *name) {
    struct error err;
    char *path = cache_path(name), *key = machine_key();
    struct json *o = path && file_exists(path) ? json_read(path, &err) : NULL;
    const char *found = json_string(json_get(o, "key"));
    if (!found || strcmp(found, key) != 0) {
        json_free(o);
        o = NULL;
    }
    free(path);
    free(key);
    return o;
}

static struct json *cached(void) {
    struct json *o = kept("machine.json");
    if (o && json_number(json_get(o, "f32")) > 0 && json_number(json_get(o, "gbs")) > 0)
        return o;
    json_free(o);
    return NULL;
}

struct json *machine_table_read(const char *name) {
    struct json *o = kept(name);
    return o ? o : json_object();
}

void machine_table_keep(const char *name, const struct json *table) {
    struct json *copy = json_copy(table);
    char *key = machine_key();
    json_set_string(copy, "key", key);
    keep(copy, name);
    free(key);
    json_free(copy);
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

int machine_bf16_is_slow(void) {
    struct json *o = cached();
    const double f32 = json_number(json_get(o, "f32")), bf16 = json_number(json_get(o, "bf16"));
    json_free(o);
    return bf16 > 0 && 1.1 * bf16 < f32;
}

double machine_gbs(void) {
    struct json *o = cached();
    if (!o)
        o = machine_measured();
    double gbs = json_number(json_get(o, "gbs"));
    json_free(o);
    return gbs;
}
