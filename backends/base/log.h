/* log.h - one line per event, key=value, to stderr; the time is the journal's.
 *
 * Never a prompt, a completion or a key.  Values with blanks are quoted by the caller with %s
 * inside \"...\".  Any thread; a line is written with one write(2). */
#ifndef FM_LOG_H
#define FM_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

enum fm_log_level {
    FM_LOG_ERROR,   /* someone must act */
    FM_LOG_WARNING, /* degraded; the line says "continuing with ..." */
    FM_LOG_INFO,    /* the life of the process */
    FM_LOG_DEBUG,
};

/* Lines above the level are dropped.  Default: info. */
void fm_log_set_level(enum fm_log_level level);

/* "level=info event=EVENT " and the formatted rest.  A line holds at most 2,000 bytes. */
void fm_log(enum fm_log_level level, const char *event, const char *format, ...) FM_PRINTF(3, 4);

/* A place that may repeat: at most one line a second, with the count of those left out. */
struct fm_log_limit {
    _Atomic uint64_t next_ns;
    _Atomic uint64_t dropped;
};
bool fm_log_limit_pass(struct fm_log_limit *limit, uint64_t *ret_dropped);

#endif
