/* http.c - requests and answers, driven by libmicrohttpd; see http.h, and conn.h for connections.
 *
 * Invariants, each of them a trap of the library (0.9.75):
 *   1. A connection is suspended only from the library's own callbacks (access, content reader)
 *      and resumed only by srv_conn_resume, which knows whether it is; MHD_run follows before the
 *      loop waits.
 *   2. Every connection is watched by us for a hang-up.  A suspended one, because the library sees
 *      neither a hang-up nor a timeout there; any other, because after a read that did not fill its
 *      buffer the library waits for an edge, which an end that came with the data does not give.
 *      The watch ends before the library closes the descriptor, in srv_conn_close.
 *   3. The content reader never returns 0 without suspending: that would be a busy loop.
 *   4. An answer that is queued in the first access callback closes the connection.  So answers
 *      wait for the end of the body, unless the body is not worth reading.
 *   5. While a body arrives the library accepts no answer at all.  What cannot wait (a body without
 *      end, a timeout) is written to the descriptor by srv_conn_refuse, before it is shut down.
 *   6. While a call is in the preparation pool nothing of it is looked at but is_in_pool, which is
 *      the main thread's: its phase belongs to the pool.
 *   7. The daemon is stopped only with no connection suspended. */
#include "daemon/http.h"

#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/mem.h"
#include "backends/base/thread.h"
#include "daemon/access.h"
#include "daemon/api_error.h"
#include "daemon/call.h"
#include "daemon/config.h"
#include "daemon/conn.h"
#include "daemon/gate.h"
#include "daemon/loop.h"
#include "daemon/prep.h"
#include "daemon/route.h"
#include "daemon/version.h"

enum {
    BLOCK_BYTES = 32768,       /* what the library asks the content reader for */
    POOL_EXTRA_BYTES = 65536,  /* beyond the head: the answer's head, the read and write buffers */
    DISCARD_BYTES_MAX = 65536, /* a refused body of up to this is read, to keep the connection */
    RUNS_MAX = 64,             /* of the library in one turn, before the loop looks elsewhere */
};

/* ---- calls ----------------------------------------------------------------------------------- */

static void call_attach(struct srv_http *http, struct srv_conn *conn, struct srv_call *call)
{
    call->http = http;
    call->conn = conn;
    call->next = http->calls;
    if (http->calls != NULL)
        http->calls->previous = call;
    http->calls = call;
    http->call_count++;
    conn->call = call;
}

/* The last one to know the call lets it go: not on a connection, not in the pool, not attended. */
static void call_finish(struct srv_http *http, struct srv_call *call)
{
    FM_ASSERT(call->conn == NULL);
    FM_ASSERT(!call->is_attended);
    if (call->is_entered && call->route->handler->done != NULL)
        call->route->handler->done(call);
    srv_gate_release(http->gate, call);
    if (call->previous != NULL)
        call->previous->next = call->next;
    else
        http->calls = call->next;
    if (call->next != NULL)
        call->next->previous = call->previous;
    FM_ASSERT(http->call_count > 0);
    http->call_count--;
    srv_call_free(call);
}

void srv_http_attend(struct srv_http *http, struct srv_call *call)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_MAIN));
    if (call->is_attended)
        return;
    call->is_attended = true;
    call->next_attended = NULL;
    if (http->attended_first == NULL)
        http->attended_first = call;
    else
        http->attended_last->next_attended = call;
    http->attended_last = call;
}

static void call_start(struct srv_call *call)
{
    call->phase = SRV_CALL_OPEN;
    call->is_entered = true;
    call->is_started = true;
    call->route->handler->start(call);
    if (call->phase < SRV_CALL_ANSWERED)
        srv_call_wake(call);
}

/* Has the connection anything to say to the client now? */
static bool is_due(const struct srv_call *call)
{
    const char *data = NULL;
    if (call->phase == SRV_CALL_ANSWERED) {
        if (fm_clock_ns() >= call->hold_until_ns)
            return true;
        srv_loop_wake_at(call->http->loop, call->hold_until_ns);
        return false;
    }
    return call->phase == SRV_CALL_COMMITTED && srv_call_pending(call, &data) > 0;
}

static void attend_all(struct srv_http *http)
{
    struct srv_call *call;
    while ((call = http->attended_first) != NULL) {
        http->attended_first = call->next_attended;
        call->is_attended = false;
        FM_ASSERT(!call->is_in_pool);
        bool is_open = call->phase >= SRV_CALL_OPEN && call->phase < SRV_CALL_ANSWERED;
        bool is_woken = call->is_woken;
        call->is_woken = false;
        if (is_woken && is_open && call->route->handler->drain != NULL)
            call->route->handler->drain(call);
        struct srv_conn *conn = call->conn;
        if (conn == NULL) {
            if (!call->is_attended)
                call_finish(http, call);
        } else if (conn->is_suspended && is_due(call)) {
            srv_conn_resume(conn);
        }
    }
}

static void prep_ready(void *context, uint32_t events)
{
    struct srv_http *http = context;
    struct srv_call *call;
    (void)events;
    while ((call = srv_prep_take(http->prep)) != NULL) {
        call->is_in_pool = false;
        bool is_unwanted = atomic_load_explicit(&call->is_canceled, memory_order_relaxed);
        if (call->conn == NULL) {
            call_finish(http, call);
        } else if (call->phase == SRV_CALL_ANSWERED) {
            srv_http_attend(http, call);
        } else if (is_unwanted || http->is_canceling) {
            struct srv_error error;
            srv_error_reply(call, srv_error_of_status(&error, FM_CANCELED, 0));
            srv_http_attend(http, call);
        } else {
            call_start(call);
        }
    }
}

/* ---- the head of a request ------------------------------------------------------------------- */

static const char *header_of(void *context, const char *name)
{
    return MHD_lookup_connection_value(context, MHD_HEADER_KIND, name);
}

static enum MHD_Result count_framing(void *context, enum MHD_ValueKind kind, const char *key,
                                     const char *value)
{
    unsigned *counts = context;
    (void)kind;
    (void)value;
    counts[0] += strcasecmp(key, "Content-Length") == 0;
    counts[1] += strcasecmp(key, "Transfer-Encoding") == 0;
    counts[2] += strcasecmp(key, "Host") == 0;
    return MHD_YES;
}

static void head_read(struct srv_conn *conn, const char *method, const char *path,
                      struct srv_head *ret_head)
{
    struct MHD_Connection *mhd = conn->mhd;
    unsigned counts[3] = {0, 0, 0};
    (void)MHD_get_connection_values(mhd, MHD_HEADER_KIND, count_framing, counts);
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    *ret_head = (struct srv_head){
        .method = method,
        .path = path,
        .uri_bytes = conn->uri_bytes,
        .head_bytes = size == NULL ? 0 : size->header_size,
        .is_ambiguous =
            counts[0] > 1 || counts[1] > 1 || counts[2] > 1 || (counts[0] > 0 && counts[1] > 0),
        .address = conn->address,
        .address_bytes = conn->address_bytes,
        .header = header_of,
        .context = mhd,
    };
    const char *length = header_of(mhd, MHD_HTTP_HEADER_CONTENT_LENGTH);
    ret_head->has_length =
        length != NULL && fm_parse_u64(length, 0, UINT64_MAX, &ret_head->content_length);
    ret_head->has_body = counts[1] > 0 || ret_head->content_length > 0;
}

static enum MHD_Result answer(struct srv_conn *conn);

/* First access callback: the gate.  NULL: no memory. */
static enum MHD_Result call_begin(struct srv_conn *conn, const char *method, const char *path,
                                  void **request)
{
    struct srv_http *http = conn->http;
    struct srv_call *call = srv_call_new(http->config);
    if (call == NULL)
        return MHD_NO;
    struct srv_head head;
    head_read(conn, method, path, &head);
    call_attach(http, conn, call);
    *request = call;
    conn->stage = SRV_CONN_BODY;
    conn->mark_ns = fm_clock_ns();
    srv_gate_enter(http->gate, &head, call);
    if (call->phase != SRV_CALL_ANSWERED)
        return MHD_YES;
    call->is_discarded = true;
    bool is_long = head.has_length ? head.content_length > DISCARD_BYTES_MAX : head.has_body;
    if (call->closes || (head.has_body && (is_long || header_of(conn->mhd, "Expect") != NULL))) {
        call->closes = true;
        conn->stage = SRV_CONN_BUSY;
        return answer(conn);
    }
    return MHD_YES;
}

/* A part of the body. */
static enum MHD_Result body_part(struct srv_conn *conn, const char *data, size_t bytes)
{
    struct srv_call *call = conn->call;
    uint64_t most = call->config->http_max_body_bytes;
    conn->mark_ns = fm_clock_ns();
    call->body_seen += bytes;
    if (!call->is_discarded && call->body_seen > most) {
        call->closes = true;
        srv_error_replyf(call, 413, "request_too_large", NULL,
                         "The request body has more than %llu bytes.", (unsigned long long)most);
    }
    if (!call->is_discarded && call->phase != SRV_CALL_ANSWERED &&
        srv_gate_reserve(conn->http->gate, call, bytes) && !fm_buf_put(&call->body, data, bytes)) {
        struct srv_error error;
        srv_error_reply(call, srv_error_of_status(&error, FM_NOMEM, 0));
    }
    if (call->phase == SRV_CALL_ANSWERED && !call->is_discarded) {
        call->is_discarded = true;
        fm_buf_done(&call->body);
    }
    if (call->is_discarded && call->body_seen > most + DISCARD_BYTES_MAX) {
        srv_conn_refuse(conn, call);
        return MHD_NO;
    }
    return MHD_YES;
}

/* The request is complete. */
static enum MHD_Result body_end(struct srv_conn *conn)
{
    struct srv_http *http = conn->http;
    struct srv_call *call = conn->call;
    conn->stage = SRV_CONN_BUSY;
    conn->mark_ns = fm_clock_ns();
    if (call->phase == SRV_CALL_HEAD)
        srv_gate_ready(http->gate, call);
    if (call->phase == SRV_CALL_HEAD) {
        if (call->route->handler->prepare != NULL) {
            call->phase = SRV_CALL_PREPARE;
            call->is_in_pool = true;
            call->is_entered = true;
            srv_prep_put(http->prep, call);
        } else {
            call_start(call);
        }
    }
    if (!call->is_in_pool && is_due(call))
        return answer(conn);
    srv_conn_suspend(conn);
    if (conn->is_half && srv_conn_is_working(conn) && !srv_conn_is_tolerant(conn))
        srv_conn_give_up(conn);
    return MHD_YES;
}

/* ---- the answer ------------------------------------------------------------------------------ */

static ssize_t content_read(void *context, uint64_t position, char *target, size_t bytes_max)
{
    struct srv_call *call = context;
    struct srv_conn *conn = call->conn;
    const char *data = NULL;
    (void)position;
    size_t bytes = srv_call_pending(call, &data);
    if (bytes > 0) {
        bytes = bytes < bytes_max ? bytes : bytes_max;
        memcpy(target, data, bytes);
        srv_call_sent(call, bytes);
        return (ssize_t)bytes;
    }
    if (conn->is_dead)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (call->phase == SRV_CALL_ANSWERED)
        return call->is_failed ? MHD_CONTENT_READER_END_WITH_ERROR
                               : MHD_CONTENT_READER_END_OF_STREAM;
    srv_conn_suspend(conn);
    return 0;
}

static struct MHD_Response *response_make(struct srv_call *call)
{
    const char *body = NULL;
    size_t bytes = srv_call_pending(call, &body);
    if (call->is_streamed || call->is_failed)
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, content_read, call,
                                                 NULL);
    /* The call, and so its buffer, lives until the library says that the request is completed. */
    call->sent_bytes = call->is_head ? 0 : bytes;
    return MHD_create_response_from_buffer(bytes, (void *)(uintptr_t)body, MHD_RESPMEM_PERSISTENT);
}

static void response_headers(const struct srv_http *http, struct srv_call *call,
                             struct MHD_Response *response)
{
    bool shows_version = call->config->http_server_header_version;
    (void)MHD_add_response_header(response, "Server",
                                  shows_version ? "fathom/" SRV_VERSION : "fathom");
    (void)MHD_add_response_header(response, "x-request-id", call->id);
    if (call->is_anthropic)
        (void)MHD_add_response_header(response, "request-id", call->id);
    if (call->content_type != NULL)
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, call->content_type);
    for (uint32_t i = 0; i < call->header_count; i++)
        (void)MHD_add_response_header(response, call->headers[i].name, call->headers[i].value);
    if (call->closes || call->is_failed || http->is_draining)
        (void)MHD_add_response_header(response, "Connection", "close");
}

/* Hand the answer, or the beginning of it, to the library. */
static enum MHD_Result answer(struct srv_conn *conn)
{
    struct srv_call *call = conn->call;
    struct MHD_Response *response = response_make(call);
    if (response == NULL)
        return MHD_NO;
    response_headers(conn->http, call, response);
    (void)MHD_set_response_options(response, MHD_RF_SEND_KEEP_ALIVE_HEADER, MHD_RO_END);
    enum MHD_Result result = MHD_queue_response(conn->mhd, (unsigned)call->status, response);
    MHD_destroy_response(response);
    call->is_queued = result == MHD_YES;
    return result;
}

/* ---- callbacks of the library ---------------------------------------------------------------- */

static struct srv_conn *conn_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info == NULL ? NULL : info->socket_context;
}

static enum MHD_Result on_access(void *context, struct MHD_Connection *mhd, const char *path,
                                 const char *method, const char *version, const char *data,
                                 size_t *bytes, void **request)
{
    struct srv_conn *conn = conn_of(mhd);
    (void)context;
    (void)version;
    if (conn == NULL || conn->is_dead)
        return MHD_NO;
    if (*request == NULL)
        return call_begin(conn, method, path, request);
    struct srv_call *call = *request;
    FM_ASSERT(conn->call == call);
    if (*bytes > 0) {
        size_t part = *bytes;
        *bytes = 0;
        return body_part(conn, data, part);
    }
    if (conn->stage == SRV_CONN_BODY)
        return body_end(conn);
    if (call->is_queued)
        return MHD_YES;
    if (!call->is_in_pool && is_due(call))
        return answer(conn);
    srv_conn_suspend(conn); /* resumed for something that has passed */
    return MHD_YES;
}

static void *on_request_line(void *context, const char *uri, struct MHD_Connection *mhd)
{
    struct srv_conn *conn = conn_of(mhd);
    (void)context;
    if (conn != NULL) {
        conn->stage = SRV_CONN_HEAD;
        conn->mark_ns = fm_clock_ns();
        conn->uri_bytes = strlen(uri);
    }
    return NULL;
}

static void on_completed(void *context, struct MHD_Connection *mhd, void **request,
                         enum MHD_RequestTerminationCode why)
{
    struct srv_http *http = context;
    struct srv_conn *conn = conn_of(mhd);
    struct srv_call *call = *request;
    *request = NULL;
    if (conn != NULL) {
        conn->call = NULL;
        conn->is_suspended = false;
        conn->stage = SRV_CONN_IDLE;
        conn->mark_ns = fm_clock_ns();
    }
    if (call == NULL)
        return;
    bool is_complete = !call->is_in_pool && call->phase == SRV_CALL_ANSWERED && !call->is_failed &&
                       call->is_queued &&
                       (why == MHD_REQUEST_TERMINATED_COMPLETED_OK || call->is_refused);
    if (call->is_in_pool || call->phase != SRV_CALL_ANSWERED)
        srv_conn_call_give_up(http, call, SRV_CANCEL_HANGUP);
    srv_access_count(http->access, call, is_complete);
    call->conn = NULL;
    if (!call->is_in_pool && !call->is_attended)
        call_finish(http, call);
}

static void on_connection(void *context, struct MHD_Connection *mhd, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *socket_context = srv_conn_open(context, mhd); /* NULL: on_access closes it */
    } else if (*socket_context != NULL) {
        srv_conn_close(context, *socket_context);
        *socket_context = NULL;
    }
}

static size_t on_unescape(void *context, struct MHD_Connection *mhd, char *text)
{
    (void)context;
    (void)mhd;
    return srv_path_decode(text);
}

static void on_log(void *context, const char *format, va_list args)
{
    char text[256];
    (void)context;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    (void)vsnprintf(text, sizeof text, format, args);
#pragma GCC diagnostic pop
    fm_log(FM_LOG_DEBUG, "http", "text=\"%s\"", text);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void daemon_ready(void *context, uint32_t events)
{
    struct srv_http *http = context;
    (void)events;
    http->needs_run = true;
}

static struct MHD_Daemon *daemon_start(struct srv_http *http, int listen_fd)
{
    const struct srv_config *config = http->config;
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_access,
        http, MHD_OPTION_EXTERNAL_LOGGER, on_log, http, MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)config->http_max_connections,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)config->http_max_header_bytes + POOL_EXTRA_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_URI_LOG_CALLBACK,
        on_request_line, http, MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, http, MHD_OPTION_END);
}

enum fm_status srv_http_start(const struct srv_http_spec *spec, struct srv_http **ret_http,
                              struct fm_err *err)
{
    struct srv_http *http = fm_alloc(sizeof *http);
    if (http == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the HTTP server");
    http->config = srv_config_take(spec->config);
    http->loop = spec->loop;
    http->prep = spec->prep;
    http->gate = spec->gate;
    http->access = spec->access;
    http->needs_run = true;
    enum fm_status status = FM_OK;
    http->daemon = daemon_start(http, spec->listen_fd);
    if (http->daemon == NULL) {
        status = FM_FAIL(err, FM_IO, "cannot start the HTTP library");
        goto out_free;
    }
    int epoll_fd = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    http->daemon_source = (struct srv_source){.ready = daemon_ready, .context = http};
    status = srv_loop_add(http->loop, &http->daemon_source, epoll_fd, EPOLLIN, err);
    if (status != FM_OK)
        goto out_stop;
    http->prep_source = (struct srv_source){.ready = prep_ready, .context = http};
    status = srv_loop_add(http->loop, &http->prep_source, srv_prep_fd(http->prep), EPOLLIN, err);
    if (status != FM_OK)
        goto out_remove;
    *ret_http = http;
    return FM_OK;
out_remove:
    srv_loop_remove(http->loop, &http->daemon_source);
out_stop:
    (void)MHD_quiesce_daemon(http->daemon); /* the socket stays the caller's */
    MHD_stop_daemon(http->daemon);
out_free:
    srv_config_put(http->config);
    fm_free(http);
    return status;
}

const char *srv_http_library(void)
{
    return MHD_get_version();
}

void srv_http_reload(struct srv_http *http, struct srv_config *config)
{
    srv_config_put(http->config);
    http->config = srv_config_take(config);
}

static void tick(struct srv_http *http)
{
    uint64_t now = fm_clock_ns();
    if (now - http->tick_ns < SRV_LOOP_TICK_MS / 2 * FM_NS_PER_MS)
        return;
    http->tick_ns = now;
    for (struct srv_conn *conn = http->conns, *next; conn != NULL; conn = next) {
        next = conn->next;
        srv_conn_tick(conn, now);
    }
}

uint32_t srv_http_turn(struct srv_http *http)
{
    tick(http);
    for (uint32_t runs = 0; runs < RUNS_MAX; runs++) {
        attend_all(http);
        MHD_UNSIGNED_LONG_LONG timeout_ms = 0;
        bool has_timeout = MHD_get_timeout(http->daemon, &timeout_ms) == MHD_YES;
        if (!http->needs_run && (!has_timeout || timeout_ms > 0))
            return has_timeout && timeout_ms < UINT32_MAX ? (uint32_t)timeout_ms : UINT32_MAX;
        http->needs_run = false;
        (void)MHD_run(http->daemon);
    }
    return 0;
}

void srv_http_drain(struct srv_http *http)
{
    http->is_draining = true;
}

uint32_t srv_http_in_flight(const struct srv_http *http)
{
    return http->call_count;
}

void srv_http_cancel(struct srv_http *http)
{
    http->is_canceling = true;
    for (struct srv_call *call = http->calls; call != NULL; call = call->next) {
        if (!call->is_in_pool && (call->phase == SRV_CALL_HEAD || call->phase == SRV_CALL_ANSWERED))
            continue;
        srv_conn_call_give_up(http, call, SRV_CANCEL_SHUTDOWN);
        if (call->is_in_pool || call->phase == SRV_CALL_ANSWERED)
            continue;
        struct srv_error error;
        if (srv_call_is_committed(call))
            srv_stream_fail(call);
        else
            srv_error_reply(call, srv_error_of_status(&error, FM_CANCELED, 0));
    }
}

void srv_http_stop(struct srv_http *http)
{
    if (http == NULL)
        return;
    int listen_fd = MHD_quiesce_daemon(http->daemon);
    for (struct srv_conn *conn = http->conns; conn != NULL; conn = conn->next)
        srv_conn_kill(conn);
    for (uint32_t runs = 0; runs < RUNS_MAX && http->conns != NULL; runs++) {
        attend_all(http);
        (void)MHD_run(http->daemon);
    }
    srv_loop_remove(http->loop, &http->daemon_source);
    MHD_stop_daemon(http->daemon);
    if (listen_fd != -1)
        (void)close(listen_fd);
    attend_all(http);
    while (srv_prep_count(http->prep) > 0) { /* bounded: the pool works off what it holds */
        struct fm_err err;
        if (srv_loop_wait(http->loop, UINT32_MAX, &err) != FM_OK)
            break;
        attend_all(http);
    }
    srv_loop_remove(http->loop, &http->prep_source);
    FM_ASSERT(http->calls == NULL);
    srv_config_put(http->config);
    fm_free(http);
}
