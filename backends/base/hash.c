/* hash.c - CRC32C by eight tables of 256 entries, and a table hash. */
#include "backends/base/hash.h"

#include <pthread.h>
#include <string.h>

#include "backends/base/prng.h"

static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_fill(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? UINT32_C(0x82f63b78) : 0);
        crc_table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int table = 1; table < 8; table++) {
            uint32_t before = crc_table[table - 1][byte];
            crc_table[table][byte] = (before >> 8) ^ crc_table[0][before & 255];
        }
}

uint32_t fm_crc32c(uint32_t crc, const void *data, size_t bytes)
{
    (void)pthread_once(&crc_once, crc_fill);
    const unsigned char *at = data;
    crc = ~crc;
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint32_t low = crc ^ ((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
                              (uint32_t)at[3] << 24);
        crc = crc_table[7][low & 255] ^ crc_table[6][(low >> 8) & 255] ^
              crc_table[5][(low >> 16) & 255] ^ crc_table[4][low >> 24] ^ crc_table[3][at[4]] ^
              crc_table[2][at[5]] ^ crc_table[1][at[6]] ^ crc_table[0][at[7]];
    }
    for (; bytes != 0; bytes--, at++)
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *at) & 255];
    return ~crc;
}

uint64_t fm_hash64(const void *data, size_t bytes, uint64_t seed)
{
    const unsigned char *at = data;
    uint64_t hash = seed ^ (bytes * UINT64_C(0x9e3779b97f4a7c15));
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        hash = fm_mix64(hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    }
    uint64_t rest = 0;
    if (bytes != 0)
        memcpy(&rest, at, bytes);
    return fm_mix64(hash ^ rest);
}
