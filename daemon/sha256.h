/* sha256.h - SHA-256 (FIPS 180-4), for digests of API keys. */
#ifndef SRV_SHA256_H
#define SRV_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SRV_SHA256_BYTES = 32 };

struct srv_sha256 {
    uint32_t state[8];
    uint64_t length; /* bytes so far */
    unsigned char block[64];
};

/* Any thread. */
void srv_sha256_init(struct srv_sha256 *hash);
void srv_sha256_add(struct srv_sha256 *hash, const void *data, size_t bytes);
/* The digest; the state is wiped. */
void srv_sha256_done(struct srv_sha256 *hash, unsigned char ret_digest[SRV_SHA256_BYTES]);

#endif
