/* What goes by which id: a table with open addressing, so that one of ten thousand jobs is found
 * without a look at the others. Ids are not 0. Threads: whoever owns it. */
#ifndef KD_SERVER_IDS_H
#define KD_SERVER_IDS_H

#include <stddef.h>
#include <stdint.h>

typedef struct kd_ids {
    struct kd_ids_entry {
        uint64_t id; /* 0 = free */
        void *value;
    } * entries;
    size_t n, cap; /* cap is 0 or a power of two, at least twice n */
} kd_ids;

void kd_ids_clear(kd_ids *t);
/* The id must not be there. */
void kd_ids_add(kd_ids *t, uint64_t id, void *value);
void kd_ids_remove(kd_ids *t, uint64_t id); /* nothing if it is not there */
void *kd_ids_find(const kd_ids *t, uint64_t id);

#endif
