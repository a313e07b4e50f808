#include "tree.h"

#include "kd/bfloat16.h"

#include <stdlib.h>
#include <string.h>

int kd_tree_cover(uint32_t slots, uint32_t first, uint32_t count, uint32_t out[64])
{
    uint32_t left = slots + first, right = left + count;
    uint32_t tail[32];
    int n = 0, n_tail = 0;
    while (left < right) {
        if (left & 1)
            out[n++] = left++;
        if (right & 1)
            tail[n_tail++] = --right;
        left >>= 1;
        right >>= 1;
    }
    while (n_tail)
        out[n++] = tail[--n_tail];
    return n;
}

struct kd_reducer {
    uint32_t slots;
    size_t floats;
    bool bfloat16;
    pthread_mutex_t mu; /* guards all below */
    struct {
        float *sum;
        kd_tree_sums sums;
        bool wanted;
    } * nodes; /* [2*slots] */
    float **pool;
    size_t n_pool, cap_pool;
};

kd_reducer *kd_reducer_new(uint32_t slots, size_t floats, bool bfloat16)
{
    kd_reducer *r = kd_xalloc(sizeof *r);
    r->slots = slots;
    r->floats = floats;
    r->bfloat16 = bfloat16;
    r->cap_pool = 2 * (size_t)slots + 64;
    r->pool = kd_xalloc(r->cap_pool * sizeof *r->pool);
    r->nodes = kd_xalloc(2 * (size_t)slots * sizeof *r->nodes);
    pthread_mutex_init(&r->mu, NULL);
    return r;
}

static void clear(kd_reducer *r)
{
    for (uint32_t i = 0; i < 2 * r->slots; i++) {
        free(r->nodes[i].sum);
        r->nodes[i].sum = NULL;
        r->nodes[i].wanted = false;
    }
}

void kd_reducer_free(kd_reducer *r)
{
    if (!r)
        return;
    clear(r);
    for (size_t i = 0; i < r->n_pool; i++)
        free(r->pool[i]);
    free(r->pool);
    free(r->nodes);
    pthread_mutex_destroy(&r->mu);
    free(r);
}

void kd_reducer_start(kd_reducer *r)
{
    pthread_mutex_lock(&r->mu);
    clear(r);
    pthread_mutex_unlock(&r->mu);
}

void kd_reducer_want(kd_reducer *r, const uint32_t *nodes, int n_nodes)
{
    pthread_mutex_lock(&r->mu);
    for (int i = 0; i < n_nodes; i++)
        r->nodes[nodes[i]].wanted = true;
    pthread_mutex_unlock(&r->mu);
}

float *kd_reducer_take(kd_reducer *r)
{
    pthread_mutex_lock(&r->mu);
    float *p = r->n_pool ? r->pool[--r->n_pool] : NULL;
    pthread_mutex_unlock(&r->mu);
    return p ? p : aligned_alloc(64, (r->floats * sizeof(float) + 63) / 64 * 64);
}

void kd_reducer_give(kd_reducer *r, float *buffer)
{
    pthread_mutex_lock(&r->mu);
    if (r->n_pool < r->cap_pool) {
        r->pool[r->n_pool++] = buffer;
        buffer = NULL;
    }
    pthread_mutex_unlock(&r->mu);
    free(buffer);
}

static kd_tree_sums add_sums(const kd_tree_sums *a, const kd_tree_sums *b)
{
    kd_tree_sums s = {.loss = a->loss + b->loss,
                      .correct = a->correct + b->correct,
                      .samples = a->samples + b->samples};
    for (int i = 0; i < KD_TERM_SUMS; i++)
        s.terms[i] = a->terms[i] + b->terms[i];
    return s;
}

static void add(const kd_reducer *r, float *sum, const float *other)
{
    if (r->bfloat16)
        kd_bfloat16_add(sum, other, r->floats);
    else
        for (size_t i = 0; i < r->floats; i++)
            sum[i] += other[i];
}

float *kd_reducer_add(kd_reducer *r, uint32_t slot, float *gradient, const kd_tree_sums *sums,
                      uint32_t *out_node, kd_tree_sums *out_sums)
{
    uint32_t at = r->slots + slot;
    kd_tree_sums s = *sums;
    for (;;) {
        pthread_mutex_lock(&r->mu);
        if (r->nodes[at].wanted) {
            pthread_mutex_unlock(&r->mu);
            *out_node = at;
            *out_sums = s;
            return gradient;
        }
        float *other = at > 1 ? r->nodes[at ^ 1].sum : NULL;
        kd_tree_sums o = {0};
        if (other) {
            o = r->nodes[at ^ 1].sums;
            r->nodes[at ^ 1].sum = NULL;
        } else {
            r->nodes[at].sum = gradient;
            r->nodes[at].sums = s;
        }
        pthread_mutex_unlock(&r->mu);
        if (!other)
            return NULL;
        /* The additions run outside the lock: nobody else has either buffer now. */
        bool left = (at & 1) == 0;
        float *a = left ? gradient : other, *b = left ? other : gradient;
        add(r, a, b);
        const kd_tree_sums *sa = left ? &s : &o, *sb = left ? &o : &s;
        s = add_sums(sa, sb);
        kd_reducer_give(r, b);
        gradient = a;
        at >>= 1;
    }
}
