/* Networks as C: a header and one source file in C99 that need nothing but libc and libm.
 *
 *   PREFIX_run(input, logits)      input [height][width][channels], preprocessed
 *   PREFIX_run_rgb(rgb, logits)    input [height][width][3] bytes, where the preprocessing is known
 *
 * The header says what a picture is squeezed into before (kd_model_file_info.resized_from).
 *
 * Values live in one static array, laid out by lifetime, so a picture at a time and not reentrant.
 * A convolution and the max pool behind it run place by place: what stands between, the largest of
 * all, is never kept. Weights are float32; of 8 bits with a unit an output channel where the
 * network has ranges; or, where enough of them are zero that it takes less room, a mask of those
 * that are not and their values. Computation is in float32.
 *
 * Layout of values: height, width, channels. Threads: reentrant. */
#ifndef KD_COMPRESS_C_WRITE_H
#define KD_COMPRESS_C_WRITE_H

#include "kd/buf.h"
#include "models/models.h"

#define KD_C_PREFIX 64 /* bytes of a prefix with its NUL */

/* What of path's last part can be a C identifier, in out. */
void kd_c_prefix(const char *path, char out[KD_C_PREFIX]);
/* g is a finished classifier; batch norms are folded here. info: what it says of itself. header
 * names the file that source includes. Both texts are appended. *out_memory: bytes of the static
 * array. -KD_EUNSUP names the node that has no C; -KD_EINVAL: a header_name that no #include can
 * have; -KD_ELIMIT when a buffer is full. */
int kd_c_write(const kd_graph *g, const float *vector, const kd_model_file_info *info,
               const char *prefix, const char *header_name, kd_buf *header, kd_buf *source,
               size_t *out_memory, kd_diag *diag) KD_MUST_CHECK;

#endif
