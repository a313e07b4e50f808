/* Which samples are in which split. */
#include "data/dataset_internal.h"
#include "kd/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Streams of KD_RNG_SPLIT: max_train draws from (0, 0), the shares from (1, class). */
enum { STREAM_CHOOSE, STREAM_SHARES };

/* Puts `keep` of order[n], drawn without order, in front. */
static void draw(kd_rng *rng, uint32_t *order, size_t n, size_t keep)
{
    for (size_t i = 0; i < keep; i++) {
        size_t k = i + kd_rng_below(rng, (uint32_t)(n - i));
        uint32_t t = order[k];
        order[k] = order[i];
        order[i] = t;
    }
}

/* Numbers of the training samples; caller frees. */
static int training_samples(const kd_data *d, uint32_t **out, size_t *out_n, kd_diag *diag)
{
    uint32_t *all = malloc(KD_MAX(d->n, 1) * sizeof *all);
    size_t n = 0;
    if (!all)
        return kd_fail(diag, -KD_ENOMEM, "no memory to choose among %zu samples", d->n);
    for (size_t i = 0; i < d->n; i++)
        if (d->samples[i].split == KD_SPLIT_TRAIN)
            all[n++] = (uint32_t)i;
    *out = all;
    *out_n = n;
    return 0;
}

int kd_split_choose(kd_data *d, size_t keep, uint64_t seed, kd_diag *diag)
{
    uint32_t *order = NULL;
    size_t n = 0;
    if (keep == 0)
        return 0;
    int rc = training_samples(d, &order, &n, diag);
    if (rc != 0)
        return rc;
    if (keep < n) {
        kd_rng rng;
        kd_rng_init(&rng, seed, KD_RNG_SPLIT, STREAM_CHOOSE, 0);
        draw(&rng, order, n, keep);
        for (size_t i = keep; i < n; i++)
            d->samples[order[i]].split = KD_SPLITS;
    }
    free(order);
    return 0;
}

/* ---- shares */

/* What a share of the classes so far comes to, in whole samples. Taking the differences of these
 * gives each class its share rounded up or down and all of them together the share of the whole.
 */
static size_t quota(double share, size_t samples)
{
    return (size_t)floor(share * (double)samples + 0.5);
}

/* members [n]: the class's training samples; `before` samples stand in classes before it. */
static void share_class(kd_data *d, const kd_data_config *cfg, int label, uint32_t *members,
                        size_t n, size_t before)
{
    size_t rest = n > 0 ? n - 1 : 0; /* one stays, whatever the shares */
    size_t test = quota(cfg->test_share, before + n) - quota(cfg->test_share, before);
    size_t val = quota(cfg->val_share, before + n) - quota(cfg->val_share, before);
    test = KD_MIN(test, rest);
    val = KD_MIN(val, rest - test);
    kd_rng rng;
    kd_rng_init(&rng, cfg->seed, KD_RNG_SPLIT, STREAM_SHARES, (uint64_t)label);
    draw(&rng, members, n, test + val);
    for (size_t i = 0; i < test + val; i++)
        d->samples[members[i]].split = i < test ? KD_SPLIT_TEST : KD_SPLIT_VAL;
}

int kd_split_shares(kd_data *d, const kd_data_config *cfg, kd_diag *diag)
{
    uint32_t *order = NULL, *sorted = NULL;
    size_t n = 0, *first = NULL;
    if (cfg->val_share == 0 && cfg->test_share == 0)
        return 0;
    int rc = training_samples(d, &order, &n, diag);
    if (rc != 0)
        return rc;
    size_t classes = (size_t)d->n_classes;
    first = calloc(classes + 2, sizeof *first);
    sorted = malloc(KD_MAX(n, 1) * sizeof *sorted);
    if (!first || !sorted) {
        rc = kd_fail(diag, -KD_ENOMEM, "no memory to divide %zu samples", n);
    } else {
        /* Counting sort by class: first[c + 1] ends as the place behind class c. */
        for (size_t i = 0; i < n; i++)
            first[(size_t)d->samples[order[i]].label + 2]++;
        for (size_t c = 1; c < classes + 2; c++)
            first[c] += first[c - 1];
        for (size_t i = 0; i < n; i++)
            sorted[first[(size_t)d->samples[order[i]].label + 1]++] = order[i];
        for (size_t c = 0; c < classes; c++)
            share_class(d, cfg, (int)c, sorted + first[c], first[c + 1] - first[c], first[c]);
        size_t got[KD_SPLITS + 1] = {0};
        for (size_t i = 0; i < d->n; i++)
            got[d->samples[i].split]++;
        for (enum kd_split s = KD_SPLIT_VAL; s <= KD_SPLIT_TEST && rc == 0; s++) {
            double share = s == KD_SPLIT_VAL ? cfg->val_share : cfg->test_share;
            if (share > 0 && got[s] == 0)
                rc = kd_fail(diag, -KD_EDATA,
                             "%s_share %g of %zu training samples in %zu classes leaves the %s "
                             "split empty",
                             kd_split_name(s), share, n, classes, kd_split_name(s));
        }
    }
    free(order);
    free(sorted);
    free(first);
    return rc;
}

/* ---- order */

int kd_data_order(kd_data *d, kd_diag *diag)
{
    size_t at[KD_SPLITS] = {0}, kept = 0;
    memset(d->count, 0, sizeof d->count);
    for (size_t i = 0; i < d->n; i++)
        if (d->samples[i].split < KD_SPLITS)
            d->count[d->samples[i].split]++;
    for (enum kd_split s = KD_SPLIT_TRAIN; s < KD_SPLITS; s++) {
        at[s] = kept;
        kept += d->count[s];
    }
    kd_data_sample *sorted = malloc(KD_MAX(kept, 1) * sizeof *sorted);
    if (!sorted)
        return kd_fail(diag, -KD_ENOMEM, "no memory for %zu samples", kept);
    for (size_t i = 0; i < d->n; i++)
        if (d->samples[i].split < KD_SPLITS)
            sorted[at[d->samples[i].split]++] = d->samples[i];
    free(d->samples);
    d->samples = sorted;
    d->n = d->room = kept;
    return 0;
}
