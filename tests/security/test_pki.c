/* lib/pki: what is issued says what was wished, nothing else is taken for it, and keys that others
 * may read are refused. */
#include "certs.h"

#include "kd/clock.h"
#include "kd/file.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_pki_issues(void **state)
{
    (void)state;
    struct kd_test_ca ca = kd_test_ca_new();
    kd_diag diag = {0};
    kd_pki_identity issued, read;
    char *login = kd_test_issue(&ca, KD_ROLE_WORKER, "node-1.a", 3600, &issued);
    kd_assert_ok(kd_pki_identity_of(login, strlen(login), &read, &diag), &diag);
    assert_int_equal(read.role, KD_ROLE_WORKER);
    assert_string_equal(read.name, "node-1.a");
    assert_string_equal(read.serial, issued.serial);
    assert_int_equal(strlen(read.serial), 32);
    int64_t now = kd_clock_wall_ms();
    assert_in_range(now - read.not_before_ms, 299 * 1000, 310 * 1000);
    assert_in_range(read.not_after_ms - now, 3590 * 1000, 3601 * 1000);
    kd_assert_ok(kd_pki_check(ca.certificate, login, login, &diag), &diag);

    /* Two serial numbers are never the same, and another CA's signature is none. */
    kd_pki_identity other;
    char *second = kd_test_issue(&ca, KD_ROLE_WORKER, "node-1.a", 3600, &other);
    assert_string_not_equal(other.serial, issued.serial);
    kd_assert_fails(kd_pki_check(ca.certificate, login, second, &diag), KD_EDATA, &diag,
                    "not that of the certificate");
    struct kd_test_ca stranger = kd_test_ca_new();
    kd_assert_fails(kd_pki_check(stranger.certificate, login, login, &diag), KD_EDATA, &diag,
                    "not issued by this CA");
    char a[KD_PKI_DIGEST], b[KD_PKI_DIGEST];
    kd_assert_ok(kd_pki_digest(ca.certificate, a, &diag), &diag);
    kd_assert_ok(kd_pki_digest(stranger.certificate, b, &diag), &diag);
    assert_int_equal(strlen(a), KD_PKI_DIGEST - 1);
    assert_string_not_equal(a, b);
    kd_pki_drop(login);
    kd_pki_drop(second);
    kd_test_ca_free(&ca);
    kd_test_ca_free(&stranger);
}

static void test_pki_digests(void **state)
{
    (void)state;
    char out[KD_PKI_DIGEST], hex[KD_PKI_SHA256];
    kd_diag diag = {0};
    kd_pki_sha256("abc", hex); /* FIPS 180-4, example B.1 */
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    kd_assert_fails(kd_pki_digest("nothing", out, &diag), KD_EDATA, &diag, "no certificate");
    /* Of the key, not of the certificate: another certificate of the same CA has the same. */
    struct kd_test_ca ca = kd_test_ca_new();
    char again[KD_PKI_DIGEST], *renewed;
    kd_assert_ok(kd_pki_digest(ca.certificate, out, &diag), &diag);
    kd_assert_ok(kd_pki_make_ca(ca.key, "renewed", 1000, &renewed, &diag), &diag);
    kd_assert_ok(kd_pki_digest(renewed, again, &diag), &diag);
    assert_string_equal(out, again);
    kd_pki_drop(renewed);
    kd_test_ca_free(&ca);
}

static void test_pki_extensions(void **state)
{
    (void)state;
    struct kd_test_ca ca = kd_test_ca_new();
    const enum kd_role roles[] = {KD_ROLE_SERVER, KD_ROLE_ADMIN};
    for (size_t i = 0; i < KD_COUNT(roles); i++) {
        char *login = kd_test_issue(&ca, roles[i], "x", 3600, NULL);
        BIO *bio = BIO_new_mem_buf(login, -1);
        X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
        assert_non_null(x);
        bool server = roles[i] == KD_ROLE_SERVER;
        /* Neither can be taken for the other, and neither may sign. */
        assert_int_equal(X509_check_purpose(x, X509_PURPOSE_SSL_SERVER, 0), server);
        assert_int_equal(X509_check_purpose(x, X509_PURPOSE_SSL_CLIENT, 0), !server);
        assert_int_equal(X509_check_ca(x), 0);
        assert_int_equal(X509_check_host(x, "localhost", 0, 0, NULL), server);
        assert_int_equal(X509_check_ip_asc(x, "127.0.0.1", 0), server);
        X509_free(x);
        BIO_free(bio);
        kd_pki_drop(login);
    }
    kd_test_ca_free(&ca);
}

/* A request for an RSA key, for another curve, and one that was signed with another key. */
static char *odd_request(EVP_PKEY *key, EVP_PKEY *signer)
{
    X509_REQ *req = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    X509_REQ_set_pubkey(req, key);
    X509_REQ_sign(req, signer, EVP_sha256());
    PEM_write_bio_X509_REQ(bio, req);
    char *data, *text;
    long n = BIO_get_mem_data(bio, &data);
    text = strndup(data, (size_t)n);
    BIO_free(bio);
    X509_REQ_free(req);
    return text;
}

static void test_pki_refuses_requests(void **state)
{
    (void)state;
    struct kd_test_ca ca = kd_test_ca_new();
    kd_pki_want want = {.role = KD_ROLE_VIEWER, .name = "v", .life_s = 60};
    kd_pki_identity who;
    kd_diag diag = {0};
    char *out = NULL, *key, *csr;
    EVP_PKEY *rsa = EVP_RSA_gen(1024), *p384 = EVP_EC_gen("P-384"), *one = EVP_EC_gen("P-256"),
             *two = EVP_EC_gen("P-256");
    const struct {
        char *text;
        const char *says;
    } cases[] = {{odd_request(rsa, rsa), "P-256 or Ed25519"},
                 {odd_request(p384, p384), "P-256 or Ed25519"},
                 {odd_request(one, two), "not signed with the key"},
                 {strdup(""), "no certificate request"},
                 {strdup("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE "
                         "REQUEST-----\n"),
                  "no certificate request"}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kd_assert_fails(
            kd_pki_issue(ca.certificate, ca.key, cases[i].text, &want, &out, &who, &diag),
            KD_EINVAL, &diag, cases[i].says);
        free(cases[i].text);
    }
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(p384);
    EVP_PKEY_free(one);
    EVP_PKEY_free(two);

    kd_assert_ok(kd_pki_make_key(&key, &diag), &diag);
    kd_assert_ok(kd_pki_make_csr(key, &csr, &diag), &diag);
    const char *const names[] = {"",
                                 "a/b",
                                 "a,URI:distilld://admin/x",
                                 ".hidden",
                                 "a b",
                                 "-x",
                                 "ab\n",
                                 "12345678901234567890123456789012345678901234567890"
                                 "123456789012345"};
    for (size_t i = 0; i < KD_COUNT(names); i++) {
        want.name = names[i];
        kd_assert_fails(kd_pki_issue(ca.certificate, ca.key, csr, &want, &out, &who, &diag),
                        KD_EINVAL, &diag, "a name has 1 to 64 characters");
    }
    const char *hosts[] = {"a,URI:distilld://admin/x"};
    want = (kd_pki_want){KD_ROLE_SERVER, "s", 60, hosts, 1};
    kd_assert_fails(kd_pki_issue(ca.certificate, ca.key, csr, &want, &out, &who, &diag), KD_EINVAL,
                    &diag, "no host name");
    want = (kd_pki_want){KD_ROLE_NONE, "s", 60, NULL, 0};
    assert_int_not_equal(kd_pki_issue(ca.certificate, ca.key, csr, &want, &out, &who, &diag), 0);
    kd_pki_drop(key);
    kd_pki_drop(csr);
    kd_test_ca_free(&ca);
}

/* Certificates that the same CA signed and that are not ours: no URI, two, another scheme, a name
 * with a NUL in it. */
static char *odd_certificate(const struct kd_test_ca *ca, const char *names)
{
    BIO *in = BIO_new_mem_buf(ca->key, -1);
    EVP_PKEY *signer = PEM_read_bio_PrivateKey(in, NULL, NULL, NULL), *key = EVP_EC_gen("P-256");
    BIO_free(in);
    X509 *x = X509_new();
    X509_set_version(x, X509_VERSION_3);
    /* Sixteen bytes, as ours. */
    BIGNUM *serial = NULL;
    BN_hex2bn(&serial, "4123456789abcdef0123456789abcdef");
    BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(x));
    BN_free(serial);
    X509_gmtime_adj(X509_getm_notBefore(x), 0);
    X509_gmtime_adj(X509_getm_notAfter(x), 60);
    X509_set_pubkey(x, key);
    if (names) {
        X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, names);
        assert_non_null(e);
        X509_add_ext(x, e, -1);
        X509_EXTENSION_free(e);
    }
    X509_sign(x, signer, EVP_sha256());
    BIO *out = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(out, x);
    char *data, *text;
    long n = BIO_get_mem_data(out, &data);
    text = strndup(data, (size_t)n);
    BIO_free(out);
    X509_free(x);
    EVP_PKEY_free(signer);
    EVP_PKEY_free(key);
    return text;
}

static void test_pki_refuses_identities(void **state)
{
    (void)state;
    struct kd_test_ca ca = kd_test_ca_new();
    kd_diag diag = {0};
    kd_pki_identity who = {.role = KD_ROLE_ADMIN};
    const char *const names[] = {NULL,
                                 "DNS:admin",
                                 "URI:distilld://admin/a,URI:distilld://viewer/b",
                                 "URI:https://admin/a",
                                 "URI:distilld://root/a",
                                 "URI:distilld://admin/",
                                 "URI:distilld://admin",
                                 "URI:distilld://admin/a/b",
                                 "URI:distilld://admin/a b",
                                 "URI:distilld://none/a"};
    for (size_t i = 0; i < KD_COUNT(names); i++) {
        char *pem = odd_certificate(&ca, names[i]);
        kd_assert_fails(kd_pki_identity_of(pem, strlen(pem), &who, &diag), KD_EDATA, &diag,
                        "names nobody");
        free(pem);
    }
    assert_int_equal(who.role, KD_ROLE_ADMIN); /* untouched */
    char *good = odd_certificate(&ca, "URI:distilld://viewer/a");
    kd_assert_ok(kd_pki_identity_of(good, strlen(good), &who, &diag), &diag);
    assert_string_equal(who.serial, "4123456789abcdef0123456789abcdef");
    /* Cut anywhere it is none, and nothing is read past its end. */
    for (size_t n = 0; n + 30 < strlen(good); n += 7) {
        char *part = strndup(good, n);
        assert_int_not_equal(kd_pki_identity_of(part, n, &who, &diag), 0);
        free(part);
    }
    char *big = kd_xalloc(KD_PKI_MAX_PEM + 2);
    memset(big, 'A', KD_PKI_MAX_PEM + 1);
    assert_int_not_equal(kd_pki_identity_of(big, KD_PKI_MAX_PEM + 1, &who, &diag), 0);
    free(big);
    free(good);
    kd_test_ca_free(&ca);
}

static void test_pki_key_files(void **state)
{
    (void)state;
    kd_diag diag = {0};
    char *dir = kd_test_mkdir(), *key, *got, path[256];
    snprintf(path, sizeof path, "%s/a.key", dir);
    kd_assert_fails(kd_pki_read_key(path, &got, &diag), KD_ENOENT, &diag, "cannot open");
    kd_assert_ok(kd_pki_make_key(&key, &diag), &diag);
    kd_assert_ok(kd_pki_write(path, key, &diag), &diag);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    kd_assert_ok(kd_pki_read_key(path, &got, &diag), &diag);
    assert_string_equal(got, key);
    kd_pki_drop(got);
    static const mode_t modes[] = {0640, 0604, 0620, 0602, 0610, 0660, 0644};
    for (size_t i = 0; i < KD_COUNT(modes); i++) {
        assert_int_equal(chmod(path, modes[i]), 0);
        kd_assert_fails(kd_pki_read_key(path, &got, &diag), KD_EPERM, &diag, "chmod 600");
    }
    if (geteuid() == 0) {
        assert_int_equal(chmod(path, 0600), 0);
        assert_int_equal(chown(path, 12345, 12345), 0);
        kd_assert_fails(kd_pki_read_key(path, &got, &diag), KD_EPERM, &diag, "another user");
    }
    snprintf(path, sizeof path, "%s/pipe", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    kd_assert_fails(kd_pki_read_key(path, &got, &diag), KD_EPERM, &diag, "no plain file");
    kd_pki_drop(key);
    kd_test_rmdir(dir);
}

static void test_pki_random(void **state)
{
    (void)state;
    char a[40], b[40];
    kd_diag diag = {0};
    kd_assert_ok(kd_pki_random(24, a, &diag), &diag);
    kd_assert_ok(kd_pki_random(24, b, &diag), &diag);
    assert_int_equal(strlen(a), 32);
    assert_string_not_equal(a, b);
    assert_int_equal(strspn(a, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
                     32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pki_issues),
        cmocka_unit_test(test_pki_digests),
        cmocka_unit_test(test_pki_extensions),
        cmocka_unit_test(test_pki_refuses_requests),
        cmocka_unit_test(test_pki_refuses_identities),
        cmocka_unit_test(test_pki_key_files),
        cmocka_unit_test(test_pki_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
