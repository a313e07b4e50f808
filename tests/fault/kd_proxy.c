/* kd-proxy: a TCP proxy that spoils what it passes on, the same way for the same seed and the same
 * reads. One thread, one poll. Counts its faults, so that a test can tell that there were any. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 128
#define READ_BYTES 16384
#define MAX_QUEUED (1u << 20) /* bytes of a direction that wait; then nothing more is read */

static const char g_usage[] =
    "Usage: kd-proxy --listen HOST:PORT --to HOST:PORT [--port-file FILE] [--seed N] [--off]\n"
    "                [--only up|down] [FAULTS...]\n"
    "\n"
    "Passes TCP connections on and spoils them. Up is from who connects, down is the answer.\n"
    "\n"
    "  --delay MS, --jitter MS  every piece waits MS, and up to MS more; the order stays\n"
    "  --reset-every BYTES      the connection is reset (RST)\n"
    "  --truncate-every BYTES   the rest of a piece is lost and the connection closed in good "
    "order\n"
    "  --flip-every BYTES       one bit is turned over\n"
    "  --duplicate-every BYTES  some bytes come twice\n"
    "  --reorder-every BYTES    two neighbouring pieces change places\n"
    "  --stall-every BYTES --stall-ms MS\n"
    "                           a direction stands still for MS\n"
    "  --one-way up|down        nothing goes in that direction; it waits, nothing is lost\n"
    "\n"
    "Faults come after BYTES on average, counted over all connections. --only spares the other\n"
    "direction. SIGUSR1 turns all faults off and on (--off: off at first) and prints the counts,\n"
    "as SIGTERM does before the end. Port 0 takes any; --port-file tells which. Exit codes: 0 "
    "ended\n"
    "by a signal, 1 failure, 2 usage.\n";

enum fault { RESET, TRUNCATE, FLIP, DUPLICATE, REORDER, STALL, N_FAULTS };
static const char *const g_fault_names[N_FAULTS] = {"resets",     "truncations", "flips",
                                                    "duplicates", "reorders",    "stalls"};

struct piece {
    struct piece *next;
    int64_t due_ms;
    size_t len, sent;
    uint8_t bytes[];
};

enum { UP, DOWN };

/* From one socket to the other. */
struct way {
    struct piece *first, **end;
    size_t queued;
    int64_t last_due_ms, still_until_ms;
    bool ended;  /* its source has closed */
    bool closed; /* and that was passed on */
};

struct connection {
    int fd[2]; /* fd[UP] is who connected, where the way up is read */
    bool connecting, cut;
    struct way way[2];
};

static struct {
    const char *listen, *to, *port_file;
    uint64_t seed;
    long delay_ms, jitter_ms, stall_ms;
    long every[N_FAULTS];
    int held, only; /* a direction, -1 = none */
} g_cfg = {.held = -1, .only = -1};

static struct connection g_connections[MAX_CONNECTIONS];
static int g_n;
static volatile sig_atomic_t g_toggles, g_end;
static bool g_on = true;
static uint64_t g_random;
static int64_t g_left[N_FAULTS][2]; /* bytes to the next one, each direction */
static unsigned long g_count[N_FAULTS], g_accepted;
static unsigned long long g_passed[2];

static void die(const char *what, const char *name)
{
    fprintf(stderr, "kd-proxy: %s %s: %s\n", what, name, strerror(errno));
    exit(1);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* splitmix64 */
static uint64_t draw(uint64_t below)
{
    uint64_t z = g_random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % below;
}

static void draw_next(enum fault f, int dir)
{
    g_left[f][dir] = 1 + (int64_t)draw(2 * (uint64_t)g_cfg.every[f]);
}

static void print_counts(void)
{
    printf("connections %lu, bytes up %llu down %llu", g_accepted, g_passed[UP], g_passed[DOWN]);
    for (int f = 0; f < N_FAULTS; f++)
        printf(", %s %lu", g_fault_names[f], g_count[f]);
    printf("\n");
    fflush(stdout);
}

/* ---- sockets */

static struct addrinfo *look_up(const char *address, bool passive)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    if (!colon || (size_t)(colon - address) >= sizeof host) {
        fprintf(stderr, "kd-proxy: HOST:PORT is expected, not \"%s\"\n", address);
        exit(2);
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    struct addrinfo hints = {.ai_family = AF_INET,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, colon + 1, &hints, &found);
    if (rc != 0) {
        fprintf(stderr, "kd-proxy: %s: %s\n", address, gai_strerror(rc));
        exit(2);
    }
    return found;
}

static void set_up_socket(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static int listen_at(const char *address)
{
    struct addrinfo *a = look_up(address, true);
    int fd = socket(a->ai_family, SOCK_STREAM, 0), one = 1;
    if (fd < 0)
        die("no socket for", address);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 64) != 0)
        die("cannot listen at", address);
    freeaddrinfo(a);
    set_up_socket(fd);
    struct sockaddr_in in;
    socklen_t len = sizeof in;
    getsockname(fd, (struct sockaddr *)&in, &len);
    FILE *f = g_cfg.port_file ? fopen(g_cfg.port_file, "w") : NULL;
    if (g_cfg.port_file && (!f || fprintf(f, "%d\n", ntohs(in.sin_port)) < 0 || fclose(f) != 0))
        die("cannot write", g_cfg.port_file);
    return fd;
}

static void drop(struct connection *c, bool reset)
{
    struct linger now = {1, 0};
    for (int i = 0; i < 2; i++) {
        if (reset && c->fd[i] >= 0)
            setsockopt(c->fd[i], SOL_SOCKET, SO_LINGER, &now, sizeof now);
        if (c->fd[i] >= 0)
            close(c->fd[i]);
        while (c->way[i].first) {
            struct piece *p = c->way[i].first;
            c->way[i].first = p->next;
            free(p);
        }
    }
    *c = g_connections[--g_n];
    /* The end of a list that is empty points into the record itself, which has moved. */
    for (int i = 0; i < 2; i++)
        if (!c->way[i].first)
            c->way[i].end = &c->way[i].first;
}

static void take_connection(int listener)
{
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        return;
    struct addrinfo *a = look_up(g_cfg.to, false);
    int other = g_n < MAX_CONNECTIONS ? socket(a->ai_family, SOCK_STREAM, 0) : -1;
    if (other >= 0)
        set_up_socket(other);
    if (other < 0 || (connect(other, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS)) {
        close(fd);
        if (other >= 0)
            close(other);
        freeaddrinfo(a);
        return;
    }
    freeaddrinfo(a);
    set_up_socket(fd);
    g_accepted++;
    struct connection *c = &g_connections[g_n++];
    *c = (struct connection){.fd = {fd, other}, .connecting = true};
    for (int i = 0; i < 2; i++)
        c->way[i].end = &c->way[i].first;
}

/* ---- faults */

static void queue(struct way *w, const uint8_t *bytes, size_t len)
{
    struct piece *p = malloc(sizeof *p + len);
    if (!p)
        die("no memory for", "a piece");
    int64_t wait = 0;
    if (g_on)
        wait =
            g_cfg.delay_ms + (g_cfg.jitter_ms ? (int64_t)draw((uint64_t)g_cfg.jitter_ms + 1) : 0);
    int64_t due = now_ms() + wait;
    due = due > w->last_due_ms ? due : w->last_due_ms;
    *p = (struct piece){.due_ms = due, .len = len};
    memcpy(p->bytes, bytes, len);
    w->last_due_ms = due;
    *w->end = p;
    w->end = &p->next;
    w->queued += len;
}

/* Where within the next len bytes the fault happens, -1 if it does not. */
static int64_t strikes(enum fault f, int dir, size_t len)
{
    if (!g_on || g_cfg.every[f] == 0 || (g_cfg.only >= 0 && g_cfg.only != dir))
        return -1;
    g_left[f][dir] -= (int64_t)len;
    if (g_left[f][dir] > 0)
        return -1;
    int64_t at = g_left[f][dir] + (int64_t)len - 1;
    draw_next(f, dir);
    g_count[f]++;
    return at < 0 ? 0 : at;
}

/* False when the connection is to be reset. */
static bool spoil_and_queue(struct connection *c, int dir, uint8_t *bytes, size_t len)
{
    struct way *w = &c->way[dir];
    int64_t at;
    if (strikes(RESET, dir, len) >= 0)
        return false;
    if ((at = strikes(FLIP, dir, len)) >= 0)
        bytes[at] ^= (uint8_t)(1u << draw(8));
    if ((at = strikes(REORDER, dir, len)) >= 0) {
        uint8_t other[READ_BYTES];
        size_t cut = len < 2 ? len : (size_t)at % (len - 1) + 1;
        memcpy(other, bytes + cut, len - cut);
        memcpy(other + len - cut, bytes, cut);
        memcpy(bytes, other, len);
    }
    if ((at = strikes(TRUNCATE, dir, len)) >= 0) {
        len = (size_t)at;
        c->cut = true;
    }
    if ((at = strikes(STALL, dir, len)) >= 0)
        w->still_until_ms = now_ms() + g_cfg.stall_ms;
    if (len)
        queue(w, bytes, len);
    if ((at = strikes(DUPLICATE, dir, len)) >= 0)
        queue(w, bytes + at, len - (size_t)at);
    return true;
}

/* ---- the loop */

static bool held(const struct way *w, int dir, int64_t now)
{
    return g_on && (g_cfg.held == dir || w->still_until_ms > now);
}

/* False when the connection is over. */
static bool read_way(struct connection *c, int dir)
{
    uint8_t bytes[READ_BYTES];
    ssize_t n = read(c->fd[dir], bytes, sizeof bytes);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == 0) {
        c->way[dir].ended = true;
        return true;
    }
    g_passed[dir] += (unsigned long long)n;
    return spoil_and_queue(c, dir, bytes, (size_t)n);
}

static bool write_way(struct connection *c, int dir, int64_t now)
{
    struct way *w = &c->way[dir];
    while (w->first && w->first->due_ms <= now && !held(w, dir, now)) {
        struct piece *p = w->first;
        ssize_t n = send(c->fd[!dir], p->bytes + p->sent, p->len - p->sent, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        p->sent += (size_t)n;
        w->queued -= (size_t)n;
        if (p->sent < p->len)
            return true;
        w->first = p->next;
        if (!w->first)
            w->end = &w->first;
        free(p);
    }
    if (w->ended && !w->first && !w->closed) {
        shutdown(c->fd[!dir], SHUT_WR);
        w->closed = true;
    }
    return true;
}

static bool over(const struct connection *c)
{
    return (c->way[UP].closed && c->way[DOWN].closed) ||
           (c->cut && !c->way[UP].first && !c->way[DOWN].first);
}

/* What to wait for at both sockets; *wait_ms is lowered to the next time something is due. */
static void ask(struct connection *c, struct pollfd fds[2], int64_t now, int64_t *wait_ms)
{
    for (int i = 0; i < 2; i++)
        fds[i] = (struct pollfd){.fd = c->fd[i]};
    if (c->connecting) {
        fds[DOWN].events = POLLOUT;
        return;
    }
    for (int dir = 0; dir < 2; dir++) {
        struct way *w = &c->way[dir];
        if (!w->ended && !c->cut && w->queued < MAX_QUEUED && !(g_on && g_cfg.held == dir))
            fds[dir].events |= POLLIN;
        int64_t due = w->first ? w->first->due_ms : 0;
        if (w->first && g_on && w->still_until_ms > due)
            due = w->still_until_ms;
        if (!w->first || (g_on && g_cfg.held == dir))
            continue;
        if (due <= now)
            fds[!dir].events |= POLLOUT;
        else if (due - now < *wait_ms)
            *wait_ms = due - now;
    }
    /* A socket nothing is asked of is not watched: its hang-up would be told without end. */
    for (int i = 0; i < 2; i++)
        if (fds[i].events == 0)
            fds[i].fd = -1;
}

static bool serve(struct connection *c, const struct pollfd fds[2], int64_t now)
{
    if (c->connecting) {
        int err = 0;
        socklen_t len = sizeof err;
        if (!fds[DOWN].revents)
            return true;
        getsockopt(c->fd[DOWN], SOL_SOCKET, SO_ERROR, &err, &len);
        c->connecting = false;
        return err == 0;
    }
    for (int dir = 0; dir < 2; dir++) {
        if (fds[dir].revents & POLLERR)
            return false;
        if ((fds[dir].revents & (POLLIN | POLLHUP)) && (fds[dir].events & POLLIN) &&
            !read_way(c, dir))
            return false;
    }
    for (int dir = 0; dir < 2; dir++)
        if (!write_way(c, dir, now))
            return false;
    return true;
}

static void run(int listener, const sigset_t *unblocked)
{
    static struct pollfd fds[1 + 2 * MAX_CONNECTIONS];
    int toggled = 0;
    while (!g_end) {
        int64_t now = now_ms(), wait_ms = 1000;
        fds[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        for (int i = 0; i < g_n; i++)
            ask(&g_connections[i], &fds[1 + 2 * i], now, &wait_ms);
        int n = g_n;
        struct timespec t = {wait_ms / 1000, wait_ms % 1000 * 1000000};
        int rc = ppoll(fds, 1 + 2 * (nfds_t)n, &t, unblocked);
        if (rc < 0 && errno != EINTR)
            die("cannot wait for", "sockets");
        for (int i = 0; rc < 0 && i < 1 + 2 * n; i++)
            fds[i].revents = 0;
        for (; toggled != g_toggles; toggled++) {
            g_on = !g_on;
            printf("faults %s; ", g_on ? "on" : "off");
            print_counts();
        }
        now = now_ms();
        /* From the end, since a dropped one is replaced by the last. */
        for (int i = n - 1; i >= 0; i--) {
            struct connection *c = &g_connections[i];
            if (!serve(c, &fds[1 + 2 * i], now))
                drop(c, true);
            else if (over(c))
                drop(c, false);
        }
        if (fds[0].revents)
            take_connection(listener);
    }
}

/* ---- start */

static long number(const char *flag, const char *text, long low)
{
    char *end;
    long v = strtol(text, &end, 10);
    if (*text && !*end && v >= low && v <= 1000000000000)
        return v;
    fprintf(stderr, "kd-proxy: --%s wants a whole number from %ld, not \"%s\"\n", flag, low, text);
    exit(2);
}

static int direction(const char *flag, const char *text)
{
    if (strcmp(text, "up") == 0)
        return UP;
    if (strcmp(text, "down") == 0)
        return DOWN;
    fprintf(stderr, "kd-proxy: --%s wants up or down\n", flag);
    exit(2);
}

static void on_signal(int number_of)
{
    if (number_of == SIGUSR1)
        g_toggles++;
    else
        g_end = 1;
}

static void read_flags(int argc, char **argv)
{
    enum {
        FAULT = 256,
        LISTEN = 300,
        TO,
        PORT_FILE,
        SEED,
        OFF,
        ONLY,
        DELAY,
        JITTER,
        STALL_MS,
        WAY
    };
    static const struct option options[] = {
        {"listen", required_argument, NULL, LISTEN},
        {"to", required_argument, NULL, TO},
        {"port-file", required_argument, NULL, PORT_FILE},
        {"seed", required_argument, NULL, SEED},
        {"off", no_argument, NULL, OFF},
        {"only", required_argument, NULL, ONLY},
        {"delay", required_argument, NULL, DELAY},
        {"jitter", required_argument, NULL, JITTER},
        {"stall-ms", required_argument, NULL, STALL_MS},
        {"one-way", required_argument, NULL, WAY},
        {"reset-every", required_argument, NULL, FAULT + RESET},
        {"truncate-every", required_argument, NULL, FAULT + TRUNCATE},
        {"flip-every", required_argument, NULL, FAULT + FLIP},
        {"duplicate-every", required_argument, NULL, FAULT + DUPLICATE},
        {"reorder-every", required_argument, NULL, FAULT + REORDER},
        {"stall-every", required_argument, NULL, FAULT + STALL},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    int which = 0;
    for (int c; (c = getopt_long(argc, argv, "h", options, &which)) != -1;) {
        const char *flag = options[which].name;
        if (c >= FAULT && c < FAULT + N_FAULTS)
            g_cfg.every[c - FAULT] = number(flag, optarg, 1);
        else if (c == LISTEN)
            g_cfg.listen = optarg;
        else if (c == TO)
            g_cfg.to = optarg;
        else if (c == PORT_FILE)
            g_cfg.port_file = optarg;
        else if (c == SEED)
            g_cfg.seed = (uint64_t)number(flag, optarg, 0);
        else if (c == OFF)
            g_on = false;
        else if (c == ONLY)
            g_cfg.only = direction(flag, optarg);
        else if (c == DELAY)
            g_cfg.delay_ms = number(flag, optarg, 0);
        else if (c == JITTER)
            g_cfg.jitter_ms = number(flag, optarg, 0);
        else if (c == STALL_MS)
            g_cfg.stall_ms = number(flag, optarg, 1);
        else if (c == WAY)
            g_cfg.held = direction(flag, optarg);
        else if (c == 'h') {
            fputs(g_usage, stdout);
            exit(0);
        } else {
            fputs("Try `kd-proxy --help`.\n", stderr);
            exit(2);
        }
    }
    if (!g_cfg.listen || !g_cfg.to || optind < argc ||
        (g_cfg.every[STALL] != 0) != (g_cfg.stall_ms != 0)) {
        fputs("kd-proxy: --listen and --to are needed, --stall-every goes with --stall-ms; try "
              "`kd-proxy --help`.\n",
              stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    read_flags(argc, argv);
    g_random = g_cfg.seed;
    for (int f = 0; f < N_FAULTS; f++)
        for (int dir = 0; dir < 2 && g_cfg.every[f]; dir++)
            draw_next((enum fault)f, dir);
    /* Signals come only while it waits, so none is missed between the look and the wait. */
    sigset_t blocked, before;
    sigemptyset(&blocked);
    struct sigaction action = {.sa_handler = on_signal};
    static const int numbers[] = {SIGUSR1, SIGTERM, SIGINT};
    for (int i = 0; i < 3; i++) {
        sigaddset(&blocked, numbers[i]);
        sigaction(numbers[i], &action, NULL);
    }
    sigprocmask(SIG_BLOCK, &blocked, &before);
    int listener = listen_at(g_cfg.listen);
    run(listener, &before);
    print_counts();
    while (g_n)
        drop(&g_connections[0], true);
    close(listener);
    return 0;
}
