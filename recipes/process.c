// process.c: see process.h.
#include "recipes/process.h"

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/error.h"

extern char **environ;

static char *read_all(int fd, size_t *len) {
    size_t room = 1 << 16;
    char *data = xmalloc(room, "a program's output");
    *len = 0;
    for (ssize_t n; (n = read(fd, data + *len, room - *len - 1)) > 0;) {
        *len += (size_t)n;
        if (*len + 1 == room)
            data = xrealloc(data, room *= 2, "a program's output");
    }
    data[*len] = '\0';
    return data;
}

// The input goes through an unnamed file, so that two full pipes cannot wait for each other.
static FILE *input_file(const char *input) {
    FILE *f = tmpfile();
    if (f && input)
        fputs(input, f);
    if (f) {
        fflush(f);
        rewind(f);
    }
    return f;
}

char *process_output(const char *const *argv, const char *input, size_t *len) {
    int pipes[2];
    FILE *in = input_file(input);
    if (!in)
        return NULL;
    if (pipe2(pipes, 0) < 0) {
        fclose(in);
        return NULL;
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fileno(in), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, pipes[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", 1 /* O_WRONLY */, 0);
    posix_spawn_file_actions_addclose(&actions, pipes[0]);
    pid_t child;
    int spawned = posix_spawnp(&child, argv[0], &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipes[1]);
    fclose(in);
    char *output = NULL;
    if (spawned == 0) {
        int status;
        output = read_all(pipes[0], len);
        if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            free(output);
            output = NULL;
        }
    }
    close(pipes[0]);
    return output;
}
