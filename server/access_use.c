/* What each caller uses of his quotas: calls and streams that run, requests, uploaded bytes. */
#include "access_internal.h"

#include "kd/peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of callers without a certificate, by network: enough for health checks and for people. */
#define ANONYMOUS_REQUESTS 20
#define ANONYMOUS_CALLS 64
#define BURST_S 10
#define DAY_S 86400
#define IDLE_USER_MS 600000
#define FORGET_MS 1000 /* between two looks at all users for idle ones */

/* ---- all of these under the lock */

static unsigned bucket_of(const char *key)
{
    unsigned h = 5381;
    for (const char *p = key; *p; p++)
        h = h * 33 + (unsigned char)*p;
    return h % KD_ACCESS_BUCKETS;
}

static void refill_upload(kd_access *a, struct kd_user *u, kd_time_ms now)
{
    double seconds = (double)(now - u->at) / 1000, day = (double)a->quotas.upload_a_day;
    u->upload = KD_MIN(u->upload + day / DAY_S * seconds, day);
}

/* Those who have used nothing for long: their shares are whole again. */
static void forget_idle(kd_access *a, kd_time_ms now)
{
    for (size_t i = 0; i < KD_ACCESS_BUCKETS; i++)
        for (struct kd_user **at = &a->users[i]; *at;) {
            struct kd_user *u = *at;
            if (!u->calls && now - u->at >= IDLE_USER_MS)
                refill_upload(a, u, now);
            if (u->calls || now - u->at < IDLE_USER_MS ||
                u->upload < (double)a->quotas.upload_a_day) {
                at = &u->next;
                continue;
            }
            *at = u->next;
            free(u);
            a->n_users--;
        }
}

/* NULL when there are too many. */
static struct kd_user *user_of(kd_access *a, const char *key, kd_time_ms now)
{
    struct kd_user **bucket = &a->users[bucket_of(key)];
    for (struct kd_user *u = *bucket; u; u = u->next)
        if (strcmp(u->key, key) == 0)
            return u;
    /* Addresses are cheap; whoever has a certificate finds room besides. No name has a blank. */
    size_t most = strchr(key, ' ') ? KD_ACCESS_USERS / 2 : KD_ACCESS_USERS;
    if (a->n_users >= most && now - a->forgot >= FORGET_MS) {
        a->forgot = now;
        forget_idle(a, now);
    }
    struct kd_user *u = a->n_users < most ? calloc(1, sizeof *u) : NULL;
    if (!u)
        return NULL;
    snprintf(u->key, sizeof u->key, "%s", key);
    u->requests = BURST_S * (double)KD_MAX(a->quotas.requests_a_second, ANONYMOUS_REQUESTS);
    u->upload = (double)a->quotas.upload_a_day;
    u->at = now;
    u->next = *bucket;
    *bucket = u;
    a->n_users++;
    return u;
}

/* What has come back since. */
static void refill(kd_access *a, struct kd_user *u, double rate, kd_time_ms now)
{
    double seconds = (double)(now - u->at) / 1000;
    u->requests = KD_MIN(u->requests + rate * seconds, rate * BURST_S);
    refill_upload(a, u, now);
    u->at = now;
}

/* Whom a call counts for: a name, or where it comes from. */
static void key_of(const kd_rpc_peer *peer, char key[KD_ACCESS_KEY])
{
    kd_peer from;
    char network[KD_PEER_NETWORK];
    if (peer->identity->role != KD_ROLE_NONE) {
        snprintf(key, KD_ACCESS_KEY, "%s", peer->identity->name);
        return;
    }
    if (kd_peer_parse(peer->address, &from))
        kd_peer_network_text(&from, network);
    else
        snprintf(network, sizeof network, "%s", peer->address);
    snprintf(key, KD_ACCESS_KEY, "at %s", network);
}

int kd_access_use(kd_access *a, const kd_rpc_peer *peer, const kd_rule *rule, bool stream,
                  kd_diag *diag)
{
    const kd_quotas *q = &a->quotas;
    bool known = peer->identity->role != KD_ROLE_NONE;
    kd_time_ms now = kd_clock_ms();
    char key[KD_ACCESS_KEY];
    key_of(peer, key);
    struct kd_user *u = user_of(a, key, now);
    if (!u)
        return kd_fail(diag, -KD_ELIMIT, "more callers than can be told apart; try again later");
    double rate = known ? q->requests_a_second : ANONYMOUS_REQUESTS;
    uint32_t calls = known ? q->calls : ANONYMOUS_CALLS;
    refill(a, u, rate, now);
    if (rule->metered && rate > 0 && u->requests < 1)
        return kd_fail(diag, -KD_ELIMIT, "%s makes more than %.0f requests a second; wait a little",
                       key, rate);
    if (calls && u->calls >= calls)
        return kd_fail(diag, -KD_ELIMIT, "%s has %u calls running, no more are taken", key, calls);
    if (stream && q->streams && u->streams >= q->streams)
        return kd_fail(diag, -KD_ELIMIT, "%s has %u streams open, no more are taken", key,
                       q->streams);
    if (rule->metered && rate > 0)
        u->requests--;
    u->calls++;
    u->streams += stream;
    return 0;
}

void kd_access_unuse(kd_access *a, const kd_rpc_peer *peer, bool stream)
{
    char key[KD_ACCESS_KEY];
    key_of(peer, key);
    struct kd_user *u = user_of(a, key, kd_clock_ms());
    if (u && u->calls)
        u->calls--;
    if (u && u->streams && stream)
        u->streams--;
}

/* ---- */

int kd_access_upload(kd_access *a, const kd_rpc_call *call, size_t bytes, kd_diag *diag)
{
    if (!a->authority || a->quotas.upload_a_day == 0)
        return 0;
    kd_rpc_peer peer = kd_rpc_call_peer(call);
    char key[KD_ACCESS_KEY];
    key_of(&peer, key);
    kd_time_ms now = kd_clock_ms();
    pthread_mutex_lock(&a->mu);
    struct kd_user *u = user_of(a, key, now);
    bool ok = false;
    if (u) {
        refill(a, u, a->quotas.requests_a_second, now);
        ok = u->upload >= (double)bytes;
        u->upload -= ok ? (double)bytes : 0;
    }
    pthread_mutex_unlock(&a->mu);
    if (ok)
        return 0;
    return kd_fail(diag, -KD_ELIMIT,
                   "%s has uploaded as much as one may in a day, %.1f GiB (quota_upload); wait, or "
                   "ask the admin",
                   key, (double)a->quotas.upload_a_day / (1 << 30));
}

void kd_access_forget_users(kd_access *a)
{
    for (size_t i = 0; i < KD_ACCESS_BUCKETS; i++)
        for (struct kd_user *u = a->users[i], *next; u; u = next) {
            next = u->next;
            free(u);
        }
}
