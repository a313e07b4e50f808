#include "patience.h"

#include "kd/clock.h"
#include "kd/log.h"

#include <unistd.h>

#define SLICE_MS 50
#define FAILURES 8   /* of its own, one after another, that end a request */
#define TOLD_MS 1000 /* less of a server that is full or fails is no news */

/* What is wrong with a server that may answer later. */
enum trouble {
    TROUBLE_NONE, /* there is an answer, or what there is will not pass */
    TROUBLE_AWAY,
    TROUBLE_SLOW,
    TROUBLE_FULL,
    TROUBLE_FAILING
};
static const char *const g_words[] = {[TROUBLE_AWAY] = "away",
                                      [TROUBLE_SLOW] = "too slow",
                                      [TROUBLE_FULL] = "full",
                                      [TROUBLE_FAILING] = "failing"};

void kd_patience_init(kd_patience *p, const kd_patience_config *cfg, kd_rpc_channel *channel)
{
    *p = (kd_patience){.cfg = *cfg, .channel = channel};
    kd_pace_init(&p->pace);
}

void kd_patience_clear(kd_patience *p)
{
    kd_pace_clear(&p->pace);
}

static bool stopped(const kd_patience *p)
{
    return p->cfg.stopped(p->cfg.arg);
}

static void wait_begins(kd_patience *p, const char *why)
{
    if (atomic_fetch_add(&p->waiting, 1) != 0)
        return;
    kd_warn("waiting for the teacher: %.200s", why);
    p->cfg.waits(p->cfg.arg, true);
}

static void wait_ends(kd_patience *p)
{
    if (atomic_fetch_sub(&p->waiting, 1) == 1)
        p->cfg.waits(p->cfg.arg, false);
}

static void pause_for(const kd_patience *p, int ms)
{
    const kd_time_ms until = kd_clock_ms() + ms;
    for (kd_time_ms now; (now = kd_clock_ms()) < until && !stopped(p);)
        usleep((useconds_t)KD_MIN(until - now, SLICE_MS) * 1000);
}

/* Failures of its own (INTERNAL, UNKNOWN, CANCELLED) may pass, as when its device has no memory
 * left for a moment. */
static enum trouble trouble_of(const kd_rpc_result *result)
{
    switch (-result->code) {
    case KD_EUNAVAIL:
        return TROUBLE_AWAY;
    case KD_ETIMEOUT:
        return TROUBLE_SLOW;
    case KD_ELIMIT:
        return result->oversize == KD_RPC_FITS ? TROUBLE_FULL : TROUBLE_NONE;
    case KD_EIO:
    case KD_EINTERNAL:
    case KD_ECANCELED:
        return TROUBLE_FAILING;
    default:
        return TROUBLE_NONE;
    }
}

static int send_one(kd_patience *p, const char *path, const struct iovec *parts, int n_parts,
                    kd_rpc_result *result)
{
    static const enum kd_pace_end ends[] = {[TROUBLE_NONE] = KD_PACE_LOST,
                                            [TROUBLE_AWAY] = KD_PACE_LOST,
                                            [TROUBLE_SLOW] = KD_PACE_CROWDED,
                                            [TROUBLE_FULL] = KD_PACE_CROWDED,
                                            [TROUBLE_FAILING] = KD_PACE_CROWDED};
    const int rc = kd_rpc_unary_until(p->channel, path, parts, n_parts, p->cfg.timeout_ms, false,
                                      p->cfg.stopped, p->cfg.arg, result);
    kd_pace_leave(&p->pace, rc == 0 ? KD_PACE_ANSWERED : ends[trouble_of(result)]);
    return rc;
}

/* What has become of a request so far. */
struct tries {
    int n, failures;      /* of the kind of the last one; of the server itself, the last ones */
    bool crowded;         /* the last one met a full server */
    kd_time_ms begin;     /* of the first */
    enum trouble trouble; /* of the last one */
    bool over;            /* patience is */
    bool waits;
};

/* After one that has ended: whether there is to be another one. */
static bool goes_on(kd_patience *p, const kd_rpc_result *result, bool first, struct tries *t)
{
    const kd_time_ms since = kd_clock_ms() - t->begin;
    t->trouble = trouble_of(result);
    const bool crowded = t->trouble == TROUBLE_FULL;
    t->n = crowded == t->crowded ? t->n + 1 : 1;
    t->crowded = crowded;
    if (t->trouble == TROUBLE_NONE || stopped(p) || (first && result->untrusted))
        return false;
    t->failures = t->trouble == TROUBLE_FAILING ? t->failures + 1 : 0;
    t->over = since >= p->cfg.patience_ms;
    if (t->over || t->failures == FAILURES)
        return false;
    if (!t->waits && ((!crowded && t->failures == 0) || since >= TOLD_MS)) {
        wait_begins(p, result->text);
        t->waits = true;
    }
    pause_for(p, kd_pace_pause(t->n, crowded));
    return true;
}

int kd_patience_call(kd_patience *p, const char *path, const struct iovec *parts, int n_parts,
                     bool first, kd_rpc_result *result, kd_diag *diag)
{
    struct tries t = {0};
    int rc = -KD_ECANCELED;
    bool sent;
    *result = (kd_rpc_result){.code = rc};
    do {
        sent = kd_pace_enter(&p->pace, p->cfg.stopped, p->cfg.arg);
        if (!sent)
            break;
        t.begin = t.begin ? t.begin : kd_clock_ms();
        rc = send_one(p, path, parts, n_parts, result);
    } while (rc != 0 && goes_on(p, result, first, &t));
    if (t.waits)
        wait_ends(p);
    if (rc == 0)
        return 0;
    if (!sent || stopped(p))
        return -KD_ECANCELED;
    if (t.over)
        return kd_fail(diag, -KD_ETIMEOUT,
                       "it is %s for longer than teacher.patience allows (%d s): %.700s",
                       g_words[t.trouble], p->cfg.patience_ms / 1000, result->text);
    if (t.failures == FAILURES)
        return kd_fail(diag, -KD_EINTERNAL, "it has failed %d times, one after another: %.700s",
                       t.failures, result->text);
    return kd_fail(diag, result->code, "%.900s", result->text);
}
