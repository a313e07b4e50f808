#include "data/balance.h"

#include "kd/rng.h"

#include <stdlib.h>

/* Thresholds are numbered 100 (1.00) down to 1 (0.01); this stands for min_confidence itself. */
#define AT_MIN 0

typedef struct counts {
    size_t at[101]; /* samples of a class that reach threshold i, and none above it */
} counts;

static float threshold(int i, double min_confidence)
{
    return (float)(i == AT_MIN ? min_confidence : i / 100.0);
}

/* The highest threshold that `confidence` reaches; -1 = not even the lowest. */
static int reached(float confidence, double min_confidence)
{
    if (!(confidence >= (float)min_confidence))
        return -1;
    for (int i = 100; i > 0 && i / 100.0 > min_confidence; i--)
        if (confidence >= threshold(i, min_confidence))
            return i;
    return AT_MIN;
}

static int check(const float *confidence, const int32_t *best_class, size_t n, int classes,
                 double min_confidence, int per_class, uint32_t first_sample, kd_diag *diag)
{
    if (classes < 1 || per_class < 0 || !(min_confidence >= 0 && min_confidence <= 1) ||
        n > UINT32_MAX - first_sample)
        return kd_fail(diag, -KD_EINVAL,
                       "cannot balance %zu samples of %d classes: min_confidence is %g (0 to 1), "
                       "per_class %d",
                       n, classes, min_confidence, per_class);
    for (size_t i = 0; i < n; i++)
        if (best_class[i] < 0 || best_class[i] >= classes ||
            !(confidence[i] >= 0 && confidence[i] <= 1.0001f))
            return kd_fail(diag, -KD_EINVAL,
                           "sample %zu has class %d (of %d) with a confidence of %g",
                           first_sample + i, (int)best_class[i], classes, (double)confidence[i]);
    return 0;
}

/* Copies of one sample of a class that has `have` of `want`. */
static uint8_t draw(size_t want, size_t have, bool upsample, uint64_t seed, uint32_t sample)
{
    kd_rng rng;
    size_t whole = want / have;
    double rest = (double)(want % have) / (double)have;
    kd_rng_init(&rng, seed, KD_RNG_SPLIT, 2, sample);
    size_t n = whole + (kd_rng_double(&rng) < rest);
    return (uint8_t)KD_MIN(n, upsample ? (size_t)KD_BALANCE_MAX_COPIES : 1);
}

int kd_balance(const float *confidence, const int32_t *best_class, size_t n, int classes,
               double min_confidence, int per_class, bool upsample, uint64_t seed,
               uint32_t first_sample, uint8_t *copies, kd_diag *diag)
{
    int rc =
        check(confidence, best_class, n, classes, min_confidence, per_class, first_sample, diag);
    if (rc != 0)
        return rc;
    counts *all = calloc((size_t)classes, sizeof *all);
    if (!all)
        return kd_fail(diag, -KD_ENOMEM, "no memory to balance %d classes", classes);
    for (size_t i = 0; i < n; i++) {
        int at = reached(confidence[i], min_confidence);
        if (at >= 0)
            all[best_class[i]].at[at]++;
    }
    size_t want = (size_t)per_class;
    for (size_t i = 0; i < n; i++) {
        const counts *c = &all[best_class[i]];
        int at = reached(confidence[i], min_confidence), tau = 100;
        size_t have = c->at[100];
        while (tau > AT_MIN && have < want)
            have += c->at[--tau];
        if (per_class == 0)
            copies[i] = at >= 0;
        else
            copies[i] =
                at >= tau ? draw(want, have, upsample, seed, first_sample + (uint32_t)i) : 0;
    }
    free(all);
    return 0;
}
