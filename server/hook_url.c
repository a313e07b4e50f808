/* Hooks that are web addresses: one thread that calls them, so that the loop never waits. */
#include "hooks_internal.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ANSWER 65536 /* bytes of an answer, which are thrown away */

struct kd_hook_web {
    kd_daemon *daemon;
    pthread_t thread;
    pthread_mutex_t mu; /* guards call */
    pthread_cond_t cond;
    kd_hook_call *call; /* to be told; its body does not change meanwhile */
    atomic_bool stop;
};

struct ended {
    kd_hook_call *call;
    int rc;
    char why[160];
};

static void loop_ended(kd_daemon *d, void *arg)
{
    struct ended *e = arg;
    kd_hook_ended(d, e->call, e->rc, e->why);
    free(e);
}

static size_t throw_away(char *bytes, size_t size, size_t n, void *arg)
{
    size_t *seen = arg;
    (void)bytes;
    *seen += size * n;
    return *seen > MAX_ANSWER ? 0 : size * n;
}

static int asked_to_stop(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a, (void)b, (void)c, (void)d;
    return atomic_load((const atomic_bool *)arg);
}

static void tell(struct kd_hook_web *w, const kd_hook_call *c, struct ended *out)
{
    const kd_hook_config *cfg = w->daemon->hooks->cfg;
    CURL *curl = curl_easy_init();
    struct curl_slist *head = NULL;
    char id[KD_ID_TEXT], line[96], error[CURL_ERROR_SIZE] = "";
    size_t seen = 0;
    long status = 0;
    kd_id_text(c->job, id);
    snprintf(line, sizeof line, "X-Distill-Event-Id: %s-%llu", id, (unsigned long long)c->seq);
    head = curl_slist_append(head, "Content-Type: application/json");
    head = curl_slist_append(head, "Expect:");
    head = curl_slist_append(head, line);
    curl_easy_setopt(curl, CURLOPT_URL, cfg->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, c->body);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, head);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "distilld/" KD_VERSION);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)cfg->timeout_s);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, throw_away);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &seen);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, asked_to_stop);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &w->stop);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
    CURLcode code = curl ? curl_easy_perform(curl) : CURLE_OUT_OF_MEMORY;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    out->rc = code == CURLE_OK && status / 100 == 2 ? 0 : -KD_EUNAVAIL;
    /* The address may hold a secret, which libcurl's own words do not repeat. */
    if (code != CURLE_OK)
        snprintf(out->why, sizeof out->why, "%.150s", error[0] ? error : curl_easy_strerror(code));
    else
        snprintf(out->why, sizeof out->why, "it answered %ld", status);
    curl_slist_free_all(head);
    curl_easy_cleanup(curl);
}

static void *run(void *arg)
{
    struct kd_hook_web *w = arg;
    pthread_mutex_lock(&w->mu);
    while (!atomic_load(&w->stop)) {
        kd_hook_call *c = w->call;
        if (!c) {
            pthread_cond_wait(&w->cond, &w->mu);
            continue;
        }
        w->call = NULL;
        pthread_mutex_unlock(&w->mu);
        struct ended *e = kd_xalloc(sizeof *e);
        e->call = c;
        tell(w, c, e);
        /* One that was broken off by the stop is told again after the next start. */
        if (atomic_load(&w->stop) || !kd_daemon_post(w->daemon, loop_ended, e))
            free(e);
        pthread_mutex_lock(&w->mu);
    }
    pthread_mutex_unlock(&w->mu);
    return NULL;
}

int kd_hook_web_open(kd_daemon *d, struct kd_hook_web **out, kd_diag *diag)
{
    struct kd_hook_web *w = kd_xalloc(sizeof *w);
    w->daemon = d;
    pthread_mutex_init(&w->mu, NULL);
    pthread_cond_init(&w->cond, NULL);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
        pthread_create(&w->thread, NULL, run, w) != 0) {
        free(w);
        return kd_fail(diag, -KD_EIO, "cannot start the thread of hook_url");
    }
    *out = w;
    return 0;
}

void kd_hook_web_start(struct kd_hook_web *w, kd_hook_call *c)
{
    pthread_mutex_lock(&w->mu);
    w->call = c;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mu);
}

void kd_hook_web_close(struct kd_hook_web *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mu);
    atomic_store(&w->stop, true);
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mu);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->mu);
    pthread_cond_destroy(&w->cond);
    curl_global_cleanup();
    free(w);
}
