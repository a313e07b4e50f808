/* Asking a server for its CA's certificate before anything of it is trusted. */
#include "pki_internal.h"

#include "kd/clock.h"

#include <errno.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Waits until the socket is ready; false when the time is over. */
static bool await(int fd, short what, kd_time_ms until)
{
    struct pollfd p = {.fd = fd, .events = what};
    for (;;) {
        kd_time_ms left = until - kd_clock_ms();
        int n = left > 0 ? poll(&p, 1, (int)left) : 0;
        if (n >= 0 || errno != EINTR)
            return n > 0;
    }
}

static int connect_one(const struct addrinfo *a, kd_time_ms until)
{
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    int failed = 0;
    socklen_t n = sizeof failed;
    if (fd < 0)
        return -1;
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return fd;
    if (errno == EINPROGRESS) {
        errno = ETIMEDOUT;
        if (await(fd, POLLOUT, until) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &n) == 0) {
            if (failed == 0)
                return fd;
            errno = failed;
        }
    }
    failed = errno;
    close(fd);
    errno = failed;
    return -1;
}

static int connect_any(const char *host, const char *port, kd_time_ms until, int *out_fd,
                       kd_diag *diag)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all = NULL;
    int rc = getaddrinfo(host, port, &hints, &all);
    if (rc != 0)
        return kd_fail(diag, -KD_EUNAVAIL, "cannot find %s: %s", host, gai_strerror(rc));
    int fd = -1;
    for (const struct addrinfo *a = all; a && fd < 0; a = a->ai_next)
        fd = connect_one(a, until);
    int why = errno;
    freeaddrinfo(all);
    if (fd < 0)
        return kd_fail(diag, -KD_EUNAVAIL, "cannot reach %s port %s: %s", host, port,
                       strerror(why));
    *out_fd = fd;
    return 0;
}

static bool shake_hands(SSL *ssl, int fd, kd_time_ms until)
{
    for (;;) {
        int n = SSL_connect(ssl);
        if (n == 1)
            return true;
        int why = SSL_get_error(ssl, n);
        if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE)
            return false;
        if (!await(fd, why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, until))
            return false;
    }
}

/* The certificate of that CA in what the server sent, which must have signed the server's own. */
static X509 *find_ca(SSL *ssl, const char *digest)
{
    STACK_OF(X509) *chain = SSL_get_peer_cert_chain(ssl);
    X509 *leaf = SSL_get0_peer_certificate(ssl);
    for (int i = 0; leaf && chain && i < sk_X509_num(chain); i++) {
        X509 *x = sk_X509_value(chain, i);
        EVP_PKEY *key = X509_get0_pubkey(x);
        char got[KD_PKI_DIGEST];
        if (key && kd_pki_digest_key(key, got) && strcmp(got, digest) == 0 &&
            X509_verify(leaf, key) == 1)
            return x;
    }
    return NULL;
}

static int take_ca(SSL *ssl, const char *where, const char *digest, char **out_ca, kd_diag *diag)
{
    X509 *ca = find_ca(ssl, digest);
    ERR_clear_error();
    if (!ca)
        return kd_fail(diag, -KD_EPERM,
                       "the server at %s belongs to another CA than the token says: the token is "
                       "of another coordinator, or somebody stands between; nothing was sent",
                       where);
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL;
    if (bio && PEM_write_bio_X509(bio, ca) == 1)
        text = kd_pki_take_text(bio);
    else
        BIO_free(bio);
    if (!text)
        return kd_pki_fail(diag, -KD_ENOMEM, "no memory for a certificate");
    *out_ca = text;
    return 0;
}

int kd_pki_fetch_ca(const char *host, const char *port, const char *digest, int timeout_ms,
                    char **out_ca, kd_diag *diag)
{
    static const uint8_t h2[] = {2, 'h', '2'}; /* what gRPC speaks, so that nothing is logged */
    kd_time_ms until = kd_clock_ms() + timeout_ms;
    int fd = -1, rc = connect_any(host, port, until, &fd, diag);
    if (rc != 0)
        return rc;
    /* No verification here: what is sent is compared with the digest below. */
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = ctx ? SSL_new(ctx) : NULL;
    if (!ssl || SSL_set_fd(ssl, fd) != 1 || SSL_set_alpn_protos(ssl, h2, sizeof h2) != 0)
        rc = kd_pki_fail(diag, -KD_ENOMEM, "cannot begin a TLS connection");
    else if (!shake_hands(ssl, fd, until))
        rc = kd_pki_fail(diag, -KD_EUNAVAIL,
                         "the server does not speak TLS (it may run without: `distilld init`)");
    else
        rc = take_ca(ssl, host, digest, out_ca, diag);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
    return rc;
}
