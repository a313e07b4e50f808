/* What a data set is, in 16 bytes, and pictures that stand in two splits: both need the content of
 * every file, so one pass does both. */
#include "data/dataset_internal.h"
#include "kd/clock.h"
#include "kd/text.h"

#include <stdlib.h>
#include <string.h>

/* Every multi-byte value goes into a digest in one order, so that it means the same on all
 * machines. */
static void add_u64(kd_hasher *h, uint64_t v)
{
    uint8_t b[8];
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    kd_hasher_add(h, b, sizeof b);
}

static void add_text(kd_hasher *h, const char *s)
{
    add_u64(h, strlen(s));
    kd_hasher_add(h, s, strlen(s));
}

static int digest_of_classes(kd_data *d, kd_diag *diag)
{
    kd_hasher *h = kd_hasher_new();
    if (!h)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a digest");
    add_text(h, "distilld classes 1");
    add_u64(h, (uint64_t)d->n_classes);
    for (int c = 0; c < d->n_classes; c++) {
        add_text(h, d->classes[c]);
        if (!kd_utf8_valid(d->classes[c])) {
            kd_hasher_free(h);
            return kd_fail(diag, -KD_EDATA, "the name of class %d is not UTF-8; rename it", c);
        }
    }
    d->classes_digest = kd_hasher_digest(h);
    kd_hasher_free(h);
    return 0;
}

/* Content of one sample, for telling equal pictures. */
typedef struct content {
    kd_digest digest;
    uint32_t sample;
} content;

/* Adds the content of one sample; a missing file adds a marker that no content can equal and is
 * equal to nothing (*out_there false). */
static int add_content(kd_data *d, kd_hasher *h, size_t i, kd_digest *out, bool *out_there,
                       kd_diag *diag)
{
    const kd_data_sample *s = &d->samples[i];
    const kd_data_source *from = &d->sources[s->source];
    *out_there = true;
    if (from->bytes) {
        const uint8_t *pixels = kd_array_pixels(d, s);
        size_t len = (size_t)d->w * (size_t)d->h * (size_t)d->channels;
        kd_hasher_add(h, pixels, len);
        *out = kd_digest_of(pixels, len);
        return 0;
    }
    char *bytes;
    size_t len;
    kd_diag why = {0};
    int rc = kd_data_read(d, from->folder, s->name, KD_IMAGE_MAX_FILE, &bytes, &len, &why);
    if (rc == 0) {
        add_u64(h, 1);
        add_u64(h, len);
        kd_hasher_add(h, bytes, len);
        *out = kd_digest_of(bytes, len);
        free(bytes);
        return 0;
    }
    *out_there = false;
    if (rc == -KD_ENOMEM)
        return kd_fail(diag, rc, "%s", why.msg);
    add_u64(h, 0);
    add_u64(h, (uint64_t)-rc);
    d->missing++;
    return 0;
}

/* What stands before the samples. A set of two splits says what it always said, so that banks of
 * teacher outputs stay valid. */
static void add_head(const kd_data *d, kd_hasher *h)
{
    bool two = d->count[KD_SPLIT_TEST] + d->count[KD_SPLIT_UNLABELLED] == 0 &&
               (d->kind == KD_DATA_IMAGE_FOLDER || d->kind == KD_DATA_IDX);
    add_text(h, two ? "distilld data 1" : "distilld data 2");
    add_u64(h, d->kind);
    kd_hasher_add(h, d->classes_digest.bytes, sizeof d->classes_digest.bytes);
    for (enum kd_split s = KD_SPLIT_TRAIN; s < (two ? KD_SPLIT_TEST : KD_SPLITS); s++)
        add_u64(h, d->count[s]);
    add_u64(h, (uint64_t)d->w);
    add_u64(h, (uint64_t)d->h);
    if (!two)
        add_u64(h, (uint64_t)d->channels);
}

static int digest_of_all(kd_data *d, content *contents, size_t *out_n, kd_data_progress progress,
                         void *arg, kd_diag *diag)
{
    kd_hasher *h = kd_hasher_new();
    if (!h)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a digest");
    kd_time_ms last = kd_clock_ms();
    int rc = 0;
    *out_n = 0;
    add_head(d, h);
    for (size_t i = 0; i < d->n && rc == 0; i++) {
        content c = {.sample = (uint32_t)i};
        bool there;
        add_text(h, d->samples[i].name);
        add_u64(h, (uint64_t)(int64_t)d->samples[i].label);
        rc = add_content(d, h, i, &c.digest, &there, diag);
        if (there)
            contents[(*out_n)++] = c;
        kd_time_ms now = kd_clock_ms();
        if (progress && rc == 0 && (now - last >= 200 || i + 1 == d->n)) {
            last = now;
            if (!progress(i + 1, d->n, arg))
                rc = kd_fail(diag, -KD_ECANCELED, "the data set is wanted no more");
        }
    }
    d->digest = kd_hasher_digest(h);
    kd_hasher_free(h);
    return rc;
}

/* ---- leakage */

static int compare_contents(const void *a, const void *b)
{
    const content *x = a, *y = b;
    int c = memcmp(x->digest.bytes, y->digest.bytes, sizeof x->digest.bytes);
    return c ? c : (x->sample > y->sample) - (x->sample < y->sample);
}

/* A picture may be in the training split and among those without a class: neither is measured
 * on. */
static bool leaks(enum kd_split a, enum kd_split b)
{
    bool measured =
        a == KD_SPLIT_VAL || a == KD_SPLIT_TEST || b == KD_SPLIT_VAL || b == KD_SPLIT_TEST;
    return a != b && measured;
}

/* One group of equal pictures: counts its pairs, and keeps the pair that comes first. */
static void count_pairs(const kd_data *d, const content *c, size_t n, uint64_t *pairs,
                        uint32_t first[2])
{
    uint64_t count[KD_SPLITS] = {0};
    for (size_t i = 0; i < n; i++)
        count[d->samples[c[i].sample].split]++;
    for (enum kd_split a = KD_SPLIT_TRAIN; a < KD_SPLITS; a++)
        for (enum kd_split b = a + 1; b < KD_SPLITS; b++)
            *pairs += leaks(a, b) ? count[a] * count[b] : 0;
    /* Numbers go by split, so if any two of the group leak, its first sample does. */
    for (size_t i = 1; i < n && c[0].sample < first[0]; i++)
        if (leaks(d->samples[c[0].sample].split, d->samples[c[i].sample].split)) {
            first[0] = c[0].sample;
            first[1] = c[i].sample;
        }
}

/* Leaves the group in the most telling split that it is in: test, else validation. */
static size_t move_out(kd_data *d, const content *c, size_t n)
{
    enum kd_split best = KD_SPLIT_TRAIN;
    size_t moved = 0;
    for (size_t i = 0; i < n; i++) {
        enum kd_split s = d->samples[c[i].sample].split;
        if (s == KD_SPLIT_TEST || (s == KD_SPLIT_VAL && best != KD_SPLIT_TEST))
            best = s;
    }
    for (size_t i = 0; i < n && best != KD_SPLIT_TRAIN; i++) {
        kd_data_sample *s = &d->samples[c[i].sample];
        if (s->split != best) {
            s->split = KD_SPLITS;
            moved++;
        }
    }
    return moved;
}

/* The set without the samples that were moved out of it is named by what it was and by what is
 * gone. */
static int digest_without(kd_data *d, kd_diag *diag)
{
    kd_hasher *h = kd_hasher_new();
    if (!h)
        return kd_fail(diag, -KD_ENOMEM, "no memory for a digest");
    add_text(h, "distilld data moved 1");
    kd_hasher_add(h, d->digest.bytes, sizeof d->digest.bytes);
    for (size_t i = 0; i < d->n; i++)
        if (d->samples[i].split == KD_SPLITS)
            add_u64(h, i);
    d->digest = kd_hasher_digest(h);
    kd_hasher_free(h);
    return 0;
}

static int treat(kd_data *d, enum kd_data_leakage leakage, content *contents, size_t n,
                 kd_diag *diag)
{
    uint64_t pairs = 0;
    uint32_t first[2] = {UINT32_MAX, UINT32_MAX};
    qsort(contents, n, sizeof *contents, compare_contents);
    for (size_t i = 0, stop; i < n; i = stop) {
        for (stop = i + 1; stop < n; stop++)
            if (!kd_digest_equal(&contents[i].digest, &contents[stop].digest))
                break;
        if (stop - i < 2)
            continue;
        if (leakage == KD_DATA_MOVE)
            d->moved += move_out(d, contents + i, stop - i);
        else
            count_pairs(d, contents + i, stop - i, &pairs, first);
    }
    if (pairs > 0) {
        const kd_data_sample *a = &d->samples[first[0]], *b = &d->samples[first[1]];
        return kd_fail(diag, -KD_EEXIST,
                       "the same picture is in two splits: %.200s (%s) and %.200s (%s), and %llu "
                       "such pair(s) in all; remove them, or set `leakage: move` (test and "
                       "validation keep them) or `leakage: allow`",
                       a->name, kd_split_name(a->split), b->name, kd_split_name(b->split),
                       (unsigned long long)pairs);
    }
    if (d->moved == 0)
        return 0;
    bool had_val = d->count[KD_SPLIT_VAL] > 0;
    int rc = digest_without(d, diag);
    if (rc == 0)
        rc = kd_data_order(d, diag);
    if (rc == 0 && (d->count[KD_SPLIT_TRAIN] == 0 || (had_val && d->count[KD_SPLIT_VAL] == 0)))
        rc = kd_fail(diag, -KD_EDATA,
                     "every picture of the %s split is in another one, too: with `leakage: move` "
                     "nothing is left of it",
                     d->count[KD_SPLIT_TRAIN] == 0 ? "train" : "val");
    return rc;
}

int kd_data_make_digests(kd_data *d, enum kd_data_leakage leakage, kd_data_progress progress,
                         void *arg, kd_diag *diag)
{
    size_t n = 0;
    content *contents = malloc(KD_MAX(d->n, 1) * sizeof *contents);
    if (!contents)
        return kd_fail(diag, -KD_ENOMEM, "no memory for the digests of %zu samples", d->n);
    int rc = digest_of_classes(d, diag);
    if (rc == 0)
        rc = digest_of_all(d, contents, &n, progress, arg, diag);
    if (rc == 0 && leakage != KD_DATA_ALLOW)
        rc = treat(d, leakage, contents, n, diag);
    free(contents);
    return rc;
}
