/* What bank.c and bank_files.c share. */
#ifndef KD_SERVER_BANK_INTERNAL_H
#define KD_SERVER_BANK_INTERNAL_H

#include "bank.h"
#include "kd/clock.h"
#include "kd/hash.h"

#include <pthread.h>

#define BLOCK_HEAD 16
#define MAX_BLOCK (64u << 20)

struct entry {
    uint64_t key;    /* sample << 32 | view */
    uint64_t offset; /* of the record, never 0 since a block's head is before it; 0 = free */
};

struct kd_bank {
    kd_bank *next;
    char id[KD_DIGEST_HEX];
    uint32_t classes;
    size_t record;
    int refs;           /* guarded by the store */
    kd_time_ms touched; /* likewise */
    pthread_mutex_t mu; /* guards all below */
    int fd;
    uint64_t end;
    bool dirty;
    struct entry *table;
    size_t cap, count; /* cap a power of two */
    kd_bank_use *uses; /* oldest first */
    size_t n_uses;
    char *path; /* of the records */
    kd_bank_store *store;
};

struct kd_bank_store {
    char *dir;
    uint64_t keep_free;
    pthread_mutex_t mu; /* guards banks; before a bank's own */
    kd_bank *banks;
};

void kd_bank_free(kd_bank *b);
uint32_t kd_bank_u32(const uint8_t *p);
bool kd_bank_pread(int fd, void *buf, size_t len, uint64_t at);
/* The file of a bank's uses; caller frees. What cannot be read is none. */
void kd_bank_read_uses(const char *dir, const char *id, kd_bank_use **out, size_t *out_n);
/* At start: what a crash left of banks that were dropped. */
void kd_bank_drop_doomed(const char *dir);

#endif
