/* Which parameters of a network files hold in less than 32 bits. Threads: reentrant. */
#ifndef KD_MODELS_INT8_H
#define KD_MODELS_INT8_H

#include "engine/graph.h"
#include "job/job.h"
#include "store/narrow.h"

/* out [n_params]: parameters that files of an 8-bit network hold in 8 bits: weights of convolutions
 * and dense layers. All false for other networks. */
void kd_int8_params(const kd_graph *g, bool *out);
/* out [n_params]: what files hold each parameter as: those in 8 bits, else of convolutions' and
 * dense layers' weights what half says. */
void kd_param_types(const kd_graph *g, enum kd_half half, enum kd_st_type *out);
/* Rounds the weights to what half stores. */
void kd_half_round(const kd_graph *g, enum kd_half half, float *vector);

#endif
