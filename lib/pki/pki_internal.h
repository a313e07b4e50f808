/* Shared by the files of this folder. */
#ifndef KD_PKI_INTERNAL_H
#define KD_PKI_INTERNAL_H

#include "pki/pki.h"

#include <openssl/evp.h>
#include <openssl/x509.h>

#define KD_PKI_SCHEME "distilld://"

/* Records "what: OpenSSL's reason" and empties OpenSSL's queue. Returns code. */
int kd_pki_fail(kd_diag *diag, int code, const char *what);
/* The first object of the text; NULL with diag. The caller frees. */
X509 *kd_pki_parse_certificate(const char *pem, size_t len, kd_diag *diag);
EVP_PKEY *kd_pki_parse_key(const char *pem, kd_diag *diag);
/* A memory BIO's text; frees the BIO. NULL when memory is out. */
char *kd_pki_take_text(BIO *bio);
/* Digest of a public key, as kd_pki_digest. False when memory is out. */
bool kd_pki_digest_key(EVP_PKEY *key, char out[KD_PKI_DIGEST]);
/* n bytes as base64url into out [4 * n / 3 + 2]. */
void kd_pki_base64url(const uint8_t *bytes, size_t n, char *out);

#endif
