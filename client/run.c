/* run: one job in the foreground, on a cluster of its own that is gone afterwards. */
#include "args.h"
#include "output.h"
#include "verbs.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const kd_opt g_opts[] = {
    {"set", 0, "KEY=VALUE", "override a key of the job file, e.g. distill.epochs=3 (repeatable)"},
    {"output-dir", 'O', "DIR",
     "where the results go (a new folder: the job's name, with -results behind it)"},
    {"workers", 0, "N", "so many workers (cluster.min_workers of the job)"},
    {"threads", 0, "N", "threads of each worker (the CPUs divided among them)"},
    {"data-root", 0, "DIR", "the job's data are looked for here (the folder of the job file)"},
    {"keep", 0, NULL, "keep the coordinator's state and all logs, and say where"},
};

/* The folder of the job file, "." of standard input. */
static void folder_of(const char *file, char out[KD_THROWAWAY_PATH])
{
    const char *slash = strrchr(file, '/');
    if (!slash)
        snprintf(out, KD_THROWAWAY_PATH, ".");
    else
        snprintf(out, KD_THROWAWAY_PATH, "%.*s", (int)KD_MAX(slash - file, 1), file);
}

/* What a job that did not succeed has made all the same. */
static void save_made(kd_conn *c, const char *id, const char *dir)
{
    Distill__V1__JobDetail *detail = NULL;
    if (kd_cli_signal() != 0 || kd_conn_job(c, id, &detail) != KD_EXIT_OK)
        return;
    const bool any = detail->n_artefacts > 0 || detail->result[0];
    kd_wire_free(&detail->base);
    const int rc = any ? kd_fetch_all(c, id, dir) : KD_EXIT_FAILURE;
    if (rc == KD_EXIT_OK || rc == KD_EXIT_CONFLICT) /* jobs of a sweep without files were told */
        kd_say(c->cli, "what its finished stages made is in %s", dir);
}

/* The job from its submit to its files. Returns its exit code. */
static int do_job(kd_cli *cli, kd_submit *s, const char *dir)
{
    kd_conn conn;
    char id[KD_CONN_ID];
    int rc = kd_conn_open(cli, &conn);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_submit_send(&conn, s, id);
    if (rc == KD_EXIT_OK)
        rc = kd_watch_run(&conn, id, false);
    if (rc == KD_EXIT_OK)
        rc = kd_fetch_all(&conn, id, dir);
    else if (rc == KD_EXIT_JOB_FAILED || rc == KD_EXIT_JOB_CANCELLED)
        save_made(&conn, id, dir);
    kd_conn_close(&conn);
    return rc;
}

/* The cluster has ended before its job. */
static int tell_end(const kd_cli *cli, const kd_throwaway *t)
{
    char why[512];
    kd_error(cli, "%s",
             kd_throwaway_ended(t, why, sizeof why) ? why : "the cluster's processes are gone");
    kd_throwaway_show_logs(cli, t);
    return KD_EXIT_FAILURE;
}

static int take_down(const kd_cli *cli, kd_throwaway *t, bool keep)
{
    kd_diag diag = {0};
    if (kd_cli_signal() != 0 && kd_cli_signal() != SIGCHLD)
        kd_say(cli, "%sending the cluster and its job; once more to end them at once",
               cli->tty_err ? "\n" : "");
    kd_throwaway_stop(t);
    if (keep)
        kd_say(cli, "state and logs are in %s", t->dir);
    else if (kd_throwaway_remove(t, &diag) != 0)
        kd_error(cli, "%s", diag.msg);
    return diag.code ? KD_EXIT_FAILURE : KD_EXIT_OK;
}

/* Another run's results are not written over unless that is said. Returns an exit code. */
static int check_results(const kd_cli *cli, const char *dir)
{
    if (access(dir, F_OK) != 0)
        return KD_EXIT_OK;
    kd_error(cli, "%s is there already", dir);
    kd_hint(cli, "name another folder with -O DIR, or this one to write into it");
    return KD_EXIT_CONFLICT;
}

/* The job is a good one. */
static int on_cluster(kd_cli *cli, const kd_args *args, kd_submit *s)
{
    const kd_job *job = kd_submit_job(s);
    const char *dir = kd_args_value(args, "output-dir");
    char folder[KD_THROWAWAY_PATH], results[KD_JOB_NAME + 16];
    kd_throwaway t;
    kd_diag diag = {0};
    if (dir && !*dir)
        return kd_usage(cli, "run", NULL, "-O \"\" names no folder");
    folder_of(args->operands[0], folder);
    snprintf(results, sizeof results, "%s-results", job->name);
    int rc = dir ? KD_EXIT_OK : check_results(cli, results);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = kd_throwaway_flags(cli, "run", args, KD_MIN(job->min_workers, KD_THROWAWAY_WORKERS),
                            folder, &t);
    if (rc != KD_EXIT_OK)
        return rc;
    if (t.workers < job->min_workers)
        return kd_usage(cli, "run", "--set cluster.min_workers=1 lets it begin with fewer",
                        "the job wants %d workers at least, and %d are to be started",
                        job->min_workers, t.workers);
    t.outside = kd_submit_outside(s);
    if (!t.outside) {
        kd_error(cli, "%s names too many teachers that run elsewhere", args->operands[0]);
        return KD_EXIT_CONFIG;
    }
    if (kd_throwaway_folder(&t, NULL, &diag) != 0) {
        kd_error(cli, "%s", diag.msg);
        return KD_EXIT_FAILURE;
    }
    rc = kd_throwaway_start(cli, &t);
    if (rc != KD_EXIT_OK)
        return rc;
    rc = do_job(cli, s, dir ? dir : results);
    if (kd_cli_signal() == SIGCHLD)
        rc = tell_end(cli, &t);
    int down = take_down(cli, &t, kd_args_has(args, "keep"));
    return rc != KD_EXIT_OK ? rc : down;
}

static int run(kd_cli *cli, const kd_args *args)
{
    kd_submit *s = NULL;
    cli->throwaway = true;
    /* What comes is a stream. */
    if (cli->json)
        cli->format = KD_FORMAT_JSONL;
    kd_cli_catch_signals();
    int rc = kd_submit_read(cli, "run", args, &s);
    if (rc == KD_EXIT_OK)
        rc = on_cluster(cli, args, s);
    kd_submit_free(s);
    return rc;
}

const kd_verb kd_verb_run = {
    .name = "run",
    .operands = "FILE",
    .summary = "run one job here, on a cluster of its own, and fetch its results",
    .help =
        "Starts a coordinator and workers on loopback, submits FILE, follows it, fetches what it\n"
        "made, also when it fails, and takes everything down; nothing but the results stays. The\n"
        "exit code is the job's. Ctrl-C ends all of it in order, a second one at once. Teachers\n"
        "that FILE names (teacher.kserve) are permitted. To keep the cluster for more jobs:\n"
        "`distill local up`.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
