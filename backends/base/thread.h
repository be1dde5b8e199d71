/* thread.h - threads with a name, a role and a heartbeat.
 *
 * The only file that calls pthread_create.  A role says which data a thread may touch; functions
 * that need one open with FM_ASSERT(fm_thread_is(...)).  The heartbeat is a counter that a thread
 * moves whenever it has gone round its loop; the watchdog is fed only when every one moved. */
#ifndef FM_THREAD_H
#define FM_THREAD_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

enum fm_thread_role {
    FM_THREAD_NONE, /* a test, a tool, or a thread that has not entered */
    FM_THREAD_MAIN,
    FM_THREAD_PREP,
    FM_THREAD_SCHEDULER,
    FM_THREAD_WORKER,
    FM_THREAD_TEAM,
    FM_THREAD_IO,
};

enum { FM_THREADS_MAX = 1024, FM_THREAD_NAME_BYTES = 16 };

struct fm_thread; /* opaque: thread.c */

/* Start body(arg) on a new thread; all signals are blocked in it.  The name is cut to 15 bytes.
 * Give the handle to fm_thread_join. */
enum fm_status fm_thread_start(const char *name, enum fm_thread_role role, void *(*body)(void *arg),
                               void *arg, struct fm_thread **ret_thread,
                               struct fm_err *err) FM_MUST_CHECK;

/* Wait for the end of the thread and free the handle.  NULL is allowed. */
void fm_thread_join(struct fm_thread *thread);

/* Give the calling thread, which fm_thread_start did not make, a name and a role (main, tests). */
void fm_thread_enter(enum fm_thread_role role, const char *name);

/* True on a thread of the role, and on every thread that has none: tests call what they like. */
bool fm_thread_is(enum fm_thread_role role);

const char *fm_thread_name(void);

/* The calling thread has gone round its loop. */
void fm_thread_beat(void);

/* The calling thread begins (true) or ends (false) a wait that may be long without being stuck;
 * while it waits the watchdog does not count it. */
void fm_thread_idle(bool is_idle);

/* True when every started thread has moved its heartbeat, or is idle, since the last call; else
 * *ret_name is the name of one that has not.  One caller only: the watchdog. */
bool fm_threads_moved(const char **ret_name);

#endif
