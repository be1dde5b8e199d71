/* prng.h - random numbers that depend on nothing but their key.
 *
 * A draw is a pure function of (seed, stream, counter): a request's numbers are the same whatever
 * else runs, in whatever order.  SplitMix64's finalizer over the mixed key (Steele, Lea, Flood,
 * "Fast splittable pseudorandom number generators", 2014).  Not for secrets: see fm_random_bytes. */
#ifndef FM_PRNG_H
#define FM_PRNG_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t fm_mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t fm_prng_u64(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint64_t key = fm_mix64(seed + UINT64_C(0x9e3779b97f4a7c15));
    key = fm_mix64(key ^ (stream * UINT64_C(0xd1b54a32d192ed03)));
    return fm_mix64(key + (counter + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

/* Uniform in [0, 1), 53 bits. */
static inline double fm_prng_unit(uint64_t seed, uint64_t stream, uint64_t counter)
{
    return (double)(fm_prng_u64(seed, stream, counter) >> 11) * 0x1.0p-53;
}

/* Bytes that cannot be predicted, from the kernel.  Aborts if the kernel has none. */
void fm_random_bytes(void *data, size_t bytes);

#endif
