/* Keys and certificates over OpenSSL: a CA, what it issues, and who a certificate stands for.
 *
 * Keys are ECDSA P-256 (FIPS 186-4), which gRPC's TLS, every other TLS and old hardware take;
 * requests for Ed25519 keys (RFC 8410) are issued as well. A certificate (RFC 5280) carries one
 * URI, `distilld://ROLE/NAME`, as its subject alternative name: that, and nothing else of it, is
 * who its holder is. Clients' are good for clientAuth only, servers' for serverAuth only, so that
 * no holder of one can stand in for the other.
 *
 * Texts are PEM, NUL-terminated, at most KD_PKI_MAX_PEM long; what comes from outside may be
 * anything. Texts that a function gives are the caller's: free with kd_pki_drop, which wipes them.
 * Threads: reentrant. */
#ifndef KD_PKI_H
#define KD_PKI_H

#include "kd/err.h"

#include <stddef.h>
#include <stdint.h>

#define KD_PKI_MAX_PEM 16384u
#define KD_PKI_NAME 65   /* 1..64 characters of [A-Za-z0-9._-], first one a letter or digit */
#define KD_PKI_SERIAL 33 /* 32 hex digits */
#define KD_PKI_DIGEST 44 /* 32 bytes as base64url (RFC 4648, section 5) without padding */
#define KD_PKI_SHA256 65 /* 32 bytes as hex */
#define KD_PKI_MAX_HOSTS 32
#define KD_PKI_SKEW_S 300 /* by which clocks may differ */

/* ---- roles and names */
enum kd_role {
    KD_ROLE_NONE, /* no certificate */
    KD_ROLE_WORKER,
    KD_ROLE_SUBMITTER,
    KD_ROLE_VIEWER,
    KD_ROLE_OPERATOR,
    KD_ROLE_ADMIN,
    KD_ROLE_SERVER /* the coordinator itself */
};
const char *kd_role_name(enum kd_role role); /* "worker"; "none" */
/* KD_ROLE_NONE for any other word. */
enum kd_role kd_role_of(const char *word);
bool kd_pki_name_ok(const char *name);
/* Whom a certificate is for; the numbers are those of Holder in distill.proto. */
enum kd_holder { KD_HOLDER_ANY, KD_HOLDER_WORKER, KD_HOLDER_PERSON };
bool kd_holder_is(enum kd_holder holder, enum kd_role role);

typedef struct kd_pki_identity {
    enum kd_role role;
    char name[KD_PKI_NAME];
    char serial[KD_PKI_SERIAL];
    int64_t not_before_ms, not_after_ms; /* Unix time; good from KD_PKI_SKEW_S before its issue */
} kd_pki_identity;

/* From its issue on. */
int64_t kd_pki_life_ms(const kd_pki_identity *id);
/* A third of its life is left, or less: time for a new one. */
bool kd_pki_is_due(const kd_pki_identity *id, int64_t now_ms);

/* ---- making */
/* A key that never left this process, PKCS #8. */
int kd_pki_make_key(char **out_key, kd_diag *diag) KD_MUST_CHECK;
/* A certificate signing request (PKCS #10, RFC 2986) for the key. It names nobody: who it is for is
 * the issuer's word. */
int kd_pki_make_csr(const char *key, char **out_csr, kd_diag *diag) KD_MUST_CHECK;
/* The certificate of a new CA for its key. May sign leaves only (path length 0). */
int kd_pki_make_ca(const char *key, const char *name, int64_t life_s, char **out_certificate,
                   kd_diag *diag) KD_MUST_CHECK;

/* What a certificate shall say. hosts: names and addresses of a server, none for other roles. */
typedef struct kd_pki_want {
    enum kd_role role;
    const char *name;
    int64_t life_s; /* never past the CA's own end */
    const char *const *hosts;
    size_t n_hosts;
} kd_pki_want;
/* Of the request only its key is taken, after it has proved to hold it. -KD_EINVAL: the request or
 * the wish is none that is issued. */
int kd_pki_issue(const char *ca, const char *ca_key, const char *csr, const kd_pki_want *want,
                 char **out_certificate, kd_pki_identity *out, kd_diag *diag) KD_MUST_CHECK;
void kd_pki_drop(char *text); /* NULL allowed */
/* One text behind another: a certificate and what leads to its CA, or its key. */
char *kd_pki_join(const char *one, const char *other);

/* ---- reading */
/* Who the first certificate of the text stands for; whether it may be believed was the TLS
 * handshake's to check. -KD_EDATA when it is not one of ours. */
int kd_pki_identity_of(const char *pem, size_t len, kd_pki_identity *out,
                       kd_diag *diag) KD_MUST_CHECK;
/* SHA-256 (FIPS 180-4) of the SubjectPublicKeyInfo in DER of the first certificate: what names a CA
 * whoever renews its certificate (as RFC 7469, section 2.4). */
int kd_pki_digest(const char *pem, char out[KD_PKI_DIGEST], kd_diag *diag) KD_MUST_CHECK;
/* Whether key and certificate belong together and the CA (NULL = any) has signed it: gRPC would
 * only say that it cannot connect. */
int kd_pki_check(const char *ca, const char *certificate, const char *key,
                 kd_diag *diag) KD_MUST_CHECK;

/* ---- files */
/* A key's file: -KD_EPERM unless it is a plain file of ours (or root's) that nobody else may read
 * or write. */
int kd_pki_read_key(const char *path, char **out, kd_diag *diag) KD_MUST_CHECK;
int kd_pki_read_certificate(const char *path, char **out, kd_diag *diag) KD_MUST_CHECK;
/* Durably, mode 0600. */
int kd_pki_write(const char *path, const char *text, kd_diag *diag) KD_MUST_CHECK;

/* ---- secrets */
/* n random bytes as base64url into out [4 * n / 3 + 2]. */
int kd_pki_random(size_t n, char *out, kd_diag *diag) KD_MUST_CHECK;
void kd_pki_sha256(const char *text, char out[KD_PKI_SHA256]);
/* Overwrites what was secret, whatever the optimiser thinks of it. */
void kd_pki_wipe(void *p, size_t n);

/* ---- the network */
/* Asks a TLS server for its certificates and gives that of its CA, if the CA has this digest and
 * has signed the server's own. Nothing is sent that is worth anything. -KD_EUNAVAIL no TLS there,
 * -KD_EPERM another CA: somebody is between, or the digest is of another coordinator. */
int kd_pki_fetch_ca(const char *host, const char *port, const char *digest, int timeout_ms,
                    char **out_ca, kd_diag *diag) KD_MUST_CHECK;

#endif
