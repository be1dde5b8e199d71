/* loop.c - the epoll loop of the main thread; see loop.h. */
#include "daemon/loop.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"

enum { EVENTS_MAX = 128 };

struct srv_loop {
    int epoll_fd, signal_fd;
    struct srv_source signal_source;
    void (*caught)(void *context, int signal);
    void *caught_context;
    uint64_t wake_ns;
    struct epoll_event events[EVENTS_MAX]; /* those of this wait; ptr NULL: removed meanwhile */
    int event_count;
};

enum fm_status srv_loop_new(struct srv_loop **ret_loop, struct fm_err *err)
{
    struct srv_loop *loop = fm_alloc(sizeof *loop);
    if (loop == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the event loop");
    loop->signal_fd = -1;
    loop->wake_ns = UINT64_MAX;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd == -1) {
        int error_number = errno;
        fm_free(loop);
        return FM_FAIL_OS(err, FM_IO, error_number, "cannot make an epoll descriptor");
    }
    *ret_loop = loop;
    return FM_OK;
}

void srv_loop_free(struct srv_loop *loop)
{
    if (loop == NULL)
        return;
    srv_loop_remove(loop, &loop->signal_source);
    if (loop->signal_fd != -1)
        (void)close(loop->signal_fd);
    (void)close(loop->epoll_fd);
    fm_free(loop);
}

enum fm_status srv_loop_add(struct srv_loop *loop, struct srv_source *source, int fd,
                            uint32_t events, struct fm_err *err)
{
    FM_ASSERT(!source->is_added);
    FM_ASSERT(source->ready != NULL);
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) == -1)
        return FM_FAIL_OS(err, FM_IO, errno, "cannot watch descriptor %d", fd);
    source->fd = fd;
    source->is_added = true;
    return FM_OK;
}

void srv_loop_remove(struct srv_loop *loop, struct srv_source *source)
{
    if (!source->is_added)
        return;
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
    source->is_added = false;
    for (int i = 0; i < loop->event_count; i++)
        if (loop->events[i].data.ptr == source)
            loop->events[i].data.ptr = NULL;
}

static void signals_read(void *context, uint32_t events)
{
    struct srv_loop *loop = context;
    struct signalfd_siginfo info;
    (void)events;
    while (read(loop->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        loop->caught(loop->caught_context, (int)info.ssi_signo);
}

enum fm_status srv_loop_signals(struct srv_loop *loop, void (*caught)(void *context, int signal),
                                void *context, struct fm_err *err)
{
    FM_ASSERT(loop->signal_fd == -1);
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    loop->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (loop->signal_fd == -1)
        return FM_FAIL_OS(err, FM_IO, errno, "cannot make a signal descriptor");
    loop->caught = caught;
    loop->caught_context = context;
    loop->signal_source = (struct srv_source){.ready = signals_read, .context = loop};
    return srv_loop_add(loop, &loop->signal_source, loop->signal_fd, EPOLLIN, err);
}

void srv_loop_wake_at(struct srv_loop *loop, uint64_t ns)
{
    loop->wake_ns = fm_min_u64(loop->wake_ns, ns);
}

enum fm_status srv_loop_wait(struct srv_loop *loop, uint32_t timeout_ms, struct fm_err *err)
{
    FM_ASSERT(loop->event_count == 0);
    uint64_t wait_ms = fm_min_u64(timeout_ms, SRV_LOOP_TICK_MS);
    uint64_t now = fm_clock_ns();
    if (loop->wake_ns <= now)
        wait_ms = 0;
    else if (loop->wake_ns != UINT64_MAX)
        wait_ms = fm_min_u64(wait_ms, fm_div_ceil(loop->wake_ns - now, FM_NS_PER_MS));
    loop->wake_ns = UINT64_MAX;

    int count = epoll_wait(loop->epoll_fd, loop->events, EVENTS_MAX, (int)wait_ms);
    if (count == -1 && errno != EINTR)
        return FM_FAIL_OS(err, FM_IO, errno, "cannot wait for events");
    loop->event_count = count == -1 ? 0 : count;
    for (int i = 0; i < loop->event_count; i++) {
        struct srv_source *source = loop->events[i].data.ptr;
        if (source != NULL)
            source->ready(source->context, loop->events[i].events);
    }
    loop->event_count = 0;
    return FM_OK;
}
