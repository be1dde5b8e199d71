/* stream.h - the scheduler's end of a request's ring of pieces.
 *
 * A record is a struct sch_piece, its candidates and its bytes, put whole or not at all.  The
 * stream lives until three have let go: the scheduler (sch_stream_finish), the reader
 * (sch_stream_close), and the ready mailbox while the link is in it.
 *
 * A producer that finds no room asks for a ring of the bell (sch_stream_ask_room); the reader
 * rings when the ring is half empty. */
#ifndef SCH_STREAM_H
#define SCH_STREAM_H

#include "scheduler/gate.h"
#include "scheduler/scheduler.h"

/* A ring of `bytes` (a power of two), with a reference each for scheduler and reader.  The gate
 * outlives the scheduler's reference. */
enum fm_status sch_stream_new(size_t bytes, struct sch_gate *gate, struct sch_stream **ret_stream,
                              struct fm_err *err) FM_MUST_CHECK;

/* Bytes of the record that the piece makes. */
size_t sch_stream_record_bytes(const struct sch_piece *piece);

/* Scheduler: put the record if `spare` bytes stay free behind it.  body: the candidates, or the
 * bytes; a piece has one of them at most. */
bool sch_stream_put(struct sch_stream *stream, const struct sch_piece *piece, const void *body,
                    size_t spare);

/* Scheduler: true when half of the ring is free; else false, and the bell will ring then. */
bool sch_stream_ask_room(struct sch_stream *stream);

/* Scheduler: the reader has let go. */
bool sch_stream_is_closed(struct sch_stream *stream);

/* Scheduler: put the link into the ready mailbox, unless it is there. */
void sch_stream_post(struct sch_stream *stream, struct fm_mailbox *ready);

/* Scheduler: no more records; gives the reference back. */
void sch_stream_finish(struct sch_stream *stream);

#endif
