// output.c: whether what a command writes at its end has a place, asked before the work.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "recipes/command.h"

int output_check(const char *path, int replaces, struct error *err) {
    if (file_is_directory(path))
        return error_set(err, "%s: a folder is there; expected the name of a file to write", path);
    if (file_exists(path) && !replaces)
        return error_set(err, "%s: is there already; --force replaces it", path);
    char *folder = path_folder(path);
    int status = 0;
    if (!file_is_directory(folder))
        status = error_set(err, "%s: cannot be written: %s %s; make the folder, or name another file", path, folder,
                           file_exists(folder) ? "is a file, expected a folder" : "does not exist");
    else if (access(folder, W_OK | X_OK) != 0)
        status = error_set(err, "%s: cannot be written: %s: %s", path, folder, strerror(errno));
    free(folder);
    return status;
}
