#include "authority.h"

#include "kd/buf.h"
#include "kd/clock.h"
#include "kd/file.h"
#include "kd/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CA_LIFE_S (20ll * 365 * 86400)
#define MAX_HOSTS_FILE 8192

static void path_of(const char *dir, const char *name, char out[4096])
{
    snprintf(out, 4096, "%.3000s/%s", dir, name);
}

static int read_file(const char *dir, const char *name, bool key, char **out, kd_diag *diag)
{
    char path[4096];
    path_of(dir, name, path);
    return key ? kd_pki_read_key(path, out, diag) : kd_pki_read_certificate(path, out, diag);
}

static int write_file(const char *dir, const char *name, const char *text, kd_diag *diag)
{
    char path[4096];
    path_of(dir, name, path);
    return kd_pki_write(path, text, diag);
}

static bool is_there(const char *dir, const char *name)
{
    char path[4096];
    path_of(dir, name, path);
    return access(path, F_OK) == 0;
}

/* ---- issuing for ourselves */

/* A key of our own and a certificate for it. */
static int issue_own(const char *ca, const char *ca_key, const kd_pki_want *want, char **out_key,
                     char **out_certificate, kd_diag *diag)
{
    char *key = NULL, *csr = NULL;
    kd_pki_identity who;
    int rc = kd_pki_make_key(&key, diag);
    if (rc == 0)
        rc = kd_pki_make_csr(key, &csr, diag);
    if (rc == 0)
        rc = kd_pki_issue(ca, ca_key, csr, want, out_certificate, &who, diag);
    kd_pki_drop(csr);
    if (rc == 0)
        *out_key = key;
    else
        kd_pki_drop(key);
    return rc;
}

/* The names in the file, one a line; list points into text. */
static size_t split_lines(char *text, const char *list[KD_PKI_MAX_HOSTS])
{
    size_t n = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line && n < KD_PKI_MAX_HOSTS;
         line = strtok_r(NULL, "\n", &rest))
        list[n++] = line;
    return n;
}

static int issue_server(const char *dir, const char *ca, const char *ca_key, int64_t life_s,
                        kd_diag *diag)
{
    char path[4096], *hosts = NULL, *key = NULL, *certificate = NULL;
    const char *list[KD_PKI_MAX_HOSTS];
    size_t len;
    path_of(dir, "hosts", path);
    int rc = kd_file_read(path, MAX_HOSTS_FILE, &hosts, &len, diag);
    if (rc != 0)
        return rc;
    kd_pki_want want = {.role = KD_ROLE_SERVER,
                        .name = "distilld",
                        .life_s = life_s,
                        .hosts = list,
                        .n_hosts = split_lines(hosts, list)};
    rc = issue_own(ca, ca_key, &want, &key, &certificate, diag);
    char *chain = rc == 0 ? kd_pki_join(certificate, ca) : NULL;
    if (rc == 0)
        rc = write_file(dir, "server.key", key, diag);
    if (rc == 0)
        rc = write_file(dir, "server.pem", chain, diag);
    free(chain);
    kd_pki_drop(key);
    kd_pki_drop(certificate);
    free(hosts);
    return rc;
}

/* ---- making */

static int make_ca(const char *dir, kd_diag *diag)
{
    char *key = NULL, *ca = NULL;
    int rc = kd_pki_make_key(&key, diag);
    if (rc == 0)
        rc = kd_pki_make_ca(key, "distilld CA", CA_LIFE_S, &ca, diag);
    if (rc == 0)
        rc = write_file(dir, "ca.key", key, diag);
    if (rc == 0)
        rc = write_file(dir, "ca.pem", ca, diag);
    kd_pki_drop(key);
    kd_pki_drop(ca);
    return rc;
}

static int issue_admin(const char *dir, const char *ca, const char *ca_key, int64_t life_s,
                       kd_diag *diag)
{
    char admin[4096], *key = NULL, *certificate = NULL;
    path_of(dir, "admin", admin);
    kd_pki_want want = {.role = KD_ROLE_ADMIN, .name = "admin", .life_s = life_s};
    int rc = kd_file_mkdirs(admin, diag);
    if (rc == 0)
        rc = issue_own(ca, ca_key, &want, &key, &certificate, diag);
    char *identity = rc == 0 ? kd_pki_join(certificate, key) : NULL;
    if (rc == 0)
        rc = write_file(admin, "ca.pem", ca, diag);
    if (rc == 0)
        rc = write_file(admin, "identity.pem", identity, diag);
    kd_pki_drop(identity);
    kd_pki_drop(key);
    kd_pki_drop(certificate);
    return rc;
}

static bool has_host(const char *list, const char *host)
{
    size_t n = strlen(host);
    for (const char *at = list; (at = strstr(at, host)); at += n)
        if ((at == list || at[-1] == '\n') && at[n] == '\n')
            return true;
    return false;
}

/* Those that are there already stay. */
static int add_hosts(const char *dir, const char *const *hosts, size_t n_hosts, kd_diag *diag)
{
    char path[4096], *old = NULL;
    size_t len = 0;
    kd_buf all;
    kd_buf_init(&all, MAX_HOSTS_FILE - 1);
    path_of(dir, "hosts", path);
    int rc = is_there(dir, "hosts") ? kd_file_read(path, MAX_HOSTS_FILE, &old, &len, diag) : 0;
    if (rc == 0 && len)
        kd_buf_add(&all, old, len);
    for (size_t i = 0; i < n_hosts && rc == 0; i++)
        if (!all.data || !has_host(all.data, hosts[i]))
            kd_buf_printf(&all, "%s\n", hosts[i]);
    if (rc == 0 && all.failed)
        rc = kd_fail(diag, -KD_ELIMIT, "too many host names for %s", path);
    if (rc == 0)
        rc = kd_file_write(path, all.data ? all.data : "", all.len, diag);
    kd_buf_clear(&all);
    free(old);
    return rc;
}

int kd_authority_make(const char *dir, const char *const *hosts, size_t n_hosts, const char *server,
                      int64_t life_s, kd_diag *diag)
{
    char *ca = NULL, *ca_key = NULL;
    int rc = kd_file_mkdirs(dir, diag);
    if (rc == 0 && !is_there(dir, "ca.pem"))
        rc = make_ca(dir, diag);
    if (rc == 0)
        rc = read_file(dir, "ca.pem", false, &ca, diag);
    if (rc == 0)
        rc = read_file(dir, "ca.key", true, &ca_key, diag);
    if (rc == 0)
        rc = kd_pki_check(ca, ca, ca_key, diag);
    if (rc == 0)
        rc = add_hosts(dir, hosts, n_hosts, diag);
    if (rc == 0)
        rc = issue_server(dir, ca, ca_key, life_s, diag);
    if (rc == 0 && !is_there(dir, "admin/identity.pem"))
        rc = issue_admin(dir, ca, ca_key, life_s, diag);
    if (rc == 0 && !is_there(dir, "admin/server"))
        rc = write_file(dir, "admin/server", server, diag);
    kd_pki_drop(ca);
    kd_pki_drop(ca_key);
    return rc;
}

/* ---- using */

void kd_authority_close(kd_authority *a)
{
    if (!a)
        return;
    kd_pki_drop(a->ca);
    kd_pki_drop(a->ca_key);
    kd_pki_drop(a->certificate);
    kd_pki_drop(a->key);
    free(a->dir);
    free(a);
}

/* The server's own pair as it lies there; 0 also when it does not fit and must be made anew. */
static int load_own(kd_authority *a, kd_diag *diag)
{
    char *certificate = NULL, *key = NULL;
    int rc = read_file(a->dir, "server.pem", false, &certificate, diag);
    if (rc == 0)
        rc = read_file(a->dir, "server.key", true, &key, diag);
    if (rc == 0)
        rc = kd_pki_check(a->ca, certificate, key, diag);
    if (rc == 0)
        rc = kd_pki_identity_of(certificate, strlen(certificate), &a->own, diag);
    if (rc != 0) {
        kd_pki_drop(certificate);
        kd_pki_drop(key);
        return rc;
    }
    kd_pki_drop(a->certificate);
    kd_pki_drop(a->key);
    a->certificate = certificate;
    a->key = key;
    return 0;
}

/* A new pair of our own where the old one does not fit, or will soon be over. */
static int make_fit(kd_authority *a, kd_diag *diag)
{
    kd_diag why = {0};
    int rc = load_own(a, &why);
    if (rc == -KD_EPERM)
        return kd_fail(diag, rc, "%s", why.msg);
    if (rc == 0 && !kd_pki_is_due(&a->own, kd_clock_wall_ms()))
        return 0;
    if (rc != 0)
        kd_warn("the server's certificate is made anew: %s", why.msg);
    rc = issue_server(a->dir, a->ca, a->ca_key, a->life_s, diag);
    return rc == 0 ? load_own(a, diag) : rc;
}

int kd_authority_open(const char *dir, int64_t life_s, kd_authority **out, kd_diag *diag)
{
    if (!is_there(dir, "ca.pem"))
        return kd_fail(diag, -KD_ENOENT, "no certificates in %s; `distilld init` makes them", dir);
    kd_authority *a = kd_xalloc(sizeof *a);
    a->dir = kd_xstrdup(dir);
    a->life_s = life_s;
    int rc = read_file(dir, "ca.pem", false, &a->ca, diag);
    if (rc == 0)
        rc = read_file(dir, "ca.key", true, &a->ca_key, diag);
    if (rc == 0 && (rc = kd_pki_check(a->ca, a->ca, a->ca_key, diag)) != 0)
        (void)kd_fail_at(diag, rc, "the CA in %.300s", dir);
    if (rc == 0)
        rc = kd_pki_digest(a->ca, a->digest, diag);
    if (rc == 0)
        rc = make_fit(a, diag);
    if (rc == 0)
        *out = a;
    else
        kd_authority_close(a);
    return rc;
}

int kd_authority_refresh(kd_authority *a, bool reload, kd_diag *diag)
{
    char serial[KD_PKI_SERIAL];
    if (!reload && !kd_pki_is_due(&a->own, kd_clock_wall_ms()))
        return 0;
    memcpy(serial, a->own.serial, sizeof serial);
    int rc = make_fit(a, diag);
    return rc == 0 ? strcmp(serial, a->own.serial) != 0 : rc;
}

/* ---- the admin's login */

void kd_authority_read_admin(kd_authority *a)
{
    char *login = NULL;
    kd_pki_identity who = {0};
    kd_diag why = {0};
    int rc = read_file(a->dir, "admin/identity.pem", true, &login, &why);
    if (rc == 0)
        rc = kd_pki_check(a->ca, login, login, &why);
    if (rc == 0)
        rc = kd_pki_identity_of(login, strlen(login), &who, &why);
    if (rc == 0 && who.role != KD_ROLE_ADMIN)
        rc = kd_fail(&why, -KD_EDATA, "it is the login of %s, a %s", who.name,
                     kd_role_name(who.role));
    if (rc != 0 && rc != -KD_ENOENT)
        kd_warn("nobody renews %.300s/admin: %s", a->dir, why.msg);
    a->admin = rc == 0 ? who : (kd_pki_identity){0};
    kd_pki_drop(login);
}

int kd_authority_make_admin(kd_authority *a, kd_diag *diag)
{
    int rc = issue_admin(a->dir, a->ca, a->ca_key, a->life_s, diag);
    if (rc == 0)
        kd_authority_read_admin(a);
    return rc;
}

kd_rpc_tls kd_authority_tls(const kd_authority *a)
{
    return (kd_rpc_tls){a->ca, a->certificate, a->key};
}
