/* stats.c - histograms, and a board that any thread can read; see stats.h. */
#include "scheduler/stats.h"

#include <math.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"

/* Seconds; from a millisecond to a quarter of an hour, closer together where answers usually are. */
static const double bucket_s[SCH_HISTOGRAM_BUCKETS] = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300, INFINITY,
};

double sch_bucket_s(uint32_t index)
{
    FM_ASSERT(index < SCH_HISTOGRAM_BUCKETS);
    return bucket_s[index];
}

void sch_histogram_add(struct sch_histogram *histogram, uint64_t ns)
{
    double seconds = (double)ns / (double)FM_NS_PER_S;
    uint32_t index = 0;
    while (seconds > bucket_s[index])
        index++;
    FM_ASSERT(index < SCH_HISTOGRAM_BUCKETS);
    histogram->buckets[index]++;
    histogram->count++;
    histogram->sum_s += seconds;
}

void sch_board_init(struct sch_board *board)
{
    atomic_init(&board->version, 0);
    for (uint32_t i = 0; i < SCH_STATS_WORDS; i++)
        atomic_init(&board->words[i], 0);
}

/* Release on every word and acquire on every read instead of fences, which the thread sanitizer
 * does not follow: a reader that sees a new word also sees the odd version before it. */
void sch_board_publish(struct sch_board *board, const struct sch_stats *stats)
{
    uint64_t words[SCH_STATS_WORDS] = {0};
    memcpy(words, stats, sizeof *stats);
    uint64_t version = atomic_load_explicit(&board->version, memory_order_relaxed);
    FM_ASSERT(version % 2 == 0);
    atomic_store_explicit(&board->version, version + 1, memory_order_relaxed);
    for (uint32_t i = 0; i < SCH_STATS_WORDS; i++)
        atomic_store_explicit(&board->words[i], words[i], memory_order_release);
    atomic_store_explicit(&board->version, version + 2, memory_order_release);
}

void sch_board_read(struct sch_board *board, struct sch_stats *ret_stats)
{
    uint64_t words[SCH_STATS_WORDS] = {0};
    uint64_t before, after;
    do {
        before = atomic_load_explicit(&board->version, memory_order_acquire);
        for (uint32_t i = 0; i < SCH_STATS_WORDS; i++)
            words[i] = atomic_load_explicit(&board->words[i], memory_order_acquire);
        after = atomic_load_explicit(&board->version, memory_order_relaxed);
    } while (before != after || before % 2 != 0);
    memcpy(ret_stats, words, sizeof *ret_stats);
}
