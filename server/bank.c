#include "bank_internal.h"

#include "kd/clock.h"
#include "kd/failpoint.h"
#include "kd/file.h"
#include "kd/hash.h"
#include "kd/log.h"
#include "wire/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOUCH_MS 60000 /* how exact the time of the last use is */

static uint64_t pair_of(const uint8_t *p)
{
    return (uint64_t)kd_bank_u32(p) << 32 | kd_bank_u32(p + 4);
}

static struct entry *slot_of(struct entry *table, size_t cap, uint64_t key)
{
    size_t i = (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & (cap - 1);
    while (table[i].offset && table[i].key != key)
        i = (i + 1) & (cap - 1);
    return &table[i];
}

static bool reserve(kd_bank *b)
{
    if ((b->count + 1) * 2 <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap * 2 : 1024;
    struct entry *table = calloc(cap, sizeof *table);
    if (!table)
        return false;
    for (size_t i = 0; i < b->cap; i++)
        if (b->table[i].offset)
            *slot_of(table, cap, b->table[i].key) = b->table[i];
    free(b->table);
    b->table = table;
    b->cap = cap;
    return true;
}

/* Reads the blocks and fills the table; cuts the file at the first one that is not whole. */
static int scan(kd_bank *b, const char *path, kd_diag *diag)
{
    struct stat st;
    if (fstat(b->fd, &st) != 0)
        return kd_fail(diag, -KD_EIO, "cannot stat %s: %s", path, strerror(errno));
    uint64_t size = (uint64_t)st.st_size, at = 0;
    uint8_t *records = NULL;
    while (at + BLOCK_HEAD <= size) {
        uint8_t head[BLOCK_HEAD];
        if (!kd_bank_pread(b->fd, head, sizeof head, at))
            break;
        uint64_t n = kd_bank_u32(head + 4), bytes = n * b->record;
        if (memcmp(head, "KDB1", 4) != 0 || n == 0 || bytes > MAX_BLOCK ||
            at + BLOCK_HEAD + bytes > size)
            break;
        uint8_t *p = realloc(records, bytes);
        if (!p) {
            free(records);
            return kd_fail(diag, -KD_ENOMEM, "no memory to read %s", path);
        }
        records = p;
        if (!kd_bank_pread(b->fd, records, bytes, at + BLOCK_HEAD) ||
            kd_crc32c(0, records, bytes) != kd_bank_u32(head + 8))
            break;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t key = pair_of(records + i * b->record);
            if (!reserve(b)) {
                free(records);
                return kd_fail(diag, -KD_ENOMEM, "no memory for the table of %s", path);
            }
            struct entry *e = slot_of(b->table, b->cap, key);
            b->count += e->offset == 0;
            *e = (struct entry){key, at + BLOCK_HEAD + i * b->record};
        }
        at += BLOCK_HEAD + bytes;
    }
    free(records);
    if (at < size) {
        kd_warn("logit bank is damaged or torn: path=%s kept_bytes=%llu dropped_bytes=%llu", path,
                (unsigned long long)at, (unsigned long long)(size - at));
        if (ftruncate(b->fd, (off_t)at) != 0)
            return kd_fail(diag, -KD_EIO, "cannot cut %s: %s", path, strerror(errno));
    }
    b->end = at;
    return 0;
}

static json_t *key_json(const kd_bank_key *k)
{
    return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:I}", "version", 1, "teacher", k->teacher,
                     "precision", k->precision, "numerics", k->numerics, "data", k->data,
                     "view_rule", k->view_rule, "classes", (json_int_t)k->classes);
}

/* The description is written first, so a bank without one has no records that count, and one whose
 * description is damaged begins anew: *out_anew. */
static int check_description(const char *path, const kd_bank_key *key, bool *out_anew,
                             kd_diag *diag)
{
    json_t *mine = key_json(key);
    if (!mine)
        return kd_fail(diag, -KD_EINVAL, "the bank's key is not text");
    char *data = NULL;
    size_t len = 0;
    int rc = kd_file_read(path, 1 << 20, &data, &len, NULL);
    json_t *there = rc == 0 ? json_loadb(data, len, JSON_REJECT_DUPLICATES, NULL) : NULL;
    *out_anew = rc == -KD_ENOENT || (rc == 0 && !json_is_object(there));
    if (*out_anew) {
        if (rc == 0)
            kd_warn("the description of a logit bank is damaged, the bank begins anew: path=%s",
                    path);
        json_decref(there);
        free(data);
        char *text = json_dumps(mine, JSON_INDENT(2));
        rc = text ? kd_file_write(path, text, strlen(text), diag) : -KD_ENOMEM;
        free(text);
        json_decref(mine);
        return rc;
    }
    const char *name;
    json_t *value;
    if (rc != 0)
        (void)kd_fail(diag, rc, "cannot read %s", path);
    json_object_foreach(mine, name, value)
    {
        if (rc == 0 && !json_equal(value, json_object_get(there, name)))
            rc = kd_fail(diag, -KD_EDATA, "%s belongs to another `%s`; move the folder away", path,
                         name);
    }
    json_decref(there);
    json_decref(mine);
    free(data);
    return rc;
}

void kd_bank_free(kd_bank *b)
{
    if (b->fd >= 0)
        close(b->fd);
    free(b->table);
    free(b->path);
    free(b->uses);
    pthread_mutex_destroy(&b->mu);
    free(b);
}

static int bank_open(const char *dir, const char *id, const kd_bank_key *key, kd_bank **out,
                     kd_diag *diag)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, id);
    int rc = kd_file_mkdirs(path, diag);
    if (rc != 0)
        return rc;
    kd_file_drop_temporaries(path);
    snprintf(path, sizeof path, "%s/%s/bank.json", dir, id);
    bool anew = false;
    rc = check_description(path, key, &anew, diag);
    if (rc != 0)
        return rc;
    kd_bank *b = kd_xalloc(sizeof *b);
    pthread_mutex_init(&b->mu, NULL);
    snprintf(b->id, sizeof b->id, "%s", id);
    b->classes = key->classes;
    b->record = 8 + 4 * (size_t)key->classes;
    kd_bank_read_uses(dir, id, &b->uses, &b->n_uses);
    snprintf(path, sizeof path, "%s/%s/records.bin", dir, id);
    b->path = kd_xstrdup(path);
    b->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (anew ? O_TRUNC : 0), 0600);
    rc = b->fd < 0 ? kd_fail(diag, -KD_EIO, "cannot open %s: %s", path, strerror(errno))
                   : scan(b, path, diag);
    if (rc != 0) {
        kd_bank_free(b);
        return rc;
    }
    *out = b;
    return 0;
}

int kd_bank_store_open(const char *dir, kd_bank_store **out, kd_diag *diag)
{
    int rc = kd_file_mkdirs(dir, diag);
    if (rc != 0)
        return rc;
    kd_bank_store *s = kd_xalloc(sizeof *s);
    s->dir = kd_xstrdup(dir);
    pthread_mutex_init(&s->mu, NULL);
    kd_bank_drop_doomed(dir);
    *out = s;
    return 0;
}

void kd_bank_store_keep_free(kd_bank_store *s, uint64_t bytes)
{
    s->keep_free = bytes;
}

void kd_bank_store_close(kd_bank_store *s)
{
    if (!s)
        return;
    while (s->banks) {
        kd_bank *b = s->banks;
        s->banks = b->next;
        kd_bank_free(b);
    }
    pthread_mutex_destroy(&s->mu);
    free(s->dir);
    free(s);
}

int kd_bank_get(kd_bank_store *s, const kd_bank_key *key, kd_bank **out, kd_diag *diag)
{
    if (key->classes == 0 || key->classes > KD_MAX_CLASSES)
        return kd_fail(diag, -KD_EINVAL, "a bank needs 1 to %u classes", KD_MAX_CLASSES);
    kd_buf text;
    kd_buf_init(&text, KD_MAX_CONTROL_BYTES);
    int rc = kd_buf_printf(&text, "%s\n%s\n%s\n%s\n%s\n%u", key->teacher, key->precision,
                           key->numerics, key->data, key->view_rule, key->classes);
    if (rc != 0) {
        kd_buf_clear(&text);
        return kd_fail(diag, rc, "the bank's key is too long");
    }
    kd_digest digest = kd_digest_of(text.data, text.len);
    kd_buf_clear(&text);
    char id[KD_DIGEST_HEX];
    kd_digest_hex(&digest, id);
    pthread_mutex_lock(&s->mu);
    kd_bank *b = s->banks;
    while (b && strcmp(b->id, id) != 0)
        b = b->next;
    if (!b && (rc = bank_open(s->dir, id, key, &b, diag)) == 0) {
        b->store = s;
        b->next = s->banks;
        s->banks = b;
    }
    if (rc == 0) {
        kd_time_ms now = kd_clock_ms();
        b->refs++;
        if (b->touched == 0 || now - b->touched > TOUCH_MS)
            (void)futimens(b->fd, NULL); /* its age counts from here */
        b->touched = b->touched == 0 || now - b->touched > TOUCH_MS ? now : b->touched;
        *out = b;
    }
    pthread_mutex_unlock(&s->mu);
    return rc;
}

void kd_bank_release(kd_bank *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->store->mu);
    b->refs--;
    pthread_mutex_unlock(&b->store->mu);
}

int kd_bank_find(kd_bank *b, const uint8_t *wanted, size_t n, kd_buf *out, kd_diag *diag)
{
    int rc = 0;
    pthread_mutex_lock(&b->mu);
    for (size_t i = 0; i < n && rc == 0 && b->cap; i++) {
        const struct entry *e = slot_of(b->table, b->cap, pair_of(wanted + 8 * i));
        if (!e->offset)
            continue;
        char *at = kd_buf_grow(out, b->record);
        if (!at)
            rc = kd_fail(diag, -KD_ELIMIT, "too many logits asked for at once");
        else if (!kd_bank_pread(b->fd, at, b->record, e->offset))
            rc = kd_fail(diag, -KD_EIO, "cannot read bank %s: %s", b->id, strerror(errno));
    }
    pthread_mutex_unlock(&b->mu);
    return rc;
}

static int append_block(kd_bank *b, const uint8_t *records, uint32_t n, kd_diag *diag)
{
    size_t bytes = n * b->record, all = BLOCK_HEAD + bytes;
    uint8_t *block = malloc(all);
    if (!block)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a bank block");
    uint32_t head[4] = {0, n, kd_crc32c(0, records, bytes), 0};
    memcpy(head, "KDB1", 4);
    memcpy(block, head, BLOCK_HEAD);
    memcpy(block + BLOCK_HEAD, records, bytes);
    size_t done = 0;
    int rc = kd_file_need_room(b->store->dir, b->store->keep_free, all, diag);
    if (rc == 0 && KD_FAILPOINT_FAILS("bank.append"))
        rc = kd_fail(diag, errno == ENOSPC ? -KD_ELIMIT : -KD_EIO, "cannot write bank %s: %s",
                     b->id, strerror(errno));
    while (done < all && rc == 0) {
        ssize_t w = pwrite(b->fd, block + done, all - done, (off_t)(b->end + done));
        if (w > 0)
            done += (size_t)w;
        else if (w < 0 && errno != EINTR)
            rc = kd_fail(diag, errno == ENOSPC ? -KD_ELIMIT : -KD_EIO, "cannot write bank %s: %s",
                         b->id, strerror(errno));
    }
    free(block);
    if (rc != 0 && ftruncate(b->fd, (off_t)b->end) != 0)
        kd_warn("a torn block stays at the end of bank %s until the next start", b->id);
    return rc;
}

int kd_bank_put(kd_bank *b, const uint8_t *records, size_t len, uint32_t *out_new,
                bool *out_differs, kd_diag *diag)
{
    if (len == 0 || len % b->record != 0 || len > MAX_BLOCK)
        return kd_fail(diag, -KD_EINVAL, "logits come in records of %zu bytes", b->record);
    size_t n = len / b->record;
    uint8_t *fresh = malloc(len), *old = malloc(b->record);
    uint32_t added = 0;
    bool differs = false;
    int rc = fresh && old ? 0 : kd_fail(diag, -KD_ENOMEM, "no memory for bank records");
    pthread_mutex_lock(&b->mu);
    uint64_t first = b->end + BLOCK_HEAD;
    for (size_t i = 0; i < n && rc == 0; i++) {
        const uint8_t *r = records + i * b->record;
        uint64_t key = pair_of(r);
        if (!reserve(b)) {
            rc = kd_fail(diag, -KD_ENOMEM, "no memory for the bank's table");
            break;
        }
        struct entry *e = slot_of(b->table, b->cap, key);
        if (e->offset) {
            if (e->offset >= first) /* twice in this very block */
                differs |= memcmp(fresh + (e->offset - first), r, b->record) != 0;
            else if (kd_bank_pread(b->fd, old, b->record, e->offset))
                differs |= memcmp(old, r, b->record) != 0;
            continue;
        }
        *e = (struct entry){key, first + added * b->record};
        b->count++;
        memcpy(fresh + added++ * b->record, r, b->record);
    }
    if (rc == 0 && added && (rc = append_block(b, fresh, added, diag)) == 0) {
        KD_FAILPOINT("bank.appended");
        b->end = first + added * b->record;
        b->dirty = true;
    }
    if (rc != 0) {
        /* Entries of the block that was not written must go: rebuild the table from the file. */
        free(b->table);
        b->table = NULL;
        b->cap = b->count = 0;
        (void)scan(b, b->path, NULL);
    }
    pthread_mutex_unlock(&b->mu);
    free(fresh);
    free(old);
    if (rc == 0) {
        *out_new = added;
        *out_differs = differs;
    }
    return rc;
}

void kd_bank_sync(kd_bank_store *s)
{
    pthread_mutex_lock(&s->mu);
    for (kd_bank *b = s->banks; b; b = b->next) {
        pthread_mutex_lock(&b->mu);
        if (b->dirty && (KD_FAILPOINT_FAILS("bank.sync") || fsync(b->fd) != 0))
            kd_file_fsync_failed(b->path);
        KD_FAILPOINT("bank.synced");
        b->dirty = false;
        pthread_mutex_unlock(&b->mu);
    }
    pthread_mutex_unlock(&s->mu);
}

size_t kd_bank_count(kd_bank *b)
{
    pthread_mutex_lock(&b->mu);
    size_t n = b->count;
    pthread_mutex_unlock(&b->mu);
    return n;
}

kd_bank_totals kd_bank_store_totals(kd_bank_store *s)
{
    kd_bank_totals t = {0};
    pthread_mutex_lock(&s->mu);
    for (kd_bank *b = s->banks; b; b = b->next) {
        pthread_mutex_lock(&b->mu);
        t.banks++;
        t.records += b->count;
        t.bytes += b->end;
        pthread_mutex_unlock(&b->mu);
    }
    pthread_mutex_unlock(&s->mu);
    return t;
}
