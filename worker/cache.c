#include "cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { EMPTY, BUSY, THERE, BAD };

struct kd_cache {
    const kd_data *data;
    size_t bytes, n, max;
    void (*bad)(void *arg, size_t sample, const char *why);
    void *arg;
    pthread_mutex_t mu; /* guards all below; a picture that is THERE is never changed */
    pthread_cond_t changed, work;
    uint8_t **pictures;
    uint8_t *states;
    bool *told;
    size_t used;
    uint32_t *wishes;
    size_t n_wishes, next_wish, cap_wishes;
    bool leaving;
    pthread_t *threads;
    int n_threads;
};

static void decode(kd_cache *c, size_t sample, uint8_t *rgb, bool *out_ok)
{
    kd_diag diag = {0};
    *out_ok = kd_data_load(c->data, sample, rgb, &diag) == 0;
    if (*out_ok)
        return;
    memset(rgb, 127, c->bytes);
    pthread_mutex_lock(&c->mu);
    bool first = !c->told[sample];
    c->told[sample] = true;
    pthread_mutex_unlock(&c->mu);
    if (first)
        c->bad(c->arg, sample, diag.msg);
}

/* Makes sure that the sample is kept if there is room. Under the lock on entry
 * and return. */
static void fill(kd_cache *c, size_t sample)
{
    if (c->states[sample] != EMPTY || c->used + c->bytes > c->max)
        return;
    uint8_t *p = malloc(c->bytes);
    if (!p)
        return;
    c->used += c->bytes;
    c->states[sample] = BUSY;
    pthread_mutex_unlock(&c->mu);
    bool ok;
    decode(c, sample, p, &ok);
    pthread_mutex_lock(&c->mu);
    c->pictures[sample] = p;
    c->states[sample] = ok ? THERE : BAD;
    pthread_cond_broadcast(&c->changed);
}

static void *look_ahead(void *arg)
{
    kd_cache *c = arg;
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + 5); /* computing goes first */
    pthread_mutex_lock(&c->mu);
    while (!c->leaving) {
        if (c->next_wish < c->n_wishes)
            fill(c, c->wishes[c->next_wish++]);
        else
            pthread_cond_wait(&c->work, &c->mu);
    }
    pthread_mutex_unlock(&c->mu);
    return NULL;
}

kd_cache *kd_cache_new(const kd_data *data, int size, size_t max_bytes, int threads,
                       void (*bad)(void *, size_t, const char *), void *arg)
{
    kd_cache *c = kd_xalloc(sizeof *c);
    c->data = data;
    c->bytes = (size_t)size * (size_t)size * 3;
    c->n = kd_data_samples(data);
    c->max = max_bytes;
    c->bad = bad;
    c->arg = arg;
    pthread_mutex_init(&c->mu, NULL);
    pthread_cond_init(&c->changed, NULL);
    pthread_cond_init(&c->work, NULL);
    c->pictures = kd_xalloc(c->n * sizeof *c->pictures);
    c->states = kd_xalloc(c->n);
    c->told = kd_xalloc(c->n * sizeof *c->told);
    c->threads = kd_xalloc((size_t)threads * sizeof *c->threads);
    while (c->n_threads < threads &&
           pthread_create(&c->threads[c->n_threads], NULL, look_ahead, c) == 0)
        c->n_threads++;
    return c;
}

void kd_cache_free(kd_cache *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->mu);
    c->leaving = true;
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->mu);
    for (int i = 0; i < c->n_threads; i++)
        pthread_join(c->threads[i], NULL);
    for (size_t i = 0; i < c->n; i++)
        free(c->pictures[i]);
    free(c->pictures);
    free(c->states);
    free(c->told);
    free(c->wishes);
    free(c->threads);
    pthread_mutex_destroy(&c->mu);
    pthread_cond_destroy(&c->changed);
    pthread_cond_destroy(&c->work);
    free(c);
}

bool kd_cache_get(kd_cache *c, size_t sample, uint8_t *rgb)
{
    pthread_mutex_lock(&c->mu);
    fill(c, sample);
    while (c->states[sample] == BUSY)
        pthread_cond_wait(&c->changed, &c->mu);
    uint8_t state = c->states[sample];
    const uint8_t *p = c->pictures[sample];
    pthread_mutex_unlock(&c->mu);
    if (state == EMPTY) {
        bool ok;
        decode(c, sample, rgb, &ok);
        return ok;
    }
    memcpy(rgb, p, c->bytes);
    return state == THERE;
}

void kd_cache_ahead(kd_cache *c, const uint32_t *samples, size_t n)
{
    pthread_mutex_lock(&c->mu);
    if (n > c->cap_wishes) {
        uint32_t *p = realloc(c->wishes, n * sizeof *p);
        if (p) {
            c->wishes = p;
            c->cap_wishes = n;
        }
    }
    c->n_wishes = KD_MIN(n, c->cap_wishes);
    c->next_wish = 0;
    if (c->n_wishes)
        memcpy(c->wishes, samples, c->n_wishes * sizeof *samples);
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->mu);
}
