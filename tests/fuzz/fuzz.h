/* Targets: one function for each kind of foreign bytes. It reads them as the product does, and
 * aborts where a property does not hold: crashes and leaks are the sanitizers' to find. libFuzzer,
 * the replay of the corpora and the mutation tests (test_fuzz_*.c) all call the same functions.
 *
 * data may be anything; it should lie in memory of its own, so that one byte too far is seen. A
 * target returns 1 when the bytes were accepted and 0 when they were refused.
 *
 * Where a target needs choices or more than one file, they come from the bytes: choices first, then
 * files with KD_FUZZ_CUT between them. Threads: one. */
#ifndef KD_FUZZ_H
#define KD_FUZZ_H

#include "kd/err.h"

typedef int kd_fuzz_fn(const uint8_t *data, size_t len);

/* [2] message type (kd_fuzz_wire_prefix), message. */
kd_fuzz_fn kd_fuzz_wire;
/* Job file CUT --set CUT --set ... */
kd_fuzz_fn kd_fuzz_job;
kd_fuzz_fn kd_fuzz_sweep;
/* [1] options: size, classes, use (kd_fuzz_onnx_options), model. */
kd_fuzz_fn kd_fuzz_onnx;
/* JSON of a network. */
kd_fuzz_fn kd_fuzz_graph;
/* A model of either kind that says all about itself: safetensors with its graph, or ONNX. */
kd_fuzz_fn kd_fuzz_model;
kd_fuzz_fn kd_fuzz_safetensors;
/* [1] floats, [1] optimiser vectors, file. */
kd_fuzz_fn kd_fuzz_checkpoint;
/* [1] 1: of an evaluation; StageInfo of a worker CUT StageInfo that was promised. */
kd_fuzz_fn kd_fuzz_stage_info;
/* [1] 1: checksums are made right first; records.bin CUT bank.json. */
kd_fuzz_fn kd_fuzz_bank;
/* [1] KD_FUZZ_LISTS_*, then classes.txt CUT train.txt CUT val.txt CUT more.txt. */
kd_fuzz_fn kd_fuzz_lists;
/* Both: images CUT labels CUT validation images CUT their labels. Files that are not there are
 * replaced by good ones. */
kd_fuzz_fn kd_fuzz_idx;
kd_fuzz_fn kd_fuzz_npy;
/* [1] 1: CIFAR-100; training records CUT test records CUT names. */
kd_fuzz_fn kd_fuzz_cifar;
/* A picture file. */
kd_fuzz_fn kd_fuzz_image;
/* The body of an APP1 segment. */
kd_fuzz_fn kd_fuzz_exif;
/* Words behind the program's name, one a line. */
kd_fuzz_fn kd_fuzz_distill;
kd_fuzz_fn kd_fuzz_distilld;
kd_fuzz_fn kd_fuzz_worker;

/* ---- what the targets share */

/* Aborts, in every build. */
#define KD_FUZZ_CHECK(cond) KD_BUG_ON(!(cond))

/* Refusing is right when diag says the same code, and why. Always 0. */
int kd_fuzz_refused(int rc, const kd_diag *diag);
/* Calls fn with a copy in memory of its exact size. */
int kd_fuzz_run(kd_fuzz_fn *fn, const void *data, size_t len);

#define KD_FUZZ_CUT "\n@@@\n"
typedef struct kd_fuzz_part {
    const uint8_t *data; /* NULL = not there */
    size_t len;
} kd_fuzz_part;
/* Cuts data into at most max parts, the last one has the rest; those that are not there are empty.
 * Returns how many there are, at least 1. */
size_t kd_fuzz_parts(const uint8_t *data, size_t len, kd_fuzz_part *out, size_t max);
/* A part as text: it ends at its first NUL. Caller frees. */
char *kd_fuzz_text(const uint8_t *data, size_t len);

/* A folder of this process, made at the first call beneath $TMPDIR, /dev/shm or /tmp, and removed
 * at exit. fd: of the folder, borrowed. */
const char *kd_fuzz_folder(void);
int kd_fuzz_folder_fd(void);
/* Writes a file in it, or removes it where data is NULL. Name may have one folder before it. */
void kd_fuzz_put(const char *name, const uint8_t *data, size_t len);

#define KD_FUZZ_WORDS 64
typedef struct kd_fuzz_words {
    int argc;
    char *argv[KD_FUZZ_WORDS + 2]; /* the program's name first, NULL last */
    char *text;                    /* what they point into; the caller frees it */
} kd_fuzz_words;
/* A command line of one word a line; what is past KD_FUZZ_WORDS is left out. */
void kd_fuzz_words_of(const char *program, const uint8_t *data, size_t len, kd_fuzz_words *out);

/* Sends what goes to stdout and stderr nowhere, until it is called with false. Log lines and the
 * sanitizers' reports do not go through those. */
void kd_fuzz_silence(bool on);

/* ---- for the mutation tests: input that means something */

struct ProtobufCMessageDescriptor;
/* Every message of distill.proto, and those of others that come over the wire. NULL past the last
 * one. */
const struct ProtobufCMessageDescriptor *kd_fuzz_wire_type(size_t i);
/* The two bytes that choose it. Messages that are new later do not change them. */
void kd_fuzz_wire_prefix(size_t i, uint8_t out[2]);

/* size 0, 8, 12, 32; classes 0, 1, 7, 1000; use as enum kd_onnx_use. Others are rounded down. */
uint8_t kd_fuzz_onnx_options(int size, int classes, int use);

#define KD_FUZZ_LISTS_CLASSES 1    /* there is a file of classes */
#define KD_FUZZ_LISTS_SHARES 2     /* validation and test are shares, no lists */
#define KD_FUZZ_LISTS_UNLABELLED 4 /* more.txt is a list of unlabelled pictures */
#define KD_FUZZ_LISTS_LIMIT 8      /* at most two training samples */
#define KD_FUZZ_LISTS_LEAKAGE 16   /* times enum kd_data_leakage, up to 2 */

#endif
