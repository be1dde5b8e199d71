/* stats.h - the scheduler's figures, copied so that any thread can read them whole.
 *
 * The scheduler thread counts in a plain struct and publishes a copy once a turn.  The copy is a
 * sequence lock over relaxed words: a reader that meets a writer reads again. */
#ifndef SCH_STATS_H
#define SCH_STATS_H

#include <stdatomic.h>

#include "scheduler/scheduler.h"

enum { SCH_STATS_WORDS = (sizeof(struct sch_stats) + 7) / 8 };

struct sch_board {
    atomic_uint_fast64_t version; /* odd while it is written */
    atomic_uint_fast64_t words[SCH_STATS_WORDS];
};

void sch_board_init(struct sch_board *board);
/* One writer. */
void sch_board_publish(struct sch_board *board, const struct sch_stats *stats);
/* Any thread; waits for a copy of a kilobyte at most. */
void sch_board_read(struct sch_board *board, struct sch_stats *ret_stats);

/* Count one value of `ns` nanoseconds. */
void sch_histogram_add(struct sch_histogram *histogram, uint64_t ns);

#endif
