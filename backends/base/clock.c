/* clock.c - time; see clock.h. */
#include "backends/base/clock.h"

#include <time.h>

#include "backends/base/assert.h"

static const uint64_t *fake_now_ns;

uint64_t fm_clock_ns(void)
{
    if (fake_now_ns != NULL)
        return *fake_now_ns;

    struct timespec now;
    int failed = clock_gettime(CLOCK_MONOTONIC, &now);
    FM_ASSERT(failed == 0);
    return (uint64_t)now.tv_sec * FM_NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t fm_clock_wall_s(void)
{
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    FM_ASSERT(failed == 0);
    return (uint64_t)now.tv_sec;
}

void fm_clock_fake(const uint64_t *now_ns)
{
    fake_now_ns = now_ns;
}
