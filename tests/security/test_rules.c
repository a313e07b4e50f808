/* The table of rules: complete, and what each role may do. */
#include "kd_test.h"

#include "daemon.h"
#include "rules.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const kd_rpc_method *rows;
    const size_t *n;
} g_services[] = {{kd_jobs_methods, &kd_n_jobs_methods},
                  {kd_access_methods, &kd_n_access_methods},
                  {kd_storage_methods, &kd_n_storage_methods},
                  {kd_cluster_methods, &kd_n_cluster_methods},
                  {kd_exchange_methods, &kd_n_exchange_methods}};

static void test_rules_every_method(void **state)
{
    (void)state;
    size_t n = 0;
    for (size_t i = 0; i < KD_COUNT(g_services); i++)
        for (size_t k = 0; k < *g_services[i].n; k++, n++) {
            const char *path = g_services[i].rows[k].path;
            if (!kd_rule_of(path))
                print_error("no rule for %s\n", path);
            assert_non_null(kd_rule_of(path));
            assert_int_not_equal(kd_access_rule(path), 0);
        }
    /* And no row for nothing: four are health's and reflection's. */
    assert_int_equal(n + 4, kd_n_rules);
    assert_null(kd_rule_of("/distill.v1.Jobs/Nothing"));
    for (size_t i = 0; i < kd_n_rules; i++)
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(kd_rules[i].path, kd_rules[k].path);
}

/* method: of distill.v1, or with another package before it. */
static bool may(enum kd_role role, const char *method)
{
    char path[96];
    snprintf(path, sizeof path, "/%s%s", strchr(method, '.') ? "" : "distill.v1.", method);
    const kd_rule *r = kd_rule_of(path);
    assert_non_null(r);
    return r->roles & 1u << role;
}

/* Written down once more, by hand: whoever changes a row has to mean it. */
static void test_rules_roles(void **state)
{
    (void)state;
    enum { N = 1, W = 2, S = 4, V = 8, O = 16, A = 32 }; /* 1 << enum kd_role */
    const struct {
        const char *method;
        unsigned roles;
    } rows[] = {
        {"Jobs/Submit", S | O | A},
        {"Jobs/Upload", S | O | A},
        {"Jobs/List", S | V | O | A},
        {"Jobs/Get", S | V | O | A},
        {"Jobs/Watch", S | V | O | A},
        {"Jobs/Cancel", S | O | A},
        {"Jobs/Pause", S | O | A},
        {"Jobs/Resume", S | O | A},
        {"Jobs/Scale", S | O | A},
        {"Jobs/Drain", O | A},
        {"Jobs/Remove", S | O | A},
        {"Jobs/Workers", S | V | O | A},
        {"Jobs/Fetch", S | V | O | A},
        {"Jobs/Digests", S | V | O | A},
        {"Jobs/Info", S | V | O | A},
        {"Access/Enroll", N | W | S | V | O | A},
        {"Access/Renew", W | S | V | O | A},
        {"Access/WhoAmI", N | W | S | V | O | A},
        {"Access/CreateToken", A},
        {"Access/ListTokens", A},
        {"Access/RevokeToken", A},
        {"Access/ListCertificates", A},
        {"Access/Revoke", A},
        {"Access/Audit", A},
        {"Storage/GetRetention", S | V | O | A},
        {"Storage/SetRetention", O | A},
        {"Storage/ListBanks", S | V | O | A},
        {"Storage/VerifyBank", O | A},
        {"Storage/RemoveBank", O | A},
        {"Storage/ListCheckpoints", S | V | O | A},
        {"Storage/FetchCheckpoint", S | V | O | A},
        {"Cluster/Control", W},
        {"Exchange/PushNode", W},
        {"Exchange/AwaitSum", W},
        {"Exchange/Publish", W},
        {"Exchange/AwaitSlice", W},
        {"Exchange/FetchState", W},
        {"Exchange/PutLogits", W},
        {"Exchange/GetLogits", W},
        {"Exchange/Gather", W},
        {"Exchange/PushValues", W},
        {"Exchange/AwaitValues", W},
        {"Exchange/GetBlob", W},
        {"Exchange/PutArtefact", W},
        {"Exchange/Decide", W},
        {"grpc.health.v1.Health/Check", N | W | S | V | O | A},
        {"grpc.health.v1.Health/Watch", N | W | S | V | O | A},
        {"grpc.reflection.v1.ServerReflection/ServerReflectionInfo", W | S | V | O | A},
        {"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", W | S | V | O | A},
    };
    assert_int_equal(KD_COUNT(rows), kd_n_rules);
    for (size_t i = 0; i < KD_COUNT(rows); i++)
        for (enum kd_role r = KD_ROLE_NONE; r <= KD_ROLE_SERVER; r++) {
            bool wanted = rows[i].roles & 1u << r;
            if (may(r, rows[i].method) != wanted)
                print_error("%s %s\n", kd_role_name(r), rows[i].method);
            assert_int_equal(may(r, rows[i].method), wanted);
        }
}

static void test_rules_jobs(void **state)
{
    (void)state;
    const kd_pki_identity alice = {.role = KD_ROLE_SUBMITTER, .name = "alice"},
                          viewer = {.role = KD_ROLE_VIEWER, .name = "alice"},
                          worker = {.role = KD_ROLE_WORKER, .name = "alice"},
                          olga = {.role = KD_ROLE_OPERATOR, .name = "olga"},
                          admin = {.role = KD_ROLE_ADMIN, .name = "root"};
    for (enum kd_scope s = KD_SCOPE_READ; s <= KD_SCOPE_ACT; s++) {
        assert_true(kd_rule_allows_job(s, &alice, "alice"));
        assert_false(kd_rule_allows_job(s, &alice, "bob"));
        assert_false(kd_rule_allows_job(s, &alice, "alic"));
        assert_false(kd_rule_allows_job(s, &alice, ""));
        assert_int_equal(kd_rule_allows_job(s, &viewer, "bob"), s == KD_SCOPE_READ);
        assert_int_equal(kd_rule_allows_job(s, &viewer, "alice"), s == KD_SCOPE_READ);
        assert_false(kd_rule_allows_job(s, &worker, "alice"));
        assert_true(kd_rule_allows_job(s, &olga, "bob"));
        assert_true(kd_rule_allows_job(s, &admin, ""));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules_every_method),
        cmocka_unit_test(test_rules_roles),
        cmocka_unit_test(test_rules_jobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
