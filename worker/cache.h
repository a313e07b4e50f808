/* Decoded pictures, kept while they fit, and fetched ahead of need by threads
 * of their own.
 *
 * A sample is decoded at most once while it stays: the first samples that are
 * asked for are kept until the bound is reached, later ones are decoded each
 * time. Threads: any. */
#ifndef KD_WORKER_CACHE_H
#define KD_WORKER_CACHE_H

#include "data/data.h"

typedef struct kd_cache kd_cache;
/* bad is told once of each sample that cannot be decoded (any thread); such a
 * sample comes out as mid-grey. data is borrowed. */
kd_cache *kd_cache_new(const kd_data *data, int size, size_t max_bytes, int threads,
                       void (*bad)(void *arg, size_t sample, const char *why), void *arg);
void kd_cache_free(kd_cache *c);
/* Copies the picture [size,size,3] to rgb; false when it is a bad one. */
bool kd_cache_get(kd_cache *c, size_t sample, uint8_t *rgb);
/* Asks for samples to be decoded soon; forgets what an earlier wish has left.
 */
void kd_cache_ahead(kd_cache *c, const uint32_t *samples, size_t n);

#endif
