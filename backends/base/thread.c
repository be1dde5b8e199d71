/* thread.c - threads, roles and heartbeats; see thread.h.
 *
 * The table of started threads is guarded by a mutex that only start, join and the watchdog take:
 * no thread waits for it in its loop. */
#include "backends/base/thread.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"

struct fm_thread {
    pthread_t handle;
    enum fm_thread_role role;
    char name[FM_THREAD_NAME_BYTES];
    void *(*body)(void *arg);
    void *arg;
    _Atomic uint64_t beats; /* written by the thread, read by the watchdog; both relaxed */
    _Atomic bool is_idle;
    uint64_t beats_seen; /* guarded by table_mutex */
};

static pthread_mutex_t table_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct fm_thread *table[FM_THREADS_MAX]; /* guarded by table_mutex */

static _Thread_local enum fm_thread_role own_role;
static _Thread_local char own_name[FM_THREAD_NAME_BYTES] = "unnamed";
static _Thread_local struct fm_thread *own_thread;

void fm_thread_enter(enum fm_thread_role role, const char *name)
{
    own_role = role;
    (void)snprintf(own_name, sizeof own_name, "%s", name);
    (void)pthread_setname_np(pthread_self(), own_name);
}

static void *thread_main(void *arg)
{
    struct fm_thread *thread = arg;
    own_thread = thread;
    fm_thread_enter(thread->role, thread->name);
    return thread->body(thread->arg);
}

static bool table_add(struct fm_thread *thread)
{
    bool is_added = false;
    (void)pthread_mutex_lock(&table_mutex);
    for (uint32_t i = 0; i < FM_THREADS_MAX && !is_added; i++) {
        if (table[i] == NULL) {
            table[i] = thread;
            is_added = true;
        }
    }
    (void)pthread_mutex_unlock(&table_mutex);
    return is_added;
}

static void table_remove(const struct fm_thread *thread)
{
    (void)pthread_mutex_lock(&table_mutex);
    for (uint32_t i = 0; i < FM_THREADS_MAX; i++)
        if (table[i] == thread)
            table[i] = NULL;
    (void)pthread_mutex_unlock(&table_mutex);
}

enum fm_status fm_thread_start(const char *name, enum fm_thread_role role, void *(*body)(void *arg),
                               void *arg, struct fm_thread **ret_thread, struct fm_err *err)
{
    FM_ASSERT(body != NULL);
    FM_ASSERT(ret_thread != NULL);
    struct fm_thread *thread = fm_alloc(sizeof *thread);
    if (thread == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for thread '%s'", name);
    thread->role = role;
    thread->body = body;
    thread->arg = arg;
    atomic_init(&thread->beats, 1);
    (void)snprintf(thread->name, sizeof thread->name, "%s", name);
    if (!table_add(thread)) {
        fm_free(thread);
        return FM_FAIL(err, FM_LIMIT, "thread '%s' would be one more than %d", name,
                       FM_THREADS_MAX);
    }

    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int error_number = pthread_create(&thread->handle, NULL, thread_main, thread);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error_number != 0) {
        table_remove(thread);
        fm_free(thread);
        return FM_FAIL_OS(err, FM_IO, error_number, "cannot start thread '%s'", name);
    }
    *ret_thread = thread;
    return FM_OK;
}

void fm_thread_join(struct fm_thread *thread)
{
    if (thread == NULL)
        return;
    int failed = pthread_join(thread->handle, NULL);
    FM_ASSERT(failed == 0);
    table_remove(thread);
    fm_free(thread);
}

bool fm_thread_is(enum fm_thread_role role)
{
    return own_role == role || own_role == FM_THREAD_NONE;
}

const char *fm_thread_name(void)
{
    return own_name;
}

void fm_thread_beat(void)
{
    if (own_thread != NULL)
        atomic_fetch_add_explicit(&own_thread->beats, 1, memory_order_relaxed);
}

void fm_thread_idle(bool is_idle)
{
    if (own_thread != NULL)
        atomic_store_explicit(&own_thread->is_idle, is_idle, memory_order_relaxed);
}

bool fm_threads_moved(const char **ret_name)
{
    bool all_moved = true;
    (void)pthread_mutex_lock(&table_mutex);
    for (uint32_t i = 0; i < FM_THREADS_MAX; i++) {
        struct fm_thread *thread = table[i];
        if (thread == NULL)
            continue;
        uint64_t beats = atomic_load_explicit(&thread->beats, memory_order_relaxed);
        bool is_idle = atomic_load_explicit(&thread->is_idle, memory_order_relaxed);
        if (beats == thread->beats_seen && !is_idle) {
            all_moved = false;
            *ret_name = thread->name;
        }
        thread->beats_seen = beats;
    }
    (void)pthread_mutex_unlock(&table_mutex);
    return all_moved;
}
