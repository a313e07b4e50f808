/* What the parts of the C writer share: c_write.c (the files), c_place.c (where values lie),
 * c_steps.c (what computes them). Internal to compress/. */
#ifndef KD_COMPRESS_C_INTERNAL_H
#define KD_COMPRESS_C_INTERNAL_H

#include "compress/c_kernels.h"
#include "kd/buf.h"
#include "models/models.h"

/* Where a node's value lies. */
typedef struct c_place {
    int uses;              /* nodes that read it; the caller counts */
    int root;              /* node whose memory this is, itself for most */
    bool shared;           /* somebody else reads the same memory */
    bool inside;           /* no memory: computed within the pool behind it */
    int pool_of;           /* of a max pool: the convolution that it does besides, -1 = none */
    int act_of;            /* and the activation between them, -1 = none */
    int first, last;       /* steps during which the memory is in use */
    size_t floats, offset; /* of the root; within the array */
} c_place;

typedef struct c_writer {
    const kd_graph *g; /* folded */
    const float *vector;
    const kd_model_file_info *info;
    bool int8;
    c_place *places; /* [n_nodes] */
    size_t memory;   /* floats of the array */
    size_t row;      /* of the longest row of weights that must be unpacked */
    bool kernels[KD_C_KERNELS];
    kd_buf data, steps; /* tables, the body of run() */
} c_writer;

/* Lays out the values. with_input: the input, too, has a place in the array. */
int kd_c_place(c_writer *w, bool with_input, kd_diag *diag);
/* The expression for a node's value. */
void kd_c_value(const c_writer *w, int node, char *out, size_t size);
/* Appends what node `at` takes to data and steps, and marks the kernels. */
int kd_c_step(c_writer *w, int at, kd_diag *diag);

#endif
