/* The least that moving a step's bytes costs: workers push BYTES each to one process over loopback
 * TCP and pull as many, each on a connection of its own, in step. Nothing is added up, checked or
 * kept. Prints the seconds of STEPS steps after the first. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE ((size_t)1 << 20)

static size_t g_bytes;
static int g_steps;
static pthread_barrier_t g_barrier;
static struct timespec g_begun, g_ended;

static void move(int fd, char *buffer, bool out)
{
    for (size_t at = 0; at < g_bytes;) {
        size_t want = g_bytes - at < PIECE ? g_bytes - at : PIECE;
        ssize_t n = out ? send(fd, buffer + at, want, 0) : recv(fd, buffer + at, want, 0);
        if (n <= 0) {
            perror("raw-tcp");
            exit(1);
        }
        at += (size_t)n;
    }
}

static void *serve(void *arg)
{
    int fd = *(int *)arg;
    char *buffer = calloc(1, g_bytes);
    for (int i = 0; i <= g_steps; i++) {
        move(fd, buffer, false);
        /* As a step: nothing comes back before everybody's part is there. */
        if (pthread_barrier_wait(&g_barrier) == PTHREAD_BARRIER_SERIAL_THREAD && i == 0)
            clock_gettime(CLOCK_MONOTONIC, &g_begun);
        move(fd, buffer, true);
        if (pthread_barrier_wait(&g_barrier) == PTHREAD_BARRIER_SERIAL_THREAD && i == g_steps)
            clock_gettime(CLOCK_MONOTONIC, &g_ended);
    }
    free(buffer);
    return NULL;
}

static void work(const struct sockaddr_in *to)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    char *buffer = calloc(1, g_bytes);
    if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof *to) != 0) {
        perror("raw-tcp");
        _exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (int i = 0; i <= g_steps; i++) {
        move(fd, buffer, true);
        move(fd, buffer, false);
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    int workers = argc == 4 ? atoi(argv[2]) : 0, one = 1;
    if (workers < 1 || workers > 64) {
        fputs("Usage: raw-tcp BYTES WORKERS STEPS\n", stderr);
        return 2;
    }
    g_bytes = strtoull(argv[1], NULL, 10);
    g_steps = atoi(argv[3]);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fds[64];
    pthread_t threads[64];
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(listener, 64) != 0 || getsockname(listener, (struct sockaddr *)&at, &len) != 0) {
        perror("raw-tcp");
        return 1;
    }
    for (int i = 0; i < workers; i++)
        if (fork() == 0)
            work(&at);
    pthread_barrier_init(&g_barrier, NULL, (unsigned)workers);
    for (int i = 0; i < workers; i++) {
        fds[i] = accept(listener, NULL, NULL);
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        pthread_create(&threads[i], NULL, serve, &fds[i]);
    }
    for (int i = 0; i < workers; i++)
        pthread_join(threads[i], NULL);
    printf("%.6f\n", (double)(g_ended.tv_sec - g_begun.tv_sec) +
                         (double)(g_ended.tv_nsec - g_begun.tv_nsec) / 1e9);
    return 0;
}
