#include "kd/hash.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static kd_digest canonical(XXH128_hash_t h)
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, h);
    kd_digest d;
    memcpy(d.bytes, c.digest, sizeof d.bytes);
    return d;
}

kd_digest kd_digest_of(const void *data, size_t len)
{
    return canonical(XXH3_128bits(data, len));
}

bool kd_digest_equal(const kd_digest *a, const kd_digest *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

void kd_digest_hex(const kd_digest *d, char out[KD_DIGEST_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        out[2 * i] = digits[d->bytes[i] >> 4];
        out[2 * i + 1] = digits[d->bytes[i] & 15];
    }
    out[32] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool kd_digest_parse(const char *hex, kd_digest *out)
{
    kd_digest d;
    if (strlen(hex) != 32)
        return false;
    for (int i = 0; i < 16; i++) {
        int hi = hex_value(hex[2 * i]), lo = hex_value(hex[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return false;
        d.bytes[i] = (uint8_t)(hi << 4 | lo);
    }
    *out = d;
    return true;
}

struct kd_hasher {
    XXH3_state_t *state;
};

kd_hasher *kd_hasher_new(void)
{
    kd_hasher *h = calloc(1, sizeof *h);
    if (!h || !(h->state = XXH3_createState())) {
        free(h);
        return NULL;
    }
    XXH3_128bits_reset(h->state);
    return h;
}

void kd_hasher_add(kd_hasher *h, const void *data, size_t len)
{
    XXH3_128bits_update(h->state, data, len);
}

kd_digest kd_hasher_digest(const kd_hasher *h)
{
    return canonical(XXH3_128bits_digest(h->state));
}

void kd_hasher_free(kd_hasher *h)
{
    if (!h)
        return;
    XXH3_freeState(h->state);
    free(h);
}

static uint32_t crc_table(uint32_t crc, const uint8_t *p, size_t len)
{
    static uint32_t table[256];
    static int ready; /* racing writers store the same values */
    if (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE)) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++)
                c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
            __atomic_store_n(&table[i], c, __ATOMIC_RELAXED);
        }
        __atomic_store_n(&ready, 1, __ATOMIC_RELEASE);
    }
    while (len--)
        crc = __atomic_load_n(&table[(crc ^ *p++) & 255], __ATOMIC_RELAXED) ^ crc >> 8;
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_sse(uint32_t crc, const uint8_t *p,
                                                          size_t len)
{
    uint64_t c = crc;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = _mm_crc32_u64(c, word);
    }
    uint32_t c32 = (uint32_t)c;
    while (len--)
        c32 = _mm_crc32_u8(c32, *p++);
    return c32;
}
#endif

uint32_t kd_crc32c(uint32_t crc, const void *data, size_t len)
{
    crc = ~crc;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc_sse(crc, data, len);
#endif
    return ~crc_table(crc, data, len);
}
