/* test_daemon_http.c - connections against sockets: one thread plays the server's loop and all
 * clients, so that nothing here depends on who is scheduled when. */
#include "daemon/http.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/mem.h"
#include "daemon/access.h"
#include "daemon/api_error.h"
#include "daemon/call.h"
#include "daemon/config.h"
#include "daemon/gate.h"
#include "daemon/health.h"
#include "daemon/listen.h"
#include "daemon/loop.h"
#include "daemon/prep.h"
#include "daemon/route.h"
#include "daemon/sse.h"
#include "tests/support/support.h"

static struct {
    struct srv_config *config;
    struct srv_loop *loop;
    struct srv_prep *prep;
    struct srv_http *http;
    struct srv_gate gate;
    struct srv_health health;
    struct srv_routes routes;
    struct srv_access access;
    int port;

    /* What the handler under test does and saw. */
    struct srv_call *call;
    uint32_t prepared, started, drained, canceled, done;
    enum srv_cancel why;
    size_t wanted; /* bytes that drain still has to put */
    char body[256];
} t;

/* ---- a handler of many modes, by the body it gets -------------------------------------------- */

static void prepare(struct srv_call *call)
{
    t.prepared++;
    (void)snprintf(t.body, sizeof t.body, "%.*s", (int)call->body.length,
                   call->body.data == NULL ? "" : call->body.data);
    if (strcmp(t.body, "reply") == 0)
        srv_reply(call, 200, "application/json", "{}\n", 3);
    if (strcmp(t.body, "error") == 0)
        srv_error_replyf(call, 400, "invalid_value", "x", "No.");
}

static void start(struct srv_call *call)
{
    t.started++;
    t.call = call;
    if (strcmp(t.body, "stream") == 0 || strcmp(t.body, "flood") == 0)
        srv_stream_open(call, SRV_SSE_KEEPALIVE);
}

static void drain(struct srv_call *call)
{
    static char block[1000];
    t.drained++;
    memset(block, 'x', sizeof block);
    while (t.wanted > 0 && srv_stream_room(call) > 0) {
        size_t part = t.wanted < sizeof block ? t.wanted : sizeof block;
        ck_assert(srv_stream_put(call, block, part));
        t.wanted -= part;
        if (t.wanted == 0)
            srv_stream_end(call);
    }
}

static void cancel(struct srv_call *call, enum srv_cancel why)
{
    struct srv_error error;
    t.canceled++;
    t.why = why;
    if (why == SRV_CANCEL_SHUTDOWN)
        srv_sse_error(call, srv_error_of_status(&error, FM_CANCELED, 0));
}

static void done(struct srv_call *call)
{
    t.done++;
    ck_assert_ptr_null(call->request);
}

static const struct srv_handler handler = {.name = "test",
                                           .prepare = prepare,
                                           .start = start,
                                           .drain = drain,
                                           .cancel = cancel,
                                           .done = done};

/* ---- the server ------------------------------------------------------------------------------ */

static void serve(const char *const *overrides, uint32_t count)
{
    struct srv_config_sources sources = {.overrides = overrides, .override_count = count};
    struct fm_err err;
    int fd = -1;
    bool is_loopback = false;
    char text[SRV_LISTEN_TEXT_BYTES];
    memset(&t, 0, sizeof t);
    fm_log_set_level(FM_LOG_ERROR);
    ck_assert_int_eq(srv_config_load(&sources, &t.config, &err), FM_OK);
    ck_assert_int_eq(srv_loop_new(&t.loop, &err), FM_OK);
    ck_assert_int_eq(srv_prep_start(1, &t.prep, &err), FM_OK);
    srv_health_init(&t.health, 100);
    srv_routes_init(&t.routes);
    srv_health_bind(&t.health, &t.routes);
    srv_routes_bind(&t.routes, SRV_ROUTE_CHAT, &handler, NULL);
    srv_access_init(&t.access, &t.routes);
    t.gate.routes = &t.routes;
    t.gate.health = &t.health;
    srv_auth_failures_init(&t.gate.failures);
    srv_health_move(&t.health, SRV_READY, NULL);
    ck_assert_int_eq(srv_listen_open("127.0.0.1:0", &fd, &is_loopback, text, &err), FM_OK);
    ck_assert(is_loopback);
    uint64_t port = 0;
    ck_assert(fm_parse_u64(strrchr(text, ':') + 1, 1, 65535, &port));
    t.port = (int)port;
    struct srv_http_spec spec = {.config = t.config,
                                 .loop = t.loop,
                                 .prep = t.prep,
                                 .gate = &t.gate,
                                 .access = &t.access,
                                 .listen_fd = fd};
    ck_assert_int_eq(srv_http_start(&spec, &t.http, &err), FM_OK);
}

static void stop(void)
{
    srv_http_stop(t.http);
    srv_prep_stop(t.prep);
    srv_loop_free(t.loop);
    srv_config_put(t.config);
    ck_assert_uint_eq(t.access.connections, 0);
}

static void turn(void)
{
    struct fm_err err;
    uint32_t timeout_ms = srv_http_turn(t.http);
    ck_assert_int_eq(srv_loop_wait(t.loop, timeout_ms < 5 ? timeout_ms : 5, &err), FM_OK);
}

/* Turn the loop until the value is reached, at most 5 s. */
static void turn_until(const uint32_t *counter, uint32_t value)
{
    uint64_t end = fm_clock_ns() + 5 * FM_NS_PER_S;
    while (*counter < value && fm_clock_ns() < end)
        turn();
    ck_assert_uint_eq(*counter, value);
}

static void turn_ms(uint32_t ms)
{
    uint64_t end = fm_clock_ns() + ms * FM_NS_PER_MS;
    while (fm_clock_ns() < end)
        turn();
}

/* ---- a client -------------------------------------------------------------------------------- */

static int dial(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)t.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    int small = 65536;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    size_t length = strlen(text);
    ck_assert_int_eq(send(fd, text, length, MSG_NOSIGNAL), (ssize_t)length);
}

static void post(int fd, const char *body)
{
    char text[1024];
    (void)snprintf(text, sizeof text,
                   "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                   strlen(body), body);
    say(fd, text);
}

static char heard[1 << 24];
static size_t heard_bytes;

/* Read until the text has come, or the end, or 5 s.  true: the text is in `heard`. */
static bool hear(int fd, const char *text)
{
    uint64_t end = fm_clock_ns() + 5 * FM_NS_PER_S;
    heard_bytes = 0;
    heard[0] = '\0';
    while (fm_clock_ns() < end && heard_bytes < sizeof heard - 1) {
        turn();
        ssize_t got = recv(fd, heard + heard_bytes, sizeof heard - 1 - heard_bytes, MSG_DONTWAIT);
        if (got == 0 || (got == -1 && errno != EAGAIN))
            break;
        if (got > 0)
            heard_bytes += (size_t)got;
        heard[heard_bytes] = '\0';
        size_t fresh = got > 0 ? (size_t)got + 256 : 0; /* a text is shorter than 256 bytes */
        if (text != NULL &&
            strstr(heard + (fresh < heard_bytes ? heard_bytes - fresh : 0), text) != NULL)
            return true;
    }
    return text != NULL && strstr(heard, text) != NULL;
}

/* The other side has closed: true. */
static bool is_closed(int fd)
{
    uint64_t end = fm_clock_ns() + 5 * FM_NS_PER_S;
    while (fm_clock_ns() < end) {
        turn();
        char c;
        ssize_t got = recv(fd, &c, 1, MSG_DONTWAIT);
        if (got == 0 || (got == -1 && errno != EAGAIN))
            return true;
    }
    return false;
}

/* ---- answers --------------------------------------------------------------------------------- */

START_TEST(get_is_answered_and_the_connection_stays)
{
    serve(NULL, 0);
    int fd = dial();
    for (int i = 0; i < 3; i++) {
        say(fd, "GET /livez HTTP/1.1\r\nHost: x\r\nx-request-id: abc.1\r\n\r\n");
        ck_assert(hear(fd, "{\"status\":\"ok\"}\n"));
        ck_assert_ptr_nonnull(strstr(heard, "HTTP/1.1 200 OK\r\n"));
        ck_assert_ptr_nonnull(strstr(heard, "x-request-id: abc.1\r\n"));
        ck_assert_ptr_nonnull(strstr(heard, "Content-Type: application/json\r\n"));
    }
    close(fd);
    stop();
}
END_TEST

START_TEST(pipelined_requests_are_answered_in_order)
{
    serve(NULL, 0);
    int fd = dial();
    say(fd, "GET /livez HTTP/1.1\r\nHost: x\r\nx-request-id: one\r\n\r\n"
            "GET /nope HTTP/1.1\r\nHost: x\r\nx-request-id: two\r\n\r\n");
    ck_assert(hear(fd, "unknown_url"));
    ck_assert_ptr_nonnull(strstr(heard, "x-request-id: one"));
    ck_assert(strstr(heard, "x-request-id: one") < strstr(heard, "x-request-id: two"));
    close(fd);
    stop();
}
END_TEST

START_TEST(head_has_the_length_and_no_body)
{
    serve(NULL, 0);
    int fd = dial();
    say(fd, "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    (void)hear(fd, NULL);
    ck_assert_ptr_nonnull(strstr(heard, "Content-Length: 39\r\n"));
    ck_assert_str_eq(heard + heard_bytes - 4, "\r\n\r\n");
    close(fd);
    stop();
}
END_TEST

START_TEST(prepare_may_answer_and_done_follows)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "reply");
    ck_assert(hear(fd, "{}\n"));
    post(fd, "error");
    ck_assert(hear(fd, "\"param\":\"x\",\"code\":\"invalid_value\"}}\n"));
    turn_until(&t.done, 2);
    ck_assert_uint_eq(t.started, 0);
    close(fd);
    stop();
}
END_TEST

START_TEST(chunked_body_arrives_whole)
{
    serve(NULL, 0);
    int fd = dial();
    say(fd, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            "2\r\nre\r\n3\r\nply\r\n0\r\n\r\n");
    ck_assert(hear(fd, "{}\n"));
    ck_assert_str_eq(t.body, "reply");
    close(fd);
    stop();
}
END_TEST

START_TEST(continue_is_said_before_the_body)
{
    serve(NULL, 0);
    int fd = dial();
    say(fd, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            "Content-Length: 5\r\n\r\n");
    ck_assert(hear(fd, "HTTP/1.1 100 Continue\r\n\r\n"));
    say(fd, "reply");
    ck_assert(hear(fd, "{}\n"));
    close(fd);
    stop();
}
END_TEST

START_TEST(late_answer_resumes_the_connection)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "later");
    turn_until(&t.started, 1);
    turn_ms(30);
    srv_reply(t.call, 200, "application/json", "{\"a\":1}\n", 8);
    ck_assert(hear(fd, "{\"a\":1}\n"));
    post(fd, "reply");
    ck_assert(hear(fd, "{}\n"));
    close(fd);
    stop();
}
END_TEST

START_TEST(stream_goes_out_in_chunks_with_its_head)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "stream");
    turn_until(&t.started, 1);
    ck_assert(srv_sse_data(t.call, "{\"n\":1}", 7));
    ck_assert(hear(fd, "data: {\"n\":1}\n\n"));
    ck_assert_ptr_nonnull(strstr(heard, "Content-Type: text/event-stream; charset=utf-8\r\n"));
    ck_assert_ptr_nonnull(strstr(heard, "Cache-Control: no-cache, no-transform\r\n"));
    ck_assert_ptr_nonnull(strstr(heard, "X-Accel-Buffering: no\r\n"));
    ck_assert_ptr_nonnull(strstr(heard, "Transfer-Encoding: chunked\r\n"));
    ck_assert_ptr_nonnull(strcasestr(heard, "Connection: Keep-Alive\r\n"));
    ck_assert(srv_sse_event(t.call, "ping", "{}", 2));
    srv_sse_done(t.call);
    ck_assert(hear(fd, "0\r\n\r\n"));
    ck_assert_ptr_nonnull(strstr(heard, "event: ping\ndata: {}\n\n"));
    ck_assert_ptr_nonnull(strstr(heard, "data: [DONE]\n\n"));
    turn_until(&t.done, 1);
    ck_assert_uint_eq(t.canceled, 0);
    close(fd);
    stop();
}
END_TEST

START_TEST(error_before_the_first_byte_has_its_status)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "stream");
    turn_until(&t.started, 1);
    struct srv_error error;
    srv_sse_error(t.call, srv_error_of_status(&error, FM_AGAIN, 1250));
    ck_assert(hear(fd, "Please try again in 1.250s."));
    ck_assert_ptr_nonnull(strstr(heard, "HTTP/1.1 503 "));
    ck_assert_ptr_nonnull(strstr(heard, "Retry-After: 2\r\n"));
    ck_assert_ptr_nonnull(strstr(heard, "retry-after-ms: 1250\r\n"));
    close(fd);
    stop();
}
END_TEST

START_TEST(error_after_the_first_byte_is_a_frame)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "stream");
    turn_until(&t.started, 1);
    ck_assert(srv_sse_data(t.call, "{}", 2));
    struct srv_error error;
    srv_sse_error(t.call, srv_error_of_status(&error, FM_DEVICE, 0));
    ck_assert(hear(fd, "0\r\n\r\n"));
    ck_assert_ptr_nonnull(strstr(heard, "HTTP/1.1 200 OK"));
    ck_assert_ptr_nonnull(strstr(heard, "data: {\"error\":{\"message\":"));
    ck_assert_ptr_nonnull(strstr(heard, "\"code\":\"engine_error\"}}\n\n"));
    ck_assert_ptr_nonnull(strstr(heard, "data: [DONE]\n\n"));
    close(fd);
    stop();
}
END_TEST

START_TEST(failed_stream_has_no_proper_end)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "stream");
    turn_until(&t.started, 1);
    ck_assert(srv_sse_data(t.call, "{}", 2));
    srv_stream_fail(t.call);
    (void)hear(fd, NULL);
    ck_assert_ptr_nonnull(strstr(heard, "data: {}\n\n"));
    ck_assert_ptr_null(strstr(heard, "0\r\n\r\n"));
    close(fd);
    stop();
}
END_TEST

START_TEST(silent_stream_is_kept_alive_and_committed)
{
    serve((const char *const[]){"http.keepalive_interval_s=0.2"}, 1);
    int fd = dial();
    post(fd, "stream");
    ck_assert(hear(fd, ": keep-alive\n\n"));
    ck_assert_ptr_nonnull(strstr(heard, "HTTP/1.1 200 OK"));
    ck_assert(srv_call_is_committed(t.call));
    ck_assert(hear(fd, ": keep-alive\n\n"));
    srv_sse_done(t.call);
    ck_assert(hear(fd, "0\r\n\r\n"));
    close(fd);
    stop();
}
END_TEST

START_TEST(unstreamed_answer_may_be_padded_with_newlines)
{
    serve((const char *const[]){"http.nonstream_keepalive_s=0.2"}, 1);
    int fd = dial();
    post(fd, "later");
    ck_assert(hear(fd, "1\r\n\n\r\n"));
    ck_assert_ptr_nonnull(strstr(heard, "Content-Type: application/json\r\n"));
    ck_assert(!srv_call_is_committed(t.call));
    srv_error_replyf(t.call, 500, "engine_error", NULL, "No.");
    ck_assert(hear(fd, "0\r\n\r\n"));
    ck_assert_ptr_nonnull(strstr(heard, "engine_error"));
    close(fd);
    stop();
}
END_TEST

/* ---- clients that go away or do not read ----------------------------------------------------- */

START_TEST(hang_up_cancels_what_runs)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "later");
    turn_until(&t.started, 1);
    close(fd);
    turn_until(&t.canceled, 1);
    ck_assert_int_eq(t.why, SRV_CANCEL_HANGUP);
    turn_until(&t.done, 1);
    ck_assert_uint_eq(srv_http_in_flight(t.http), 0);
    stop();
}
END_TEST

START_TEST(half_close_is_a_hang_up)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "stream");
    turn_until(&t.started, 1);
    shutdown(fd, SHUT_WR);
    turn_until(&t.canceled, 1);
    turn_until(&t.done, 1);
    ck_assert(is_closed(fd));
    close(fd);
    stop();
}
END_TEST

START_TEST(half_close_is_tolerated_on_request)
{
    serve((const char *const[]){"http.half_close=tolerate"}, 1);
    int fd = dial();
    post(fd, "later");
    turn_until(&t.started, 1);
    shutdown(fd, SHUT_WR);
    turn_ms(50);
    ck_assert_uint_eq(t.canceled, 0);
    srv_reply(t.call, 200, "application/json", "{\"b\":2}\n", 8);
    ck_assert(hear(fd, "{\"b\":2}\n"));
    close(fd);
    stop();
}
END_TEST

START_TEST(hang_up_in_the_middle_of_a_stream_cancels)
{
    serve(NULL, 0);
    int fd = dial();
    post(fd, "stream");
    turn_until(&t.started, 1);
    ck_assert(srv_sse_data(t.call, "{}", 2));
    ck_assert(hear(fd, "data: {}"));
    close(fd);
    turn_until(&t.canceled, 1);
    turn_until(&t.done, 1);
    stop();
}
END_TEST

START_TEST(slow_reader_stops_the_drain_and_loses_nothing)
{
    serve((const char *const[]){"http.max_out_buffer=8192"}, 1);
    int fd = dial();
    t.wanted = 8000000;
    post(fd, "flood");
    turn_until(&t.started, 1);
    turn_ms(100);
    size_t left = t.wanted;
    ck_assert_uint_gt(left, 0);
    turn_ms(50);
    ck_assert_uint_eq(t.wanted, left); /* nobody reads: nothing more is made */
    ck_assert(hear(fd, "0\r\n\r\n"));
    size_t count = 0;
    for (const char *at = strstr(heard, "\r\n\r\n"); *at != '\0'; at++)
        count += *at == 'x';
    ck_assert_uint_eq(count, 8000000);
    close(fd);
    stop();
}
END_TEST

START_TEST(client_that_never_reads_is_cut_off)
{
    serve((const char *const[]){"http.max_out_buffer=8192", "http.write_stall_s=0.3"}, 2);
    int fd = dial();
    t.wanted = 100000000;
    post(fd, "flood");
    turn_until(&t.canceled, 1);
    ck_assert_int_eq(t.why, SRV_CANCEL_STALL);
    turn_until(&t.done, 1);
    close(fd);
    stop();
}
END_TEST

/* ---- limits ---------------------------------------------------------------------------------- */

START_TEST(declared_length_over_the_limit_is_refused_unread)
{
    serve((const char *const[]){"http.max_body_bytes=2000"}, 1);
    int fd = dial();
    say(fd, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2001\r\n\r\n");
    ck_assert(hear(fd, "request_too_large"));
    ck_assert_ptr_nonnull(strstr(heard, "HTTP/1.1 413 "));
    ck_assert_ptr_nonnull(strcasestr(heard, "Connection: close\r\n"));
    ck_assert(is_closed(fd));
    ck_assert_uint_eq(t.prepared, 0);
    close(fd);
    stop();
}
END_TEST

START_TEST(chunks_without_end_are_refused_on_the_way)
{
    serve((const char *const[]){"http.max_body_bytes=2000"}, 1);
    int fd = dial();
    say(fd, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    char chunk[1024 + 16];
    int head = snprintf(chunk, sizeof chunk, "400\r\n");
    memset(chunk + head, 'a', 1024);
    memcpy(chunk + head + 1024, "\r\n", 3);
    for (int i = 0; i < 200; i++) {
        if (send(fd, chunk, strlen(chunk), MSG_NOSIGNAL | MSG_DONTWAIT) == -1)
            break;
        turn();
    }
    ck_assert(hear(fd, "request_too_large"));
    ck_assert(is_closed(fd));
    turn_ms(20);
    ck_assert_uint_eq(srv_http_in_flight(t.http), 0);
    close(fd);
    stop();
}
END_TEST

START_TEST(all_bodies_together_have_a_limit)
{
    serve((const char *const[]){"http.body_memory_bytes=65536"}, 1);
    int fds[2] = {dial(), dial()};
    char filler[60001];
    memset(filler, 'a', 60000);
    filler[60000] = '\0';
    for (int i = 0; i < 2; i++) {
        say(fds[i], "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                    "Content-Length: 60001\r\n\r\n");
        say(fds[i], filler);
        turn_ms(20);
    }
    say(fds[1], "b");
    ck_assert(hear(fds[1], "server_overloaded"));
    close(fds[0]);
    turn_ms(20);
    ck_assert_uint_eq(t.gate.body_bytes, 0);
    close(fds[1]);
    stop();
}
END_TEST

START_TEST(unfinished_head_times_out)
{
    serve((const char *const[]){"http.header_timeout_s=0.2"}, 1);
    int fd = dial();
    say(fd, "GET /livez HTTP/1.1\r\nHo");
    ck_assert(hear(fd, "request_timeout"));
    ck_assert_ptr_nonnull(strstr(heard, "HTTP/1.1 408 "));
    ck_assert_ptr_nonnull(strstr(heard, "x-request-id: req_"));
    ck_assert(is_closed(fd));
    close(fd);
    stop();
}
END_TEST

START_TEST(stopped_body_times_out)
{
    serve((const char *const[]){"http.body_timeout_s=0.2"}, 1);
    int fd = dial();
    say(fd, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc");
    ck_assert(hear(fd, "request_timeout"));
    ck_assert(is_closed(fd));
    turn_ms(20);
    ck_assert_uint_eq(srv_http_in_flight(t.http), 0);
    close(fd);
    stop();
}
END_TEST

START_TEST(idle_connection_is_closed_without_a_word)
{
    serve((const char *const[]){"http.idle_timeout_s=0.2"}, 1);
    int fd = dial();
    say(fd, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    ck_assert(hear(fd, "ok"));
    ck_assert(is_closed(fd));
    close(fd);
    stop();
}
END_TEST

START_TEST(long_path_and_doubled_length_are_refused)
{
    serve((const char *const[]){"http.max_uri_bytes=300"}, 1);
    char text[1024];
    memset(text, 'a', sizeof text);
    memcpy(text, "GET /", 5);
    (void)snprintf(text + 400, sizeof text - 400, " HTTP/1.1\r\nHost: x\r\n\r\n");
    int fd = dial();
    say(fd, text);
    ck_assert(hear(fd, "uri_too_long"));
    close(fd);
    fd = dial();
    say(fd, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            "Content-Length: 3\r\n\r\nabc");
    ck_assert(hear(fd, "HTTP/1.1 400 "));
    ck_assert(is_closed(fd));
    close(fd);
    stop();
}
END_TEST

/* ---- the end --------------------------------------------------------------------------------- */

START_TEST(draining_refuses_new_work_and_finishes_old)
{
    serve(NULL, 0);
    int old = dial(), fresh = dial();
    post(old, "later");
    turn_until(&t.started, 1);
    srv_health_move(&t.health, SRV_DRAINING, NULL);
    srv_http_drain(t.http);
    post(fresh, "reply");
    ck_assert(hear(fresh, "\"code\":\"draining\""));
    ck_assert_ptr_nonnull(strcasestr(heard, "Connection: close\r\n"));
    ck_assert_uint_eq(srv_http_in_flight(t.http), 1);
    srv_reply(t.call, 200, "application/json", "{\"c\":3}\n", 8);
    ck_assert(hear(old, "{\"c\":3}\n"));
    turn_ms(10);
    ck_assert_uint_eq(srv_http_in_flight(t.http), 0);
    close(old);
    close(fresh);
    stop();
}
END_TEST

START_TEST(second_signal_sends_last_words)
{
    serve(NULL, 0);
    int plain = dial(), stream = dial();
    post(plain, "later");
    turn_until(&t.started, 1);
    post(stream, "stream");
    turn_until(&t.started, 2);
    ck_assert(srv_sse_data(t.call, "{}", 2));
    ck_assert(hear(stream, "data: {}"));
    srv_http_cancel(t.http);
    ck_assert_uint_eq(t.canceled, 2);
    ck_assert(hear(stream, "\"code\":\"draining\"}}\n\ndata: [DONE]"
                           "\n\n") ||
              strstr(heard, "draining") != NULL);
    ck_assert(hear(plain, "\"code\":\"draining\""));
    ck_assert_ptr_nonnull(strstr(heard, "HTTP/1.1 503 "));
    turn_until(&t.done, 2);
    close(plain);
    close(stream);
    stop();
}
END_TEST

START_TEST(stop_with_calls_in_every_state_leaves_nothing)
{
    serve(NULL, 0);
    int fds[4] = {dial(), dial(), dial(), dial()};
    post(fds[0], "later");
    post(fds[1], "stream");
    turn_until(&t.started, 2);
    say(fds[2], "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab");
    say(fds[3], "GET /li");
    turn_ms(20);
    post(dial(), "reply"); /* perhaps in the pool when the end comes */
    turn();
    stop();
    ck_assert_uint_ge(t.done, 2);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
}
END_TEST

START_TEST(a_thousand_clients_that_leave_leave_nothing)
{
    serve(NULL, 0);
    for (int i = 0; i < 1000; i++) {
        int fd = dial();
        if (i % 3 == 0)
            post(fd, i % 2 == 0 ? "later" : "stream");
        else if (i % 3 == 1)
            say(fd, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na");
        if (i % 5 == 0)
            turn();
        close(fd);
    }
    uint64_t end = fm_clock_ns() + 10 * FM_NS_PER_S;
    while ((t.access.connections > 0 || srv_http_in_flight(t.http) > 0) && fm_clock_ns() < end)
        turn();
    ck_assert_uint_eq(t.access.connections, 0);
    ck_assert_uint_eq(srv_http_in_flight(t.http), 0);
    ck_assert_uint_eq(t.started, t.canceled);
    ck_assert_uint_eq(t.gate.body_bytes, 0);
    stop();
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon http");
    TCase *answers = tcase_create("answers");
    tcase_set_timeout(answers, 30);
    tcase_add_test(answers, get_is_answered_and_the_connection_stays);
    tcase_add_test(answers, pipelined_requests_are_answered_in_order);
    tcase_add_test(answers, head_has_the_length_and_no_body);
    tcase_add_test(answers, prepare_may_answer_and_done_follows);
    tcase_add_test(answers, chunked_body_arrives_whole);
    tcase_add_test(answers, continue_is_said_before_the_body);
    tcase_add_test(answers, late_answer_resumes_the_connection);
    tcase_add_test(answers, stream_goes_out_in_chunks_with_its_head);
    tcase_add_test(answers, error_before_the_first_byte_has_its_status);
    tcase_add_test(answers, error_after_the_first_byte_is_a_frame);
    tcase_add_test(answers, failed_stream_has_no_proper_end);
    tcase_add_test(answers, silent_stream_is_kept_alive_and_committed);
    tcase_add_test(answers, unstreamed_answer_may_be_padded_with_newlines);
    suite_add_tcase(suite, answers);
    TCase *clients = tcase_create("clients");
    tcase_set_timeout(clients, 30);
    tcase_add_test(clients, hang_up_cancels_what_runs);
    tcase_add_test(clients, half_close_is_a_hang_up);
    tcase_add_test(clients, half_close_is_tolerated_on_request);
    tcase_add_test(clients, hang_up_in_the_middle_of_a_stream_cancels);
    tcase_add_test(clients, slow_reader_stops_the_drain_and_loses_nothing);
    tcase_add_test(clients, client_that_never_reads_is_cut_off);
    suite_add_tcase(suite, clients);
    TCase *limits = tcase_create("limits");
    tcase_set_timeout(limits, 30);
    tcase_add_test(limits, declared_length_over_the_limit_is_refused_unread);
    tcase_add_test(limits, chunks_without_end_are_refused_on_the_way);
    tcase_add_test(limits, all_bodies_together_have_a_limit);
    tcase_add_test(limits, unfinished_head_times_out);
    tcase_add_test(limits, stopped_body_times_out);
    tcase_add_test(limits, idle_connection_is_closed_without_a_word);
    tcase_add_test(limits, long_path_and_doubled_length_are_refused);
    suite_add_tcase(suite, limits);
    TCase *ends = tcase_create("ends");
    tcase_set_timeout(ends, 60);
    tcase_add_test(ends, draining_refuses_new_work_and_finishes_old);
    tcase_add_test(ends, second_signal_sends_last_words);
    tcase_add_test(ends, stop_with_calls_in_every_state_leaves_nothing);
    tcase_add_test(ends, a_thousand_clients_that_leave_leave_nothing);
    suite_add_tcase(suite, ends);
    return suite;
}
