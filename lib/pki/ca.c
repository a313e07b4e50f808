/* A CA and what it issues. */
#include "pki_internal.h"

#include "kd/buf.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <string.h>

#define MAX_LIFE_S (100ll * 366 * 86400)

/* 128 random bits of which the first two are 01: positive, never short, never twice. */
static bool set_serial(X509 *x)
{
    uint8_t bytes[16];
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return false;
    bytes[0] = (uint8_t)((bytes[0] & 0x3f) | 0x40);
    BIGNUM *n = BN_bin2bn(bytes, sizeof bytes, NULL);
    bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x)) != NULL;
    BN_free(n);
    return ok;
}

static bool set_times(X509 *x, int64_t life_s)
{
    return X509_gmtime_adj(X509_getm_notBefore(x), -KD_PKI_SKEW_S) &&
           X509_time_adj_ex(X509_getm_notAfter(x), (int)(life_s / 86400), (long)(life_s % 86400),
                            NULL);
}

static bool set_subject(X509_NAME *name, const char *common)
{
    return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const uint8_t *)common, -1, -1,
                                      0) == 1;
}

static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = e && X509_add_ext(x, e, -1) == 1;
    X509_EXTENSION_free(e);
    return ok;
}

/* Ed25519 hashes by itself. */
static bool sign(X509 *x, EVP_PKEY *key)
{
    return X509_sign(x, key, EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256()) > 0;
}

static char *certificate_text(X509 *x)
{
    BIO *bio = BIO_new(BIO_s_mem());
    if (bio && PEM_write_bio_X509(bio, x) == 1)
        return kd_pki_take_text(bio);
    BIO_free(bio);
    return NULL;
}

static int check_life(int64_t life_s, kd_diag *diag)
{
    if (life_s >= 1 && life_s <= MAX_LIFE_S)
        return 0;
    return kd_fail(diag, -KD_EINVAL, "a certificate lives from a second to a hundred years");
}

int kd_pki_make_ca(const char *key, const char *name, int64_t life_s, char **out_certificate,
                   kd_diag *diag)
{
    int rc = check_life(life_s, diag);
    if (rc != 0)
        return rc;
    EVP_PKEY *k = kd_pki_parse_key(key, diag);
    if (!k)
        return -KD_EDATA;
    X509 *x = X509_new();
    char *text = NULL;
    if (x && X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x) && set_times(x, life_s) &&
        set_subject(X509_get_subject_name(x), name) &&
        X509_set_issuer_name(x, X509_get_subject_name(x)) == 1 && X509_set_pubkey(x, k) == 1 &&
        add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
        add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
        add_extension(x, x, NID_subject_key_identifier, "hash") && sign(x, k))
        text = certificate_text(x);
    X509_free(x);
    EVP_PKEY_free(k);
    if (!text)
        return kd_pki_fail(diag, -KD_EINTERNAL, "cannot make the CA's certificate");
    *out_certificate = text;
    return 0;
}

/* The request's key, if it is of a kind that is issued and the request was signed with it. */
static EVP_PKEY *key_of_request(const char *csr, kd_diag *diag)
{
    size_t len = strlen(csr);
    BIO *bio = len <= KD_PKI_MAX_PEM ? BIO_new_mem_buf(csr, (int)len) : NULL;
    X509_REQ *req = bio ? PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    if (!req) {
        (void)kd_pki_fail(diag, -KD_EINVAL, "this is no certificate request (PKCS #10 in PEM)");
        return NULL;
    }
    EVP_PKEY *key = X509_REQ_get_pubkey(req);
    char group[32] = "";
    bool known = key && (EVP_PKEY_is_a(key, "ED25519") ||
                         (EVP_PKEY_is_a(key, "EC") &&
                          EVP_PKEY_get_group_name(key, group, sizeof group, NULL) == 1 &&
                          strcmp(group, "prime256v1") == 0));
    bool proved = known && X509_REQ_verify(req, key) == 1;
    X509_REQ_free(req);
    if (proved)
        return key;
    EVP_PKEY_free(key);
    (void)kd_pki_fail(diag, -KD_EINVAL,
                      known ? "the request was not signed with the key that it is for"
                            : "a key of ECDSA P-256 or Ed25519 is expected");
    return NULL;
}

/* A host name (RFC 1123) or an address. Commas and such would end an entry of the list. */
static bool host_ok(const char *host)
{
    size_t n = strlen(host);
    return n >= 1 && n <= 253 &&
           strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:") == n;
}

static int names_of(const kd_pki_want *want, kd_buf *out, kd_diag *diag)
{
    if (want->role == KD_ROLE_NONE || !kd_pki_name_ok(want->name))
        return kd_fail(diag, -KD_EINVAL,
                       "a name has 1 to 64 characters of [A-Za-z0-9._-] and begins with a letter "
                       "or digit");
    if (want->n_hosts > KD_PKI_MAX_HOSTS)
        return kd_fail(diag, -KD_EINVAL, "a certificate names at most %d hosts", KD_PKI_MAX_HOSTS);
    kd_buf_printf(out, "URI:" KD_PKI_SCHEME "%s/%s", kd_role_name(want->role), want->name);
    for (size_t i = 0; i < want->n_hosts; i++) {
        const char *host = want->hosts[i];
        uint8_t address[16];
        if (!host_ok(host))
            return kd_fail(diag, -KD_EINVAL, "%.64s is no host name or address", host);
        bool is_address =
            inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
        kd_buf_printf(out, ",%s:%s", is_address ? "IP" : "DNS", host);
    }
    return out->failed ? kd_fail(diag, -KD_ELIMIT, "too many host names") : 0;
}

/* Ends with its CA at the latest. */
static bool bound_by(X509 *x, const X509 *ca)
{
    return ASN1_TIME_compare(X509_get0_notAfter(x), X509_get0_notAfter(ca)) <= 0 ||
           X509_set1_notAfter(x, X509_get0_notAfter(ca)) == 1;
}

static X509 *make_leaf(X509 *ca, EVP_PKEY *ca_key, EVP_PKEY *key, const kd_pki_want *want,
                       const char *names)
{
    bool server = want->role == KD_ROLE_SERVER;
    X509 *x = X509_new();
    if (x && X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x) &&
        set_times(x, want->life_s) && bound_by(x, ca) &&
        set_subject(X509_get_subject_name(x), want->name) &&
        X509_set_issuer_name(x, X509_get_subject_name(ca)) == 1 && X509_set_pubkey(x, key) == 1 &&
        add_extension(x, ca, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(x, ca, NID_key_usage, "critical,digitalSignature") &&
        add_extension(x, ca, NID_ext_key_usage, server ? "serverAuth" : "clientAuth") &&
        add_extension(x, ca, NID_authority_key_identifier, "keyid:always") &&
        add_extension(x, ca, NID_subject_alt_name, names) && sign(x, ca_key))
        return x;
    X509_free(x);
    return NULL;
}

int kd_pki_issue(const char *ca, const char *ca_key, const char *csr, const kd_pki_want *want,
                 char **out_certificate, kd_pki_identity *out, kd_diag *diag)
{
    kd_buf names;
    kd_buf_init(&names, 8192);
    int rc = check_life(want->life_s, diag);
    if (rc == 0)
        rc = names_of(want, &names, diag);
    EVP_PKEY *key = rc == 0 ? key_of_request(csr, diag) : NULL;
    if (rc == 0 && !key)
        rc = -KD_EINVAL;
    X509 *root = rc == 0 ? kd_pki_parse_certificate(ca, strlen(ca), diag) : NULL;
    EVP_PKEY *root_key = root ? kd_pki_parse_key(ca_key, diag) : NULL;
    if (rc == 0 && !root_key)
        rc = -KD_EDATA;
    X509 *x = rc == 0 ? make_leaf(root, root_key, key, want, names.data) : NULL;
    char *text = x ? certificate_text(x) : NULL;
    if (rc == 0 && !text)
        rc = kd_pki_fail(diag, -KD_EINTERNAL, "cannot issue a certificate");
    if (rc == 0)
        rc = kd_pki_identity_of(text, strlen(text), out, diag);
    if (rc == 0)
        *out_certificate = text;
    else
        kd_pki_drop(text);
    X509_free(x);
    EVP_PKEY_free(root_key);
    X509_free(root);
    EVP_PKEY_free(key);
    kd_buf_clear(&names);
    ERR_clear_error();
    return rc;
}
