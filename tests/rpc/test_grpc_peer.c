/* Our server against a gRPC client that is not ours: tests/rpc/grpc_peer.py. */
#include "kd_test.h"

#include "rpc/rpc.h"
#include "wire/wire.h"

#include "descriptor_set.h"
#include "distill.pb-c.h"

#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static void info(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    Distill__V1__InfoReply m = DISTILL__V1__INFO_REPLY__INIT;
    m.version = "peer test";
    m.protocol = KD_PROTOCOL;
    m.epoch = (UINT64_C(1) << 63) + 5;
    kd_buf buf;
    kd_buf_init(&buf, 1000);
    KD_BUG_ON(kd_wire_pack(&m, &buf) != 0);
    kd_rpc_reply(call, &(struct iovec){buf.data, buf.len}, 1);
    kd_buf_clear(&buf);
}

static void refuse(kd_rpc_call *call, const uint8_t *bytes, size_t len, void *arg)
{
    (void)bytes, (void)len, (void)arg;
    kd_rpc_finish(call, -KD_ESTATE, "not in this test");
}

static void test_grpc_peer(void **state)
{
    (void)state;
    const char *build = getenv("KD_BUILD");
    if (!build) {
        print_message("skipped: KD_BUILD does not name the build folder\n");
        skip();
    }
    static const kd_rpc_method methods[] = {
        {.path = "/distill.v1.Jobs/Info",
         .kind = KD_RPC_UNARY,
         .max_request = 100,
         .on_message = info},
        {.path = "/distill.v1.Cluster/Control",
         .kind = KD_RPC_BIDI,
         .max_request = 100,
         .on_message = refuse},
        {.path = "/distill.v1.Exchange/PushNode",
         .kind = KD_RPC_UNARY,
         .max_request = 100,
         .on_message = refuse},
    };
    kd_rpc_server_config cfg = {.listen = "127.0.0.1:0",
                                .methods = methods,
                                .n_methods = KD_COUNT(methods),
                                .max_message = KD_MAX_BULK_BYTES,
                                .descriptor_set = kd_descriptor_set,
                                .descriptor_set_len = sizeof kd_descriptor_set};
    kd_rpc *rpc = NULL;
    kd_rpc_server *server = NULL;
    kd_diag diag = {0};
    kd_assert_ok(kd_rpc_new(2, &rpc, &diag), &diag);
    kd_assert_ok(kd_rpc_server_new(rpc, &cfg, &server, &diag), &diag);
    char port[16], set[1024];
    snprintf(port, sizeof port, "%d", kd_rpc_server_port(server));
    snprintf(set, sizeof set, "%s/gen/descriptor_set.bin", build);
    char *argv[] = {"/usr/bin/python3", "tests/rpc/grpc_peer.py", port, set, NULL};
    /* The sanitizers' settings are not meant for Python. */
    char *envp[] = {"PATH=/usr/bin:/bin", "LANG=C.UTF-8", NULL};
    pid_t pid = -1;
    int status = -1;
    int rc = posix_spawn(&pid, argv[0], NULL, NULL, argv, envp);
    if (rc == 0)
        assert_int_equal(waitpid(pid, &status, 0), pid);
    kd_rpc_server_free(server);
    kd_rpc_free(rpc);
    if (rc != 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 77)) {
        print_message("skipped: needs /usr/bin/python3 with python3-grpcio and python3-protobuf\n");
        skip();
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_grpc_peer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
