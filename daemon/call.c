/* call.c - the life and the answer of one call; see call.h.
 *
 * Invariants:
 *   1. The phase only grows.
 *   2. out_sent <= out.length; both are 0 when all of it was sent.
 *   3. On a preparation thread a call changes nothing but itself; on the main thread every change
 *      is told to http.c (attend), which alone touches the connection. */
#include "daemon/call.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "backends/base/thread.h"
#include "daemon/auth.h"
#include "daemon/config.h"
#include "daemon/http.h"
#include "daemon/route.h"

enum { HEADER_VALUE_BYTES = 1024, ID_RANDOM_BYTES = 16, DROP_BYTES = 65536 };

static void make_id(char ret_id[SRV_REQUEST_ID_BYTES])
{
    unsigned char bytes[ID_RANDOM_BYTES];
    fm_random_bytes(bytes, sizeof bytes);
    (void)snprintf(ret_id, 5, "req_");
    for (size_t i = 0; i < sizeof bytes; i++)
        (void)snprintf(ret_id + 4 + 2 * i, 3, "%02x", bytes[i]);
}

struct srv_call *srv_call_new(struct srv_config *config)
{
    static uint64_t number; /* main thread */
    struct srv_call *call = fm_alloc(sizeof *call);
    if (call == NULL)
        return NULL;
    call->config = srv_config_take(config);
    call->number = ++number;
    call->parameter = "";
    call->received_ns = fm_clock_ns();
    make_id(call->id);
    fm_buf_init(&call->body, config->http_max_body_bytes);
    fm_buf_init(&call->out, SIZE_MAX / 2);
    return call;
}

/* What was sent lies behind length, so all of the capacity is wiped. */
static void wipe_and_free(struct fm_buf *buf)
{
    if (buf->data != NULL)
        fm_wipe(buf->data, buf->capacity);
    fm_buf_done(buf);
}

void srv_call_free(struct srv_call *call)
{
    if (call == NULL)
        return;
    for (uint32_t i = 0; i < call->header_count; i++) {
        fm_free(call->headers[i].name);
        fm_free(call->headers[i].value);
    }
    wipe_and_free(&call->body);
    wipe_and_free(&call->out);
    fm_free(call->path);
    srv_keys_put(call->keys);
    srv_config_put((struct srv_config *)(uintptr_t)call->config);
    fm_free(call);
}

void srv_call_take_id(struct srv_call *call, const char *text)
{
    static const char sound[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
    size_t length = strlen(text);
    if (length == 0 || length >= sizeof call->id || strspn(text, sound) != length)
        return;
    memcpy(call->id, text, length + 1);
}

/* The main thread changed a call that http.c waits for. */
static void attend(struct srv_call *call)
{
    if (call->http != NULL && call->phase != SRV_CALL_HEAD && call->phase != SRV_CALL_PREPARE)
        srv_http_attend(call->http, call);
}

static void phase_set(struct srv_call *call, enum srv_call_phase phase)
{
    FM_ASSERT(phase > call->phase);
    bool is_main = call->phase != SRV_CALL_PREPARE;
    call->phase = phase;
    if (is_main)
        attend(call);
}

/* ---- headers --------------------------------------------------------------------------------- */

void srv_call_header(struct srv_call *call, const char *name, const char *value)
{
    char *copy = fm_strndup(value, strnlen(value, HEADER_VALUE_BYTES));
    if (copy == NULL)
        return; /* an answer without it is better than none */
    for (char *at = copy; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = ' ';
    for (uint32_t i = 0; i < call->header_count; i++) {
        if (strcasecmp(call->headers[i].name, name) == 0) {
            fm_free(call->headers[i].value);
            call->headers[i].value = copy;
            return;
        }
    }
    char *own_name = call->header_count == SRV_CALL_HEADERS_MAX ? NULL : fm_strdup(name);
    if (own_name == NULL) {
        fm_free(copy);
        return;
    }
    call->headers[call->header_count++] = (struct srv_call_header){own_name, copy};
}

/* ---- answers in one piece -------------------------------------------------------------------- */

bool srv_call_is_committed(const struct srv_call *call)
{
    return call->phase >= SRV_CALL_COMMITTED && !(call->is_padded && !srv_call_is_answered(call));
}

bool srv_call_is_answered(const struct srv_call *call)
{
    return call->phase == SRV_CALL_ANSWERED;
}

void srv_reply_buf(struct srv_call *call, int status, const char *content_type, struct fm_buf *body)
{
    FM_ASSERT(!srv_call_is_committed(call));
    FM_ASSERT(status >= 200 && status <= 599);
    if (call->is_padded) { /* the head said 200; the client has had newlines */
        bool is_put = fm_buf_put(&call->out, body->data, body->length);
        call->is_failed = !is_put;
        fm_buf_done(body);
    } else {
        FM_ASSERT(call->out.length == 0);
        fm_buf_done(&call->out);
        call->out = *body;
        fm_buf_init(body, body->bytes_max);
        call->content_type = content_type;
    }
    call->status = status;
    phase_set(call, SRV_CALL_ANSWERED);
}

static void reply_short_of_memory(struct srv_call *call)
{
    static const char text[] =
        "{\"error\":{\"message\":\"The server is overloaded. Please try again in 5.000s.\","
        "\"type\":\"server_error\",\"param\":null,\"code\":\"server_overloaded\"}}\n";
    struct fm_buf body;
    fm_buf_init(&body, sizeof text);
    (void)fm_buf_puts(&body, text); /* or an empty body, when there is not even this much */
    srv_call_header(call, "Retry-After", "5");
    srv_reply_buf(call, 503, "application/json", &body);
}

void srv_reply(struct srv_call *call, int status, const char *content_type, const void *body,
               size_t bytes)
{
    struct fm_buf copy;
    fm_buf_init(&copy, bytes);
    if (bytes > 0 && !fm_buf_put(&copy, body, bytes)) {
        reply_short_of_memory(call);
        return;
    }
    srv_reply_buf(call, status, content_type, &copy);
}

void srv_reply_json(struct srv_call *call, int status, struct fm_buf *body)
{
    if (body->is_broken) {
        fm_buf_done(body);
        reply_short_of_memory(call);
        return;
    }
    srv_reply_buf(call, status, "application/json", body);
}

/* ---- streams --------------------------------------------------------------------------------- */

void srv_stream_open(struct srv_call *call, const char *keepalive_frame)
{
    FM_ASSERT(call->phase == SRV_CALL_OPEN);
    call->status = 200;
    call->content_type = "text/event-stream; charset=utf-8";
    srv_call_header(call, "Cache-Control", "no-cache, no-transform");
    srv_call_header(call, "X-Accel-Buffering", "no");
    call->keepalive_frame = keepalive_frame;
    call->put_ns = fm_clock_ns();
    phase_set(call, SRV_CALL_STREAM);
}

size_t srv_stream_room(const struct srv_call *call)
{
    size_t waiting = call->out.length - call->out_sent;
    size_t most = call->config->http_max_out_buffer;
    if (call->phase == SRV_CALL_ANSWERED || waiting >= most)
        return 0;
    return most - waiting;
}

bool srv_stream_put(struct srv_call *call, const void *data, size_t bytes)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_MAIN));
    if (call->phase == SRV_CALL_ANSWERED)
        return false;
    FM_ASSERT(call->phase == SRV_CALL_STREAM || call->phase == SRV_CALL_COMMITTED);
    size_t waiting = call->out.length - call->out_sent;
    if (bytes > call->config->http_max_out_buffer + SRV_STREAM_SLACK_BYTES - waiting ||
        !fm_buf_put(&call->out, data, bytes)) {
        srv_stream_fail(call);
        return false;
    }
    call->put_ns = fm_clock_ns();
    call->is_streamed = true;
    if (call->phase == SRV_CALL_STREAM)
        phase_set(call, SRV_CALL_COMMITTED);
    attend(call);
    return true;
}

void srv_stream_end(struct srv_call *call)
{
    if (call->phase != SRV_CALL_ANSWERED)
        phase_set(call, SRV_CALL_ANSWERED);
}

void srv_stream_fail(struct srv_call *call)
{
    if (call->phase == SRV_CALL_ANSWERED)
        return;
    srv_call_cancel(call, SRV_CANCEL_STALL);
    if (call->phase == SRV_CALL_ANSWERED)
        return;
    call->is_failed = true;
    phase_set(call, SRV_CALL_ANSWERED);
}

void srv_call_wake(struct srv_call *call)
{
    call->is_woken = true;
    attend(call);
}

void srv_call_keep_alive(struct srv_call *call, uint64_t now_ns)
{
    const struct srv_config *config = call->config;
    if (call->phase == SRV_CALL_STREAM || (call->phase == SRV_CALL_COMMITTED && !call->is_padded)) {
        uint64_t interval = (uint64_t)(config->http_keepalive_interval_s * (double)FM_NS_PER_S);
        if (now_ns - call->put_ns < interval || srv_stream_room(call) == 0)
            return;
        const struct srv_handler *handler = call->route->handler;
        if (handler->keepalive != NULL)
            handler->keepalive(call);
        else if (call->keepalive_frame != NULL)
            (void)srv_stream_put(call, call->keepalive_frame, strlen(call->keepalive_frame));
        call->put_ns = now_ns;
        return;
    }
    bool is_waiting = call->phase == SRV_CALL_OPEN || call->is_padded;
    uint64_t interval = (uint64_t)(config->http_nonstream_keepalive_s * (double)FM_NS_PER_S);
    if (!is_waiting || call->phase == SRV_CALL_ANSWERED || interval == 0 ||
        (call->route->flags & SRV_ROUTE_GENERATES) == 0)
        return;
    uint64_t since = call->put_ns == 0 ? call->received_ns : call->put_ns;
    if (now_ns - since < interval || !fm_buf_putc(&call->out, '\n'))
        return;
    call->put_ns = now_ns;
    call->is_padded = true;
    call->is_streamed = true;
    call->status = 200;
    call->content_type = "application/json";
    if (call->phase == SRV_CALL_OPEN)
        phase_set(call, SRV_CALL_COMMITTED);
    attend(call);
}

void srv_call_cancel(struct srv_call *call, enum srv_cancel why)
{
    if (why != SRV_CANCEL_SHUTDOWN || !call->is_started)
        atomic_store_explicit(&call->is_canceled, true, memory_order_relaxed);
    if (!call->is_started || call->is_cancel_told || call->phase == SRV_CALL_ANSWERED)
        return;
    call->is_cancel_told = true;
    if (call->route->handler->cancel != NULL)
        call->route->handler->cancel(call, why);
}

/* ---- what is sent ---------------------------------------------------------------------------- */

size_t srv_call_pending(const struct srv_call *call, const char **ret_data)
{
    FM_ASSERT(call->out_sent <= call->out.length);
    *ret_data = call->out.data == NULL ? NULL : call->out.data + call->out_sent;
    return call->out.length - call->out_sent;
}

void srv_call_sent(struct srv_call *call, size_t bytes)
{
    bool was_full = srv_stream_room(call) == 0;
    FM_ASSERT(bytes <= call->out.length - call->out_sent);
    call->out_sent += bytes;
    call->sent_bytes += bytes;
    if (call->out_sent == call->out.length) {
        fm_buf_clear(&call->out);
        call->out_sent = 0;
    } else if (call->out_sent >= DROP_BYTES && call->out_sent >= call->out.length / 2) {
        fm_buf_drop(&call->out, call->out_sent);
        call->out_sent = 0;
    }
    if (was_full && call->phase != SRV_CALL_ANSWERED && srv_stream_room(call) > 0)
        srv_call_wake(call);
}
