#include "throwaway.h"

#include "json.h"
#include "keeper.h"
#include "output.h"

#include "kd/clock.h"
#include "kd/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOIN_MS 120000 /* for the workers to join: each tests its numbers first */
#define STOP_MS 40000  /* for the keeper to end all, which bounds each daemon itself */
#define RELEASE_MS 5000
#define LOOK_MS 20
#define LOG_TAIL 2000

static void path_in(const kd_throwaway *t, const char *name, char out[KD_THROWAWAY_PATH + 64])
{
    snprintf(out, KD_THROWAWAY_PATH + 64, "%s/%s", t->dir, name);
}

/* Who holds the lock there; 0 = nobody. */
static pid_t holder_of(const kd_throwaway *t)
{
    char path[KD_THROWAWAY_PATH + 64];
    struct flock l = {.l_type = F_WRLCK};
    path_in(t, "lock", path);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return 0;
    bool held = fcntl(fd, F_GETLK, &l) == 0 && l.l_type != F_UNLCK && l.l_pid > 0;
    close(fd);
    return held ? l.l_pid : 0;
}

/* ---- its folder */

static bool is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    bool any = false;
    for (struct dirent *e; d && !any && (e = readdir(d));)
        any = strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d)
        closedir(d);
    return d && !any;
}

static int take_folder(kd_throwaway *t, const char *given, kd_diag *diag)
{
    char path[KD_THROWAWAY_PATH + 64], whole[PATH_MAX];
    int rc = kd_file_mkdirs(given, diag);
    if (rc != 0)
        return rc;
    if (!realpath(given, whole) || strlen(whole) >= KD_THROWAWAY_PATH)
        return kd_fail(diag, -KD_EIO, "cannot use %.300s: %s", given, strerror(errno));
    memcpy(t->dir, whole, strlen(whole) + 1);
    path_in(t, "cluster.json", path);
    if (access(path, F_OK) != 0 && !is_empty(t->dir))
        return kd_fail(diag, -KD_EEXIST,
                       "%.300s holds other files; name an empty folder, or one of an earlier local "
                       "cluster",
                       given);
    if (holder_of(t))
        return kd_fail(diag, -KD_EEXIST, "a local cluster runs in %.300s (process %d)", given,
                       (int)holder_of(t));
    return 0;
}

int kd_throwaway_folder(kd_throwaway *t, const char *given, kd_diag *diag)
{
    const char *tmp = getenv("TMPDIR");
    if (given)
        return take_folder(t, given, diag);
    snprintf(t->dir, sizeof t->dir, "%.2900s/distill-local-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(t->dir))
        return kd_fail(diag, -KD_EIO, "cannot make a folder in %.300s: %s",
                       tmp && *tmp ? tmp : "/tmp", strerror(errno));
    t->made = true;
    return 0;
}

int kd_throwaway_load(const char *dir, kd_throwaway *out, kd_diag *diag)
{
    kd_throwaway t = {0};
    char path[KD_THROWAWAY_PATH + 64], *text = NULL;
    const char *server, *http, *data_root;
    size_t len;
    int made;
    snprintf(t.dir, sizeof t.dir, "%s", dir);
    path_in(&t, "cluster.json", path);
    int rc = kd_file_read(path, 64u << 10, &text, &len, diag);
    if (rc != 0)
        return rc;
    json_t *o = json_loads(text, 0, NULL);
    free(text);
    if (json_unpack(o, "{s:s, s:s, s:i, s:i, s:s, s:b}", "server", &server, "http", &http,
                    "workers", &t.workers, "threads", &t.threads, "data_root", &data_root, "made",
                    &made) != 0) {
        json_decref(o);
        return kd_fail(diag, -KD_EDATA, "%.300s is not what `distill local` wrote", path);
    }
    snprintf(t.server, sizeof t.server, "%s", server);
    snprintf(t.http, sizeof t.http, "%s", http);
    snprintf(t.data_root, sizeof t.data_root, "%s", data_root);
    t.made = made;
    json_decref(o);
    t.keeper = holder_of(&t);
    *out = t;
    return 0;
}

bool kd_throwaway_ended(const kd_throwaway *t, char *out, size_t size)
{
    char path[KD_THROWAWAY_PATH + 64], *text = NULL;
    size_t len;
    path_in(t, "ended", path);
    if (kd_file_read(path, 4096, &text, &len, NULL) != 0)
        return false;
    snprintf(out, size, "%s", text);
    free(text);
    return true;
}

/* ---- its logs */

static void show_log(const kd_cli *cli, const kd_throwaway *t, const char *name)
{
    char path[KD_THROWAWAY_PATH + 64], tail[LOG_TAIL + 1];
    snprintf(path, sizeof path, "%s/logs/%s.log", t->dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    off_t from = size > LOG_TAIL ? size - LOG_TAIL : 0;
    ssize_t n = size > 0 ? pread(fd, tail, LOG_TAIL, from) : 0;
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return;
    while (n > 0 && tail[n - 1] == '\n')
        n--;
    tail[n] = '\0';
    char *line = from > 0 ? strchr(tail, '\n') : NULL;
    kd_say(cli, "-- last lines of %s.log\n%s", name, line ? line + 1 : tail);
}

void kd_throwaway_show_logs(const kd_cli *cli, const kd_throwaway *t)
{
    char name[32];
    show_log(cli, t, "distilld");
    for (int i = 1; i <= t->workers; i++) {
        snprintf(name, sizeof name, "worker-%d", i);
        show_log(cli, t, name);
    }
}

/* ---- start */

/* Forks the keeper and waits until the coordinator serves. */
static int start_keeper(kd_throwaway *t, kd_keeper_news *out, kd_diag *diag)
{
    int pipes[2];
    char path[KD_THROWAWAY_PATH + 64];
    path_in(t, "logs", path);
    int rc = kd_file_mkdirs(path, diag);
    path_in(t, "ended", path);
    if (rc != 0)
        return rc;
    if ((unlink(path) != 0 && errno != ENOENT) || pipe2(pipes, O_CLOEXEC) != 0)
        return kd_fail(diag, -KD_EIO, "cannot start a local cluster: %s", strerror(errno));
    kd_cli_catch_child();
    fflush(stdout);
    /* What is sent to it before it looks for signals must not be lost on our handlers. */
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t self = getpid();
    t->keeper = fork();
    if (t->keeper == 0)
        kd_keeper_run(t, pipes[1], self);
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(pipes[1]);
    t->child = t->keeper > 0;
    struct pollfd p = {.fd = pipes[0], .events = POLLIN};
    while (t->child && poll(&p, 1, 50) <= 0 && kd_cli_signal() == 0)
        ;
    *out = (kd_keeper_news){0};
    ssize_t n = t->child && p.revents ? read(pipes[0], out, sizeof *out) : 0;
    t->news_fd = pipes[0];
    if (!t->child)
        return kd_fail(diag, -KD_EIO, "cannot start a process: %s", strerror(errno));
    if (n == (ssize_t)sizeof *out && out->port > 0)
        return 0;
    return kd_fail(diag, -KD_EUNAVAIL, "%s",
                   n == (ssize_t)sizeof *out ? out->text : "the local cluster did not start");
}

int kd_throwaway_release(kd_throwaway *t, kd_diag *diag)
{
    struct pollfd p = {.fd = t->news_fd, .events = POLLIN};
    char word;
    kill(t->keeper, SIGUSR1);
    if (poll(&p, 1, RELEASE_MS) == 1 && read(t->news_fd, &word, 1) == 1)
        return 0;
    return kd_fail(diag, -KD_EUNAVAIL, "the local cluster has ended");
}

/* Until all of them have joined. Returns an exit code. */
static int await_workers(kd_cli *cli, const kd_throwaway *t)
{
    kd_conn conn;
    kd_time_ms until = kd_clock_ms() + JOIN_MS;
    Distill__V1__WorkersRequest request = DISTILL__V1__WORKERS_REQUEST__INIT;
    size_t n = 0;
    int rc = kd_conn_open(cli, &conn);
    while (rc == KD_EXIT_OK && n < (size_t)t->workers) {
        ProtobufCMessage *reply = NULL;
        rc = kd_conn_ask(&conn, "Workers", &request, NULL, &distill__v1__workers_reply__descriptor,
                         &reply);
        n = rc == KD_EXIT_OK ? ((Distill__V1__WorkersReply *)reply)->n_workers : 0;
        kd_wire_free(reply);
        if (rc != KD_EXIT_OK || n == (size_t)t->workers)
            break;
        if (!kd_conn_pause(LOOK_MS))
            rc = kd_cli_signal_exit();
        else if (kd_clock_ms() > until) {
            kd_error(cli, "%zu of %d workers have joined after two minutes", n, t->workers);
            rc = KD_EXIT_FAILURE;
        }
    }
    kd_conn_close(&conn);
    return rc;
}

static int give_up(kd_cli *cli, kd_throwaway *t, int rc)
{
    char why[512];
    if (kd_cli_signal() == 0 || kd_cli_signal() == SIGCHLD) {
        if (kd_throwaway_ended(t, why, sizeof why))
            kd_error(cli, "%s", why);
        kd_throwaway_show_logs(cli, t);
        rc = KD_EXIT_FAILURE;
    }
    kd_throwaway_stop(t);
    kd_diag diag = {0};
    if (kd_throwaway_remove(t, &diag) != 0)
        kd_error(cli, "%s", diag.msg);
    return rc;
}

int kd_throwaway_start(kd_cli *cli, kd_throwaway *t)
{
    kd_diag diag = {0};
    kd_keeper_news news;
    kd_say(cli, "starting a coordinator and %d worker%s of %d thread%s on this machine", t->workers,
           t->workers == 1 ? "" : "s", t->threads, t->threads == 1 ? "" : "s");
    if (start_keeper(t, &news, &diag) != 0) {
        if (kd_cli_signal() == 0 || kd_cli_signal() == SIGCHLD)
            kd_error(cli, "%s", diag.msg);
        return give_up(cli, t, kd_cli_signal_exit());
    }
    snprintf(t->server, sizeof t->server, "127.0.0.1:%d", news.port);
    snprintf(t->http, sizeof t->http, "127.0.0.1:%d", news.http_port);
    /* Nothing of what holds for other clusters. */
    snprintf(cli->server, sizeof cli->server, "%s", t->server);
    cli->server_flag[0] = cli->context_problem[0] = '\0';
    cli->insecure = true;
    int rc = await_workers(cli, t);
    return rc == KD_EXIT_OK ? rc : give_up(cli, t, rc);
}

/* ---- end */

static bool is_gone(const kd_throwaway *t)
{
    if (t->child)
        return waitpid(t->keeper, NULL, WNOHANG) != 0;
    return holder_of(t) != t->keeper;
}

void kd_throwaway_stop(kd_throwaway *t)
{
    if (t->keeper <= 0)
        return;
    /* Once the keeper has gone, nobody would remove what we leave. */
    kd_cli_outlive_signals();
    const kd_time_ms until = kd_clock_ms() + STOP_MS;
    int seen = kd_cli_signals();
    kill(t->keeper, SIGTERM);
    while (!is_gone(t)) {
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000}, NULL);
        /* Its second one makes it hurry. */
        if (kd_cli_signals() != seen)
            kill(t->keeper, SIGTERM);
        seen = kd_cli_signals();
        if (kd_clock_ms() > until)
            kill(t->keeper, SIGKILL);
    }
    if (t->child)
        close(t->news_fd);
    t->keeper = 0;
    t->child = false;
}

int kd_throwaway_remove(const kd_throwaway *t, kd_diag *diag)
{
    return t->made ? kd_file_remove_tree(t->dir, diag) : 0;
}
