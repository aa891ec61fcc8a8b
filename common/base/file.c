// file.c: see file.h.
#include "common/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <zlib.h>

#include "common/base/threads.h"

#define CHUNK ((size_t)1 << 20)

// Opens for reading what is not a directory, so that the message is about the path and not about a read.
static int open_read(const char *path, struct stat *info, struct error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(fd, info) < 0 || S_ISDIR(info->st_mode)) {
        error_set(err, "%s: expected a file, found %s", path,
                  S_ISDIR(info->st_mode) ? "a directory" : strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

int file_read(const char *path, char **data, size_t *len, struct error *err) {
    struct stat info;
    int fd = open_read(path, &info, err);
    if (fd < 0)
        return -1;
    gzFile gz = gzdopen(fd, "rb"); // passes through what is not gzip
    if (!gz) {
        close(fd);
        return error_set(err, "%s: out of memory for zlib", path);
    }
    gzbuffer(gz, 1 << 17);
    size_t room = info.st_size > 0 ? (size_t)info.st_size + 1 : CHUNK, used = 0;
    char *text = xmalloc(room + 1, path);
    for (;;) {
        if (used == room) {
            room += room / 2 + CHUNK;
            text = xrealloc(text, room + 1, path);
        }
        size_t want = room - used < CHUNK ? room - used : CHUNK;
        int got = gzread(gz, text + used, (unsigned)want);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    int code;
    const char *reason = gzerror(gz, &code);
    if (code == Z_ERRNO)
        reason = strerror(errno);
    else if (strncmp(reason, "<fd:", 4) == 0 && strstr(reason, ">: ")) // zlib's word for the file
        reason = strstr(reason, ">: ") + 3;
    if (code != Z_OK && code != Z_STREAM_END) {
        error_set(err, "%s: cannot read after %zu bytes: %s%s", path, used, reason,
                  code == Z_BUF_ERROR ? " (the gzip file is cut off)" : code == Z_DATA_ERROR ? " (the gzip file is damaged)" : "");
        gzclose(gz);
        free(text);
        return -1;
    }
    gzclose(gz);
    text[used] = '\0';
    *data = text;
    *len = used;
    return 0;
}

int file_map(struct file_map *map, const char *path, struct error *err) {
    struct stat info;
    *map = (struct file_map){0};
    int fd = open_read(path, &info, err);
    if (fd < 0)
        return -1;
    if (!S_ISREG(info.st_mode)) {
        close(fd);
        return error_set(err, "%s: expected a regular file, found a device or pipe", path);
    }
    if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            error_set(err, "%s: cannot map %lld bytes: %s", path, (long long)info.st_size, strerror(errno));
            close(fd);
            return -1;
        }
        map->data = data;
        map->size = (size_t)info.st_size;
    }
    close(fd);
    map->path = xstrdup(path);
    return 0;
}

void file_unmap(struct file_map *map) {
    if (map->size)
        munmap((void *)map->data, map->size);
    free(map->path);
    *map = (struct file_map){0};
}

void file_map_drop(const void *from, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)from + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)from + bytes) / page * page;
    if (end > first)
        madvise((void *)first, end - first, MADV_DONTNEED); // a refusal costs nothing but memory
}

#define PASS_UNIT ((uintptr_t)1 << 20) // of pages that are given back at once

void file_pass_init(struct file_pass *p) {
    p->n = threads_count();
    p->last = xcalloc((size_t)p->n, sizeof *p->last, "a pass through a file");
}

void file_pass_release(struct file_pass *p) {
    free(p->last);
    *p = (struct file_pass){0};
}

void file_pass_at(struct file_pass *p, const void *whole, size_t bytes, const void *at) {
    const uintptr_t start = (uintptr_t)whole, end = start + bytes, unit = (uintptr_t)at / PASS_UNIT * PASS_UNIT;
    struct file_piece *last = &p->last[thread_number() % p->n];
    const struct file_piece now = {unit > start ? unit : start, unit + PASS_UNIT < end ? unit + PASS_UNIT : end};
    if (last->end && last->first != now.first)
        file_map_drop((const void *)last->first, last->end - last->first);
    *last = now;
}

// Removes what killed writers of the same file left: PATH.tmp-<pid> of processes that are no more.
static void remove_stale(const char *path) {
    struct error ignored;
    char *folder = path_folder(path), **names;
    const char *base = path_base(path);
    size_t count, n = strlen(base);
    if (directory_list(folder, &names, &count, &ignored) == 0) {
        for (size_t i = 0; i < count; i++) {
            if (strncmp(names[i], base, n) != 0 || strncmp(names[i] + n, ".tmp-", 5) != 0)
                continue;
            char *end, *file = path_join(folder, names[i]);
            long pid = strtol(names[i] + n + 5, &end, 10);
            if (pid > 0 && *end == '\0' && kill((pid_t)pid, 0) != 0 && errno == ESRCH)
                unlink(file);
            free(file);
        }
        names_free(names, count);
    }
    free(folder);
}

int file_writer_open(struct file_writer *w, const char *path, struct error *err) {
    *w = (struct file_writer){0};
    if (file_is_directory(path))
        return error_set(err, "%s: cannot write a file: a directory has this name", path);
    remove_stale(path);
    char *temporary = xasprintf("%s.tmp-%ld", path, (long)getpid());
    FILE *stream = fopen(temporary, "wbe");
    if (!stream) {
        error_set(err, "%s: cannot write: %s", path, strerror(errno));
        free(temporary);
        return -1;
    }
    *w = (struct file_writer){.stream = stream, .path = xstrdup(path), .temporary = temporary};
    return 0;
}

int file_writer_continue(struct file_writer *w, const char *path, struct error *err) {
    *w = (struct file_writer){0};
    if (file_is_directory(path))
        return error_set(err, "%s: cannot write a file: a directory has this name", path);
    char *part = xasprintf("%s.part", path);
    for (;;) {
        struct stat here, there;
        int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0 || flock(fd, LOCK_EX) < 0 || fstat(fd, &here) < 0) {
            error_set(err, "%s: cannot write: %s", path, strerror(errno));
            if (fd >= 0)
                close(fd);
            free(part);
            return -1;
        }
        if (stat(part, &there) == 0 && here.st_ino == there.st_ino) {
            *w = (struct file_writer){
                .stream = fdopen(fd, "r+b"), .path = xstrdup(path), .temporary = part, .offset = (int64_t)here.st_size, .keeps = 1};
            fseeko(w->stream, 0, SEEK_END);
            return 0;
        }
        close(fd); // another process has finished it and put it in place while this one waited
    }
}

int file_writer_cut(struct file_writer *w, int64_t bytes, struct error *err) {
    if (fflush(w->stream) != 0 || ftruncate(fileno(w->stream), (off_t)bytes) < 0 || fseeko(w->stream, (off_t)bytes, SEEK_SET) < 0)
        return error_set(err, "%s: cannot be cut to %lld bytes: %s", w->temporary, (long long)bytes, strerror(errno));
    w->offset = bytes;
    return 0;
}

int file_writer_put(struct file_writer *w, const void *data, size_t bytes, struct error *err) {
    if (bytes && fwrite(data, 1, bytes, w->stream) != bytes)
        return error_set(err, "%s: cannot write at byte %lld: %s", w->path, (long long)w->offset, strerror(errno));
    w->offset += (int64_t)bytes;
    return 0;
}

int file_writer_seek(struct file_writer *w, int64_t offset, struct error *err) {
    if (offset != w->offset && fseeko(w->stream, (off_t)offset, SEEK_SET) != 0)
        return error_set(err, "%s: cannot write at byte %lld: %s", w->path, (long long)offset, strerror(errno));
    w->offset = offset;
    return 0;
}

int file_writer_pad(struct file_writer *w, size_t alignment, struct error *err) {
    static const char zeros[256];
    size_t left = (alignment - (size_t)w->offset % alignment) % alignment;
    while (left) {
        size_t n = left < sizeof zeros ? left : sizeof zeros;
        TRY(file_writer_put(w, zeros, n, err));
        left -= n;
    }
    return 0;
}

// Makes the rename itself durable. Some file systems cannot sync a folder; the file is complete all the same.
static void sync_folder_of(const char *path) {
    char *folder = path_folder(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

int file_writer_commit(struct file_writer *w, struct error *err) {
    if (fflush(w->stream) != 0 || fsync(fileno(w->stream)) != 0) {
        error_set(err, "%s: cannot write %lld bytes: %s", w->path, (long long)w->offset, strerror(errno));
        file_writer_abort(w);
        return -1;
    }
    int failed = fclose(w->stream) != 0;
    w->stream = NULL;
    if (failed || rename(w->temporary, w->path) != 0) {
        error_set(err, "%s: cannot put the finished file in place: %s", w->path, strerror(errno));
        file_writer_abort(w);
        return -1;
    }
    sync_folder_of(w->path);
    free(w->path);
    free(w->temporary);
    *w = (struct file_writer){0};
    return 0;
}

void file_writer_abort(struct file_writer *w) {
    if (w->stream)
        fclose(w->stream);
    if (w->temporary && !w->keeps)
        unlink(w->temporary);
    free(w->path);
    free(w->temporary);
    *w = (struct file_writer){0};
}

int file_write(const char *path, const void *data, size_t bytes, struct error *err) {
    struct file_writer w;
    TRY(file_writer_open(&w, path, err));
    if (file_writer_put(&w, data, bytes, err) < 0) {
        file_writer_abort(&w);
        return -1;
    }
    return file_writer_commit(&w, err);
}

int file_copy(const char *from, const char *to, struct error *err) {
    struct file_map map;
    TRY(file_map(&map, from, err));
    int result = file_write(to, map.data, map.size, err);
    file_unmap(&map);
    return result;
}

int file_gzip_size(const char *path, int64_t *bytes, struct error *err) {
    struct file_map map;
    TRY(file_map(&map, path, err));
    z_stream z = {0};
    unsigned char *out = xmalloc(CHUNK, "gzip output");
    int code = deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY); // + 16: gzip header and trailer
    int64_t total = 0;
    size_t at = 0;
    while (code == Z_OK && !interrupted()) {
        if (z.avail_in == 0 && at < map.size) {
            size_t n = map.size - at < CHUNK ? map.size - at : CHUNK;
            z.next_in = (unsigned char *)map.data + at;
            z.avail_in = (unsigned)n;
            at += n;
        }
        z.next_out = out;
        z.avail_out = (unsigned)CHUNK;
        code = deflate(&z, at == map.size ? Z_FINISH : Z_NO_FLUSH);
        total += (int64_t)(CHUNK - z.avail_out);
    }
    deflateEnd(&z);
    free(out);
    file_unmap(&map);
    if (code != Z_STREAM_END)
        return code == Z_OK ? interrupt_check(err) : error_set(err, "%s: zlib failed with code %d", path, code);
    *bytes = total;
    return 0;
}

void *gzip_pack(const void *data, size_t bytes, int level, size_t *packed) {
    z_stream z = {0};
    if (bytes > UINT_MAX / 2 || deflateInit2(&z, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        BUG("gzip_pack: %zu bytes at level %d", bytes, level);
    const size_t room = deflateBound(&z, bytes);
    unsigned char *out = xmalloc(room, "gzip output");
    z.next_in = (unsigned char *)data;
    z.avail_in = (unsigned)bytes;
    z.next_out = out;
    z.avail_out = (unsigned)room;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END)
        BUG("gzip_pack: %zu bytes do not fit %zu", bytes, room);
    *packed = z.total_out;
    deflateEnd(&z);
    return out;
}

int gzip_unpack(const void *packed, size_t n, void *out, size_t room, size_t *bytes, size_t *used) {
    z_stream z = {.next_in = (unsigned char *)packed, .avail_in = n < UINT_MAX ? (unsigned)n : UINT_MAX};
    z.next_out = out;
    z.avail_out = room < UINT_MAX ? (unsigned)room : UINT_MAX;
    if (inflateInit2(&z, 15 + 16) != Z_OK)
        return -1;
    int code = inflate(&z, Z_FINISH);
    *bytes = z.total_out;
    *used = z.total_in;
    inflateEnd(&z);
    return code == Z_STREAM_END ? 0 : -1; // length and CRC were checked
}

int file_exists(const char *path) { return access(path, F_OK) == 0; }

int file_is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

int64_t file_size(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) ? (int64_t)info.st_size : -1;
}

int directory_make(const char *path, struct error *err) {
    char *part = xstrdup(path);
    int result = 0;
    for (char *p = part + 1; *part && result == 0; p++) {
        char c = *p;
        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(part, 0777) != 0 && !file_is_directory(part))
            result = error_set(err, "%s: cannot make the directory %s: %s", path, part,
                               errno == EEXIST ? "a file has this name" : strerror(errno));
        *p = c;
        if (c == '\0')
            break;
    }
    free(part);
    return result;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

int directory_remove(const char *path, struct error *err) {
    struct stat info;
    if (lstat(path, &info) != 0 && errno == ENOENT)
        return 0;
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0)
        return error_set(err, "%s: cannot remove the directory: %s", path, strerror(errno));
    return 0;
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int directory_list(const char *path, char ***names, size_t *count, struct error *err) {
    DIR *folder = opendir(path);
    if (!folder)
        return error_set(err, "%s: cannot list the directory: %s", path, strerror(errno));
    char **list = NULL;
    size_t n = 0, room = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (n == room) {
            room = room * 2 + 16;
            list = xrealloc(list, room * sizeof *list, "names in a directory");
        }
        list[n++] = xstrdup(entry->d_name);
    }
    closedir(folder);
    if (n)
        qsort(list, n, sizeof *list, compare_names);
    *names = list;
    *count = n;
    return 0;
}

void names_free(char **names, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

static int is_bare(const char *path, const char *const *names) {
    struct error ignored;
    char **found;
    size_t n;
    if (directory_list(path, &found, &n, &ignored) < 0)
        return 0;
    int bare = 1;
    for (size_t i = 0; i < n && bare; i++) {
        char *file = path_join(path, found[i]);
        const char *const *name = names;
        while (*name && strcmp(*name, found[i]) != 0)
            name++;
        bare = file_is_directory(file) ? is_bare(file, names) : *name != NULL;
        free(file);
    }
    names_free(found, n);
    return bare;
}

void directory_remove_bare(const char *path, const char *const *names) {
    struct error ignored;
    if (is_bare(path, names))
        directory_remove(path, &ignored);
}

int64_t disk_free(const char *path) {
    struct statvfs info;
    char *place = xstrdup(path);
    while (statvfs(place, &info) != 0) {
        char *up = errno == ENOENT || errno == ENOTDIR ? path_folder(place) : NULL;
        int stuck = !up || strcmp(up, place) == 0;
        free(place);
        if (stuck) {
            free(up);
            return -1;
        }
        place = up;
    }
    free(place);
    return (int64_t)info.f_bavail * (int64_t)info.f_frsize;
}

char *path_join(const char *folder, const char *name) {
    if (*name == '/' || *folder == '\0')
        return xstrdup(name);
    return xasprintf("%s%s%s", folder, path_ends_with(folder, "/") ? "" : "/", name);
}

char *path_folder(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    if (n == 0)
        return xstrdup(".");
    while (n > 1 && path[n - 1] == '/')
        n--;
    return xasprintf("%.*s", (int)n, path);
}

const char *path_base(const char *path) {
    const char *base = path;
    for (const char *p = path; *p; p++)
        if (*p == '/' && p[1] != '/' && p[1] != '\0')
            base = p + 1;
    return base;
}

int path_ends_with(const char *path, const char *suffix) {
    size_t n = strlen(path), m = strlen(suffix);
    return n >= m && strcmp(path + n - m, suffix) == 0;
}
