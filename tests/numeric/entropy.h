/* Goldens that define softened distillation as a cross-entropy are the divergence plus this. */
#ifndef KD_TEST_ENTROPY_H
#define KD_TEST_ENTROPY_H

#include <math.h>

/* Mean over n rows of the entropy of softmax(v/temperature). */
static inline double mean_entropy(int n, int classes, const float *v, double temperature)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const float *row = v + (size_t)i * (size_t)classes;
        double all = 0, along = 0;
        for (int j = 0; j < classes; j++)
            all += exp((double)row[j] / temperature);
        for (int j = 0; j < classes; j++)
            along += exp((double)row[j] / temperature) / all * (double)row[j] / temperature;
        sum += log(all) - along;
    }
    return sum / n;
}

#endif
