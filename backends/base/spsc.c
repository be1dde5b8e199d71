/* spsc.c - a ring between two threads; see spsc.h. */
#include "backends/base/spsc.h"

#include <stdatomic.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"

enum fm_status fm_spsc_init(struct fm_spsc *ring, size_t capacity, struct fm_err *err)
{
    FM_ASSERT(capacity != 0 && (capacity & (capacity - 1)) == 0);
    unsigned char *data = fm_alloc(capacity);
    if (data == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a ring of %zu bytes", capacity);
    ring->data = data;
    ring->capacity = capacity;
    atomic_init(&ring->head, 0);
    atomic_init(&ring->tail, 0);
    return FM_OK;
}

void fm_spsc_done(struct fm_spsc *ring)
{
    if (ring->data != NULL)
        fm_wipe(ring->data, ring->capacity);
    fm_free(ring->data);
    ring->data = NULL;
    ring->capacity = 0;
}

size_t fm_spsc_room(struct fm_spsc *ring)
{
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    /* Pairs with the release in fm_spsc_take: bytes that were taken may be overwritten. */
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    FM_ASSERT(head - tail <= ring->capacity);
    return ring->capacity - (size_t)(head - tail);
}

static void copy_in(struct fm_spsc *ring, uint64_t position, const void *data, size_t bytes)
{
    size_t at = (size_t)position & (ring->capacity - 1);
    size_t first = ring->capacity - at < bytes ? ring->capacity - at : bytes;
    if (first != 0)
        memcpy(ring->data + at, data, first);
    if (bytes != first)
        memcpy(ring->data, (const unsigned char *)data + first, bytes - first);
}

bool fm_spsc_put2(struct fm_spsc *ring, const void *head, size_t head_bytes, const void *body,
                  size_t body_bytes)
{
    size_t room = fm_spsc_room(ring);
    if (head_bytes > room || body_bytes > room - head_bytes)
        return false;
    uint64_t position = atomic_load_explicit(&ring->head, memory_order_relaxed);
    copy_in(ring, position, head, head_bytes);
    copy_in(ring, position + head_bytes, body, body_bytes);
    /* Pairs with the acquire in fm_spsc_length: the bytes before the position that shows them. */
    atomic_store_explicit(&ring->head, position + head_bytes + body_bytes, memory_order_release);
    return true;
}

bool fm_spsc_put(struct fm_spsc *ring, const void *data, size_t bytes)
{
    return fm_spsc_put2(ring, data, bytes, NULL, 0);
}

size_t fm_spsc_length(struct fm_spsc *ring)
{
    /* Tail first: it never passes head, and head loaded later is at least as large. */
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    return (size_t)(head - tail);
}

bool fm_spsc_peek(struct fm_spsc *ring, void *data, size_t bytes)
{
    if (fm_spsc_length(ring) < bytes)
        return false;
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    size_t at = (size_t)tail & (ring->capacity - 1);
    size_t first = ring->capacity - at < bytes ? ring->capacity - at : bytes;
    if (first != 0)
        memcpy(data, ring->data + at, first);
    if (bytes != first)
        memcpy((unsigned char *)data + first, ring->data, bytes - first);
    return true;
}

bool fm_spsc_take(struct fm_spsc *ring, void *data, size_t bytes)
{
    if (!fm_spsc_peek(ring, data, bytes))
        return false;
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    /* Pairs with the acquire in fm_spsc_room: the copy above is finished before the room shows. */
    atomic_store_explicit(&ring->tail, tail + bytes, memory_order_release);
    return true;
}
