/* How long calls take, by method and status: counters that any thread adds to without a lock, since
 * training's own calls are among them. Streams and calls that wait for a step count with all of
 * their time. */
#ifndef KD_SERVER_RPC_METER_H
#define KD_SERVER_RPC_METER_H

#include "kd/buf.h"

typedef struct kd_rpc_meter kd_rpc_meter;
kd_rpc_meter *kd_rpc_meter_new(void);
void kd_rpc_meter_free(kd_rpc_meter *m); /* NULL allowed */
/* rule: a row of kd_rules; code 0 or -KD_E.... Any thread. */
void kd_rpc_meter_add(kd_rpc_meter *m, size_t rule, int code, double seconds);
/* distill_rpc_seconds{method,code} of those that were called. */
void kd_rpc_meter_write(const kd_rpc_meter *m, kd_buf *out);

#endif
