/* The logit bank: raw teacher logits on disk, one folder a bank.
 *
 *   bank/ID/bank.json   what the bank belongs to, field by field (the key of distill.v1.BankKey)
 *   bank/ID/records.bin blocks, appended only:
 *       offset size
 *            0    4  magic "KDB1"
 *            4    4  records n
 *            8    4  CRC32C of the records
 *           12    4  0
 *           16  n*r  records of r = 8 + 4*classes bytes: sample uint32, view uint32, logits float32
 *   all little-endian
 *   bank/ID/uses        a line `JOB WANTED` for each job that used it: 12 hex digits, and how many
 *                       records it would have of it in the end (0 = unknown)
 *   bank/ID.dropped     on its way out
 *
 * The records' file has the time of the last use. ID is the digest of the key. A torn or damaged
 * block ends the bank: it and what follows is cut off and logged; the logits are computed again.
 * Threads: any; one lock a bank. */
#ifndef KD_SERVER_BANK_H
#define KD_SERVER_BANK_H

#include "kd/buf.h"
#include "kd/err.h"

#include <stdatomic.h>

typedef struct kd_bank_key {
    const char *teacher, *precision, *numerics, *data, *view_rule;
    uint32_t classes;
} kd_bank_key;

typedef struct kd_bank_store kd_bank_store;
typedef struct kd_bank kd_bank;

/* dir: the folder of all banks, made if missing. */
int kd_bank_store_open(const char *dir, kd_bank_store **out, kd_diag *diag) KD_MUST_CHECK;
/* Storing is refused with -KD_ELIMIT while fewer bytes would be free; 0 = never. */
void kd_bank_store_keep_free(kd_bank_store *s, uint64_t bytes);
void kd_bank_store_close(kd_bank_store *s);
/* Opens or makes the bank of a key; the store keeps it open. A bank.json that names another key is
 * refused with -KD_EDATA and the field that differs. */
int kd_bank_get(kd_bank_store *s, const kd_bank_key *key, kd_bank **out,
                kd_diag *diag) KD_MUST_CHECK;
/* Appends the records found for n wanted (sample, view) pairs (8 bytes each, little-endian) to out.
 */
int kd_bank_find(kd_bank *b, const uint8_t *wanted, size_t n, kd_buf *out,
                 kd_diag *diag) KD_MUST_CHECK;
/* Stores the records that are new; *out_new says how many. A record that is there with other bits
 * sets *out_differs (the old one stays). */
int kd_bank_put(kd_bank *b, const uint8_t *records, size_t len, uint32_t *out_new,
                bool *out_differs, kd_diag *diag) KD_MUST_CHECK;
/* A bank is borrowed from kd_bank_get on until it is given back; meanwhile it cannot be dropped. */
void kd_bank_release(kd_bank *b); /* NULL allowed */
typedef struct kd_bank_use {
    uint64_t job, wanted;
} kd_bank_use;
/* Notes that a job uses the bank; at its first use, and when it wants more, in the file too. */
void kd_bank_note_use(kd_bank *b, uint64_t job, uint64_t wanted);
void kd_bank_sync(kd_bank_store *s); /* fsync what was appended; its failure ends the process */
size_t kd_bank_count(kd_bank *b);
/* Of the banks that were used since the start. */
typedef struct kd_bank_totals {
    uint64_t banks, records, bytes;
} kd_bank_totals;
kd_bank_totals kd_bank_store_totals(kd_bank_store *s);

/* ---- bank_files.c: all banks on disk, whether or not they are open */

/* bytes of its records, time of its last use */
typedef void (*kd_bank_fn)(void *arg, const char *id, uint64_t bytes, int64_t used_ms);
void kd_bank_store_each(kd_bank_store *s, kd_bank_fn fn, void *arg);
/* The jobs that used a bank, oldest first; caller frees. 0 where there is no such bank. */
size_t kd_bank_uses(kd_bank_store *s, const char *id, kd_bank_use **out);
typedef struct kd_bank_about {
    char id[33];
    char teacher[33], precision[33], data[33];
    uint32_t classes;
    uint64_t records, bytes;
    int64_t used_ms;
    bool damaged; /* has no description that can be read */
} kd_bank_about;
/* Reads the description and the heads of the blocks. -KD_ENOENT. */
int kd_bank_describe(kd_bank_store *s, const char *id, kd_bank_about *out,
                     kd_diag *diag) KD_MUST_CHECK;
typedef struct kd_bank_check {
    uint64_t blocks, records, bytes;
    uint64_t bad_at; /* offset of the first block that is not whole or has another CRC32C */
    bool bad;
} kd_bank_check;
/* Reads all of the records as they are now and compares their checksums. Stops, with
 * -KD_ECANCELED, once *stop is true. */
int kd_bank_verify(kd_bank_store *s, const char *id, const atomic_bool *stop, kd_bank_check *out,
                   kd_diag *diag) KD_MUST_CHECK;
/* Gives the folder of a bank its last name, durably, so that it is a bank no more; the caller
 * removes that. -KD_ESTATE while it is borrowed, -KD_ENOENT. */
int kd_bank_doom(kd_bank_store *s, const char *id, char out_path[4096],
                 kd_diag *diag) KD_MUST_CHECK;

#endif
