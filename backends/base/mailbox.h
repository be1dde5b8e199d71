/* mailbox.h - messages from any thread to one, in the order of arrival.
 *
 * Intrusive: a message embeds a struct fm_link and belongs to the receiver from put to take.  Put
 * never waits for room, only for the short lock; what bounds a mailbox is the number of message
 * structs that exist.  A receiver that sleeps in epoll uses the mailbox's eventfd, which is
 * written only when the list becomes non-empty. */
#ifndef FM_MAILBOX_H
#define FM_MAILBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

struct fm_link {
    struct fm_link *next;
};

struct fm_mailbox; /* opaque: mailbox.c */

/* with_fd: the receiver waits with poll or epoll on fm_mailbox_fd instead of in take. */
enum fm_status fm_mailbox_new(bool with_fd, struct fm_mailbox **ret_mailbox,
                              struct fm_err *err) FM_MUST_CHECK;

/* The mailbox must be empty.  NULL is allowed. */
void fm_mailbox_free(struct fm_mailbox *mailbox);

/* Any thread, also after close: the message is then still delivered. */
void fm_mailbox_put(struct fm_mailbox *mailbox, struct fm_link *link);

/* The oldest message.  Waits until there is one; NULL when closed and empty.  Receiver only. */
struct fm_link *fm_mailbox_take(struct fm_mailbox *mailbox);

/* As take, until fm_clock time deadline_ns; NULL also when that has passed (UINT64_MAX: never). */
struct fm_link *fm_mailbox_take_until(struct fm_mailbox *mailbox, uint64_t deadline_ns);

/* The oldest message or NULL, without waiting; also clears the eventfd when it finds none. */
struct fm_link *fm_mailbox_poll(struct fm_mailbox *mailbox);

/* No more messages will come that matter: take answers NULL once it is empty.  Any thread. */
void fm_mailbox_close(struct fm_mailbox *mailbox);
bool fm_mailbox_is_closed(struct fm_mailbox *mailbox);

/* The eventfd; only of a mailbox made with_fd. */
int fm_mailbox_fd(const struct fm_mailbox *mailbox);

#endif
