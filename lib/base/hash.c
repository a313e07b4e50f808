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

#define WIDE __attribute__((target("avx512f,vpclmulqdq,sse4.2,pclmul")))
#define WIDE_LEAST ((size_t)256)

/* Four numbers of 128 bits, each times x^T, and the next 64 bytes: congruent mod P to all of it.
 * by: x^(T+32) and x^(T-32) mod P for the two halves (Gopal et al., "Fast CRC Computation for
 * Generic Polynomials Using PCLMULQDQ Instruction", 2009, bit-reflected). */
WIDE static inline __m512i fold(__m512i sum, __m512i by, __m512i next)
{
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(sum, by, 0x00),
                                     _mm512_clmulepi64_epi128(sum, by, 0x11), next, 0x96);
}

/* Sixteen numbers side by side; then one by one to the last. len at least WIDE_LEAST. */
WIDE static uint32_t crc_wide(uint32_t crc, const uint8_t *p, size_t len)
{
    /* For T = 2048, 512, and of each of the four numbers 384, 256, 128 and 0. */
    const __m512i by_2048 = _mm512_broadcast_i32x4(_mm_set_epi64x(0xb9e02b86, 0xdcb17aa4));
    const __m512i by_512 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x9e4addf8, 0x740eef02));
    const __m512i to_last = _mm512_set_epi64(0, 0, 0x493c7d27, 0xf20c0dfe, 0xba4fc28e, 0x3da6d0cb,
                                             0xddc0152b, 0x1c291d04);
    __m512i sums[4];
    for (int i = 0; i < 4; i++)
        sums[i] = _mm512_loadu_si512(p + 64 * i);
    sums[0] = _mm512_xor_si512(sums[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
    for (p += 256, len -= 256; len >= 256; p += 256, len -= 256)
        for (int i = 0; i < 4; i++)
            sums[i] = fold(sums[i], by_2048, _mm512_loadu_si512(p + 64 * i));
    __m512i sum = sums[0];
    for (int i = 1; i < 4; i++)
        sum = fold(sum, by_512, sums[i]);
    for (; len >= 64; p += 64, len -= 64)
        sum = fold(sum, by_512, _mm512_loadu_si512(p));
    const __m512i moved = fold(sum, to_last, _mm512_setzero_si512());
    __m128i last = _mm512_extracti32x4_epi32(sum, 3);
    last = _mm_xor_si128(last, _mm512_extracti32x4_epi32(moved, 0));
    last = _mm_xor_si128(last, _mm512_extracti32x4_epi32(moved, 1));
    last = _mm_xor_si128(last, _mm512_extracti32x4_epi32(moved, 2));
    uint64_t rest = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(last));
    rest = _mm_crc32_u64(rest, (uint64_t)_mm_extract_epi64(last, 1));
    return crc_sse((uint32_t)rest, p, len);
}
#endif

uint32_t kd_crc32c(uint32_t crc, const void *data, size_t len)
{
    crc = ~crc;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
        return ~(len >= WIDE_LEAST && __builtin_cpu_supports("avx512f") &&
                         __builtin_cpu_supports("vpclmulqdq")
                     ? crc_wide(crc, data, len)
                     : crc_sse(crc, data, len));
#endif
    return ~crc_table(crc, data, len);
}
