#include "bank_internal.h"

#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/log.h"
#include "wire/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DROPPED ".dropped"
#define MAX_USES 1024 /* jobs that are remembered of a bank, the newest */
#define USES_FILE (64u << 10)

uint32_t kd_bank_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

bool kd_bank_pread(int fd, void *buf, size_t len, uint64_t at)
{
    uint8_t *p = buf;
    while (len) {
        ssize_t n = pread(fd, p, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return true;
}

/* ---- who used it */

void kd_bank_read_uses(const char *dir, const char *id, kd_bank_use **out, size_t *out_n)
{
    char path[4096], *text = NULL;
    size_t len, n = 0;
    *out = NULL;
    *out_n = 0;
    snprintf(path, sizeof path, "%s/%s/uses", dir, id);
    if (kd_file_read(path, USES_FILE, &text, &len, NULL) != 0)
        return;
    kd_bank_use *list = calloc(MAX_USES, sizeof *list);
    /* A torn last line does not fit. */
    for (char *at = text, *end; list && (end = strchr(at, '\n')); at = end + 1) {
        uint64_t job, wanted;
        if (sscanf(at, "%12" SCNx64 " %" SCNu64 "\n", &job, &wanted) != 2)
            continue;
        size_t k = 0;
        while (k < n && list[k].job != job)
            k++;
        if (k == MAX_USES)
            memmove(list, list + 1, --k * sizeof *list);
        list[k] = (kd_bank_use){job, wanted};
        n = KD_MAX(n, k + 1);
    }
    free(text);
    *out = list;
    *out_n = n;
}

/* Appended without a sync: a job that goes on after a crash comes by again. */
static void append_use(const char *dir, const kd_bank *b, const kd_bank_use *u)
{
    char path[4096], line[64];
    struct stat st = {0};
    snprintf(path, sizeof path, "%s/%s/uses", dir, b->id);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    bool full = fd >= 0 && fstat(fd, &st) == 0 && st.st_size > USES_FILE - 4096;
    if (full && ftruncate(fd, 0) != 0)
        kd_warn("cannot cut %s: %s", path, strerror(errno));
    for (size_t i = full ? b->n_uses / 2 : b->n_uses; fd >= 0 && i <= b->n_uses; i++) {
        const kd_bank_use *one = i < b->n_uses ? &b->uses[i] : u;
        int n = snprintf(line, sizeof line, "%012" PRIx64 " %" PRIu64 "\n",
                         one->job & 0xffffffffffffu, one->wanted);
        if (write(fd, line, (size_t)n) != n)
            kd_warn("cannot note who uses a logit bank: path=%s err=%s", path, strerror(errno));
    }
    if (fd >= 0)
        close(fd);
}

void kd_bank_note_use(kd_bank *b, uint64_t job, uint64_t wanted)
{
    pthread_mutex_lock(&b->mu);
    size_t i = b->n_uses;
    while (i > 0 && b->uses[i - 1].job != job)
        i--;
    bool known = i > 0;
    if (!known || b->uses[i - 1].wanted < wanted) {
        kd_bank_use u = {job, wanted}, *p;
        append_use(b->store->dir, b, &u);
        if (!known && b->n_uses == MAX_USES)
            memmove(b->uses, b->uses + 1, --b->n_uses * sizeof *b->uses);
        if (known) {
            b->uses[i - 1] = u;
        } else if ((p = realloc(b->uses, (b->n_uses + 1) * sizeof *p))) {
            b->uses = p;
            b->uses[b->n_uses++] = u;
        }
    }
    pthread_mutex_unlock(&b->mu);
}

size_t kd_bank_uses(kd_bank_store *s, const char *id, kd_bank_use **out)
{
    size_t n;
    kd_bank_read_uses(s->dir, id, out, &n);
    return n;
}

/* ---- all of them */

static bool is_id(const char *name)
{
    kd_digest d;
    return kd_digest_parse(name, &d);
}

static int records_path(const kd_bank_store *s, const char *id, char out[4096], struct stat *st,
                        kd_diag *diag)
{
    if (!is_id(id))
        return kd_fail(diag, -KD_EINVAL, "a bank is named by 32 hex digits");
    snprintf(out, 4096, "%s/%s/records.bin", s->dir, id);
    return stat(out, st) == 0 ? 0 : kd_fail(diag, -KD_ENOENT, "there is no logit bank %s", id);
}

static int64_t time_ms(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

void kd_bank_store_each(kd_bank_store *s, kd_bank_fn fn, void *arg)
{
    DIR *folder = opendir(s->dir);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        char path[4096];
        struct stat st;
        if (is_id(e->d_name) && records_path(s, e->d_name, path, &st, NULL) == 0)
            fn(arg, e->d_name, (uint64_t)st.st_size, time_ms(&st));
    }
    if (folder)
        closedir(folder);
}

static void copy_text(const json_t *o, const char *key, char out[33])
{
    const char *text = json_string_value(json_object_get(o, key));
    snprintf(out, 33, "%s", text ? text : "");
}

static void read_description(const kd_bank_store *s, const char *id, kd_bank_about *out)
{
    char path[4096], *text = NULL;
    size_t len;
    snprintf(path, sizeof path, "%s/%s/bank.json", s->dir, id);
    json_t *o = kd_file_read(path, 1 << 20, &text, &len, NULL) == 0
                    ? json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL)
                    : NULL;
    json_int_t classes = json_integer_value(json_object_get(o, "classes"));
    out->damaged = !o || classes < 1 || classes > (json_int_t)KD_MAX_CLASSES;
    out->classes = out->damaged ? 0 : (uint32_t)classes;
    copy_text(o, "teacher", out->teacher);
    copy_text(o, "precision", out->precision);
    copy_text(o, "data", out->data);
    json_decref(o);
    free(text);
}

/* Calls fn for each whole block; *out_at is where the first other one begins. */
typedef int (*block_fn)(void *arg, int fd, uint64_t at, const uint8_t *head, uint64_t bytes);
static int each_block(int fd, uint64_t size, size_t record, block_fn fn, void *arg,
                      uint64_t *out_at)
{
    uint64_t at = 0;
    int rc = 0;
    while (rc == 0 && at + BLOCK_HEAD <= size) {
        uint8_t head[BLOCK_HEAD];
        if (!kd_bank_pread(fd, head, sizeof head, at))
            break;
        uint64_t n = kd_bank_u32(head + 4), bytes = n * record;
        if (memcmp(head, "KDB1", 4) != 0 || n == 0 || bytes > MAX_BLOCK ||
            at + BLOCK_HEAD + bytes > size)
            break;
        rc = fn(arg, fd, at, head, bytes);
        if (rc == 0)
            at += BLOCK_HEAD + bytes;
    }
    *out_at = at;
    return rc;
}

static int count_block(void *arg, int fd, uint64_t at, const uint8_t *head, uint64_t bytes)
{
    (void)fd, (void)at, (void)bytes;
    *(uint64_t *)arg += kd_bank_u32(head + 4);
    return 0;
}

static kd_bank *find_open(kd_bank_store *s, const char *id)
{
    kd_bank *b = s->banks;
    while (b && strcmp(b->id, id) != 0)
        b = b->next;
    return b;
}

/* What of the file is whole: a block may be on its way to an open bank. False for a closed one. */
static bool open_bank(kd_bank_store *s, const char *id, uint64_t *out_end, uint64_t *out_records)
{
    pthread_mutex_lock(&s->mu);
    kd_bank *b = find_open(s, id);
    if (b) {
        pthread_mutex_lock(&b->mu);
        *out_end = b->end;
        *out_records = b->count;
        pthread_mutex_unlock(&b->mu);
    }
    pthread_mutex_unlock(&s->mu);
    return b != NULL;
}

int kd_bank_describe(kd_bank_store *s, const char *id, kd_bank_about *out, kd_diag *diag)
{
    char path[4096];
    struct stat st;
    int rc = records_path(s, id, path, &st, diag);
    if (rc != 0)
        return rc;
    *out = (kd_bank_about){.bytes = (uint64_t)st.st_size, .used_ms = time_ms(&st)};
    snprintf(out->id, sizeof out->id, "%s", id);
    read_description(s, id, out);
    uint64_t end;
    if (out->damaged || open_bank(s, id, &end, &out->records))
        return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return kd_fail(diag, errno == ENOENT ? -KD_ENOENT : -KD_EIO, "cannot open %s: %s", path,
                       strerror(errno));
    rc = each_block(fd, out->bytes, 8 + 4 * (size_t)out->classes, count_block, &out->records, &end);
    close(fd);
    return rc;
}

struct verifying {
    const atomic_bool *stop;
    kd_bank_check *out;
    uint8_t *bytes;
    kd_diag *diag;
};

static int verify_block(void *arg, int fd, uint64_t at, const uint8_t *head, uint64_t bytes)
{
    struct verifying *v = arg;
    uint8_t *p = realloc(v->bytes, bytes);
    if (!p)
        return kd_fail(v->diag, -KD_ENOMEM, "no memory to read a bank");
    v->bytes = p;
    if (atomic_load(v->stop))
        return kd_fail(v->diag, -KD_ECANCELED, "it was stopped");
    if (!kd_bank_pread(fd, p, bytes, at + BLOCK_HEAD) ||
        kd_crc32c(0, p, bytes) != kd_bank_u32(head + 8))
        return 1;
    v->out->blocks++;
    v->out->records += kd_bank_u32(head + 4);
    return 0;
}

int kd_bank_verify(kd_bank_store *s, const char *id, const atomic_bool *stop, kd_bank_check *out,
                   kd_diag *diag)
{
    char path[4096];
    struct stat st;
    kd_bank_about about = {0};
    int rc = records_path(s, id, path, &st, diag);
    if (rc != 0)
        return rc;
    read_description(s, id, &about);
    *out = (kd_bank_check){.bytes = (uint64_t)st.st_size, .bad = about.damaged};
    uint64_t records;
    (void)open_bank(s, id, &out->bytes, &records);
    if (about.damaged)
        return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return kd_fail(diag, -KD_EIO, "cannot open %s: %s", path, strerror(errno));
    struct verifying v = {.stop = stop, .out = out, .diag = diag};
    uint64_t at;
    rc = each_block(fd, out->bytes, 8 + 4 * (size_t)about.classes, verify_block, &v, &at);
    close(fd);
    free(v.bytes);
    out->bad = at < out->bytes;
    out->bad_at = out->bad ? at : 0;
    return KD_MIN(rc, 0);
}

/* ---- the end of one */

int kd_bank_doom(kd_bank_store *s, const char *id, char out_path[4096], kd_diag *diag)
{
    char from[4096], records[4096];
    struct stat st;
    int rc = records_path(s, id, records, &st, diag);
    if (rc != 0)
        return rc;
    snprintf(from, sizeof from, "%s/%s", s->dir, id);
    snprintf(out_path, 4096, "%.3900s/%s" DROPPED, s->dir, id);
    pthread_mutex_lock(&s->mu);
    kd_bank **at = &s->banks;
    while (*at && strcmp((*at)->id, id) != 0)
        at = &(*at)->next;
    kd_bank *b = *at;
    if (b && b->refs > 0)
        rc = kd_fail(diag, -KD_ESTATE, "logits of bank %s are being read or stored", id);
    /* One of that name that could not be removed before. */
    if (rc == 0)
        rc = kd_file_remove_tree(out_path, diag);
    if (rc == 0 && rename(from, out_path) != 0)
        rc = kd_fail(diag, -KD_EIO, "cannot rename %s: %s", from, strerror(errno));
    if (rc == 0 && b) {
        *at = b->next;
        kd_bank_free(b);
    }
    pthread_mutex_unlock(&s->mu);
    KD_FAILPOINT("bank.doomed");
    return rc == 0 ? kd_file_fsync_parent(from, diag) : rc;
}

void kd_bank_drop_doomed(const char *dir)
{
    DIR *folder = opendir(dir);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        size_t n = strlen(e->d_name), end = strlen(DROPPED);
        char path[4096];
        kd_diag diag = {0};
        if (n <= end || strcmp(e->d_name + n - end, DROPPED) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (kd_file_remove_tree(path, &diag) != 0)
            kd_warn("a dropped logit bank stays: %s", diag.msg);
    }
    if (folder)
        closedir(folder);
}
