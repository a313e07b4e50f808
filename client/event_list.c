#include "event_list.h"

#include "follow.h"
#include "json.h"
#include "output.h"

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
    if (p->cli->json)
        return kd_json_print(p->cli, kd_json_event(p->l->job, e), true);
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
    int rc = kd_conn_start(cli, l->job, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    Distill__V1__JobDetail *detail = NULL;
    if (l->begin && !cli->json)
        rc = kd_conn_job(&conn, l->job, &detail);
    if (detail) {
        l->begin(cli, detail, l->arg);
        kd_wire_free(&detail->base);
    }
    if (rc == KD_EXIT_OK)
        rc = kd_follow_run(&conn, &f, NULL);
    kd_conn_close(&conn);
    return rc;
}
