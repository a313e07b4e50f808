#include "renew.h"

#include "kd/log.h"

#include <stdlib.h>

#define MOST_MS 60000 /* between two looks */
#define LEAST_MS 200

struct kd_renewal {
    uv_timer_t timer;
    uv_work_t work;
    kd_rpc_channel *channel;
    kd_login login; /* the pool's while working */
    bool working, stopped;
    kd_diag diag;
    int rc;
};

static void on_timer(uv_timer_t *timer);

/* Ten times in the last third of a life, however short that is. */
static void look_again(kd_renewal *r)
{
    int64_t wait = kd_pki_life_ms(&r->login.who) / 30;
    wait = KD_MIN(KD_MAX(wait, (int64_t)LEAST_MS), (int64_t)MOST_MS);
    if (!r->stopped)
        uv_timer_start(&r->timer, on_timer, (uint64_t)wait, 0);
}

static void on_pool(uv_work_t *work)
{
    kd_renewal *r = work->data;
    r->diag = (kd_diag){0};
    r->rc = kd_login_renew(r->channel, &r->login, &r->diag);
}

static void on_done(uv_work_t *work, int status)
{
    kd_renewal *r = work->data;
    (void)status;
    r->working = false;
    if (r->stopped)
        return;
    if (r->rc == 0) {
        kd_rpc_tls tls = kd_login_tls(&r->login);
        kd_rpc_channel_set_tls(r->channel, &tls);
        kd_info("the certificate was renewed: name=%s serial=%s", r->login.who.name,
                r->login.who.serial);
    } else {
        kd_warn("the certificate could not be renewed, trying again: %s", r->diag.msg);
    }
    look_again(r);
}

static void on_timer(uv_timer_t *timer)
{
    kd_renewal *r = timer->data;
    if (!kd_login_is_due(&r->login)) {
        look_again(r);
        return;
    }
    r->working = uv_queue_work(timer->loop, &r->work, on_pool, on_done) == 0;
    if (!r->working)
        look_again(r);
}

kd_renewal *kd_renewal_new(uv_loop_t *loop, kd_rpc_channel *ch, kd_login *login)
{
    kd_renewal *r = kd_xalloc(sizeof *r);
    r->channel = ch;
    r->login = *login;
    *login = (kd_login){0};
    uv_timer_init(loop, &r->timer);
    r->timer.data = r->work.data = r;
    look_again(r);
    return r;
}

void kd_renewal_stop(kd_renewal *r)
{
    if (!r)
        return;
    r->stopped = true;
    while (r->working)
        uv_run(r->timer.loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&r->timer, NULL);
}

void kd_renewal_free(kd_renewal *r)
{
    if (!r)
        return;
    kd_login_clear(&r->login);
    free(r);
}
