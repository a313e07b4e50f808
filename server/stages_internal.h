/* What stages.c, stage_info.c and stage_news.c use of each other. Threads: the loop. */
#ifndef KD_SERVER_STAGES_INTERNAL_H
#define KD_SERVER_STAGES_INTERNAL_H

#include "daemon.h"

/* ---- stages.c */
/* Sums since the last evaluation: the step before `version` went so. */
void kd_stage_count_step(kd_stage_record *s, uint64_t version, const kd_step_totals *t);
/* The manifest or the best version cannot be read: back to a checkpoint from which what is lost is
 * made again, else to the beginning. */
void kd_stage_lose_checkpoint(kd_daemon *d, kd_job_record *j, uint32_t stage, const kd_diag *why);

/* ---- stage_info.c */
uint32_t kd_stage_chunks(const Distill__V1__StageInfo *i);

/* ---- stage_news.c */
/* What an exchange calls, on any thread. */
void kd_stage_news(kd_daemon *d, kd_exchange_events *out);

#endif
