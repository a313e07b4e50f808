/* Roles, names, digests and random texts. */
#include "pki_internal.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

static const char *const g_roles[] = {"none",     "worker", "submitter", "viewer",
                                      "operator", "admin",  "server"};

const char *kd_role_name(enum kd_role role)
{
    return (size_t)role < KD_COUNT(g_roles) ? g_roles[role] : g_roles[0];
}

enum kd_role kd_role_of(const char *word)
{
    for (size_t i = 1; i < KD_COUNT(g_roles); i++)
        if (strcmp(g_roles[i], word) == 0)
            return (enum kd_role)i;
    return KD_ROLE_NONE;
}

bool kd_holder_is(enum kd_holder holder, enum kd_role role)
{
    return holder == KD_HOLDER_ANY || (holder == KD_HOLDER_WORKER) == (role == KD_ROLE_WORKER);
}

static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool kd_pki_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n >= KD_PKI_NAME || !is_plain(name[0]))
        return false;
    for (size_t i = 1; i < n; i++)
        if (!is_plain(name[i]) && !strchr("._-", name[i]))
            return false;
    return true;
}

int64_t kd_pki_life_ms(const kd_pki_identity *id)
{
    return id->not_after_ms - id->not_before_ms - KD_PKI_SKEW_S * 1000;
}

bool kd_pki_is_due(const kd_pki_identity *id, int64_t now_ms)
{
    return now_ms > id->not_after_ms - kd_pki_life_ms(id) / 3;
}

void kd_pki_base64url(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned held = 0, bits = 0;
    for (size_t i = 0; i < n; i++) {
        held = (held << 8 | bytes[i]) & 0xffff;
        for (bits += 8; bits >= 6;)
            *out++ = digits[held >> (bits -= 6) & 63];
    }
    if (bits)
        *out++ = digits[held << (6 - bits) & 63];
    *out = '\0';
}

int kd_pki_random(size_t n, char *out, kd_diag *diag)
{
    uint8_t bytes[64];
    KD_BUG_ON(n > sizeof bytes);
    if (RAND_bytes(bytes, (int)n) != 1)
        return kd_pki_fail(diag, -KD_EINTERNAL, "no random numbers");
    kd_pki_base64url(bytes, n, out);
    OPENSSL_cleanse(bytes, sizeof bytes);
    return 0;
}

void kd_pki_sha256(const char *text, char out[KD_PKI_SHA256])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256((const uint8_t *)text, strlen(text), digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

void kd_pki_wipe(void *p, size_t n)
{
    OPENSSL_cleanse(p, n);
}
