/* local: a throw-away cluster on this machine that stays until it is taken down. */
#include "args.h"
#include "contexts.h"
#include "format.h"
#include "json.h"
#include "lanes.h"
#include "output.h"
#include "throwaway.h"
#include "verbs.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCAL "local" /* its context, unless --context names another */

static const kd_opt g_opts[] = {
    {"workers", 0, "N", "up: so many workers (2)"},
    {"threads", 0, "N", "up: threads of each worker (the CPUs divided among them)"},
    {"data-root", 0, "DIR", "up: data sets of jobs are looked for here (.)"},
    {"outside-teachers", 0, "LIST",
     "up: HOST:PORT,HOST:PORT,... that jobs may name as teachers (teacher.kserve)"},
    {"dir", 0, "DIR",
     "up: state and logs go here and stay (a temporary folder that `down` removes)"},
};

int kd_throwaway_flags(kd_cli *cli, const char *verb, const kd_args *args, int workers,
                       const char *data_root, kd_throwaway *out)
{
    kd_diag diag = {0};
    uint64_t n, threads;
    char whole[PATH_MAX];
    const char *root = kd_args_value(args, "data-root");
    root = root ? root : data_root;
    if (kd_args_u64(args, "workers", 1, KD_THROWAWAY_WORKERS, (uint64_t)workers, &n, &diag) != 0)
        return kd_usage(cli, verb, NULL, "%s", diag.msg);
    uint64_t each = KD_MAX((uint64_t)kd_lanes_cpus() / n, 1u);
    if (kd_args_u64(args, "threads", 1, 256, each, &threads, &diag) != 0)
        return kd_usage(cli, verb, NULL, "%s", diag.msg);
    if (!realpath(root, whole) || strlen(whole) >= sizeof out->data_root) {
        kd_error(cli, "there is no folder %s for the data", root);
        kd_hint(cli, "--data-root DIR names the one that holds the data sets of jobs");
        return KD_EXIT_USAGE;
    }
    *out = (kd_throwaway){.workers = (int)n, .threads = (int)threads};
    memcpy(out->data_root, whole, strlen(whole) + 1);
    return KD_EXIT_OK;
}

/* ---- which one */

static const char *name_of(const kd_args *args)
{
    const char *name = kd_args_value(args, "context");
    return name ? name : LOCAL;
}

/* False: no context of that name is that of a local cluster. */
static bool find(const kd_args *args, kd_context *c, kd_throwaway *t, bool *out_there)
{
    if (kd_context_load(name_of(args), c, NULL) != 0 || !c->local[0])
        return false;
    *out_there = kd_throwaway_load(c->local, t, NULL) == 0;
    if (!*out_there)
        *t = (kd_throwaway){0};
    return true;
}

static int none_here(const kd_cli *cli, const kd_args *args)
{
    const char *name = name_of(args);
    bool usual = strcmp(name, LOCAL) == 0;
    kd_error(cli, "there is no local cluster%s%s", usual ? "" : " ", usual ? "" : name);
    kd_hint(cli, "`distill local up%s%s` starts one", usual ? "" : " --context ",
            usual ? "" : name);
    return KD_EXIT_UNREACHABLE;
}

/* ---- up */

static int fail(const kd_cli *cli, int rc, const kd_diag *diag)
{
    kd_error(cli, "%s", diag->msg);
    return rc == -KD_EEXIST ? KD_EXIT_CONFLICT : KD_EXIT_FAILURE;
}

/* What is left of one that ended without `down` makes room. Returns an exit code. */
static int make_room(const kd_cli *cli, const kd_args *args)
{
    kd_context c;
    kd_throwaway t;
    bool there;
    kd_diag diag = {0};
    if (!find(args, &c, &t, &there)) {
        if (kd_context_load(name_of(args), &c, NULL) != 0)
            return KD_EXIT_OK;
        kd_error(cli, "the context %s is of the coordinator %s", c.name, c.server);
        kd_hint(cli, "name the local cluster's with --context NAME");
        return KD_EXIT_CONFLICT;
    }
    if (there && t.keeper) {
        kd_error(cli, "a local cluster is up already: %s, in %s", c.server, c.local);
        kd_hint(cli, "`distill local down` ends it; --context NAME has another one beside it");
        return KD_EXIT_CONFLICT;
    }
    int rc = there ? kd_throwaway_remove(&t, &diag) : 0;
    if (rc == 0)
        rc = kd_context_remove(&c, &diag);
    return rc == 0 ? KD_EXIT_OK : fail(cli, rc, &diag);
}

static int tell(const kd_cli *cli, const kd_throwaway *t, const kd_context *c)
{
    if (cli->json)
        return kd_json_print(
            cli,
            json_pack("{s:s, s:s, s:s, s:o, s:o, s:i, s:i}", "context", c->name, "server",
                      t->server, "http", t->http, "dir", kd_json_text(t->dir), "data_root",
                      kd_json_text(t->data_root), "workers", t->workers, "threads", t->threads),
            false);
    kd_out_clean(cli, "coordinator  %s, context %s", t->server, c->name);
    kd_out_clean(cli, "dashboard    http://%s", t->http);
    kd_out_clean(cli, "workers      %d of %d thread%s, data below %s", t->workers, t->threads,
                 t->threads == 1 ? "" : "s", t->data_root);
    kd_out_clean(cli, "files        %s%s", t->dir,
                 t->made ? ", removed by `distill local down`" : "");
    return kd_out_flush(cli);
}

static int up(kd_cli *cli, const kd_args *args)
{
    kd_throwaway t;
    kd_context c = {0};
    kd_diag diag = {0};
    int rc = kd_throwaway_flags(cli, "local", args, 2, ".", &t);
    if (rc == KD_EXIT_OK)
        rc = make_room(cli, args);
    if (rc != KD_EXIT_OK)
        return rc;
    t.outside = kd_args_value(args, "outside-teachers");
    int code = kd_throwaway_folder(&t, kd_args_value(args, "dir"), &diag);
    if (code != 0)
        return fail(cli, code, &diag);
    kd_cli_catch_signals();
    rc = kd_throwaway_start(cli, &t);
    if (rc != KD_EXIT_OK)
        return rc;
    snprintf(c.name, sizeof c.name, "%s", name_of(args));
    snprintf(c.server, sizeof c.server, "%s", t.server);
    snprintf(c.local, sizeof c.local, "%s", t.dir);
    if (!kd_context_current(c.previous) || strcmp(c.previous, c.name) == 0)
        c.previous[0] = '\0';
    kd_context_folder(c.name, c.dir);
    code = kd_context_add(&c, &diag);
    bool added = code == 0;
    if (code == 0)
        code = kd_context_use(c.name, &diag);
    if (code == 0)
        code = kd_throwaway_release(&t, &diag);
    if (code == 0) {
        kd_hint(cli, "commands go to it from now on; `distill local down` ends it");
        kd_context_warn(cli, c.name, c.server);
        return tell(cli, &t, &c);
    }
    kd_throwaway_stop(&t);
    (void)!kd_throwaway_remove(&t, NULL);
    if (added)
        (void)!kd_context_remove(&c, NULL);
    return fail(cli, code, &diag);
}

/* ---- down */

static int down(kd_cli *cli, const kd_args *args)
{
    kd_context c, before;
    kd_throwaway t;
    kd_diag diag = {0};
    char current[KD_CONTEXT_NAME], now[KD_CONTEXT_NAME] = "";
    bool there;
    if (!find(args, &c, &t, &there))
        return none_here(cli, args);
    bool ran = there && t.keeper;
    bool used = kd_context_current(current) && strcmp(current, c.name) == 0;
    kd_cli_catch_signals();
    kd_throwaway_stop(&t);
    int rc = there ? kd_throwaway_remove(&t, &diag) : 0;
    if (rc == 0)
        rc = kd_context_remove(&c, &diag);
    /* Back to where one was. */
    if (rc == 0 && used && c.previous[0] && kd_context_load(c.previous, &before, NULL) == 0) {
        rc = kd_context_use(c.previous, &diag);
        snprintf(now, sizeof now, "%s", c.previous);
    }
    if (rc != 0)
        return fail(cli, rc, &diag);
    if (cli->json)
        return kd_json_print(cli,
                             json_pack("{s:s, s:b, s:b, s:s}", "context", c.name, "ran", (int)ran,
                                       "removed", (int)(there && t.made), "in_use", now),
                             false);
    kd_out_clean(cli, "%s%s%s", ran ? "the local cluster is down" : "it was not running any more",
                 there && !t.made ? "; its files stay in " : "", there && !t.made ? t.dir : "");
    if (now[0])
        kd_out(cli, "%s is in use again: %s", now, before.server);
    return KD_EXIT_OK;
}

/* ---- status */

static int status(kd_cli *cli, const kd_args *args)
{
    kd_context c;
    kd_throwaway t;
    bool there;
    char why[512] = "";
    if (!find(args, &c, &t, &there))
        return none_here(cli, args);
    bool runs = there && t.keeper;
    if (!runs && !(there && kd_throwaway_ended(&t, why, sizeof why)))
        snprintf(why, sizeof why, "its processes are gone");
    if (cli->json) {
        int rc = kd_json_print(
            cli,
            json_pack("{s:s, s:b, s:o, s:s, s:s, s:o, s:o, s:i, s:i, s:i}", "context", c.name,
                      "running", (int)runs, "reason", kd_json_text(why), "server", c.server, "http",
                      t.http, "dir", kd_json_text(c.local), "data_root", kd_json_text(t.data_root),
                      "workers", t.workers, "threads", t.threads, "process", (int)t.keeper),
            false);
        return rc != KD_EXIT_OK || runs ? rc : KD_EXIT_UNREACHABLE;
    }
    if (!runs) {
        kd_error(cli, "the local cluster is down: %s", why);
        kd_hint(cli, "its files are in %s until `distill local down`", c.local);
        return KD_EXIT_UNREACHABLE;
    }
    (void)!tell(cli, &t, &c);
    kd_out(cli, "process      %d", (int)t.keeper);
    snprintf(cli->server, sizeof cli->server, "%s", c.server);
    cli->insecure = true;
    cli->context_problem[0] = '\0';
    kd_out(cli, "%s", "");
    return kd_cluster_status(cli, args);
}

static int run(kd_cli *cli, const kd_args *args)
{
    const char *what = args->operands[0];
    if (strcmp(what, "up") == 0)
        return up(cli, args);
    for (size_t i = 0; i < KD_COUNT(g_opts); i++)
        if (kd_args_has(args, g_opts[i].name))
            return kd_usage(cli, "local", NULL, "--%s goes with `local up`", g_opts[i].name);
    if (strcmp(what, "down") == 0)
        return down(cli, args);
    if (strcmp(what, "status") == 0)
        return status(cli, args);
    return kd_usage(cli, "local", "up, down or status", "local: no such thing as \"%s\"", what);
}

const kd_verb kd_verb_local = {
    .name = "local",
    .operands = "up|down|status",
    .summary = "a throw-away cluster on this machine, in one command",
    .help =
        "`up` starts distilld and workers on loopback, on free ports, and makes them the context\n"
        "in use; `down` ends them, removes what they wrote and goes back to the context before.\n"
        "Ctrl-C during `up` ends all that it has started. Whoever can log in to this machine can\n"
        "use the cluster: it is for trying things out. The programs are those beside this one, or\n"
        "in PATH. --context NAME has more than one of them. `status` ends with exit code 69 where\n"
        "it does not run.",
    .opts = g_opts,
    .n_opts = KD_COUNT(g_opts),
    .min_operands = 1,
    .max_operands = 1,
    .run = run};
