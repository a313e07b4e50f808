/* The journal of a running stage: the sums of its steps since the newest checkpoint, by which the
 * coordinator goes on after its death and owners rebuild lost chunks (docs/protocol.md).
 *
 * A sum is appended before it leaves for its owner, and not synced: what a process wrote survives
 * it, and after a power failure any beginning of it may be left, which is safe. Files
 * PREFIX-journal-STEP, one from each saved version on, so that old ones go whole. Little-endian:
 *
 *   file    "KDJRNL1\0", identity[16], first step uint64
 *   record  magic uint32, chunk uint32, step uint64, floats uint32, scale float32, crc32c of the
 *           payload uint32, crc32c of all before it uint32; chunk 0: kd_step_totals as doubles;
 *           payload float32[floats]
 *
 * Threads: none of its own; the exchange calls it under its lock. */
#ifndef KD_SERVER_JOURNAL_H
#define KD_SERVER_JOURNAL_H

#include "kd/err.h"
#include "kd/hash.h"
#include "wire/limits.h"

typedef struct kd_step_totals {
    double loss, correct, samples; /* sums over the step's real samples */
    double terms[KD_TERM_SUMS];
} kd_step_totals;

typedef struct kd_journal kd_journal;
/* Opens or makes the journal of a stage whose newest checkpoint is of version `base`: sums of steps
 * from there on are taken up as far as they are whole; what is not whole is cut off, with
 * all that comes after it, and *out_torn says so in bytes; each file is named in the log. identity:
 * of the stage; files of another one go. prefix: path without "-journal-". */
int kd_journal_open(const char *prefix, const kd_digest *identity, uint32_t chunks,
                    uint32_t chunk_floats, uint64_t floats, uint64_t base, kd_journal **out,
                    uint64_t *out_torn, kd_diag *diag) KD_MUST_CHECK;
void kd_journal_close(kd_journal *j); /* files stay */
/* Appending is refused with -KD_ELIMIT while fewer bytes would be free; 0 = never. */
void kd_journal_keep_free(kd_journal *j, uint64_t bytes);
/* The first step that not all chunks have a sum of. */
uint64_t kd_journal_end(const kd_journal *j);
bool kd_journal_has(const kd_journal *j, uint64_t step, uint32_t chunk);
/* Sum of (step, chunk) into out [chunk's length]; *out_scale as SumChunk.scale. totals may be NULL;
 * filled for chunk 0 only. -KD_ENOENT when it is not there (any more). */
int kd_journal_read(kd_journal *j, uint64_t step, uint32_t chunk, float *out, float *out_scale,
                    kd_step_totals *out_totals, kd_diag *diag) KD_MUST_CHECK;
/* Nothing to do for one that is there. -KD_ELIMIT: the disk is full, or has no more than is to
 * be kept free; nothing was added. */
int kd_journal_append(kd_journal *j, uint64_t step, uint32_t chunk, const float *sum, float scale,
                      const kd_step_totals *totals, kd_diag *diag) KD_MUST_CHECK;
/* Sums from step on go into a new file. */
void kd_journal_roll(kd_journal *j, uint64_t step);
/* A checkpoint of this version is durable: files with nothing but older sums go. */
void kd_journal_cut(kd_journal *j, uint64_t version);
uint64_t kd_journal_bytes(const kd_journal *j);
/* Removes all files with the prefix. */
void kd_journal_remove(const char *prefix);

#endif
