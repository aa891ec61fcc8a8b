// timer.c: see timer.h. Memory comes from /proc and the cgroup files; what cannot be read does not limit.
#include "common/base/timer.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

double timer_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// The number after `key` at the start of a line ("" : the first line); -1 when there is none ("max", no file).
static int64_t number_in(const char *path, const char *key) {
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    char line[512];
    long long value;
    int64_t result = -1;
    size_t skip = strlen(key);
    while (result < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, key, skip) == 0 && sscanf(line + skip, "%lld", &value) == 1)
            result = value;
    fclose(f);
    return result;
}

int64_t memory_peak(void) {
    int64_t kilobytes = number_in("/proc/self/status", "VmHWM:");
    if (kilobytes < 0) { // ru_maxrss would count what ran before exec, so it is the second choice
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        kilobytes = usage.ru_maxrss;
    }
    return kilobytes * 1024;
}

// What a group can still give: its limit less what is used, page cache not counted; -1 without a limit.
static int64_t cgroup_room(const char *folder, const char *limit_name, const char *used_name, const char *cache_key) {
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", folder, limit_name);
    int64_t limit = number_in(path, "");
    snprintf(path, sizeof path, "%s/%s", folder, used_name);
    int64_t used = number_in(path, "");
    if (limit < 0 || used < 0)
        return -1;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    int64_t cache = number_in(path, cache_key);
    int64_t room = limit - used + (cache > 0 ? cache : 0);
    return room > 0 ? room : 0;
}

static int64_t smaller(int64_t a, int64_t b) { return a < 0 ? b : b < 0 || a < b ? a : b; }

// The group of this process and everything above it: each may have a limit.
static int64_t cgroups_room(const char *mount, const char *group, int version) {
    char folder[1024];
    int64_t least = -1;
    snprintf(folder, sizeof folder, "%s%s", mount, group);
    for (;;) {
        least = smaller(least, version == 2 ? cgroup_room(folder, "memory.max", "memory.current", "inactive_file ")
                                            : cgroup_room(folder, "memory.limit_in_bytes", "memory.usage_in_bytes",
                                                          "total_inactive_file "));
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < strlen(mount))
            return least;
        *slash = '\0';
    }
}

int64_t memory_available(void) {
    int64_t kilobytes = number_in("/proc/meminfo", "MemAvailable:");
    int64_t least = kilobytes < 0 ? -1 : kilobytes * 1024;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f) {
        char line[700];
        while (fgets(line, sizeof line, f)) {
            line[strcspn(line, "\n")] = '\0';
            char *controllers = strchr(line, ':');
            char *group = controllers ? strchr(controllers + 1, ':') : NULL;
            if (!group)
                continue;
            *group++ = '\0';
            controllers++;
            if (*controllers == '\0')
                least = smaller(least, cgroups_room("/sys/fs/cgroup", group, 2));
            else if (strcmp(controllers, "memory") == 0)
                least = smaller(least, cgroups_room("/sys/fs/cgroup/memory", group, 1));
        }
        fclose(f);
    }
    return least < 0 ? INT64_MAX : least;
}
