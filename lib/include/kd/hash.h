/* Digests (XXH3-128, for identity, not for security) and CRC32C (Castagnoli, for transport). */
#ifndef KD_HASH_H
#define KD_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KD_DIGEST_HEX 33 /* 32 hex digits and NUL */

typedef struct kd_digest {
    uint8_t bytes[16]; /* canonical big-endian XXH3-128 */
} kd_digest;

kd_digest kd_digest_of(const void *data, size_t len);
bool kd_digest_equal(const kd_digest *a, const kd_digest *b);
void kd_digest_hex(const kd_digest *d, char out[KD_DIGEST_HEX]);
/* false unless exactly 32 lower- or upper-case hex digits. */
bool kd_digest_parse(const char *hex, kd_digest *out);

/* Incremental form. */
typedef struct kd_hasher kd_hasher;
kd_hasher *kd_hasher_new(void); /* NULL when memory is out */
void kd_hasher_add(kd_hasher *h, const void *data, size_t len);
kd_digest kd_hasher_digest(const kd_hasher *h);
void kd_hasher_free(kd_hasher *h); /* NULL allowed */

/* CRC32C of data continuing from crc (0 to start). VPCLMULQDQ, or SSE4.2 and PCLMUL, where the CPU
 * has them, table otherwise: same value. "123456789" gives 0xE3069283 (RFC 3720, B.4). */
uint32_t kd_crc32c(uint32_t crc, const void *data, size_t len);

#endif
