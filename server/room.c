#include "room.h"

#include "kd/file.h"
#include "kd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_RESERVE (16u << 20)
#define LITTLE (1u << 20) /* a transaction fits into this */
#define TICK_MS 2000      /* between two looks */
#define PAUSE_MS 200      /* between two tries */
#define PATIENCE_MS 60000 /* until a write that must be is given up */

void kd_room_open(kd_room *r, const char *dir, uint64_t min_free)
{
    char path[4096];
    snprintf(path, sizeof path, "%.3000s/distilld.reserve", dir);
    struct stat st;
    *r = (kd_room){.dir = kd_xstrdup(dir),
                   .reserve = kd_xstrdup(path),
                   .min_free = min_free,
                   .reserve_bytes = KD_MIN(min_free / 4, (uint64_t)MAX_RESERVE)};
    r->reserved = stat(path, &st) == 0 && (uint64_t)st.st_size >= r->reserve_bytes;
}

void kd_room_close(kd_room *r)
{
    free(r->dir);
    free(r->reserve);
    r->dir = r->reserve = NULL;
}

int kd_room_check(const kd_room *r, uint64_t bytes, kd_diag *diag)
{
    return kd_file_need_room(r->dir, r->min_free, bytes, diag);
}

static bool give_up_reserve(kd_room *r)
{
    if (!r->reserved || unlink(r->reserve) != 0)
        return false;
    r->reserved = false;
    kd_warn("the disk of %s is full; the reserve of %llu KiB is given up for the database", r->dir,
            (unsigned long long)r->reserve_bytes >> 10);
    return true;
}

bool kd_room_make(void *arg, bool full)
{
    kd_room *r = arg;
    for (;;) {
        int64_t left = kd_file_free_bytes(r->dir);
        if (!full && (left < 0 || left >= LITTLE)) {
            r->waits_since = 0;
            return true;
        }
        if (give_up_reserve(r))
            return true;
        kd_time_ms now = kd_clock_ms();
        if (!r->waits_since) {
            r->waits_since = now;
            kd_err("the disk of %s is full to the last byte: nothing goes on until there is room",
                   r->dir);
        }
        if (now - r->waits_since > PATIENCE_MS)
            return false;
        usleep(PAUSE_MS * 1000);
        if (full)
            return true;
    }
}

/* Written out, since a file with a hole would reserve nothing. */
static void make_reserve(kd_room *r)
{
    static const char zeros[1 << 16];
    int fd = open(r->reserve, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0;
    for (uint64_t at = 0; ok && at < r->reserve_bytes;) {
        ssize_t n = write(fd, zeros, KD_MIN(r->reserve_bytes - at, (uint64_t)sizeof zeros));
        ok = n > 0 || (n < 0 && errno == EINTR);
        at += n > 0 ? (uint64_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
    if (!ok)
        unlink(r->reserve);
    r->reserved = ok;
}

void kd_room_tick(kd_room *r, kd_time_ms now)
{
    if (r->min_free == 0 || now - r->looked < TICK_MS)
        return;
    r->looked = now;
    int64_t left = kd_file_free_bytes(r->dir);
    if (left < 0)
        return;
    bool low = (uint64_t)left < r->min_free;
    if (low != r->low)
        kd_warn("the disk of %s has %lld MiB free, %s the %llu MiB of --min-free", r->dir,
                (long long)left >> 20, low ? "less than" : "again more than",
                (unsigned long long)r->min_free >> 20);
    r->low = low;
    if (!r->reserved && (uint64_t)left >= r->min_free + r->reserve_bytes)
        make_reserve(r);
}
