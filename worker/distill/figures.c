#include "distill/figures.h"

#include "distill/loss.h"

#include <math.h>
#include <stdlib.h>

static int make_room(kd_figures *f, kd_diag *diag)
{
    const size_t classes = (size_t)f->classes;
    f->samples = calloc(3 * classes, sizeof *f->samples);
    if (f->classes <= KD_FIGURES_MATRIX)
        f->confusion = calloc(classes * classes, sizeof *f->confusion);
    if (!f->samples || (f->classes <= KD_FIGURES_MATRIX && !f->confusion))
        return kd_fail(diag, -KD_ENOMEM, "no memory for the figures of %d classes", f->classes);
    f->guessed = f->samples + classes;
    f->right = f->guessed + classes;
    return 0;
}

/* Classes that come before `label` in the order of guesses. */
static int rank_of(const float *z, int classes, int label)
{
    int rank = 0;
    for (int c = 0; c < classes; c++)
        rank += z[c] > z[label] || (z[c] == z[label] && c < label);
    return rank;
}

static double probability_of(const float *z, int classes, int guess)
{
    double sum = 0;
    for (int c = 0; c < classes; c++)
        sum += exp((double)z[c] - (double)z[guess]);
    return 1 / sum;
}

int kd_figures_of(const float *logits, const int32_t *labels, size_t n, int classes,
                  kd_figures *out, kd_diag *diag)
{
    kd_figures f = {.classes = classes, .n = n};
    double loss = 0, right[KD_FIGURES_BINS] = {0}, sure[KD_FIGURES_BINS] = {0};
    int rc = make_room(&f, diag);
    for (size_t i = 0; i < n && !rc; i++) {
        const float *z = logits + i * (size_t)classes;
        const int label = labels[i], guess = kd_argmax(z, classes);
        const double ce = kd_cross_entropy(z, classes, label);
        const double p = probability_of(z, classes, guess);
        if (!isfinite(ce) || !isfinite(p)) {
            rc = kd_fail(diag, -KD_EDATA, "the logits of sample %zu are not finite", i);
            break;
        }
        const int bin = KD_MIN((int)(p * KD_FIGURES_BINS), KD_FIGURES_BINS - 1);
        loss += ce;
        f.correct += guess == label;
        f.top5 += rank_of(z, classes, label) < 5;
        right[bin] += guess == label;
        sure[bin] += p;
        f.samples[label]++;
        f.guessed[guess]++;
        f.right[label] += guess == label;
        if (f.confusion)
            f.confusion[(size_t)label * (size_t)classes + (size_t)guess]++;
    }
    if (rc) {
        kd_figures_clear(&f);
        return rc;
    }
    const double count = n ? (double)n : 1;
    for (int b = 0; b < KD_FIGURES_BINS; b++)
        f.ece += fabs(right[b] - sure[b]) / count;
    f.loss = loss / count;
    *out = f;
    return 0;
}

void kd_figures_clear(kd_figures *f)
{
    free(f->samples);
    free(f->confusion);
    *f = (kd_figures){0};
}

static double ratio(uint32_t part, uint32_t whole)
{
    return whole ? (double)part / whole : 0;
}

double kd_figures_precision(const kd_figures *f, int c)
{
    return ratio(f->right[c], f->guessed[c]);
}

double kd_figures_recall(const kd_figures *f, int c)
{
    return ratio(f->right[c], f->samples[c]);
}

double kd_figures_f1(const kd_figures *f, int c)
{
    const uint32_t both = f->samples[c] + f->guessed[c];
    return both ? 2.0 * f->right[c] / both : 0;
}
