/* Hooks that are commands: spawned, fed, watched, ended. */
#include "hooks_internal.h"

#include "kd/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KILL_MS 2000 /* from SIGTERM to SIGKILL */
#define LINE 400     /* bytes of output that make a line of the log */
#define LINES 20     /* of one run, the rest is counted */

/* Its standard output and error. */
struct output {
    uv_pipe_t pipe;
    struct kd_hook_run *run;
    char line[LINE];
    size_t len;
};

struct kd_hook_run {
    struct kd_hook_run *next;
    kd_daemon *daemon;
    kd_hook_call *call; /* NULL once it was told how it ended */
    uv_process_t process;
    uv_pipe_t in;
    struct output out[2];
    uv_timer_t timer;
    uv_write_t write;
    char *body;
    int handles; /* not yet closed */
    int lines;
    bool ended, late;
    int64_t status;
    int signal;
};

static void say(const struct kd_hook_run *r, const char *line)
{
    kd_info("hook_command: %s pid=%d", line, r->process.pid);
}

static void flush_line(struct output *o)
{
    if (o->len && o->run->lines++ < LINES) {
        o->line[o->len] = '\0';
        say(o->run, o->line);
    }
    o->len = 0;
}

static void take_output(struct output *o, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '\n' || o->len == LINE - 1)
            flush_line(o);
        if (bytes[i] != '\n')
            o->line[o->len++] = bytes[i];
    }
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char bytes[4096]; /* one loop, which reads what it got at once */
    (void)handle, (void)suggested;
    *buf = uv_buf_init(bytes, sizeof bytes);
}

static void on_output(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    if (n > 0)
        take_output(stream->data, buf->base, (size_t)n);
    else if (n < 0)
        uv_read_stop(stream);
}

/* What the process wrote before it ended and nobody has read yet. */
static void read_rest(struct output *o)
{
    char bytes[4096];
    int fd;
    ssize_t n;
    if (uv_fileno((uv_handle_t *)&o->pipe, &fd) == 0)
        for (int i = 0; i < 16 && (n = read(fd, bytes, sizeof bytes)) > 0; i++)
            take_output(o, bytes, (size_t)n);
    flush_line(o);
}

static void one_less(struct kd_hook_run *r)
{
    if (--r->handles > 0)
        return;
    free(r->body);
    free(r);
}

static void on_closed(uv_handle_t *handle)
{
    one_less(handle->data);
}

static void on_output_closed(uv_handle_t *handle)
{
    one_less(((struct output *)handle->data)->run);
}

static void close_run(struct kd_hook_run *r)
{
    struct kd_hook_run **at = &r->daemon->hooks->runs;
    while (*at && *at != r)
        at = &(*at)->next;
    if (*at)
        *at = r->next;
    /* All of the group, whatever it has left behind. */
    if (r->process.pid > 0)
        kill(-r->process.pid, SIGKILL);
    uv_close((uv_handle_t *)&r->process, on_closed);
    uv_close((uv_handle_t *)&r->in, on_closed);
    uv_close((uv_handle_t *)&r->timer, on_closed);
    for (int i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&r->out[i].pipe, on_output_closed);
}

static void on_exit_of(uv_process_t *process, int64_t status, int signal)
{
    struct kd_hook_run *r = process->data;
    char why[64];
    for (int i = 0; i < 2; i++)
        read_rest(&r->out[i]);
    if (r->lines > LINES)
        kd_info("hook_command: %d more lines pid=%d", r->lines - LINES, process->pid);
    if (r->late)
        snprintf(why, sizeof why, "its time was over");
    else if (signal)
        snprintf(why, sizeof why, "it was ended by signal %d", signal);
    else
        snprintf(why, sizeof why, "exit code %lld", (long long)status);
    kd_hook_call *c = r->call;
    kd_daemon *d = r->daemon;
    close_run(r);
    kd_hook_ended(d, c, r->late || signal || status ? -KD_ESTATE : 0, why);
}

static void on_time(uv_timer_t *timer)
{
    struct kd_hook_run *r = timer->data;
    kill(-r->process.pid, r->late ? SIGKILL : SIGTERM);
    r->late = true;
    uv_timer_start(timer, on_time, KILL_MS, 0);
}

/* One that does not read it may still do what it is for. */
static void on_written(uv_write_t *write, int status)
{
    (void)write, (void)status;
}

static void on_shut(uv_shutdown_t *request, int status)
{
    (void)status;
    free(request);
}

static void feed(struct kd_hook_run *r)
{
    uv_buf_t buf = uv_buf_init(r->body, (unsigned)strlen(r->body));
    uv_shutdown_t *end = kd_xalloc(sizeof *end);
    if (uv_write(&r->write, (uv_stream_t *)&r->in, &buf, 1, on_written) != 0 ||
        uv_shutdown(end, (uv_stream_t *)&r->in, on_shut) != 0)
        free(end);
}

int kd_hook_command_start(kd_daemon *d, kd_hook_call *c, kd_diag *diag)
{
    const kd_words *words = &d->hooks->cfg->command;
    struct kd_hook_run *r = kd_xalloc(sizeof *r);
    const kd_job_record *j = kd_daemon_job(d, c->job);
    char *argv[KD_WORDS + 1], id[KD_ID_TEXT], env[5][160], *environment[8];
    int n = 0;
    for (int i = 0; i < words->n; i++)
        argv[i] = (char *)kd_words_at(words, i);
    argv[words->n] = NULL;
    kd_id_text(c->job, id);
    snprintf(env[0], sizeof *env, "DISTILL_EVENT=%s", c->kind);
    snprintf(env[1], sizeof *env, "DISTILL_EVENT_ID=%s-%llu", id, (unsigned long long)c->seq);
    snprintf(env[2], sizeof *env, "DISTILL_JOB=%s", id);
    snprintf(env[3], sizeof *env, "DISTILL_JOB_NAME=%s", j ? j->row.name : "");
    for (int i = 0; i < 4; i++)
        environment[n++] = env[i];
    environment[n++] = (char *)"PATH=/usr/local/bin:/usr/bin:/bin";
    environment[n++] = (char *)"LANG=C.UTF-8";
    environment[n] = NULL;

    r->daemon = d;
    r->call = c;
    r->body = kd_xstrdup(c->body);
    r->handles = 5;
    uv_pipe_init(&d->loop, &r->in, 0);
    uv_timer_init(&d->loop, &r->timer);
    r->in.data = r->timer.data = r->process.data = r;
    for (int i = 0; i < 2; i++) {
        uv_pipe_init(&d->loop, &r->out[i].pipe, 0);
        r->out[i].pipe.data = &r->out[i];
        r->out[i].run = r;
    }
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&r->in}};
    for (int i = 0; i < 2; i++)
        stdio[i + 1] = (uv_stdio_container_t){.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE,
                                              .data.stream = (uv_stream_t *)&r->out[i].pipe};
    uv_process_options_t options = {.exit_cb = on_exit_of,
                                    .file = argv[0],
                                    .args = argv,
                                    .env = environment,
                                    .cwd = "/",
                                    .flags = UV_PROCESS_DETACHED,
                                    .stdio_count = 3,
                                    .stdio = stdio};
    int rc = uv_spawn(&d->loop, &r->process, &options);
    r->process.data = r;
    if (rc != 0) {
        r->process.pid = 0;
        close_run(r);
        return kd_fail(diag, -KD_EIO, "cannot run %.200s: %s", argv[0], uv_strerror(rc));
    }
    r->next = d->hooks->runs;
    d->hooks->runs = r;
    for (int i = 0; i < 2; i++)
        uv_read_start((uv_stream_t *)&r->out[i].pipe, give_buffer, on_output);
    feed(r);
    uv_timer_start(&r->timer, on_time, (uint64_t)d->hooks->cfg->timeout_s * 1000, 0);
    return 0;
}

void kd_hook_command_stop(kd_daemon *d)
{
    while (d->hooks->runs)
        close_run(d->hooks->runs);
}
