/* sse.c - frames of an event stream; see sse.h. */
#include "daemon/sse.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/buf.h"
#include "daemon/api_error.h"
#include "daemon/call.h"

enum { FRAME_BYTES_MAX = SRV_STREAM_SLACK_BYTES };

static bool put_frame(struct srv_call *call, const char *event, const char *json, size_t bytes)
{
    FM_ASSERT(memchr(json, '\n', bytes) == NULL);
    FM_ASSERT(memchr(json, '\r', bytes) == NULL);
    struct fm_buf frame;
    fm_buf_init(&frame, FRAME_BYTES_MAX);
    if (event != NULL) {
        (void)fm_buf_puts(&frame, "event: ");
        (void)fm_buf_puts(&frame, event);
        (void)fm_buf_putc(&frame, '\n');
    }
    (void)fm_buf_puts(&frame, "data: ");
    (void)fm_buf_put(&frame, json, bytes);
    (void)fm_buf_puts(&frame, "\n\n");
    bool is_put = !frame.is_broken && srv_stream_put(call, frame.data, frame.length);
    if (frame.is_broken)
        srv_stream_fail(call);
    fm_buf_done(&frame);
    return is_put;
}

bool srv_sse_data(struct srv_call *call, const char *json, size_t bytes)
{
    return put_frame(call, NULL, json, bytes);
}

bool srv_sse_event(struct srv_call *call, const char *event, const char *json, size_t bytes)
{
    FM_ASSERT(event != NULL && strpbrk(event, "\r\n") == NULL);
    return put_frame(call, event, json, bytes);
}

void srv_sse_done(struct srv_call *call)
{
    if (srv_sse_data(call, "[DONE]", 6))
        srv_stream_end(call);
}

void srv_sse_error(struct srv_call *call, const struct srv_error *error)
{
    if (!srv_call_is_committed(call)) {
        srv_error_reply(call, error);
        return;
    }
    struct fm_buf json;
    fm_buf_init(&json, FRAME_BYTES_MAX);
    srv_error_json(error, false, call->id, &json);
    if (json.is_broken)
        srv_stream_fail(call);
    else if (srv_sse_data(call, json.data, json.length))
        srv_sse_done(call);
    fm_buf_done(&json);
}
