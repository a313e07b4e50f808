/* The coordinator's CA and its own certificate, in a folder that `distilld init` makes.
 *
 *   ca.pem       the CA's certificate: what everybody trusts
 *   ca.key       its key, mode 0600; who has it can be anybody
 *   server.pem   the coordinator's certificate, then the CA's
 *   server.key   its key, mode 0600
 *   hosts        the names and addresses in it, one a line
 *   admin/       a login with the role admin, as `distill --credentials` takes it
 *
 * The coordinator issues its own certificate anew when two thirds of its life are over, or when it
 * does not fit its key; the admin's likewise, since nobody else could let him in again
 * (kd_access_keep_admin). Threads: one (the loop's). */
#ifndef KD_SERVER_AUTHORITY_H
#define KD_SERVER_AUTHORITY_H

#include "pki/pki.h"
#include "rpc/rpc.h"

#define KD_CERTIFICATE_LIFE_S (30ll * 86400)

typedef struct kd_authority {
    char *dir;
    char *ca, *ca_key, *certificate, *key; /* PEM */
    char digest[KD_PKI_DIGEST];            /* of the CA */
    kd_pki_identity own;                   /* who the server's certificate stands for */
    kd_pki_identity admin; /* that of admin/ as last read; role KD_ROLE_NONE: none */
    int64_t life_s;        /* of certificates that are issued */
} kd_authority;

/* Makes what is not there yet and the server's certificate in any case, so that a second time adds
 * hosts. server: what the admin's login connects to. */
int kd_authority_make(const char *dir, const char *const *hosts, size_t n_hosts, const char *server,
                      int64_t life_s, kd_diag *diag) KD_MUST_CHECK;
/* -KD_ENOENT: there is none (diag says how to make one). */
int kd_authority_open(const char *dir, int64_t life_s, kd_authority **out,
                      kd_diag *diag) KD_MUST_CHECK;
void kd_authority_close(kd_authority *a); /* NULL allowed */
/* A new server certificate if it is time; reload: the files' if they have changed. 1 = there is
 * another one, 0 = not. */
int kd_authority_refresh(kd_authority *a, bool reload, kd_diag *diag) KD_MUST_CHECK;
/* Reads admin/ into a->admin: role KD_ROLE_NONE where it is gone, or nothing of this CA's that is
 * an admin's (which is logged). */
void kd_authority_read_admin(kd_authority *a);
/* Puts a new key and certificate there, and reads them. */
int kd_authority_make_admin(kd_authority *a, kd_diag *diag) KD_MUST_CHECK;
/* Borrowed until the next refresh. */
kd_rpc_tls kd_authority_tls(const kd_authority *a);

#endif
