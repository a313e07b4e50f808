#include "keeper.h"

#include "json.h"

#include "kd/clock.h"
#include "kd/file.h"
#include "kd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 30000 /* for the coordinator to serve */
#define END_MS 15000   /* for a daemon to end in order */
#define LOOK_MS 20     /* between two looks at what cannot wake us */

extern char **environ;

typedef struct keeper {
    const kd_throwaway *t;
    char programs[2][KD_THROWAWAY_PATH]; /* distilld, distill-worker */
    pid_t coordinator, workers[KD_THROWAWAY_WORKERS];
    int port, http_port;
    char server[64];
    sigset_t signals;
    int news_fd;
    int wanted; /* the signal that asked it to end */
    bool hurry; /* to end at once */
    bool over;  /* it has ended by itself */
} keeper;

/* ---- programs */

/* Beside this program, else in PATH. */
static bool find_program(const char *name, char out[KD_THROWAWAY_PATH])
{
    char self[KD_THROWAWAY_PATH];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash) {
        *slash = '\0';
        if (snprintf(out, KD_THROWAWAY_PATH, "%s/%s", self, name) < KD_THROWAWAY_PATH &&
            access(out, X_OK) == 0)
            return true;
    }
    const char *path = getenv("PATH");
    for (; path && *path; path += strcspn(path, ":"), path += *path == ':') {
        int len = (int)strcspn(path, ":");
        if (len > 0 &&
            snprintf(out, KD_THROWAWAY_PATH, "%.*s/%s", len, path, name) < KD_THROWAWAY_PATH &&
            access(out, X_OK) == 0)
            return true;
    }
    return false;
}

/* What is meant for other clusters must not reach these daemons. */
static void clean_environment(void)
{
    static const char *const names[] = {"DISTILL_SERVER", "DISTILL_INSECURE", "DISTILL_DATA_ROOT",
                                        "DISTILL_WORKER_CREDENTIALS", "STATE_DIRECTORY"};
    for (size_t i = 0; i < KD_COUNT(names); i++)
        unsetenv(names[i]);
    for (char **e = environ; *e;) {
        char name[64];
        size_t len = strcspn(*e, "=");
        bool ours = strncmp(*e, "DISTILLD_", 9) == 0 && len < sizeof name;
        if (!ours) {
            e++;
            continue;
        }
        snprintf(name, sizeof name, "%.*s", (int)len, *e);
        unsetenv(name);
    }
}

static pid_t start(const keeper *k, const char *log, char *const *argv)
{
    pid_t self = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    char path[KD_THROWAWAY_PATH + 64];
    snprintf(path, sizeof path, "%s/logs/%s.log", k->t->dir, log);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0 || getppid() != self)
        _exit(126);
    sigset_t none;
    sigemptyset(&none);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(argv[0], argv);
    dprintf(STDERR_FILENO, "cannot start %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static void start_coordinator(keeper *k)
{
    char state[KD_THROWAWAY_PATH + 64], port[KD_THROWAWAY_PATH + 64], http[KD_THROWAWAY_PATH + 64];
    snprintf(state, sizeof state, "%s/state", k->t->dir);
    snprintf(port, sizeof port, "%s/port", k->t->dir);
    snprintf(http, sizeof http, "%s/http-port", k->t->dir);
    unlink(port);
    unlink(http);
    char *outside = (char *)(k->t->outside ? k->t->outside : "");
    char *argv[] = {
        k->programs[0], "--state-dir",        state,         "--listen", "127.0.0.1:0",
        "--http",       "127.0.0.1:0",        "--port-file", port,       "--http-port-file",
        http,           "--outside-teachers", outside,       NULL};
    k->coordinator = start(k, "distilld", argv);
}

static void start_worker(keeper *k, int i)
{
    char name[32], log[32], threads[16];
    snprintf(name, sizeof name, "local-%d", i + 1);
    snprintf(log, sizeof log, "worker-%d", i + 1);
    snprintf(threads, sizeof threads, "%d", k->t->threads);
    char *argv[] = {k->programs[1],          "--server",  k->server, "--name", name, "--data-root",
                    (char *)k->t->data_root, "--threads", threads,   NULL};
    k->workers[i] = start(k, log, argv);
}

/* ---- waiting */

/* Why it ends by itself: the first reason, not what follows from it. */
static void note_end(keeper *k, const char *fmt, ...) KD_PRINTF(2, 3);
static void note_end(keeper *k, const char *fmt, ...)
{
    char text[512], path[KD_THROWAWAY_PATH + 64];
    va_list ap;
    if (k->over || k->wanted)
        return;
    k->over = true;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(path, sizeof path, "%s/ended", k->t->dir);
    (void)!kd_file_write(path, text, strlen(text), NULL);
}

/* How a daemon ended, in words. */
static void describe(int status, char out[64])
{
    if (WIFSIGNALED(status))
        snprintf(out, 64, "was killed by signal %d", WTERMSIG(status));
    else
        snprintf(out, 64, "ended with exit code %d", WEXITSTATUS(status));
}

static int workers_left(const keeper *k)
{
    int n = 0;
    for (int i = 0; i < k->t->workers; i++)
        n += k->workers[i] > 0;
    return n;
}

/* Takes note of daemons that have ended; true once the cluster has by that. */
static bool collect(keeper *k)
{
    int status;
    char how[64];
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        describe(status, how);
        if (pid == k->coordinator) {
            k->coordinator = 0;
            note_end(k, "the coordinator %s; logs/distilld.log tells more", how);
        }
        for (int i = 0; i < k->t->workers; i++) {
            if (k->workers[i] != pid)
                continue;
            k->workers[i] = 0;
            kd_info("worker local-%d %s", i + 1, how);
            if (workers_left(k) == 0)
                note_end(k, "the last worker %s; logs/worker-%d.log tells more", how, i + 1);
        }
    }
    return k->over;
}

/* Waits up to ms for a signal; takes note of it. */
static void sleep_or_wake(keeper *k, kd_time_ms ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    int number = sigtimedwait(&k->signals, NULL, &t);
    if (number == SIGUSR1) {
        prctl(PR_SET_PDEATHSIG, 0);
        (void)!write(k->news_fd, "", 1);
    }
    if (number <= 0 || number == SIGCHLD || number == SIGUSR1)
        return;
    /* The second one, or one that nobody is left to wait for. */
    k->hurry = k->hurry || k->wanted != 0 || number == SIGHUP;
    k->wanted = number;
}

/* ---- ending */

static void signal_all(const keeper *k, bool coordinator, int number)
{
    for (int i = 0; i < k->t->workers; i++)
        if (k->workers[i] > 0)
            kill(k->workers[i], number);
    if (coordinator && k->coordinator > 0)
        kill(k->coordinator, number);
}

static bool any_left(const keeper *k, bool coordinator)
{
    return workers_left(k) > 0 || (coordinator && k->coordinator > 0);
}

/* The workers, and with `coordinator` that too. */
static void end_some(keeper *k, bool coordinator)
{
    kd_time_ms until = kd_clock_ms() + END_MS;
    if (!k->hurry)
        signal_all(k, coordinator, SIGTERM);
    while (any_left(k, coordinator) && !k->hurry && kd_clock_ms() < until) {
        sleep_or_wake(k, 100);
        (void)collect(k);
    }
    signal_all(k, coordinator, SIGKILL);
    while (any_left(k, coordinator)) {
        sleep_or_wake(k, LOOK_MS);
        (void)collect(k);
    }
}

/* ---- the whole */

static bool read_port(const keeper *k, const char *name, int *out)
{
    char path[KD_THROWAWAY_PATH + 64], *text = NULL;
    size_t len;
    snprintf(path, sizeof path, "%s/%s", k->t->dir, name);
    if (*out > 0)
        return true;
    if (kd_file_read(path, 16, &text, &len, NULL) != 0)
        return false;
    *out = atoi(text);
    free(text);
    return *out > 0;
}

static void tell(const keeper *k, const char *text)
{
    kd_keeper_news news = {.port = text ? 0 : k->port, .http_port = k->http_port};
    snprintf(news.text, sizeof news.text, "%s", text ? text : "");
    (void)!write(k->news_fd, &news, sizeof news);
}

static void write_cluster(const keeper *k)
{
    char path[KD_THROWAWAY_PATH + 64], http[64];
    snprintf(path, sizeof path, "%s/cluster.json", k->t->dir);
    snprintf(http, sizeof http, "127.0.0.1:%d", k->http_port);
    json_t *o = json_pack("{s:s, s:s, s:i, s:i, s:o, s:b}", "server", k->server, "http", http,
                          "workers", k->t->workers, "threads", k->t->threads, "data_root",
                          kd_json_text(k->t->data_root), "made", (int)k->t->made);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    if (text)
        (void)!kd_file_write(path, text, strlen(text), NULL);
    free(text);
}

/* What it says goes to its log, and nobody's terminal or pipe is held open by it. */
static void detach(keeper *k)
{
    char path[KD_THROWAWAY_PATH + 64];
    snprintf(path, sizeof path, "%s/logs/local.log", k->t->dir);
    int null = open("/dev/null", O_RDONLY), log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    setsid();
    if (null < 0 || log < 0)
        _exit(126);
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    if (k->news_fd != 3)
        dup2(k->news_fd, 3);
    k->news_fd = 3;
    fcntl(3, F_SETFD, FD_CLOEXEC);
    close_range(4, ~0u, 0);
}

static void take_signals(keeper *k)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGCHLD};
    sigemptyset(&k->signals);
    for (size_t i = 0; i < KD_COUNT(numbers); i++) {
        sigaddset(&k->signals, numbers[i]);
        signal(numbers[i], SIG_DFL);
    }
    /* Who waits for news may be gone, and the folder is still to be removed. */
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_SETMASK, &k->signals, NULL);
}

/* The lock says who holds the cluster, for as long as this process lives. False: another does. */
static bool lock(const keeper *k)
{
    char path[KD_THROWAWAY_PATH + 64];
    snprintf(path, sizeof path, "%s/lock", k->t->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return fd >= 0 && fcntl(fd, F_SETLK, &(struct flock){.l_type = F_WRLCK}) == 0;
}

/* NULL: the coordinator serves. */
static const char *await_coordinator(keeper *k)
{
    kd_time_ms until = kd_clock_ms() + START_MS;
    while (!read_port(k, "port", &k->port) || !read_port(k, "http-port", &k->http_port)) {
        sleep_or_wake(k, LOOK_MS);
        if (k->wanted)
            return "interrupted";
        if (collect(k))
            return "the coordinator did not start";
        if (kd_clock_ms() > until)
            return "the coordinator did not serve within 30 seconds";
    }
    snprintf(k->server, sizeof k->server, "127.0.0.1:%d", k->port);
    return NULL;
}

static const char *start_all(keeper *k)
{
    static const char *const names[] = {"distilld", "distill-worker"};
    if (!lock(k))
        return "another process holds its folder";
    for (size_t i = 0; i < KD_COUNT(names); i++)
        if (!find_program(names[i], k->programs[i]))
            return i == 0 ? "there is no distilld beside this program or in PATH"
                          : "there is no distill-worker beside this program or in PATH";
    clean_environment();
    start_coordinator(k);
    const char *why = await_coordinator(k);
    if (why)
        return why;
    write_cluster(k);
    for (int i = 0; i < k->t->workers; i++)
        start_worker(k, i);
    return NULL;
}

void kd_keeper_run(const kd_throwaway *t, int news_fd, pid_t parent)
{
    keeper *k = kd_xalloc(sizeof *k);
    k->t = t;
    k->news_fd = news_fd;
    detach(k);
    take_signals(k);
    kd_log_set_level(KD_LOG_INFO);
    prctl(PR_SET_PDEATHSIG, SIGHUP);
    if (getppid() != parent)
        k->wanted = SIGHUP;
    const char *why = k->wanted ? "interrupted" : start_all(k);
    tell(k, why);
    while (!why && !k->wanted && !collect(k))
        sleep_or_wake(k, 60000);
    end_some(k, false);
    end_some(k, true);
    /* Who asks for its end removes what is left, unless that is who has gone. */
    if (k->wanted == SIGHUP && t->made)
        (void)!kd_file_remove_tree(t->dir, NULL);
    _exit(0);
}
