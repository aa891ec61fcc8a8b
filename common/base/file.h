// file.h: paths, whole files, maps, and files that appear complete or not at all. The only user of zlib.
//
// A writer writes PATH.tmp-<pid> beside PATH; commit does fsync, rename, fsync of the folder. Abort, or an exit
// before commit, leaves PATH untouched; what a killed process left beside it is removed when PATH is written again.
// Every message names the path and the system's reason.
#ifndef PDQ_FILE_H
#define PDQ_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/error.h"

// Reads a whole file, gunzipping it when it begins with the gzip magic. *data is NUL-terminated (the NUL is not
// counted in *len) and the caller frees it.
int file_read(const char *path, char **data, size_t *len, struct error *err);

// A read-only map. Lifetime: until file_unmap. An empty file maps to size 0.
struct file_map {
    char *path;
    const unsigned char *data;
    size_t size;
};
int file_map(struct file_map *map, const char *path, struct error *err);
void file_unmap(struct file_map *map);
// Bytes of a map that will hardly be read again: their memory goes back at once (reading them reads the file again).
void file_map_drop(const void *from, size_t bytes);

// A reader that goes through maps once: a megabyte that a thread read is given back as soon as the thread reads elsewhere, so that of a large file
// little stays in memory. Lifetime: the reader's.
struct file_pass {
    struct file_piece { uintptr_t first, end; } *last; // [n] by thread
    int n;
};
void file_pass_init(struct file_pass *p); // for as many threads as there are now
void file_pass_release(struct file_pass *p); // fine on a zeroed one
// The calling thread reads at `at`, inside the piece of `bytes` at `whole` (a tensor): what lies beside that is not given back.
void file_pass_at(struct file_pass *p, const void *whole, size_t bytes, const void *at);

struct file_writer {
    FILE *stream;
    char *path, *temporary;
    int64_t offset; // where the next byte goes
    int keeps;      // abort leaves what was written (file_writer_continue)
};
int file_writer_open(struct file_writer *w, const char *path, struct error *err);
int file_writer_put(struct file_writer *w, const void *data, size_t bytes, struct error *err);
int file_writer_pad(struct file_writer *w, size_t alignment, struct error *err); // zeros up to a multiple
int file_writer_seek(struct file_writer *w, int64_t offset, struct error *err); // what is put next goes there, also behind the end
int file_writer_commit(struct file_writer *w, struct error *err);
void file_writer_abort(struct file_writer *w); // fine after commit or on a zeroed writer
int file_write(const char *path, const void *data, size_t bytes, struct error *err); // open, put, commit
int file_copy(const char *from, const char *to, struct error *err);

// The same, but what an earlier process wrote to PATH.part stays: the file is written there, and an abort or an exit leaves it for the next
// one. One process at a time: another waits here. Afterwards the file at PATH may be there (the other made it). `offset` says how
// much is there; file_writer_cut drops what is behind `bytes`.
int file_writer_continue(struct file_writer *w, const char *path, struct error *err);
int file_writer_cut(struct file_writer *w, int64_t bytes, struct error *err);

// One gzip member in memory (level 0 to 9). The caller frees.
void *gzip_pack(const void *data, size_t bytes, int level, size_t *packed);
// Unpacks the member at `packed` into out[room]. *bytes: what it held; *used: what it took of n. -1: damaged, cut off, or more than fits.
int gzip_unpack(const void *packed, size_t n, void *out, size_t room, size_t *bytes, size_t *used);

// Size after gzip -6, for "how much of it is redundancy".
int file_gzip_size(const char *path, int64_t *bytes, struct error *err);

int file_exists(const char *path);
int file_is_directory(const char *path);
int64_t file_size(const char *path); // -1: none
int directory_make(const char *path, struct error *err);   // with parents; fine when it is there
int directory_remove(const char *path, struct error *err); // with everything in it; fine when absent
// The same where it holds nothing but files of these names (NULL ends them), in folders below it too; else, and on failure, all stays.
void directory_remove_bare(const char *path, const char *const *names);
// Names in a directory, sorted, without . and ..; the caller frees with names_free.
int directory_list(const char *path, char ***names, size_t *count, struct error *err);
void names_free(char **names, size_t count);
int64_t disk_free(const char *path); // bytes free for us where path is or would be; -1 unknown

char *path_join(const char *folder, const char *name); // name alone when it is absolute; the caller frees
char *path_folder(const char *path);                   // "." when there is none; the caller frees
const char *path_base(const char *path);               // points into path
int path_ends_with(const char *path, const char *suffix);

#endif
