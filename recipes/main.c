// main.c: the command table. Everything that a command is stands in its own file (command.h); here are only the
// parsing that they share, the help, and the exit codes: 0 fine, 1 failed, 2 usage.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "recipes/command.h"

static const struct command *const commands[] = {&cmd_run,      &cmd_sweep,   &cmd_sensitivity, &cmd_prune,   &cmd_sparsify, &cmd_distill, &cmd_quantize,
                                                 &cmd_calibrate, &cmd_train,    &cmd_export,  &cmd_eval,    &cmd_speed,    &cmd_generate,
                                                 &cmd_tokenize, &cmd_inspect, &cmd_doctor,  NULL};

static void print_help(FILE *out) {
    fputs("pdq makes a pretrained transformer smaller: it prunes, distills and quantizes, by recipe.\n\n"
          "usage: pdq COMMAND ...\n\n",
          out);
    for (int i = 0; commands[i]; i++)
        fprintf(out, "  %-11s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n`pdq COMMAND --help` lists a command's options. `pdq --version` prints the version.\n", out);
}

static void print_command_help(const struct command *c) {
    printf("usage: pdq %s %s\n\n%s\n\noptions:\n", c->name, c->arguments, c->summary);
    options_help(c->table, stdout);
    options_help(c->shared_table, stdout);
    if (c->notes)
        printf("\n%s", c->notes);
}

static const struct command *find_command(const char *name) {
    for (int i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    const char *names[sizeof commands / sizeof *commands];
    int n = 0;
    for (; commands[n]; n++)
        names[n] = commands[n]->name;
    names[n] = NULL;
    const char *near = nearest_name(name, names);
    if (near)
        fprintf(stderr, "pdq: unknown command \"%s\"; did you mean \"%s\"?\n", name, near);
    else
        fprintf(stderr, "pdq: unknown command \"%s\"; `pdq --help` lists the commands\n", name);
    return EXIT_USAGE;
}

static int asks_help(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return 1;
    return 0;
}

static int check_words(const struct call *call, struct error *err) {
    const struct command *c = call->command;
    if (call->n_words < c->min_words)
        return error_set(err, "an argument is missing; usage: pdq %s %s", c->name, c->arguments);
    if (call->n_words > c->max_words)
        return error_set(err, "\"%s\" is one argument too many; usage: pdq %s %s", call->words[c->max_words], c->name,
                         c->arguments);
    return 0;
}

static int run_command(const struct command *c, int argc, char **argv) {
    struct error err = {""};
    struct call call = {
        .command = c, .options = xcalloc(1, c->size, "options"), .shared = xcalloc(1, c->shared_size, "options")};
    options_init(c->table, call.options);
    options_init(c->shared_table, call.shared);
    int code = EXIT_USAGE;
    if (options_parse(c->table, call.options, c->shared_table, call.shared, argc, argv, &call.words, &call.n_words,
                      &err) == 0 &&
        check_words(&call, &err) == 0) {
        const struct common_options *common = call.shared;
        log_level = (enum log_level)common->log;
        threads_set((int)common->threads);
        code = c->run(&call, &err);
    }
    if (code != EXIT_FINE)
        fprintf(stderr, "pdq %s: %s\n", c->name, err.text);
    free(call.words);
    options_release(c->table, call.options);
    options_release(c->shared_table, call.shared);
    free(call.options);
    free(call.shared);
    if (fflush(stdout) != 0 && code == EXIT_FINE) {
        fprintf(stderr, "pdq %s: standard output cannot be written\n", c->name);
        code = EXIT_FAILED;
    }
    return code;
}

int main(int argc, char **argv) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        fputs("pdq: this CPU has no AVX2 and FMA, which pdq needs; use a machine made since about 2015 (x86-64-v3)\n", stderr);
        return EXIT_FAILED;
    }
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        const struct command *about = argc > 2 ? find_command(argv[2]) : NULL;
        if (argc > 2 && !about)
            return unknown_command(argv[2]);
        if (about)
            print_command_help(about);
        else
            print_help(stdout);
        return EXIT_FINE;
    }
    if (strcmp(name, "--version") == 0) {
        puts("pdq " PDQ_VERSION);
        return EXIT_FINE;
    }
    const struct command *c = find_command(name);
    if (!c)
        return unknown_command(name);
    if (asks_help(argc - 2, argv + 2)) {
        print_command_help(c);
        return EXIT_FINE;
    }
    return run_command(c, argc - 2, argv + 2);
}
