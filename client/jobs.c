/* jobs: what the coordinator has, newest first. */
#include "args.h"
#include "connect.h"
#include "format.h"
#include "json.h"
#include "output.h"
#include "views.h"

#include "kd/clock.h"

#include <string.h>

static const kd_opt g_opts[] = {
    {"limit", 'n', "N", "at most so many jobs, the newest (100)"},
    {"state", 0, "STATE", "only jobs that are queued, running, succeeded, failed or cancelled"},
    {"quiet", 'q', NULL, "print ids only"},
};

static bool wanted(const Distill__V1__JobSummary *s, const char *state)
{
    return !state || strcmp(state, kd_state_word(s->state)) == 0;
}

static void add_row(kd_table *t, const Distill__V1__JobSummary *s, int64_t now)
{
    char a[KD_FMT];
    const Distill__V1__Progress *p = s->progress;
    kd_table_add(t, KD_PLAIN, "%s", s->job);
    kd_table_add(t, KD_PLAIN, "%s", s->name);
    kd_table_add(t, kd_state_color(s->state), "%s", kd_state_word(s->state));
    if (p) {
        bool steps = p->steps > 0;
        kd_table_add(t, KD_PLAIN, "%s %u/%u", p->stage, p->stage_index + 1, p->stage_count);
        if (steps)
            kd_table_add(t, KD_PLAIN, "%llu/%llu", (unsigned long long)p->step,
                         (unsigned long long)p->steps);
        else
            kd_table_add(t, KD_PLAIN, "-");
        kd_table_add(t, KD_PLAIN, "%s", steps && p->step ? kd_fmt_figure(p->loss, a) : "-");
        if (p->samples_per_second > 0)
            kd_table_add(t, KD_PLAIN, "%.0f img/s", p->samples_per_second);
        else
            kd_table_add(t, KD_PLAIN, "-");
        kd_table_add(t, KD_PLAIN, "%s", kd_fmt_duration(p->eta_seconds, a));
        kd_table_add(t, KD_PLAIN, "%u", p->workers);
    } else {
        for (int i = 0; i < 6; i++)
            kd_table_add(t, KD_PLAIN, "-");
    }
    kd_table_add(t, KD_PLAIN, "%s", kd_fmt_age(s->submitted_ms, now, a));
    kd_table_add(t, KD_PLAIN, "%s", s->reason);
}

static int print(kd_cli *cli, const Distill__V1__ListReply *list, const char *state, bool quiet)
{
    if (cli->json) {
        json_t *all = json_array();
        for (size_t i = 0; i < list->n_jobs; i++)
            if (wanted(list->jobs[i], state))
                (void)json_array_append_new(all, kd_json_summary(list->jobs[i]));
        return kd_json_print(cli, json_pack("{s:o}", "jobs", all), false);
    }
    kd_table t;
    kd_table_init(&t,
                  quiet ? "ID" : "ID|NAME|STATE|STAGE|STEP>|LOSS>|RATE>|ETA>|WORKERS>|AGE>|REASON");
    int64_t now = kd_clock_wall_ms();
    size_t shown = 0;
    for (size_t i = 0; i < list->n_jobs; i++) {
        if (!wanted(list->jobs[i], state))
            continue;
        shown++;
        if (quiet)
            kd_out(cli, "%s", list->jobs[i]->job);
        else
            add_row(&t, list->jobs[i], now);
    }
    if (quiet || shown == 0)
        kd_table_clear(&t);
    else
        kd_table_print(cli, &t, 0);
    if (shown == 0)
        kd_say(cli, "no %s%sjobs at %s", state ? state : "", state ? " " : "", cli->server);
    return kd_out_flush(cli);
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_diag diag = {0};
    uint64_t limit;
    const char *state = kd_args_value(args, "state");
    static const char *const states[] = {"queued", "running", "succeeded", "failed", "cancelled"};
    bool known = !state;
    for (size_t i = 0; state && i < KD_COUNT(states); i++)
        known = known || strcmp(state, states[i]) == 0;
    if (!known)
        return kd_usage(cli, "jobs", NULL, "there is no state \"%s\"", state);
    if (kd_args_u64(args, "limit", 1, 10000, 0, &limit, &diag) != 0)
        return kd_usage(cli, "jobs", NULL, "%s", diag.msg);
    kd_conn conn;
    int rc = kd_conn_open(cli, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__ListRequest request = DISTILL__V1__LIST_REQUEST__INIT;
    request.limit = (uint32_t)limit;
    ProtobufCMessage *reply = NULL;
    kd_failure why;
    kd_cli_catch_signals();
    if (kd_conn_call(&conn, "List", &request, &distill__v1__list_reply__descriptor,
                     KD_CONN_TIMEOUT_MS, false, &reply, &why) != 0)
        rc = kd_conn_report(&conn, &why, NULL);
    else
        rc = print(cli, (const Distill__V1__ListReply *)reply, state, kd_args_has(args, "quiet"));
    kd_wire_free(reply);
    kd_conn_close(&conn);
    return rc;
}

const kd_verb kd_verb_jobs = {.name = "jobs",
                              .operands = "",
                              .summary = "list jobs, newest first",
                              .opts = g_opts,
                              .n_opts = KD_COUNT(g_opts),
                              .run = run};
