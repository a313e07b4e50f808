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
 *
 * ID is the digest of the key. A torn or damaged block ends the bank: it and what follows is cut
 * off and logged; the logits are computed again. Threads: any; one lock a bank. */
#ifndef KD_SERVER_BANK_H
#define KD_SERVER_BANK_H

#include "kd/buf.h"
#include "kd/err.h"

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
void kd_bank_sync(kd_bank_store *s); /* fsync what was appended; its failure ends the process */
size_t kd_bank_count(kd_bank *b);
/* Of the banks that were used since the start. */
typedef struct kd_bank_totals {
    uint64_t banks, records, bytes;
} kd_bank_totals;
kd_bank_totals kd_bank_store_totals(kd_bank_store *s);

#endif
