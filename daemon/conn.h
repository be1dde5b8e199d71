/* conn.h - one TCP connection and the server it belongs to: shared by http.c, which answers requests,
 * and conn.c, which keeps connections.  These two are all that knows libmicrohttpd.
 *
 *           request line     head        body complete          answer sent
 *   FRESH -----------> HEAD -----> BODY --------------> BUSY ----------------> IDLE
 *                       ^                                                      |
 *                       '------------------------------------------------------'
 *   FRESH, HEAD: http.header_timeout_s.  BODY: http.body_timeout_s without progress.  IDLE:
 *   http.idle_timeout_s.  BUSY: suspended while there is nothing to send; otherwise
 *   http.write_stall_s without progress.
 *
 * Main thread. */
#ifndef SRV_CONN_H
#define SRV_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/call.h"
#include "daemon/loop.h"

struct MHD_Connection;
struct MHD_Daemon;
struct srv_access;
struct srv_gate;
struct srv_http;
struct srv_prep;

enum srv_conn_stage { SRV_CONN_FRESH, SRV_CONN_IDLE, SRV_CONN_HEAD, SRV_CONN_BODY, SRV_CONN_BUSY };

struct srv_conn {
    struct srv_http *http;
    struct MHD_Connection *mhd;
    int fd;
    enum srv_conn_stage stage;
    uint64_t mark_ns; /* the stage began, or made progress */
    struct srv_source hangup;
    struct srv_call *call;
    size_t uri_bytes;
    bool is_suspended;
    bool is_half;         /* the client sends no more */
    bool is_dead;         /* shut down by us: nothing more is answered */
    int unsent;           /* bytes in the socket, as seen at mark_ns */
    uint64_t sent_before; /* of the call, as seen at mark_ns */
    unsigned char address[16];
    size_t address_bytes;
    struct srv_conn *next, *previous;
};

struct srv_http {
    struct srv_config *config;
    struct srv_loop *loop;
    struct srv_prep *prep;
    struct srv_gate *gate;
    struct srv_access *access;
    struct MHD_Daemon *daemon;
    struct srv_source daemon_source, prep_source;
    struct srv_conn *conns;
    struct srv_call *calls;
    struct srv_call *attended_first, *attended_last;
    uint32_t call_count;
    uint64_t tick_ns;
    bool needs_run; /* the library has something to do */
    bool is_draining, is_canceling;
};

/* A new connection, in the server's list; NULL when memory is short.  Closed by srv_conn_close, when
 * its call has ended and before its descriptor is closed. */
struct srv_conn *srv_conn_open(struct srv_http *http, struct MHD_Connection *mhd);
void srv_conn_close(struct srv_http *http, struct srv_conn *conn);

/* Suspend: only from a callback of the library.  Resume: does nothing when it is not suspended. */
void srv_conn_suspend(struct srv_conn *conn);
void srv_conn_resume(struct srv_conn *conn);

/* No more bytes in either direction; the library finds out and ends the connection. */
void srv_conn_kill(struct srv_conn *conn);

/* Write the call's answer past the library, then kill the connection.  Only where the library has
 * sent nothing of an answer to this request.  Best effort: the socket takes it all, or the client
 * sees no more than an end. */
void srv_conn_refuse(struct srv_conn *conn, struct srv_call *call);

/* Its call is being worked on / does a client that sends no more count as one that waits? */
bool srv_conn_is_working(const struct srv_conn *conn);
bool srv_conn_is_tolerant(const struct srv_conn *conn);

/* The client has gone: cancel the call, kill the connection. */
void srv_conn_give_up(struct srv_conn *conn);

/* Cancel a call and count it, unless it is answered or was told. */
void srv_conn_call_give_up(struct srv_http *http, struct srv_call *call, enum srv_cancel why);

/* Timeouts, keep-alives, ends that the library did not see: every tick of the loop. */
void srv_conn_tick(struct srv_conn *conn, uint64_t now_ns);

#endif
