/* A CA of the test's own, and what it issues. */
#ifndef KD_TESTS_CERTS_H
#define KD_TESTS_CERTS_H

#include "kd_test.h"

#include "pki/pki.h"

#include <stdlib.h>
#include <string.h>

struct kd_test_ca {
    char *key, *certificate;
};

static inline struct kd_test_ca kd_test_ca_new(void)
{
    struct kd_test_ca ca;
    kd_diag diag = {0};
    kd_assert_ok(kd_pki_make_key(&ca.key, &diag), &diag);
    kd_assert_ok(kd_pki_make_ca(ca.key, "test CA", 86400, &ca.certificate, &diag), &diag);
    return ca;
}

static inline void kd_test_ca_free(struct kd_test_ca *ca)
{
    kd_pki_drop(ca->key);
    kd_pki_drop(ca->certificate);
}

/* Certificate and key in one text, as a login has them; the caller drops it. */
static inline char *kd_test_issue(const struct kd_test_ca *ca, enum kd_role role, const char *name,
                                  int64_t life_s, kd_pki_identity *out)
{
    static const char *const hosts[] = {"localhost", "127.0.0.1"};
    bool server = role == KD_ROLE_SERVER;
    kd_pki_want want = {role, name, life_s, server ? hosts : NULL, server ? 2 : 0};
    char *key, *csr, *certificate;
    kd_pki_identity ignored;
    kd_diag diag = {0};
    kd_assert_ok(kd_pki_make_key(&key, &diag), &diag);
    kd_assert_ok(kd_pki_make_csr(key, &csr, &diag), &diag);
    kd_assert_ok(kd_pki_issue(ca->certificate, ca->key, csr, &want, &certificate,
                              out ? out : &ignored, &diag),
                 &diag);
    char *both = kd_pki_join(certificate, key);
    kd_pki_drop(key);
    kd_pki_drop(csr);
    kd_pki_drop(certificate);
    return both;
}

#endif
