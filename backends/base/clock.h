/* clock.h - time, which tests can replace.
 *
 * Monotonic nanoseconds for every deadline and every measurement; wall seconds only for what a
 * client or a file shows.  Any thread. */
#ifndef FM_CLOCK_H
#define FM_CLOCK_H

#include <stdint.h>

#define FM_NS_PER_MS UINT64_C(1000000)
#define FM_NS_PER_S UINT64_C(1000000000)

/* Nanoseconds since an arbitrary point; never goes back. */
uint64_t fm_clock_ns(void);

/* Seconds since 1970-01-01 UTC. */
uint64_t fm_clock_wall_s(void);

/* From now on fm_clock_ns answers *now_ns (NULL: the real clock again).  For tests, before other
 * threads run. */
void fm_clock_fake(const uint64_t *now_ns);

#endif
