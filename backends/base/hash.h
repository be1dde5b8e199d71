/* hash.h - CRC32C for what is stored or sent, and a quick hash for tables. */
#ifndef FM_HASH_H
#define FM_HASH_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected) of `bytes`, continuing from `crc`; start
 * with 0.  "123456789" gives 0xe3069283.  Any thread. */
uint32_t fm_crc32c(uint32_t crc, const void *data, size_t bytes);

/* A hash for in-memory tables; not stable between versions, not for untrusted keys without a
 * bound on the chain. */
uint64_t fm_hash64(const void *data, size_t bytes, uint64_t seed);

#endif
