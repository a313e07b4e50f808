#include "journal.h"

#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define RECORD_MAGIC 0x314a444bu
static const char g_magic[8] = "KDJRNL1";

struct file_head {
    char magic[8];
    uint8_t identity[16];
    uint64_t first;
};
struct record_head {
    uint32_t magic, chunk;
    uint64_t step;
    uint32_t floats;
    float scale;
    uint32_t crc, head_crc;
};
_Static_assert(sizeof(struct file_head) == 32 && sizeof(struct record_head) == 32, "layout");
_Static_assert(sizeof(kd_step_totals) == (3 + KD_TERM_SUMS) * sizeof(double), "layout");

struct file {
    int fd;
    uint64_t first, bytes;
    uint64_t last; /* newest step that it has a sum of, 0 = none */
    char *path;
};

/* Where a sum lies: in file number `file` - 1 from `at` on; 0 = nowhere. Numbers go up, so
 * an entry of a file that has gone is told by its number. */
struct place {
    uint32_t file;
    uint64_t at;
};

struct kd_journal {
    char *prefix, *dir;
    uint64_t keep_free;
    kd_digest identity;
    uint32_t chunks, chunk_floats;
    uint64_t floats;
    struct file *files; /* oldest first */
    size_t n_files;
    uint32_t gone;        /* files that have gone: number of files[0] */
    uint64_t base;        /* step of places[0] */
    struct place *places; /* [n_steps][chunks] */
    size_t n_steps, cap_steps;
    uint64_t roll_at; /* the next file begins with this step; 0 = none asked for */
};

static size_t chunk_len(const kd_journal *j, uint32_t chunk)
{
    uint64_t first = (uint64_t)chunk * j->chunk_floats;
    return (size_t)KD_MIN((uint64_t)j->chunk_floats, j->floats - first);
}

static size_t record_bytes(const kd_journal *j, uint32_t chunk)
{
    return sizeof(struct record_head) + (chunk == 0 ? sizeof(kd_step_totals) : 0) +
           chunk_len(j, chunk) * sizeof(float);
}

static struct place *place_of(const kd_journal *j, uint64_t step, uint32_t chunk)
{
    if (step < j->base || step - j->base >= j->n_steps || chunk >= j->chunks)
        return NULL;
    return &j->places[(step - j->base) * j->chunks + chunk];
}

static struct file *file_of(const kd_journal *j, const struct place *p)
{
    return p && p->file > j->gone && p->file - j->gone - 1 < j->n_files
               ? &j->files[p->file - j->gone - 1]
               : NULL;
}

static int note_place(kd_journal *j, uint64_t step, uint32_t chunk, uint32_t file, uint64_t at)
{
    size_t want = (size_t)(step - j->base) + 1;
    if (want > j->cap_steps) {
        size_t cap = KD_MAX(want, 2 * j->cap_steps + 64);
        struct place *p = realloc(j->places, cap * j->chunks * sizeof *p);
        if (!p)
            return -KD_ENOMEM;
        j->places = p;
        j->cap_steps = cap;
    }
    if (want > j->n_steps) {
        memset(&j->places[j->n_steps * j->chunks], 0,
               (want - j->n_steps) * j->chunks * sizeof *j->places);
        j->n_steps = want;
    }
    j->places[(step - j->base) * j->chunks + chunk] = (struct place){file, at};
    return 0;
}

/* ---- files */

static void drop_file(struct file *f, bool unlink_it)
{
    if (unlink_it && unlink(f->path) != 0 && errno != ENOENT)
        kd_warn("cannot remove %s: %s", f->path, strerror(errno));
    close(f->fd);
    free(f->path);
}

static struct file *add_file(kd_journal *j)
{
    struct file *p = realloc(j->files, (j->n_files + 1) * sizeof *p);
    if (!p)
        return NULL;
    j->files = p;
    return &j->files[j->n_files++];
}

static bool no_room(int err)
{
    return err == ENOSPC || err == EDQUOT || err == EFBIG;
}

static int new_file(kd_journal *j, uint64_t first, kd_diag *diag)
{
    char path[4096];
    snprintf(path, sizeof path, "%s-journal-%llu", j->prefix, (unsigned long long)first);
    struct file_head h = {.first = first};
    memcpy(h.magic, g_magic, sizeof h.magic);
    memcpy(h.identity, &j->identity, sizeof h.identity);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t n = fd < 0 ? -1 : pwrite(fd, &h, sizeof h, 0);
    if (n != (ssize_t)sizeof h) {
        int err = n < 0 ? errno : ENOSPC;
        if (fd >= 0) {
            close(fd);
            unlink(path);
        }
        return kd_fail(diag, no_room(err) ? -KD_ELIMIT : -KD_EIO, "cannot make journal %s: %s",
                       path, strerror(err));
    }
    struct file *f = add_file(j);
    if (!f) {
        close(fd);
        return kd_fail(diag, -KD_ENOMEM, "no memory for a journal file");
    }
    *f = (struct file){fd, first, sizeof h, 0, kd_xstrdup(path)};
    j->roll_at = 0;
    return 0;
}

/* Takes up the records of a file; cuts off what is not whole. Returns the bytes cut off. */
static int scan(kd_journal *j, struct file *f, uint32_t number, uint64_t *out_torn, kd_diag *diag)
{
    struct stat st;
    if (fstat(f->fd, &st) != 0)
        return kd_fail(diag, -KD_EIO, "cannot stat %s: %s", f->path, strerror(errno));
    uint64_t size = (uint64_t)st.st_size, at = sizeof(struct file_head);
    size_t room = sizeof(kd_step_totals) + (size_t)j->chunk_floats * sizeof(float);
    char *body = malloc(room);
    if (!body)
        return kd_fail(diag, -KD_ENOMEM, "no memory to read %s", f->path);
    int rc = 0;
    for (;;) {
        struct record_head h;
        if (pread(f->fd, &h, sizeof h, (off_t)at) != (ssize_t)sizeof h || h.magic != RECORD_MAGIC ||
            h.chunk >= j->chunks ||
            h.head_crc != kd_crc32c(0, &h, offsetof(struct record_head, head_crc)) ||
            h.floats != chunk_len(j, h.chunk))
            break;
        size_t bytes = record_bytes(j, h.chunk), rest = bytes - sizeof h;
        /* A step far beyond the others would make the table of places as large. */
        if (bytes > size - at || h.step < f->first || h.step - f->first > size ||
            pread(f->fd, body, rest, (off_t)(at + sizeof h)) != (ssize_t)rest ||
            kd_crc32c(0, body, rest) != h.crc)
            break;
        if (h.step >= j->base)
            rc = note_place(j, h.step, h.chunk, number, at);
        f->last = KD_MAX(f->last, h.step);
        if (rc != 0)
            break;
        at += bytes;
    }
    free(body);
    if (rc != 0)
        return kd_fail(diag, rc, "no memory for the index of %s", f->path);
    if (at < size) {
        *out_torn += size - at;
        kd_warn("journal is torn or damaged: path=%s kept_bytes=%llu dropped_bytes=%llu", f->path,
                (unsigned long long)at, (unsigned long long)(size - at));
        if (ftruncate(f->fd, (off_t)at) != 0)
            return kd_fail(diag, -KD_EIO, "cannot cut the torn end off %s: %s", f->path,
                           strerror(errno));
    }
    f->bytes = at;
    return 0;
}

static int by_step(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Steps in the names of the files there are, in order; caller frees. */
static uint64_t *list_files(const char *prefix, size_t *out_n)
{
    const char *slash = strrchr(prefix, '/');
    char dir[4096], name[300];
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - prefix) : 1, slash ? prefix : ".");
    snprintf(name, sizeof name, "%s-journal-", slash ? slash + 1 : prefix);
    uint64_t *steps = NULL;
    size_t n = 0, len = strlen(name);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strncmp(e->d_name, name, len) != 0)
            continue;
        uint64_t *p = realloc(steps, (n + 1) * sizeof *p);
        KD_BUG_ON(!p);
        steps = p;
        steps[n++] = strtoull(e->d_name + len, NULL, 10);
    }
    if (d)
        closedir(d);
    if (n)
        qsort(steps, n, sizeof *steps, by_step);
    *out_n = n;
    return steps;
}

static int open_file(kd_journal *j, uint64_t first, uint64_t *out_torn, kd_diag *diag)
{
    char path[4096];
    struct file_head h;
    snprintf(path, sizeof path, "%s-journal-%llu", j->prefix, (unsigned long long)first);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return kd_fail(diag, -KD_EIO, "cannot open %s: %s", path, strerror(errno));
    bool ours = pread(fd, &h, sizeof h, 0) == (ssize_t)sizeof h &&
                memcmp(h.magic, g_magic, sizeof h.magic) == 0 &&
                memcmp(h.identity, &j->identity, sizeof h.identity) == 0 && h.first == first;
    if (!ours) {
        kd_warn("journal %s is of another stage or damaged, and is removed", path);
        struct stat st;
        *out_torn += fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
        close(fd);
        unlink(path);
        return 0;
    }
    struct file *f = add_file(j);
    if (!f) {
        close(fd);
        return kd_fail(diag, -KD_ENOMEM, "no memory for a journal file");
    }
    *f = (struct file){fd, first, sizeof h, 0, kd_xstrdup(path)};
    return scan(j, f, j->gone + (uint32_t)j->n_files, out_torn, diag);
}

/* Sums after a gap, which only damage makes, are of no use before those of the gap are made again,
 * and those would come to lie in a file that begins later. */
static void drop_after_gap(kd_journal *j, uint64_t *out_torn)
{
    uint64_t end = kd_journal_end(j);
    while (j->n_files && j->files[j->n_files - 1].first > end) {
        struct file *f = &j->files[--j->n_files];
        *out_torn += f->bytes;
        kd_warn("journal %s comes after a gap and is removed", f->path);
        drop_file(f, true);
    }
    /* Their numbers are given again. */
    for (size_t i = 0; i < j->n_steps * j->chunks; i++)
        if (j->places[i].file > j->gone + j->n_files)
            j->places[i] = (struct place){0};
}

int kd_journal_open(const char *prefix, const kd_digest *identity, uint32_t chunks,
                    uint32_t chunk_floats, uint64_t floats, uint64_t base, kd_journal **out,
                    uint64_t *out_torn, kd_diag *diag)
{
    kd_journal *j = kd_xalloc(sizeof *j);
    const char *slash = strrchr(prefix, '/');
    *j = (kd_journal){.prefix = kd_xstrdup(prefix),
                      .dir = slash ? strndup(prefix, (size_t)(slash - prefix)) : kd_xstrdup("."),
                      .identity = *identity,
                      .chunks = chunks,
                      .chunk_floats = chunk_floats,
                      .floats = floats,
                      .base = base};
    *out_torn = 0;
    size_t n = 0;
    uint64_t *steps = list_files(prefix, &n);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = open_file(j, steps[i], out_torn, diag);
    free(steps);
    if (rc != 0) {
        kd_journal_close(j);
        return rc;
    }
    kd_journal_cut(j, base);
    drop_after_gap(j, out_torn);
    *out = j;
    return 0;
}

void kd_journal_close(kd_journal *j)
{
    if (!j)
        return;
    for (size_t i = 0; i < j->n_files; i++)
        drop_file(&j->files[i], false);
    free(j->files);
    free(j->places);
    free(j->prefix);
    free(j->dir);
    free(j);
}

void kd_journal_keep_free(kd_journal *j, uint64_t bytes)
{
    j->keep_free = bytes;
}

void kd_journal_remove(const char *prefix)
{
    size_t n = 0;
    uint64_t *steps = list_files(prefix, &n);
    for (size_t i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s-journal-%llu", prefix, (unsigned long long)steps[i]);
        unlink(path);
    }
    free(steps);
}

/* ---- sums */

bool kd_journal_has(const kd_journal *j, uint64_t step, uint32_t chunk)
{
    return file_of(j, place_of(j, step, chunk)) != NULL;
}

uint64_t kd_journal_end(const kd_journal *j)
{
    for (uint64_t step = j->base;; step++)
        for (uint32_t k = 0; k < j->chunks; k++)
            if (!kd_journal_has(j, step, k))
                return step;
}

int kd_journal_read(kd_journal *j, uint64_t step, uint32_t chunk, float *out, float *out_scale,
                    kd_step_totals *out_totals, kd_diag *diag)
{
    const struct place *p = place_of(j, step, chunk);
    const struct file *f = file_of(j, p);
    if (!f)
        return kd_fail(diag, -KD_ENOENT, "the journal has no sum of step %llu, chunk %u",
                       (unsigned long long)step, chunk);
    struct record_head h;
    kd_step_totals totals = {0};
    size_t bytes = chunk_len(j, chunk) * sizeof(float);
    struct iovec parts[] = {
        {&h, sizeof h}, {&totals, chunk == 0 ? sizeof totals : 0}, {out, bytes}};
    ssize_t got = preadv(f->fd, parts, 3, (off_t)p->at);
    uint32_t crc = kd_crc32c(0, &totals, parts[1].iov_len);
    if (got != (ssize_t)record_bytes(j, chunk) || kd_crc32c(crc, out, bytes) != h.crc)
        return kd_fail(diag, -KD_EDATA, "journal %s is damaged at byte %llu", f->path,
                       (unsigned long long)p->at);
    *out_scale = h.scale;
    if (out_totals)
        *out_totals = totals;
    return 0;
}

int kd_journal_append(kd_journal *j, uint64_t step, uint32_t chunk, const float *sum, float scale,
                      const kd_step_totals *totals, kd_diag *diag)
{
    if (kd_journal_has(j, step, chunk))
        return 0;
    KD_BUG_ON(step < j->base);
    int room = kd_file_need_room(j->dir, j->keep_free, record_bytes(j, chunk), diag);
    if (room != 0)
        return room;
    /* After a restart the file that is asked for may be there already, with sums in it. */
    if (j->n_files && j->files[j->n_files - 1].first >= j->roll_at)
        j->roll_at = 0;
    if (j->n_files == 0 || (j->roll_at && step >= j->roll_at)) {
        int rc = new_file(j, step, diag);
        if (rc != 0)
            return rc;
    }
    struct file *f = &j->files[j->n_files - 1];
    size_t bytes = chunk_len(j, chunk) * sizeof(float);
    struct record_head h = {.magic = RECORD_MAGIC,
                            .chunk = chunk,
                            .step = step,
                            .floats = (uint32_t)chunk_len(j, chunk),
                            .scale = scale};
    struct iovec parts[] = {
        {&h, sizeof h}, {(void *)totals, chunk == 0 ? sizeof *totals : 0}, {(void *)sum, bytes}};
    h.crc = kd_crc32c(kd_crc32c(0, totals, parts[1].iov_len), sum, bytes);
    h.head_crc = kd_crc32c(0, &h, offsetof(struct record_head, head_crc));
    ssize_t n =
        KD_FAILPOINT_FAILS("journal.append") ? -1 : pwritev(f->fd, parts, 3, (off_t)f->bytes);
    if (n != (ssize_t)record_bytes(j, chunk)) {
        int err = n < 0 ? errno : ENOSPC;
        (void)!ftruncate(f->fd, (off_t)f->bytes);
        return kd_fail(diag, no_room(err) ? -KD_ELIMIT : -KD_EIO, "cannot write journal %s: %s",
                       f->path, strerror(err));
    }
    f->last = KD_MAX(f->last, step);
    if (note_place(j, step, chunk, j->gone + (uint32_t)j->n_files, f->bytes) != 0)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the journal's index");
    f->bytes += (uint64_t)n;
    KD_FAILPOINT("journal.appended");
    return 0;
}

void kd_journal_roll(kd_journal *j, uint64_t step)
{
    j->roll_at = step;
}

void kd_journal_cut(kd_journal *j, uint64_t version)
{
    size_t drop = 0;
    KD_FAILPOINT("journal.cut");
    /* A restart in the middle of a step leaves some of its sums in the file before the one that
     * begins with it. The newest file is still written to. */
    while (drop + 1 < j->n_files && j->files[drop].last < version)
        drop_file(&j->files[drop++], true);
    if (drop)
        memmove(j->files, j->files + drop, (j->n_files - drop) * sizeof *j->files);
    j->n_files -= drop;
    j->gone += (uint32_t)drop;
    if (version <= j->base)
        return;
    size_t steps = KD_MIN((size_t)(version - j->base), j->n_steps);
    if (steps)
        memmove(j->places, j->places + steps * j->chunks,
                (j->n_steps - steps) * j->chunks * sizeof *j->places);
    j->n_steps -= steps;
    j->base = version;
}

uint64_t kd_journal_bytes(const kd_journal *j)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < j->n_files; i++)
        bytes += j->files[i].bytes;
    return bytes;
}
