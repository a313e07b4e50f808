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
#define LANE ((size_t)4096)

/* crc * x^(8 n) mod P, by the power x^(8 n - 33) mod P in `power`: bits are reflected, so the
 * product of two 32-bit numbers stands one place too low, and the instruction multiplies by x^32.
 */
__attribute__((target("sse4.2,pclmul"))) static uint32_t shifted(uint32_t crc, uint32_t power)
{
    __m128i product =
        _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc), _mm_cvtsi32_si128((int)power), 0);
    return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

static uint64_t word_at(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* The instruction takes three cycles and one can begin in each: three lanes side by side (Gopal et
 * al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction", 2011). */
__attribute__((target("sse4.2,pclmul"))) static uint32_t crc_sse(uint32_t crc, const uint8_t *p,
                                                                 size_t len)
{
    uint64_t a = crc;
    for (; len >= 3 * LANE; p += 3 * LANE, len -= 3 * LANE) {
        uint64_t b = 0, c = 0;
        for (size_t i = 0; i < LANE; i += 8) {
            a = _mm_crc32_u64(a, word_at(p + i));
            b = _mm_crc32_u64(b, word_at(p + LANE + i));
            c = _mm_crc32_u64(c, word_at(p + 2 * LANE + i));
        }
        /* x^(16 LANE - 33), x^(8 LANE - 33) */
        a = shifted((uint32_t)a, 0x54a86326u) ^ shifted((uint32_t)b, 0x82f89c77u) ^ c;
    }
    for (; len >= 8; p += 8, len -= 8)
        a = _mm_crc32_u64(a, word_at(p));
    uint32_t c32 = (uint32_t)a;
    while (len--)
        c32 = _mm_crc32_u8(c32, *p++);
    return c32;
}
#endif

uint32_t kd_crc32c(uint32_t crc, const void *data, size_t len)
{
    crc = ~crc;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
        return ~crc_sse(crc, data, len);
#endif
    return ~crc_table(crc, data, len);
}
