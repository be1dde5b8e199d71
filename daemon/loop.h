/* loop.h - the one epoll loop of the main thread: descriptors, signals, a tick.
 *
 * Whoever is called may add and remove sources, its own too: an event that was read before a
 * source was removed is not delivered after.  Main thread. */
#ifndef SRV_LOOP_H
#define SRV_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

struct srv_loop; /* opaque: loop.c */

/* Embedded in its owner.  Zeroed: not in a loop. */
struct srv_source {
    void (*ready)(void *context, uint32_t events); /* events: EPOLLIN, ... */
    void *context;
    int fd;
    bool is_added;
};

enum fm_status srv_loop_new(struct srv_loop **ret_loop, struct fm_err *err) FM_MUST_CHECK;
void srv_loop_free(struct srv_loop *loop); /* NULL is allowed */

/* Watch fd, which stays the caller's, for events (of epoll; EPOLLONESHOT is allowed). */
enum fm_status srv_loop_add(struct srv_loop *loop, struct srv_source *source, int fd,
                            uint32_t events, struct fm_err *err) FM_MUST_CHECK;
/* Before the descriptor is closed.  A source that is not added is left alone. */
void srv_loop_remove(struct srv_loop *loop, struct srv_source *source);

/* From now on SIGTERM, SIGINT and SIGHUP come here and interrupt nothing.  Call before threads
 * are started, so that all of them block these. */
enum fm_status srv_loop_signals(struct srv_loop *loop, void (*caught)(void *context, int signal),
                                void *context, struct fm_err *err) FM_MUST_CHECK;

/* The wait ends at fm_clock time `ns` at the latest; the earliest of all calls since the last
 * wait holds. */
void srv_loop_wake_at(struct srv_loop *loop, uint64_t ns);

/* Wait for events, deliver them, return.  timeout_ms: 0 does not wait, UINT32_MAX waits until the
 * tick (SRV_LOOP_TICK_MS) at the latest. */
enum { SRV_LOOP_TICK_MS = 250 };
enum fm_status srv_loop_wait(struct srv_loop *loop, uint32_t timeout_ms,
                             struct fm_err *err) FM_MUST_CHECK;

#endif
