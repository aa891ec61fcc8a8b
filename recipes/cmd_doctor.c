// cmd_doctor.c: `pdq doctor`: what this machine can do, measured; the dry run predicts with these numbers.
#include <stdio.h>
#include <stdlib.h>

#include "common/base/file.h"
#include "recipes/command.h"
#include "recipes/machine_cache.h"

struct doctor_options {
    int json;
};
static const struct option table[] = {{"json", OPTION_BOOL, offsetof(struct doctor_options, json), "false", 0, 0,
                                       NULL, NULL, "print one JSON object and nothing else"},
                                      {.name = NULL}};

static void print_text(const struct json *o) {
    printf("pdq        %s\ncpu        %s\nfeatures  ", PDQ_VERSION, json_string(json_get(o, "cpu")));
    for (const struct json *f = json_first(json_get(o, "features")); f; f = json_next(f))
        printf(" %s", json_string(f));
    printf("\nmemory     %.1f GB available\nBLIS       %s\noneDNN     %s\nbf16       %s\nlibraries  %s\n",
           json_number(json_get(o, "memory_available")) / 1e9, json_string(json_get(o, "blis")),
           json_string(json_get(o, "onednn")), json_string(json_get(o, "bf16_by")),
           json_string(json_get(o, "libraries")));
    printf("\nthreads   f32 GFLOP/s  bf16 GFLOP/s  copy GB/s  triad GB/s\n");
    for (const struct json *r = json_first(json_get(o, "rates")); r; r = json_next(r)) {
        const struct json *bf16 = json_get(r, "bf16_gflops");
        printf("%7.0f  %12.1f  ", json_number(json_get(r, "threads")), json_number(json_get(r, "f32_gflops")));
        if (json_kind(bf16) == JSON_NUMBER)
            printf("%12.1f", json_number(bf16));
        else
            printf("%12s", "-");
        printf("  %9.1f  %10.1f\n", json_number(json_get(r, "copy_gbs")), json_number(json_get(r, "triad_gbs")));
    }
    if (machine_bf16_is_slow())
        printf("precision bf16 is slower than f32 here\n");
}

static int run(struct call *call, struct error *err) {
    (void)err;
    const struct doctor_options *options = call->options;
    struct json *o = machine_measured();
    json_remove(o, "key");
    json_set_string(o, "pdq", PDQ_VERSION);
    json_set_string(o, "libraries", PDQ_LIBRARIES);
    if (options->json) {
        char *text = json_text(o, 1);
        puts(text);
        free(text);
    } else {
        print_text(o);
    }
    json_free(o);
    return EXIT_FINE;
}

const struct command cmd_doctor = {.name = "doctor",
                                   .arguments = "[--json]",
                                   .summary = "show and measure what this machine can do",
                                   .table = table,
                                   .size = sizeof(struct doctor_options),
                                   .shared_table = common_option_table,
                                   .shared_size = sizeof(struct common_options),
                                   .max_words = 0,
                                   .run = run};
