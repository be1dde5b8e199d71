/* conn.c - the life of a connection; see conn.h. */
#include "daemon/conn.h"

#include <linux/sockios.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/mem.h"
#include "daemon/access.h"
#include "daemon/api_error.h"
#include "daemon/call.h"
#include "daemon/config.h"
#include "daemon/http.h"

enum { HEAD_BYTES_MAX = 2048 }; /* of an answer that srv_conn_refuse writes */

static uint64_t seconds_ns(double seconds)
{
    return (uint64_t)(seconds * (double)FM_NS_PER_S);
}

/* ---- connections ----------------------------------------------------------------------------- */

void srv_conn_resume(struct srv_conn *conn)
{
    if (!conn->is_suspended)
        return;
    conn->is_suspended = false;
    conn->mark_ns = fm_clock_ns();
    MHD_resume_connection(conn->mhd);
    conn->http->needs_run = true;
}

void srv_conn_suspend(struct srv_conn *conn)
{
    FM_ASSERT(!conn->is_suspended);
    MHD_suspend_connection(conn->mhd);
    conn->is_suspended = true;
}

void srv_conn_kill(struct srv_conn *conn)
{
    conn->is_dead = true;
    (void)shutdown(conn->fd, SHUT_RDWR);
    srv_conn_resume(conn);
    conn->http->needs_run = true;
}

void srv_conn_refuse(struct srv_conn *conn, struct srv_call *call)
{
    call->is_queued = true;
    call->is_refused = true;
    char head[HEAD_BYTES_MAX];
    const char *body = NULL;
    size_t bytes = srv_call_pending(call, &body);
    int length =
        snprintf(head, sizeof head,
                 "HTTP/1.1 %d %s\r\nServer: fathom\r\nx-request-id: %s\r\n"
                 "Content-Type: application/json\r\nContent-Length: %zu\r\n"
                 "Connection: close\r\n\r\n",
                 call->status, MHD_get_reason_phrase_for((unsigned)call->status), call->id, bytes);
    if (length > 0 && (size_t)length < sizeof head && !conn->is_dead) {
        struct iovec parts[2] = {{head, (size_t)length}, {(char *)(uintptr_t)body, bytes}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = bytes == 0 ? 1 : 2};
        ssize_t sent = sendmsg(conn->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)sent;
    }
    srv_conn_kill(conn);
}

void srv_conn_call_give_up(struct srv_http *http, struct srv_call *call, enum srv_cancel why)
{
    if ((call->is_in_pool || call->phase != SRV_CALL_ANSWERED) && !call->is_cancel_told)
        srv_access_canceled(http->access, why);
    srv_call_cancel(call, why);
}

static void conn_hung_up(void *context, uint32_t events);

/* From the first byte to the last.  Once it was told that the client sends no more, only a broken
 * connection is still of interest. */
static void conn_watch(struct srv_conn *conn)
{
    uint32_t events = EPOLLONESHOT | (conn->is_half ? 0 : (uint32_t)EPOLLRDHUP);
    conn->hangup = (struct srv_source){.ready = conn_hung_up, .context = conn};
    struct fm_err err;
    if (srv_loop_add(conn->http->loop, &conn->hangup, conn->fd, events, &err) != FM_OK)
        fm_log(FM_LOG_WARNING, "watch", "continuing with a hang-up unseen: %s", err.text);
}

bool srv_conn_is_working(const struct srv_conn *conn)
{
    return conn->call != NULL && conn->stage == SRV_CONN_BUSY &&
           (conn->call->is_in_pool || conn->call->phase != SRV_CALL_ANSWERED);
}

bool srv_conn_is_tolerant(const struct srv_conn *conn)
{
    return conn->http->config->http_half_close == SRV_HALF_CLOSE_TOLERATE;
}

void srv_conn_give_up(struct srv_conn *conn)
{
    srv_conn_call_give_up(conn->http, conn->call, SRV_CANCEL_HANGUP);
    srv_conn_kill(conn);
}

/* The client sends no more (RDHUP), or is gone altogether. */
static void conn_hung_up(void *context, uint32_t events)
{
    struct srv_conn *conn = context;
    bool is_gone = (events & (EPOLLHUP | EPOLLERR)) != 0;
    srv_loop_remove(conn->http->loop, &conn->hangup);
    conn->is_half = true;
    if (srv_conn_is_working(conn) && (is_gone || !srv_conn_is_tolerant(conn)))
        srv_conn_give_up(conn);
    else if (is_gone)
        srv_conn_kill(conn);
    else
        conn_watch(conn); /* an answer may still be read; conn_tick looks for what is cut off */
}

/* ---- opening and closing --------------------------------------------------------------------- */

struct srv_conn *srv_conn_open(struct srv_http *http, struct MHD_Connection *mhd)
{
    struct srv_conn *conn = fm_alloc(sizeof *conn);
    if (conn == NULL)
        return NULL;
    conn->http = http;
    conn->mhd = mhd;
    conn->stage = SRV_CONN_FRESH;
    conn->mark_ns = fm_clock_ns();
    conn->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info == NULL ? NULL : info->client_addr;
    if (address != NULL && address->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, address, sizeof v4);
        conn->address_bytes = sizeof v4.sin_addr;
        memcpy(conn->address, &v4.sin_addr, conn->address_bytes);
    } else if (address != NULL && address->sa_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, address, sizeof v6);
        conn->address_bytes = sizeof v6.sin6_addr;
        memcpy(conn->address, &v6.sin6_addr, conn->address_bytes);
    }
    conn->next = http->conns;
    if (http->conns != NULL)
        http->conns->previous = conn;
    http->conns = conn;
    http->access->connections++;
    conn_watch(conn);
    return conn;
}

void srv_conn_close(struct srv_http *http, struct srv_conn *conn)
{
    FM_ASSERT(conn->call == NULL);
    srv_loop_remove(http->loop, &conn->hangup);
    if (conn->previous != NULL)
        conn->previous->next = conn->next;
    else
        http->conns = conn->next;
    if (conn->next != NULL)
        conn->next->previous = conn->previous;
    http->access->connections--;
    fm_free(conn);
}

/* ---- timeouts -------------------------------------------------------------------------------- */

static void conn_time_out(struct srv_conn *conn, const char *what)
{
    struct srv_call *call = conn->call;
    struct srv_call *own = call == NULL ? srv_call_new(conn->http->config) : NULL;
    struct srv_call *said = call == NULL ? own : call;
    if (said == NULL) {
        srv_conn_kill(conn);
        return;
    }
    if (said->phase == SRV_CALL_HEAD) {
        said->closes = true;
        srv_error_replyf(said, 408, "request_timeout", NULL, "The request's %s took too long.",
                         what);
    }
    srv_conn_refuse(conn, said);
    srv_call_free(own);
}

static void conn_check_stall(struct srv_conn *conn, uint64_t now)
{
    struct srv_call *call = conn->call;
    int unsent = 0;
    (void)ioctl(conn->fd, SIOCOUTQ, &unsent);
    if (unsent != conn->unsent || call->sent_bytes != conn->sent_before) {
        conn->unsent = unsent;
        conn->sent_before = call->sent_bytes;
        conn->mark_ns = now;
    } else if (now - conn->mark_ns > seconds_ns(call->config->http_write_stall_s)) {
        srv_conn_call_give_up(conn->http, call, SRV_CANCEL_STALL);
        srv_conn_kill(conn);
    }
}

static bool has_unread(const struct srv_conn *conn)
{
    int bytes = 0;
    return ioctl(conn->fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

void srv_conn_tick(struct srv_conn *conn, uint64_t now)
{
    const struct srv_config *config = conn->http->config;
    uint64_t age = now - conn->mark_ns;
    if (conn->is_dead)
        return;
    if (conn->is_half && conn->stage != SRV_CONN_BUSY && !has_unread(conn)) {
        srv_conn_kill(conn); /* a request that will never be complete */
        return;
    }
    switch (conn->stage) {
    case SRV_CONN_FRESH:
    case SRV_CONN_HEAD:
        if (age > seconds_ns(config->http_header_timeout_s))
            conn_time_out(conn, "head");
        return;
    case SRV_CONN_IDLE:
        if (age > seconds_ns(config->http_idle_timeout_s) || conn->http->is_draining)
            srv_conn_kill(conn);
        return;
    case SRV_CONN_BODY:
        if (age > seconds_ns(config->http_body_timeout_s))
            conn_time_out(conn, "body");
        return;
    case SRV_CONN_BUSY:
        if (conn->call == NULL)
            return;
        if (!conn->call->is_in_pool)
            srv_call_keep_alive(conn->call, now);
        if (!conn->is_suspended)
            conn_check_stall(conn, now);
        else if (!conn->call->is_in_pool && conn->call->phase == SRV_CALL_ANSWERED)
            srv_http_attend(conn->http, conn->call); /* its hold may be over */
        return;
    }
    FM_UNREACHABLE();
}
