// Files appear complete or not at all; whatever is read says what is wrong with it.
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "common/base/file.h"
#include "common/base/hash.h"

static char folder[64];

static void enter(void) {
    strcpy(folder, "/tmp/pdq-test-file-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    cr_assert_eq(chdir(folder), 0);
}

static void leave(void) {
    struct error err;
    cr_assert_eq(chdir("/"), 0);
    cr_assert_eq(directory_remove(folder, &err), 0, "%s", err.text);
    cr_assert_not(file_exists(folder));
}

TestSuite(file, .init = enter, .fini = leave);

static void check_content(const char *path, const char *expected) {
    struct error err;
    char *data;
    size_t len;
    cr_assert_eq(file_read(path, &data, &len, &err), 0, "%s", err.text);
    cr_assert_eq(len, strlen(expected));
    cr_assert_str_eq(data, expected);
    free(data);
}

Test(file, appears_on_commit_only) {
    struct error err;
    struct file_writer w;
    cr_assert_eq(file_write("out", "old", 3, &err), 0);
    cr_assert_eq(file_writer_open(&w, "out", &err), 0);
    cr_assert_eq(file_writer_put(&w, "newer", 5, &err), 0);
    cr_assert_eq(file_writer_pad(&w, 8, &err), 0);
    cr_assert_eq(w.offset, 8);
    cr_assert_eq(file_writer_pad(&w, 8, &err), 0);
    cr_assert_eq(w.offset, 8);
    fflush(w.stream);
    check_content("out", "old");
    file_writer_abort(&w);
    check_content("out", "old");
    cr_assert_eq(file_writer_open(&w, "out", &err), 0);
    cr_assert_eq(file_writer_put(&w, "newer", 5, &err), 0);
    cr_assert_eq(file_writer_commit(&w, &err), 0);
    file_writer_abort(&w); // nothing left to do
    check_content("out", "newer");
    char **names;
    size_t count;
    cr_assert_eq(directory_list(".", &names, &count, &err), 0);
    cr_assert_eq(count, 1); // no temporary file stays
    names_free(names, count);
}

Test(file, leavings_of_killed_writers) {
    struct error err;
    char *ours = xasprintf("out.tmp-%ld", (long)getppid()); // alive: it may be writing
    cr_assert_eq(file_write("out.tmp-99999999", "x", 1, &err), 0); // no such process: Linux ends at 4194304
    cr_assert_eq(file_write("out.tmp-keep", "x", 1, &err), 0);
    cr_assert_eq(file_write("other.tmp-99999999", "x", 1, &err), 0);
    cr_assert_eq(file_write(ours, "x", 1, &err), 0);
    cr_assert_eq(file_write("out", "x", 1, &err), 0);
    cr_assert_not(file_exists("out.tmp-99999999"));
    cr_assert(file_exists("out.tmp-keep") && file_exists("other.tmp-99999999") && file_exists(ours));
    free(ours);
}

Test(file, cannot_write) {
    struct error err;
    struct file_writer w;
    cr_assert_eq(file_writer_open(&w, "no/such/folder", &err), -1);
    cr_assert(strstr(err.text, "no/such/folder"));
    cr_assert_eq(file_writer_open(&w, folder, &err), -1);
    cr_assert(strstr(err.text, "directory"));
    file_writer_abort(&w);
    if (file_exists("/dev/full") && file_writer_open(&w, "full", &err) == 0) {
        fclose(w.stream);
        w.stream = fopen("/dev/full", "w");
        file_writer_put(&w, "x", 1, &err);
        cr_assert_eq(file_writer_commit(&w, &err), -1);
        cr_assert(strstr(err.text, "No space"), "%s", err.text);
        cr_assert_not(file_exists("full"));
    }
}

Test(file, gzip) {
    struct error err;
    gzFile gz = gzopen("a.gz", "wb");
    for (int i = 0; i < 20000; i++)
        gzprintf(gz, "line %d\n", i);
    gzclose(gz);
    char *data;
    size_t len;
    cr_assert_eq(file_read("a.gz", &data, &len, &err), 0, "%s", err.text);
    cr_assert_eq(len, 208890);
    cr_assert_eq(strncmp(data, "line 0\nline 1\n", 14), 0);
    cr_assert_eq(file_write("a", data, len, &err), 0);
    free(data);
    int64_t bytes;
    cr_assert_eq(file_gzip_size("a", &bytes, &err), 0);
    cr_assert_lt(llabs(bytes - (int64_t)file_size("a.gz")), 64, "%lld", (long long)bytes);
    cr_assert_eq(truncate("a.gz", file_size("a.gz") / 2), 0);
    cr_assert_eq(file_read("a.gz", &data, &len, &err), -1);
    cr_assert(strstr(err.text, "a.gz") && strstr(err.text, "cut off"), "%s", err.text);
    cr_assert_eq(file_write("empty", "", 0, &err), 0);
    cr_assert_eq(file_gzip_size("empty", &bytes, &err), 0);
    cr_assert_eq(bytes, 20);
    check_content("empty", "");
}

Test(file, maps) {
    struct error err;
    struct file_map map;
    cr_assert_eq(file_write("a", "abc", 3, &err), 0);
    cr_assert_eq(file_map(&map, "a", &err), 0);
    cr_assert_eq(map.size, 3);
    cr_assert_eq(memcmp(map.data, "abc", 3), 0);
    file_unmap(&map);
    cr_assert_eq(file_copy("a", "b", &err), 0);
    check_content("b", "abc");
    cr_assert_eq(file_write("empty", "", 0, &err), 0);
    cr_assert_eq(file_map(&map, "empty", &err), 0);
    cr_assert_eq(map.size, 0);
    file_unmap(&map);
    cr_assert_eq(file_map(&map, "absent", &err), -1);
    cr_assert_str_eq(err.text, "absent: cannot open: No such file or directory");
    cr_assert_eq(file_map(&map, folder, &err), -1);
    cr_assert(strstr(err.text, "found a directory"));
    char *data;
    size_t len;
    cr_assert_eq(file_read(folder, &data, &len, &err), -1);
}

Test(file, directories) {
    struct error err;
    char **names;
    size_t count;
    cr_assert_eq(directory_make("x/y//z/", &err), 0, "%s", err.text);
    cr_assert_eq(directory_make("x/y/z", &err), 0);
    cr_assert(file_is_directory("x/y/z"));
    cr_assert_eq(file_write("x/b", "1", 1, &err), 0);
    cr_assert_eq(file_write("x/a", "1", 1, &err), 0);
    cr_assert_eq(directory_list("x", &names, &count, &err), 0);
    cr_assert_eq(count, 3);
    cr_assert_str_eq(names[0], "a");
    cr_assert_str_eq(names[1], "b");
    cr_assert_str_eq(names[2], "y");
    names_free(names, count);
    cr_assert_eq(directory_make("x/a/c", &err), -1);
    cr_assert(strstr(err.text, "x/a"), "%s", err.text);
    cr_assert_eq(file_size("x"), -1);
    cr_assert_eq(file_size("x/a"), 1);
    cr_assert_eq(directory_remove("x", &err), 0);
    cr_assert_eq(directory_remove("x", &err), 0);
    cr_assert_not(file_exists("x"));
    cr_assert_eq(directory_list("x", &names, &count, &err), -1);
    cr_assert_gt(disk_free("not/there/yet"), 0);
}

static void check_path(char *made, const char *expected) {
    cr_assert_str_eq(made, expected);
    free(made);
}

Test(file, paths) {
    check_path(path_join("a", "b"), "a/b");
    check_path(path_join("a/", "b"), "a/b");
    check_path(path_join("a", "/b"), "/b");
    check_path(path_join("", "b"), "b");
    check_path(path_folder("a/b"), "a");
    check_path(path_folder("a/b/"), "a");
    check_path(path_folder("/a"), "/");
    check_path(path_folder("a"), ".");
    check_path(path_folder("/"), "/");
    cr_assert_str_eq(path_base("a/b.c"), "b.c");
    cr_assert_str_eq(path_base("b.c"), "b.c");
    cr_assert(path_ends_with("m.gguf", ".gguf"));
    cr_assert_not(path_ends_with("gguf", ".gguf"));
}

Test(file, hash_of_a_file_is_of_its_bytes) {
    struct error err;
    char one[HASH_TEXT], text[HASH_TEXT];
    cr_assert_eq(file_write("a", "1", 1, &err), 0);
    cr_assert_eq(hash_file("a", one, &err), 0);
    hash_text("1", text);
    cr_assert_str_eq(one, text);
    cr_assert_eq(hash_file("none", one, &err), -1);
}

static long shared_pages(void)
{
    long all = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert(f && fscanf(f, "%ld %ld", &all, &shared) == 2 && fscanf(f, "%ld", &shared) == 1);
    fclose(f);
    return shared;
}

// Of 64 MiB that are gone through once some two megabytes stay: what is at hand, and pages that the system maps around it.
Test(file, a_pass_gives_pages_back)
{
    const size_t bytes = (size_t)64 << 20;
    struct error err;
    struct file_map map;
    struct file_pass pass;
    char path[] = "/tmp/pdq-pass-XXXXXX";
    const int fd = mkstemp(path);
    cr_assert(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    close(fd);
    cr_assert_eq(file_map(&map, path, &err), 0, "%s", err.text);
    unlink(path);
    file_pass_init(&pass);
    const long before = shared_pages();
    unsigned sum = 0;
    for (size_t i = 0; i < bytes; i += 4096) {
        sum += map.data[i];
        file_pass_at(&pass, map.data, bytes, map.data + i);
    }
    cr_expect_eq(sum, 0);
    cr_expect_leq((shared_pages() - before) * sysconf(_SC_PAGESIZE), 8L << 20);
    file_pass_release(&pass);
    file_unmap(&map);
}
