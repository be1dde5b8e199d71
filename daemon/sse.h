/* sse.h - frames of an event stream.
 *
 * Every frame has exactly one data line and ends with one blank line: an id: or retry: line, an
 * event without data or data of several lines break clients.  A frame is put in one piece.  Main thread. */
#ifndef SRV_SSE_H
#define SRV_SSE_H

#include <stdbool.h>
#include <stddef.h>

struct fm_buf;
struct srv_call;

/* For srv_stream_open on the chat and completion surfaces. */
#define SRV_SSE_KEEPALIVE ": keep-alive\n\n"

/* `data: JSON\n\n`; with an event name `event: NAME\ndata: JSON\n\n`.  The JSON has no newline
 * (asserted).  As srv_stream_put. */
bool srv_sse_data(struct srv_call *call, const char *json, size_t bytes);
bool srv_sse_event(struct srv_call *call, const char *event, const char *json, size_t bytes);

/* `data: [DONE]\n\n` and the end of the stream. */
void srv_sse_done(struct srv_call *call);

struct srv_error;
/* After the commit point: the error as a data frame, [DONE], the end.  Before it: the error as the
 * answer.  So a handler can report a failure without knowing where the call stands. */
void srv_sse_error(struct srv_call *call, const struct srv_error *error);

#endif
