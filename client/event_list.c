#include "event_list.h"

#include "follow.h"
#include "list.h"

/* For programs a line each; for people the verbs have forms of their own. */
static const kd_column g_columns[] = {
    {NULL, "job", KD_ALWAYS},  {NULL, "seq", KD_ALWAYS},   {NULL, "time", KD_ALWAYS},
    {NULL, "kind", KD_ALWAYS}, {NULL, "state", KD_ALWAYS}, {NULL, "worker", KD_ALWAYS},
    {NULL, "text", KD_ALWAYS},
};
static const kd_list g_list = {.columns = g_columns, .n_columns = KD_COUNT(g_columns)};

struct printer {
    kd_cli *cli;
    kd_event_list *l;
};

static int on_event(const Distill__V1__Event *e, void *arg)
{
    const struct printer *p = arg;
    if (e->seq == 0 || !p->l->wanted(e, p->l->arg))
        return 0;
    p->l->lines++;
    if (!kd_list_is_table(p->cli))
        return kd_list_line(p->cli, &g_list, kd_json_event(p->l->job, e), p->l->lines == 1);
    p->l->print(p->cli, e, p->l->arg);
    return kd_out_flush(p->cli);
}

static int on_idle(void *arg)
{
    (void)arg;
    return kd_out_check_reader();
}

int kd_event_list_run(kd_cli *cli, kd_event_list *l)
{
    struct printer p = {.cli = cli, .l = l};
    kd_follow f = {.job = l->job,
                   .from_seq = l->from_seq,
                   .follow = l->follow,
                   .timeout_s = -1,
                   .on_event = on_event,
                   .on_idle = on_idle,
                   .arg = &p};
    kd_conn conn;
    if (cli->format == KD_FORMAT_NAME)
        return kd_usage(cli, NULL, "-o table, json, jsonl or csv", "events have no names");
    int rc = kd_conn_start(cli, l->job, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobDetail *detail = NULL;
    char id[KD_CONN_ID];
    rc = kd_conn_job(&conn, l->job, &detail);
    if (detail) {
        /* Another job may be given the same name meanwhile. */
        f.job = l->job = kd_conn_id(detail->summary, id);
        if (l->begin && kd_list_is_table(cli))
            l->begin(cli, detail, l->arg);
        kd_wire_free(&detail->base);
    }
    if (rc == KD_EXIT_OK)
        rc = kd_follow_run(&conn, &f, NULL);
    kd_conn_close(&conn);
    return rc;
}
