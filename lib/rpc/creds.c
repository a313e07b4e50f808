/* How connections are protected: TLS on both sides, or plain text. */
#include "internal.h"

#include "kd/hash.h"
#include "kd/log.h"

#include <stdlib.h>
#include <string.h>

#define SEEN 256 /* certificates that need not be read again */

struct seen {
    char *pem;
    size_t len;
    kd_pki_identity identity;
};

struct kd_rpc_certs {
    pthread_mutex_t mu;           /* guards all below */
    char *ca, *certificate, *key; /* ca NULL: clients are asked for no certificate */
    bool changed;                 /* since the last handshake */
    struct seen seen[SEEN];
};

grpc_channel_credentials *kd_rpc_channel_creds(const kd_rpc_tls *tls)
{
    if (!tls)
        return grpc_insecure_credentials_create();
    grpc_ssl_pem_key_cert_pair pair = {tls->key, tls->certificate};
    return grpc_ssl_credentials_create_ex(tls->ca, tls->certificate ? &pair : NULL, NULL, NULL);
}

/* ---- servers */

static void drop_texts(kd_rpc_certs *c)
{
    free(c->ca);
    free(c->certificate);
    kd_pki_drop(c->key);
}

void kd_rpc_certs_set(kd_rpc_certs *c, const kd_rpc_tls *tls)
{
    pthread_mutex_lock(&c->mu);
    drop_texts(c);
    c->ca = tls->ca ? kd_xstrdup(tls->ca) : NULL;
    c->certificate = kd_xstrdup(tls->certificate);
    c->key = kd_xstrdup(tls->key);
    c->changed = true;
    pthread_mutex_unlock(&c->mu);
}

kd_rpc_certs *kd_rpc_certs_new(const kd_rpc_tls *tls)
{
    kd_rpc_certs *c = kd_xalloc(sizeof *c);
    pthread_mutex_init(&c->mu, NULL);
    kd_rpc_certs_set(c, tls);
    return c;
}

void kd_rpc_certs_free(kd_rpc_certs *c)
{
    if (!c)
        return;
    drop_texts(c);
    for (size_t i = 0; i < SEEN; i++)
        free(c->seen[i].pem);
    pthread_mutex_destroy(&c->mu);
    free(c);
}

/* Asked by gRPC at each handshake. */
static grpc_ssl_certificate_config_reload_status
fetch_config(void *arg, grpc_ssl_server_certificate_config **out)
{
    kd_rpc_certs *c = arg;
    pthread_mutex_lock(&c->mu);
    bool changed = c->changed;
    if (changed) {
        grpc_ssl_pem_key_cert_pair pair = {c->key, c->certificate};
        /* gRPC 1.51 aborts without a CA, even where no client is asked for a certificate. */
        *out = grpc_ssl_server_certificate_config_create(c->ca ? c->ca : c->certificate, &pair, 1);
        c->changed = false;
    }
    pthread_mutex_unlock(&c->mu);
    return changed ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                   : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

grpc_server_credentials *kd_rpc_server_creds(kd_rpc_certs *c, bool known_clients)
{
    if (!c)
        return grpc_insecure_server_credentials_create();
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            !c->ca          ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
            : known_clients ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                            : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY,
            fetch_config, c));
}

/* Parsing takes longer than most calls, so what was parsed is kept: the same bytes, the same
 * holder. */
static void read_certificate(kd_rpc_certs *c, const char *pem, size_t len, kd_pki_identity *out)
{
    struct seen *s = &c->seen[kd_digest_of(pem, len).bytes[15] % SEEN];
    kd_diag diag = {0};
    pthread_mutex_lock(&c->mu);
    bool known = s->pem && s->len == len && memcmp(s->pem, pem, len) == 0;
    if (known)
        *out = s->identity;
    pthread_mutex_unlock(&c->mu);
    if (known)
        return;
    if (kd_pki_identity_of(pem, len, out, &diag) != 0) {
        kd_debug("a client's certificate: %s", diag.msg);
        return;
    }
    char *copy = malloc(len);
    if (!copy)
        return;
    memcpy(copy, pem, len);
    pthread_mutex_lock(&c->mu);
    free(s->pem);
    *s = (struct seen){copy, len, *out};
    pthread_mutex_unlock(&c->mu);
}

void kd_rpc_certs_identify(kd_rpc_certs *c, grpc_call *call, kd_pki_identity *out)
{
    grpc_auth_context *ctx = grpc_call_auth_context(call);
    if (ctx && grpc_auth_context_peer_is_authenticated(ctx)) {
        grpc_auth_property_iterator it =
            grpc_auth_context_find_properties_by_name(ctx, GRPC_X509_PEM_CERT_PROPERTY_NAME);
        const grpc_auth_property *p = grpc_auth_property_iterator_next(&it);
        if (p && p->value_length <= KD_PKI_MAX_PEM)
            read_certificate(c, p->value, p->value_length, out);
    }
    grpc_auth_context_release(ctx);
}
