#include "rules.h"

#include <string.h>

#define NOBODY_KNOWN (1u << KD_ROLE_NONE)
#define WORKER (1u << KD_ROLE_WORKER)
#define ADMIN (1u << KD_ROLE_ADMIN)
#define OPERATORS (ADMIN | 1u << KD_ROLE_OPERATOR)
#define SUBMITTERS (OPERATORS | 1u << KD_ROLE_SUBMITTER)
#define VIEWER (1u << KD_ROLE_VIEWER)
#define READERS (SUBMITTERS | VIEWER)
#define ANYBODY_KNOWN (READERS | WORKER)
#define ANYBODY (ANYBODY_KNOWN | NOBODY_KNOWN)

#define JOBS "/distill.v1.Jobs/"
#define ACCESS "/distill.v1.Access/"
#define STORAGE "/distill.v1.Storage/"
#define EXCHANGE "/distill.v1.Exchange/"

const kd_rule kd_rules[] = {
    {JOBS "Submit", SUBMITTERS, KD_SCOPE_READ, true, true},
    {JOBS "Upload", SUBMITTERS, KD_SCOPE_NONE, false, false}, /* many pieces; has its own quota */
    {JOBS "List", READERS, KD_SCOPE_READ, false, true},
    {JOBS "Get", READERS, KD_SCOPE_READ, false, true},
    {JOBS "Watch", READERS, KD_SCOPE_READ, false, true},
    {JOBS "Cancel", SUBMITTERS, KD_SCOPE_ACT, true, true},
    {JOBS "Pause", SUBMITTERS, KD_SCOPE_ACT, true, true},
    {JOBS "Resume", SUBMITTERS, KD_SCOPE_ACT, true, true},
    {JOBS "Scale", SUBMITTERS, KD_SCOPE_ACT, true, true},
    {JOBS "Drain", OPERATORS, KD_SCOPE_NONE, true, true},
    {JOBS "Remove", SUBMITTERS, KD_SCOPE_ACT, true, true},
    {JOBS "Workers", READERS, KD_SCOPE_NONE, false, true},
    {JOBS "Fetch", READERS, KD_SCOPE_READ, false, false},
    {JOBS "Digests", READERS, KD_SCOPE_READ, false, true},
    {JOBS "Info", READERS, KD_SCOPE_NONE, false, true},
    {ACCESS "Enroll", ANYBODY, KD_SCOPE_NONE, true, true},
    {ACCESS "WhoAmI", ANYBODY, KD_SCOPE_NONE, false, true},
    {ACCESS "Renew", ANYBODY_KNOWN, KD_SCOPE_NONE, true, true},
    {ACCESS "CreateToken", ADMIN, KD_SCOPE_NONE, true, true},
    {ACCESS "ListTokens", ADMIN, KD_SCOPE_NONE, false, true},
    {ACCESS "RevokeToken", ADMIN, KD_SCOPE_NONE, true, true},
    {ACCESS "ListCertificates", ADMIN, KD_SCOPE_NONE, false, true},
    {ACCESS "Revoke", ADMIN, KD_SCOPE_NONE, true, true},
    {ACCESS "Audit", ADMIN, KD_SCOPE_NONE, false, true},
    {STORAGE "GetRetention", READERS, KD_SCOPE_NONE, false, true},
    {STORAGE "SetRetention", OPERATORS, KD_SCOPE_NONE, true, true},
    {STORAGE "ListBanks", READERS, KD_SCOPE_READ, false, true}, /* names jobs that may be read */
    {STORAGE "VerifyBank", OPERATORS, KD_SCOPE_NONE, true, true},
    {STORAGE "RemoveBank", OPERATORS, KD_SCOPE_NONE, true, true},
    {STORAGE "ListCheckpoints", READERS, KD_SCOPE_READ, false, true},
    {STORAGE "FetchCheckpoint", READERS, KD_SCOPE_READ, false, false},
    {"/distill.v1.Cluster/Control", WORKER, KD_SCOPE_NONE, true, true},
    {EXCHANGE "PushNode", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "AwaitSum", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "Publish", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "AwaitSlice", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "FetchState", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "PutLogits", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "GetLogits", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "Gather", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "PushValues", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "AwaitValues", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "GetBlob", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "PutArtefact", WORKER, KD_SCOPE_NONE, false, false},
    {EXCHANGE "Decide", WORKER, KD_SCOPE_NONE, false, false},
    {"/grpc.health.v1.Health/Check", ANYBODY, KD_SCOPE_NONE, false, true},
    {"/grpc.health.v1.Health/Watch", ANYBODY, KD_SCOPE_NONE, false, true},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANYBODY_KNOWN, KD_SCOPE_NONE,
     false, true},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ANYBODY_KNOWN, KD_SCOPE_NONE,
     false, true},
};
const size_t kd_n_rules = KD_COUNT(kd_rules);

const kd_rule *kd_rule_of(const char *path)
{
    for (size_t i = 0; i < kd_n_rules; i++)
        if (strcmp(kd_rules[i].path, path) == 0)
            return &kd_rules[i];
    return NULL;
}

unsigned kd_rule_roles_of_all(enum kd_scope scope)
{
    return scope == KD_SCOPE_READ ? OPERATORS | VIEWER : OPERATORS;
}

bool kd_rule_allows_job(enum kd_scope scope, const kd_pki_identity *who, const char *owner)
{
    if (1u << who->role & kd_rule_roles_of_all(scope))
        return true;
    return who->role == KD_ROLE_SUBMITTER && owner[0] && strcmp(owner, who->name) == 0;
}
