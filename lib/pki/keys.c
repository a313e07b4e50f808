/* Keys, requests, and reading what was made. */
#include "pki_internal.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

int kd_pki_fail(kd_diag *diag, int code, const char *what)
{
    char why[160] = "no reason given";
    unsigned long e = ERR_peek_last_error();
    if (e)
        ERR_error_string_n(e, why, sizeof why);
    ERR_clear_error();
    return kd_fail(diag, code, "%s: %s", what, why);
}

/* An encrypted key would have OpenSSL ask for its password on the terminal. */
static int no_password(char *buf, int size, int writing, void *arg)
{
    (void)buf, (void)size, (void)writing, (void)arg;
    return 0;
}

X509 *kd_pki_parse_certificate(const char *pem, size_t len, kd_diag *diag)
{
    BIO *bio = len <= KD_PKI_MAX_PEM ? BIO_new_mem_buf(pem, (int)len) : NULL;
    X509 *x = bio ? PEM_read_bio_X509(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    if (!x)
        (void)kd_pki_fail(diag, -KD_EDATA, "this is no certificate");
    return x;
}

EVP_PKEY *kd_pki_parse_key(const char *pem, kd_diag *diag)
{
    size_t len = strlen(pem);
    BIO *bio = len <= KD_PKI_MAX_PEM ? BIO_new_mem_buf(pem, (int)len) : NULL;
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    if (!key)
        (void)kd_pki_fail(diag, -KD_EDATA, "this is no private key (or one with a password)");
    return key;
}

char *kd_pki_take_text(BIO *bio)
{
    char *data = NULL;
    long n = BIO_get_mem_data(bio, &data);
    char *text = n > 0 ? malloc((size_t)n + 1) : NULL;
    if (text) {
        memcpy(text, data, (size_t)n);
        text[n] = '\0';
    }
    if (n > 0)
        OPENSSL_cleanse(data, (size_t)n);
    BIO_free(bio);
    return text;
}

void kd_pki_drop(char *text)
{
    if (text)
        OPENSSL_cleanse(text, strlen(text));
    free(text);
}

char *kd_pki_join(const char *one, const char *other)
{
    size_t n = strlen(one), m = strlen(other);
    char *both = kd_xalloc(n + m + 1);
    memcpy(both, one, n);
    memcpy(both + n, other, m);
    return both;
}

int kd_pki_make_key(char **out_key, kd_diag *diag)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL;
    if (key && bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1)
        text = kd_pki_take_text(bio);
    else
        BIO_free(bio);
    EVP_PKEY_free(key);
    if (!text)
        return kd_pki_fail(diag, -KD_EINTERNAL, "cannot make a key");
    *out_key = text;
    return 0;
}

int kd_pki_make_csr(const char *key, char **out_csr, kd_diag *diag)
{
    EVP_PKEY *k = kd_pki_parse_key(key, diag);
    if (!k)
        return diag ? diag->code : -KD_EDATA;
    X509_REQ *req = X509_REQ_new();
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL;
    if (req && bio && X509_REQ_set_version(req, X509_REQ_VERSION_1) == 1 &&
        X509_REQ_set_pubkey(req, k) == 1 && X509_REQ_sign(req, k, EVP_sha256()) > 0 &&
        PEM_write_bio_X509_REQ(bio, req) == 1)
        text = kd_pki_take_text(bio);
    else
        BIO_free(bio);
    X509_REQ_free(req);
    EVP_PKEY_free(k);
    if (!text)
        return kd_pki_fail(diag, -KD_EINTERNAL, "cannot make a certificate request");
    *out_csr = text;
    return 0;
}

bool kd_pki_digest_key(EVP_PKEY *key, char out[KD_PKI_DIGEST])
{
    uint8_t *der = NULL, digest[SHA256_DIGEST_LENGTH];
    int n = i2d_PUBKEY(key, &der);
    if (n <= 0)
        return false;
    SHA256(der, (size_t)n, digest);
    OPENSSL_free(der);
    kd_pki_base64url(digest, sizeof digest, out);
    return true;
}

int kd_pki_digest(const char *pem, char out[KD_PKI_DIGEST], kd_diag *diag)
{
    X509 *x = kd_pki_parse_certificate(pem, strlen(pem), diag);
    if (!x)
        return -KD_EDATA;
    EVP_PKEY *key = X509_get0_pubkey(x);
    bool ok = key && kd_pki_digest_key(key, out);
    X509_free(x);
    return ok ? 0 : kd_pki_fail(diag, -KD_EDATA, "a certificate without a key");
}

int kd_pki_check(const char *ca, const char *certificate, const char *key, kd_diag *diag)
{
    int rc = -KD_EDATA;
    X509 *root = ca ? kd_pki_parse_certificate(ca, strlen(ca), diag) : NULL;
    X509 *x = !ca || root ? kd_pki_parse_certificate(certificate, strlen(certificate), diag) : NULL;
    EVP_PKEY *k = x ? kd_pki_parse_key(key, diag) : NULL;
    if (k && X509_check_private_key(x, k) != 1)
        rc = kd_pki_fail(diag, -KD_EDATA, "the key is not that of the certificate");
    else if (k && root && X509_verify(x, X509_get0_pubkey(root)) != 1)
        rc = kd_pki_fail(diag, -KD_EDATA, "the certificate was not issued by this CA");
    else if (k)
        rc = 0;
    EVP_PKEY_free(k);
    X509_free(x);
    X509_free(root);
    return rc;
}

/* ASN.1 time as Unix milliseconds; false when it is none. */
static bool time_ms(const ASN1_TIME *t, int64_t *out)
{
    int days, seconds;
    ASN1_TIME *zero = ASN1_TIME_set(NULL, 0);
    bool ok = zero && ASN1_TIME_diff(&days, &seconds, zero, t) == 1;
    ASN1_TIME_free(zero);
    if (ok)
        *out = ((int64_t)days * 86400 + seconds) * 1000;
    return ok;
}

/* ROLE and NAME of `distilld://ROLE/NAME`. */
static bool read_uri(const ASN1_IA5STRING *uri, kd_pki_identity *out)
{
    char text[160], *slash;
    size_t n = (size_t)ASN1_STRING_length(uri), skip = strlen(KD_PKI_SCHEME);
    if (n >= sizeof text)
        return false;
    memcpy(text, ASN1_STRING_get0_data(uri), n);
    text[n] = '\0';
    if (strlen(text) != n || strncmp(text, KD_PKI_SCHEME, skip) != 0 ||
        !(slash = strchr(text + skip, '/')))
        return false;
    *slash = '\0';
    out->role = kd_role_of(text + skip);
    if (out->role == KD_ROLE_NONE || !kd_pki_name_ok(slash + 1))
        return false;
    memcpy(out->name, slash + 1, strlen(slash + 1) + 1);
    return true;
}

/* Exactly one URI: with two of them it would depend on the reader whose it is. */
static bool read_names(X509 *x, kd_pki_identity *out)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    int found = 0;
    bool ok = names != NULL;
    for (int i = 0; ok && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        if (g->type == GEN_URI)
            ok = ++found == 1 && read_uri(g->d.uniformResourceIdentifier, out);
    }
    GENERAL_NAMES_free(names);
    return ok && found == 1;
}

int kd_pki_identity_of(const char *pem, size_t len, kd_pki_identity *out, kd_diag *diag)
{
    kd_pki_identity id = {0};
    X509 *x = kd_pki_parse_certificate(pem, len, diag);
    if (!x)
        return -KD_EDATA;
    BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
    uint8_t bytes[16];
    bool ok = serial && !BN_is_negative(serial) &&
              BN_bn2binpad(serial, bytes, sizeof bytes) == sizeof bytes && read_names(x, &id) &&
              time_ms(X509_get0_notBefore(x), &id.not_before_ms) &&
              time_ms(X509_get0_notAfter(x), &id.not_after_ms);
    for (size_t i = 0; ok && i < sizeof bytes; i++) {
        static const char digits[] = "0123456789abcdef";
        id.serial[2 * i] = digits[bytes[i] >> 4];
        id.serial[2 * i + 1] = digits[bytes[i] & 15];
    }
    BN_free(serial);
    X509_free(x);
    ERR_clear_error();
    if (!ok)
        return kd_fail(diag, -KD_EDATA,
                       "this certificate names nobody known here; one for " KD_PKI_SCHEME
                       "ROLE/NAME was expected");
    *out = id;
    return 0;
}
