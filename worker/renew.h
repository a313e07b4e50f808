/* A worker's certificate is renewed while it runs: a new key and certificate beside the running
 * calls, on libuv's pool, when a third of its life is left. Calls from then on show the new one.
 * Threads: the loop's. */
#ifndef KD_WORKER_RENEW_H
#define KD_WORKER_RENEW_H

#include "login/login.h"

#include <uv.h>

typedef struct kd_renewal kd_renewal;
/* Takes the login over; the channel is borrowed until stop. */
kd_renewal *kd_renewal_new(uv_loop_t *loop, kd_rpc_channel *ch, kd_login *login);
/* The channel must have been closed before, and may be freed after. NULL allowed. */
void kd_renewal_stop(kd_renewal *r);
/* After the loop has run the handle's close. NULL allowed. */
void kd_renewal_free(kd_renewal *r);

#endif
