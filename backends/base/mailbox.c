/* mailbox.c - a list under a short lock; see mailbox.h. */
#include "backends/base/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"

struct fm_mailbox {
    pthread_mutex_t mutex;
    pthread_cond_t not_empty;
    struct fm_link *first, *last; /* guarded by mutex */
    bool is_closed;               /* guarded by mutex */
    int fd;                       /* -1 without */
};

enum fm_status fm_mailbox_new(bool with_fd, struct fm_mailbox **ret_mailbox, struct fm_err *err)
{
    FM_ASSERT(ret_mailbox != NULL);
    struct fm_mailbox *mailbox = fm_alloc(sizeof *mailbox);
    if (mailbox == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a mailbox");
    mailbox->fd = -1;
    if (with_fd) {
        mailbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (mailbox->fd == -1) {
            int error_number = errno;
            fm_free(mailbox);
            return FM_FAIL_OS(err, FM_IO, error_number, "cannot make an eventfd");
        }
    }

    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&mailbox->mutex, NULL);
    (void)pthread_cond_init(&mailbox->not_empty, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    *ret_mailbox = mailbox;
    return FM_OK;
}

void fm_mailbox_free(struct fm_mailbox *mailbox)
{
    if (mailbox == NULL)
        return;
    FM_ASSERT(mailbox->first == NULL);
    if (mailbox->fd != -1)
        (void)close(mailbox->fd);
    (void)pthread_cond_destroy(&mailbox->not_empty);
    (void)pthread_mutex_destroy(&mailbox->mutex);
    fm_free(mailbox);
}

static void wake(struct fm_mailbox *mailbox)
{
    if (mailbox->fd == -1) {
        (void)pthread_cond_signal(&mailbox->not_empty);
        return;
    }
    uint64_t one = 1;
    ssize_t written = write(mailbox->fd, &one, sizeof one);
    (void)written; /* fails only when the counter is full, and then the reader is awake */
}

void fm_mailbox_put(struct fm_mailbox *mailbox, struct fm_link *link)
{
    FM_ASSERT(link != NULL);
    link->next = NULL;
    (void)pthread_mutex_lock(&mailbox->mutex);
    bool was_empty = mailbox->first == NULL;
    if (was_empty)
        mailbox->first = link;
    else
        mailbox->last->next = link;
    mailbox->last = link;
    if (was_empty)
        wake(mailbox);
    (void)pthread_mutex_unlock(&mailbox->mutex);
}

static struct fm_link *list_take(struct fm_mailbox *mailbox)
{
    struct fm_link *link = mailbox->first;
    if (link != NULL) {
        mailbox->first = link->next;
        link->next = NULL;
    }
    return link;
}

struct fm_link *fm_mailbox_take_until(struct fm_mailbox *mailbox, uint64_t deadline_ns)
{
    FM_ASSERT(mailbox->fd == -1);
    struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / FM_NS_PER_S),
                                .tv_nsec = (long)(deadline_ns % FM_NS_PER_S)};
    (void)pthread_mutex_lock(&mailbox->mutex);
    int failed = 0;
    while (mailbox->first == NULL && !mailbox->is_closed && failed != ETIMEDOUT) {
        if (deadline_ns == UINT64_MAX)
            failed = pthread_cond_wait(&mailbox->not_empty, &mailbox->mutex);
        else
            failed = pthread_cond_timedwait(&mailbox->not_empty, &mailbox->mutex, &deadline);
    }
    struct fm_link *link = list_take(mailbox);
    (void)pthread_mutex_unlock(&mailbox->mutex);
    return link;
}

struct fm_link *fm_mailbox_take(struct fm_mailbox *mailbox)
{
    return fm_mailbox_take_until(mailbox, UINT64_MAX);
}

struct fm_link *fm_mailbox_poll(struct fm_mailbox *mailbox)
{
    (void)pthread_mutex_lock(&mailbox->mutex);
    struct fm_link *link = list_take(mailbox);
    if (link == NULL && mailbox->fd != -1) {
        uint64_t count;
        ssize_t got = read(mailbox->fd, &count, sizeof count);
        (void)got; /* EAGAIN: it was clear already */
    }
    (void)pthread_mutex_unlock(&mailbox->mutex);
    return link;
}

void fm_mailbox_close(struct fm_mailbox *mailbox)
{
    (void)pthread_mutex_lock(&mailbox->mutex);
    mailbox->is_closed = true;
    wake(mailbox);
    (void)pthread_mutex_unlock(&mailbox->mutex);
}

bool fm_mailbox_is_closed(struct fm_mailbox *mailbox)
{
    (void)pthread_mutex_lock(&mailbox->mutex);
    bool is_closed = mailbox->is_closed;
    (void)pthread_mutex_unlock(&mailbox->mutex);
    return is_closed;
}

int fm_mailbox_fd(const struct fm_mailbox *mailbox)
{
    FM_ASSERT(mailbox->fd != -1);
    return mailbox->fd;
}
