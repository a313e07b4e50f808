/* A coordinator of the test's own making: the whole command talks to it over real gRPC. */
#ifndef KD_CLIENT_FAKE_H
#define KD_CLIENT_FAKE_H

#include "client_run.h"

#include "distill.pb-c.h"
#include "rpc/rpc.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static kd_rpc *g_rpc;
static kd_rpc_server *g_server;
static char *g_dir;
static char *g_out, *g_err; /* of the last command; freed by the next and by kd_fake_stop */
/* Handlers run on the runtime's threads; they hold it. */
static pthread_mutex_t g_mu = PTHREAD_MUTEX_INITIALIZER;

/* ---- handlers */

struct kd_fake_method {
    const ProtobufCMessageDescriptor *request;
    void (*handle)(kd_rpc_call *call, const void *request);
};

static inline void kd_fake_on_message(kd_rpc_call *call, const uint8_t *bytes, size_t len,
                                      void *arg)
{
    const struct kd_fake_method *method = arg;
    ProtobufCMessage *request = NULL;
    kd_diag diag = {0};
    KD_BUG_ON(kd_wire_unpack(method->request, bytes, len, &request, &diag) != 0);
    pthread_mutex_lock(&g_mu);
    method->handle(call, request);
    pthread_mutex_unlock(&g_mu);
    kd_wire_free(request);
}

/* A row of the methods: its name, the message that it takes, who handles it. */
#define KD_FAKE_METHOD(call_kind, name, message, handler)                                          \
    {                                                                                              \
        .path = "/distill.v1.Jobs/" name, .kind = call_kind, .max_request = KD_MAX_CONTROL_BYTES,  \
        .on_message = kd_fake_on_message, .arg = &(struct kd_fake_method)                          \
        {                                                                                          \
            &distill__v1__##message##__descriptor, handler                                         \
        }                                                                                          \
    }
#define UNARY(...) KD_FAKE_METHOD(KD_RPC_UNARY, __VA_ARGS__)
#define STREAM(...) KD_FAKE_METHOD(KD_RPC_SERVER_STREAM, __VA_ARGS__)

static inline void kd_fake_pack(const void *message, kd_buf *b)
{
    kd_buf_init(b, KD_MAX_CONTROL_BYTES);
    KD_BUG_ON(kd_wire_pack(message, b) != 0);
}

static inline void kd_fake_answer(kd_rpc_call *call, const void *message)
{
    kd_buf b;
    kd_fake_pack(message, &b);
    kd_rpc_reply(call, &(struct iovec){b.data, b.len}, 1);
    kd_buf_clear(&b);
}

/* One message of a stream. */
static inline void kd_fake_send(kd_rpc_call *call, const void *message)
{
    kd_buf b;
    kd_fake_pack(message, &b);
    KD_BUG_ON(kd_rpc_send(call, &(struct iovec){b.data, b.len}, 1) != 0);
    kd_buf_clear(&b);
}

/* ---- for the group's set-up and tear-down */

static inline void kd_fake_start(const kd_rpc_method *methods, size_t n)
{
    kd_diag diag = {0};
    char server[64];
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .methods = methods,
                                .n_methods = n,
                                .max_message = KD_MAX_BULK_BYTES};
    g_dir = kd_test_mkdir();
    kd_assert_ok(kd_rpc_new(1, &g_rpc, &diag), &diag);
    kd_assert_ok(kd_rpc_server_new(g_rpc, &cfg, &g_server, &diag), &diag);
    snprintf(server, sizeof server, "127.0.0.1:%d", kd_rpc_server_port(g_server));
    setenv("DISTILL_SERVER", server, 1);
}

/* The group's set_up of a file whose coordinator has the methods g_methods. */
#define KD_FAKE_SET_UP                                                                             \
    static int set_up(void **state)                                                                \
    {                                                                                              \
        (void)state;                                                                               \
        kd_fake_start(g_methods, KD_COUNT(g_methods));                                             \
        return 0;                                                                                  \
    }

static inline int kd_fake_stop(void **state)
{
    (void)state;
    kd_rpc_server_free(g_server);
    kd_rpc_free(g_rpc);
    kd_test_rmdir(g_dir);
    free(g_out);
    free(g_err);
    return 0;
}

/* ---- for the tests */

/* Orders what the test wrote before, and reads after, with what the handlers do. */
static inline void kd_fake_meet_handlers(void)
{
    pthread_mutex_lock(&g_mu);
    pthread_mutex_unlock(&g_mu);
}

static inline int kd_fake_distill(const char *const *words)
{
    free(g_out);
    free(g_err);
    g_out = g_err = NULL;
    kd_fake_meet_handlers();
    int rc = kd_run_distill(g_dir, &g_out, &g_err, words);
    kd_fake_meet_handlers();
    return rc;
}
/* Runs the command; its exit code. g_out and g_err then have what it wrote. */
#define DISTILL(...) kd_fake_distill((const char *[]){__VA_ARGS__, NULL})

static inline void kd_fake_find(const char *text, const char *part, bool wanted, const char *file,
                                int line)
{
    if ((strstr(text, part) != NULL) == wanted)
        return;
    print_error("%s\"%s\" in:\n%s\n", wanted ? "no " : "", part, text);
    _fail(file, line);
}
#define HAS(text, part) kd_fake_find(text, part, true, __FILE__, __LINE__)
#define LACKS(text, part) kd_fake_find(text, part, false, __FILE__, __LINE__)

#endif
