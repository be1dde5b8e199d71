/* stream.c - pieces from the scheduler to the main thread; see stream.h and scheduler.h. */
#include "scheduler/stream.h"

#include <stdalign.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "backends/base/spsc.h"
#include "backends/base/thread.h"

struct sch_stream {
    struct fm_link ready_link;
    struct sch_gate *gate; /* valid while !is_finished, and for the reader until sch_stop */
    atomic_uint references;
    atomic_bool is_posted;   /* ready_link is in the mailbox */
    atomic_bool is_closed;   /* set by the reader */
    atomic_bool is_finished; /* set by the scheduler */
    atomic_bool wants_room;  /* the scheduler waits for the reader */

    /* The reader's own. */
    void *owner;
    bool is_at_end; /* DONE was read */

    struct fm_spsc ring;
};

enum fm_status sch_stream_new(size_t bytes, struct sch_gate *gate, struct sch_stream **ret_stream,
                              struct fm_err *err)
{
    struct sch_stream *stream = fm_alloc_aligned(alignof(struct sch_stream), sizeof *stream);
    if (stream == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a stream");
    enum fm_status status = fm_spsc_init(&stream->ring, bytes, err);
    if (status != FM_OK) {
        fm_free(stream);
        return status;
    }
    stream->gate = gate;
    atomic_init(&stream->references, 2);
    atomic_init(&stream->is_posted, false);
    atomic_init(&stream->is_closed, false);
    atomic_init(&stream->is_finished, false);
    atomic_init(&stream->wants_room, false);
    *ret_stream = stream;
    return FM_OK;
}

static void stream_put_reference(struct sch_stream *stream)
{
    /* Acquire and release: what the others did to the stream comes before its end. */
    unsigned before = atomic_fetch_sub_explicit(&stream->references, 1, memory_order_acq_rel);
    FM_ASSERT(before >= 1);
    if (before != 1)
        return;
    fm_spsc_done(&stream->ring);
    fm_free(stream);
}

static size_t candidate_bytes(const struct sch_piece *piece)
{
    return piece->candidate_count * sizeof(struct eng_candidate);
}

size_t sch_stream_record_bytes(const struct sch_piece *piece)
{
    return sizeof *piece + candidate_bytes(piece) + piece->byte_count;
}

/* ---- the scheduler's end ------------------------------------------------------------------- */

bool sch_stream_put(struct sch_stream *stream, const struct sch_piece *piece, const void *body,
                    size_t spare)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_SCHEDULER));
    FM_ASSERT(piece->candidate_count == 0 || piece->byte_count == 0);
    FM_ASSERT(piece->byte_count <= SCH_PIECE_BYTES_MAX);
    if (fm_spsc_room(&stream->ring) < sch_stream_record_bytes(piece) + spare)
        return false;
    bool is_put = fm_spsc_put2(&stream->ring, piece, sizeof *piece, body,
                               candidate_bytes(piece) + piece->byte_count);
    FM_ASSERT(is_put);
    return true;
}

static bool is_half_empty(struct sch_stream *stream)
{
    return fm_spsc_length(&stream->ring) <= stream->ring.capacity / 2;
}

bool sch_stream_ask_room(struct sch_stream *stream)
{
    /* Pairs with the exchange in sch_stream_next: either the reader sees the wish, or this thread
     * sees the room that the reader made before it looked. */
    (void)atomic_exchange_explicit(&stream->wants_room, true, memory_order_acq_rel);
    return fm_spsc_room(&stream->ring) >= stream->ring.capacity / 2;
}

bool sch_stream_is_closed(struct sch_stream *stream)
{
    return atomic_load_explicit(&stream->is_closed, memory_order_acquire);
}

void sch_stream_post(struct sch_stream *stream, struct fm_mailbox *ready)
{
    /* Release: the records before the news of them; pairs with the exchange in sch_stream_of. */
    if (atomic_exchange_explicit(&stream->is_posted, true, memory_order_acq_rel))
        return;
    atomic_fetch_add_explicit(&stream->references, 1, memory_order_relaxed);
    fm_mailbox_put(ready, &stream->ready_link);
}

void sch_stream_finish(struct sch_stream *stream)
{
    /* From here on the reader leaves the gate alone; pairs with the loads in next and close. */
    atomic_store_explicit(&stream->wants_room, false, memory_order_relaxed);
    atomic_store_explicit(&stream->is_finished, true, memory_order_release);
    stream_put_reference(stream);
}

/* ---- the reader's end ---------------------------------------------------------------------- */

enum fm_status sch_stream_next(struct sch_stream *stream, struct sch_piece *ret_piece,
                               struct eng_candidate ret_candidates[ENG_LOGPROBS_MAX],
                               char ret_bytes[SCH_PIECE_BYTES_MAX + 1])
{
    FM_ASSERT(fm_thread_is(FM_THREAD_MAIN));
    struct sch_piece piece;
    if (stream->is_at_end)
        return FM_END;
    if (!fm_spsc_take(&stream->ring, &piece, sizeof piece))
        return FM_AGAIN;
    FM_ASSERT(piece.candidate_count <= ENG_LOGPROBS_MAX);
    FM_ASSERT(piece.byte_count <= SCH_PIECE_BYTES_MAX);
    bool has_rest = fm_spsc_take(&stream->ring, ret_candidates, candidate_bytes(&piece));
    FM_ASSERT(has_rest);
    has_rest = fm_spsc_take(&stream->ring, ret_bytes, piece.byte_count);
    FM_ASSERT(has_rest);
    ret_bytes[piece.byte_count] = '\0';
    stream->is_at_end = piece.kind == SCH_PIECE_DONE;
    *ret_piece = piece;

    if (!stream->is_at_end && is_half_empty(stream) &&
        atomic_exchange_explicit(&stream->wants_room, false, memory_order_acq_rel))
        sch_gate_ring(stream->gate);
    return FM_OK;
}

struct sch_stream *sch_stream_of(struct fm_link *link)
{
    struct sch_stream *stream = FM_CONTAINER(link, struct sch_stream, ready_link);
    /* Acquire: pairs with the exchange in sch_stream_post. */
    (void)atomic_exchange_explicit(&stream->is_posted, false, memory_order_acq_rel);
    bool is_closed = atomic_load_explicit(&stream->is_closed, memory_order_relaxed);
    stream_put_reference(stream);
    return is_closed ? NULL : stream;
}

void sch_stream_set_owner(struct sch_stream *stream, void *owner)
{
    stream->owner = owner;
}

void *sch_stream_owner(const struct sch_stream *stream)
{
    return stream->owner;
}

void sch_stream_close(struct sch_stream *stream)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_MAIN));
    FM_ASSERT(!atomic_load_explicit(&stream->is_closed, memory_order_relaxed));
    stream->owner = NULL;
    atomic_store_explicit(&stream->is_closed, true, memory_order_release);
    if (!atomic_load_explicit(&stream->is_finished, memory_order_acquire))
        sch_gate_ring(stream->gate);
    stream_put_reference(stream);
}
