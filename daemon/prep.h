/* prep.h - the preparation pool: threads that parse, check and tokenize, away from the event loop.
 *
 * The main thread puts calls in and takes them back, prepared, in any order.  Each thread has an
 * inbox; a call goes to the one with the fewest bytes before it.  What bounds the pool is the
 * number of calls and the memory for bodies (http.max_connections, http.body_memory_bytes). */
#ifndef SRV_PREP_H
#define SRV_PREP_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

struct srv_call;
struct srv_prep; /* opaque: prep.c */

enum fm_status srv_prep_start(uint32_t threads, struct srv_prep **ret_prep,
                              struct fm_err *err) FM_MUST_CHECK;

/* Ends the threads after what they hold; every call must have been taken back or is dropped
 * unprepared.  NULL is allowed. */
void srv_prep_stop(struct srv_prep *prep);

/* Hand a call over: its handler's prepare runs on a thread of the pool.  Main thread. */
void srv_prep_put(struct srv_prep *prep, struct srv_call *call);

/* A call that is prepared, or NULL.  Main thread, when srv_prep_fd is readable. */
struct srv_call *srv_prep_take(struct srv_prep *prep);
int srv_prep_fd(const struct srv_prep *prep);

/* Calls that are in the pool. */
uint32_t srv_prep_count(const struct srv_prep *prep);

#endif
