/* A network's parameter vector as a safetensors file, by the table and the metadata that stand in
 * distill.v1.StageInfo; neither need be trusted. Threads: reentrant. */
#ifndef KD_NETWORK_H
#define KD_NETWORK_H

#include "store/safetensors.h"

#define KD_NETWORK_PAIRS 64 /* of metadata; more are left out */

/* table: JSON [{"name", "shape", "offset", "type"}, ...] into vector [floats], borrowed; metadata:
 * JSON object, of which texts are taken after the pairs `first`. Appends the file to out. -KD_EDATA
 * for a table that is empty, no JSON or not within the vector, then those of kd_narrow_pack, by
 * which a tensor of another type than F32 is written. */
int kd_network_pack(const char *table, const char *metadata, const float *vector, uint64_t floats,
                    const kd_st_pair *first, size_t n_first, kd_buf *out,
                    kd_diag *diag) KD_MUST_CHECK;

#endif
