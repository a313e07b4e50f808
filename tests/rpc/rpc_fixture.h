/* A server and a client of the RPC layer in one process, over loopback. Each test has its own; the
 * server's methods (/t.T/Echo and others, see rpc_fixture.c) tell in rpc_seen what came to them. */
#ifndef KD_TESTS_RPC_FIXTURE_H
#define KD_TESTS_RPC_FIXTURE_H

#include "kd_test.h"

#include "rpc/rpc.h"

#include <stdatomic.h>

#define MAX_MESSAGE (2u << 20)

struct rpc_fixture {
    kd_rpc *rpc;
    kd_rpc_server *server;
    kd_rpc_channel *channel;
    char target[32];
};
int rpc_setup(void **state);
int rpc_teardown(void **state);
#define RPC_TEST(name) cmocka_unit_test_setup_teardown(name, rpc_setup, rpc_teardown)

/* Since the test began. */
extern struct rpc_seen {
    atomic_int closed, cancelled; /* calls, and those of them that were cancelled */
    atomic_int opened;            /* calls of /t.T/Hold */
    atomic_int limited;           /* a stream's queue was full */
    kd_rpc_call *held;            /* the newest of /t.T/Hold, answered by nobody */
} rpc_seen;

extern const kd_rpc_method rpc_methods[];
extern const size_t rpc_n_methods;

/* Waits until *value >= want; the deadline only keeps a failing test from hanging. Who changes such
 * a value, on any thread, signals. */
bool rpc_await(atomic_int *value, int want);
void rpc_signal(void);

/* A unary call with 20 s; the caller frees r->bytes. */
int rpc_call(struct rpc_fixture *f, const char *path, const void *p, size_t n, kd_rpc_result *r);

/* A client stream that remembers what it got. */
struct rpc_sink {
    atomic_int messages, ended, code;
    uint32_t expect;
    bool in_order, slow;
    char text[256], last[32];
    kd_rpc_stream *stream;
    int echo_left; /* answers so many messages with the next number */
};
void rpc_sink_open(struct rpc_fixture *f, const char *path, struct rpc_sink *k);

#endif
