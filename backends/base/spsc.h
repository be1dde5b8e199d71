/* spsc.h - a bounded ring of bytes between one producer and one consumer.
 *
 * Positions only grow; the place in the ring is position mod capacity.  The producer's and the
 * consumer's fields sit on separate pairs of cache lines.  No call waits. */
#ifndef FM_SPSC_H
#define FM_SPSC_H

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/status.h"

struct fm_spsc {
    unsigned char *data;
    size_t capacity;                    /* a power of two */
    alignas(128) _Atomic uint64_t head; /* written by the producer: bytes ever put */
    alignas(128) _Atomic uint64_t tail; /* written by the consumer: bytes ever taken */
};

/* capacity is a power of two.  Free with fm_spsc_done. */
enum fm_status fm_spsc_init(struct fm_spsc *ring, size_t capacity,
                            struct fm_err *err) FM_MUST_CHECK;
void fm_spsc_done(struct fm_spsc *ring);

/* Producer: all of data, or nothing and false.  Consumers never see a part of one put. */
bool fm_spsc_put(struct fm_spsc *ring, const void *data, size_t bytes);
/* Producer: the same for a record of two parts, so that a header needs no copy. */
bool fm_spsc_put2(struct fm_spsc *ring, const void *head, size_t head_bytes, const void *body,
                  size_t body_bytes);
/* Producer: bytes that a put may have now. */
size_t fm_spsc_room(struct fm_spsc *ring);

/* Consumer: exactly `bytes` into data, or false and nothing taken. */
bool fm_spsc_take(struct fm_spsc *ring, void *data, size_t bytes);
/* Consumer: as take, but the bytes stay. */
bool fm_spsc_peek(struct fm_spsc *ring, void *data, size_t bytes);
/* Either side: bytes that are in the ring, exact for the consumer. */
size_t fm_spsc_length(struct fm_spsc *ring);

#endif
