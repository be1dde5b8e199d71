/* call.h - one HTTP request as its handler sees it, and what a handler is.
 *
 * http.c makes a call when the request's head was read, and walks it through its handler:
 *
 *     head, body --> prepare --> start --> drain ... drain --> done
 *     main           prep thread main      main               main
 *                                 '------- cancel ------'
 *
 *   prepare  on a preparation thread: parse, check, render, tokenize.  Leaves the handler's own
 *            object in call->request, or answers with srv_reply or srv_error_reply.
 *   start    on the main thread, unless prepare answered.  Never waits.  Answers, or opens a
 *            stream, or leaves the call open (an answer in one piece that is not ready yet).
 *   drain    on the main thread, whenever srv_call_wake was called for the call and whenever its
 *            output has room again.  Also once after start left the call open.
 *   cancel   on the main thread, at most once, only between start and the end of the answer.  For
 *            SRV_CANCEL_SHUTDOWN and _TIMEOUT the client still listens: answer with an error (before the
 *            commit point), or put an error frame and end the stream.  For the others nothing that
 *            is written will be read.
 *   done     on the main thread, exactly once for each call of a handler: free call->request,
 *            which is NULL when prepare did not come so far.  Nothing may keep the call after it.
 *
 * Every function of a handler may be NULL.  Without prepare, start runs as soon as the body is
 * complete.
 *
 * The commit point (the 200 head goes out) of a stream is its first srv_stream_put, or
 * http.keepalive_interval_s after srv_stream_open, whichever is earlier.  Before it
 * srv_error_reply gives a real status, also on an open stream; after it, only frames can tell. */
#ifndef SRV_CALL_H
#define SRV_CALL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/buf.h"
#include "backends/base/mailbox.h"

struct srv_config;
struct srv_key;
struct srv_route;

enum srv_method {
    SRV_GET = 1, /* HEAD too: the same answer, its body is not sent */
    SRV_POST = 2,
    SRV_DELETE = 4,
    SRV_OPTIONS = 8,
    SRV_OTHER = 16, /* known to no route */
};

enum srv_cancel {
    SRV_CANCEL_HANGUP,   /* the client has gone */
    SRV_CANCEL_STALL,    /* the client does not read */
    SRV_CANCEL_SHUTDOWN, /* the drain limit has passed, or the second SIGTERM */
};

struct srv_call;

struct srv_handler {
    const char *name; /* for logs */
    void (*prepare)(struct srv_call *call);
    void (*start)(struct srv_call *call);
    void (*drain)(struct srv_call *call);
    void (*cancel)(struct srv_call *call, enum srv_cancel why);
    void (*done)(struct srv_call *call);
    /* Optional, main thread: put a keep-alive of its own on the open stream (srv_stream_put)
     * instead of the frame given to srv_stream_open.  Called when nothing was put for the
     * interval. */
    void (*keepalive)(struct srv_call *call);
};

enum {
    SRV_REQUEST_ID_BYTES = 129,
    SRV_CALL_HEADERS_MAX = 24,
    SRV_STREAM_SLACK_BYTES = 1048576, /* of one put, beyond the room that is left */
};

struct srv_call_header {
    char *name, *value;
};

enum srv_call_phase {
    SRV_CALL_HEAD,      /* the body is being read */
    SRV_CALL_PREPARE,   /* with the preparation pool */
    SRV_CALL_OPEN,      /* started, no answer yet */
    SRV_CALL_STREAM,    /* a stream is open, nothing is sent */
    SRV_CALL_COMMITTED, /* the head is out, more will come */
    SRV_CALL_ANSWERED,  /* the answer is complete; what is left to send is known */
};

struct srv_http;

/* A handler reads the first part and owns `request`.  The second part is http.c's and call.c's. */
struct srv_call {
    const struct srv_route *route;   /* NULL: none fits (never seen by a handler) */
    const struct srv_config *config; /* holds for this call, whatever is reloaded */
    void *context;                   /* what the handler was bound with (srv_routes_bind) */
    enum srv_method method;
    bool is_anthropic;     /* errors and models in that surface's shape */
    char *path;            /* decoded once, never NULL */
    const char *parameter; /* behind the route's prefix: an id, may hold '/'; "" without one */
    char id[SRV_REQUEST_ID_BYTES]; /* x-request-id: sound for a header and a log line */
    uint64_t number;               /* this process's count of calls: "req=" in log lines */
    const struct srv_key *key;     /* NULL: no keys are configured */
    struct fm_buf body;            /* complete from prepare on */
    uint64_t received_ns;          /* fm_clock: the head was read */
    void *request;                 /* the handler's */
    _Atomic bool is_canceled;      /* prepare may look: the answer is no longer wanted */

    struct srv_http *http; /* NULL in tests of handlers */
    struct srv_keys *keys; /* what `key` lies in */
    void *conn;            /* http.c's; NULL when the connection has ended */
    enum srv_call_phase phase;
    int status; /* of the answer */
    const char *content_type;
    struct srv_call_header headers[SRV_CALL_HEADERS_MAX];
    uint32_t header_count;
    struct fm_buf out; /* the answer's body, or the part of a stream that was not sent */
    size_t out_sent;   /* bytes at the front of out that were sent */
    uint64_t sent_bytes;
    const char *keepalive_frame;
    uint64_t put_ns;        /* of the last put, or of the opening */
    uint64_t hold_until_ns; /* the answer waits until then */
    bool closes;            /* the connection ends with this answer */
    bool is_padded;         /* unstreamed, but the head is out: the answer comes behind newlines */
    bool is_failed;         /* the answer ends without its proper end */
    bool is_discarded;      /* the body is read and dropped */
    bool is_head;           /* HEAD: the answer's body is not sent */
    bool is_entered;        /* a function of the handler has run: done is owed */
    bool is_queued;         /* the answer was handed to the library, or written past it */
    bool is_refused;        /* written past it */
    bool is_streamed;       /* the answer's length was not known when its head went out */
    bool is_in_pool;        /* handed to the preparation pool and not taken back: main thread */
    bool is_started, is_cancel_told, is_woken, is_attended;
    size_t body_reserved; /* of http.body_memory_bytes */
    uint64_t body_seen;
    uint32_t worker;                /* preparation thread that has it */
    struct fm_link link;            /* in its inbox, then in the outbox */
    struct srv_call *next_attended; /* http.c's list of calls that changed */
    struct srv_call *next, *previous;
};

/* A call with an id and nothing else, in phase HEAD; NULL when memory is short.  config is taken. */
struct srv_call *srv_call_new(struct srv_config *config);
/* Wipes and frees.  The handler's done is the caller's business.  NULL is allowed. */
void srv_call_free(struct srv_call *call);

/* Take the client's x-request-id if it is sound: 1 to 128 of [A-Za-z0-9._:-]. */
void srv_call_take_id(struct srv_call *call, const char *text);

/* Bytes of the answer that wait to be sent, and that they were sent. */
size_t srv_call_pending(const struct srv_call *call, const char **ret_data);
void srv_call_sent(struct srv_call *call, size_t bytes);

/* Send a keep-alive, or open with one, if nothing was put for the interval (main, each tick). */
void srv_call_keep_alive(struct srv_call *call, uint64_t now_ns);

/* Tell the handler once, if it was started and has not answered. */
void srv_call_cancel(struct srv_call *call, enum srv_cancel why);

/* ---- an answer in one piece ------------------------------------------------------------------ */

/* Answer with a copy of the body, or with *body itself, which is empty afterwards.  content_type is
 * static.  A call that is answered or committed already is an error of ours (asserted).  On memory
 * shortage the answer becomes a 500.  Thread: prepare's, or main. */
void srv_reply(struct srv_call *call, int status, const char *content_type, const void *body,
               size_t bytes);
void srv_reply_buf(struct srv_call *call, int status, const char *content_type,
                   struct fm_buf *body);

/* The same as application/json. */
void srv_reply_json(struct srv_call *call, int status, struct fm_buf *body);

/* One more header of the answer; before the answer or the commit point.  Control characters in the
 * value become blanks; a value of more than 1,024 bytes is cut; beyond SRV_CALL_HEADERS_MAX it is
 * left out.  A name that is there already gets the new value. */
void srv_call_header(struct srv_call *call, const char *name, const char *value);

/* true: the status line is out, or the answer is complete: srv_reply is no longer possible. */
bool srv_call_is_committed(const struct srv_call *call);
bool srv_call_is_answered(const struct srv_call *call);

/* ---- an answer piece by piece: main thread ---------------------------------------------------- */

/* From start on.  The answer will be 200 text/event-stream; keepalive_frame (static, NULL: none) is
 * sent whenever nothing else was for http.keepalive_interval_s. */
void srv_stream_open(struct srv_call *call, const char *keepalive_frame);

/* Bytes until the output counts as full (http.max_out_buffer).  A drain that finds 0 stops reading
 * its source and returns: drain is called again when there is room. */
size_t srv_stream_room(const struct srv_call *call);

/* Append; the first one commits.  May exceed the room by SRV_STREAM_SLACK_BYTES, so that whoever
 * saw room > 0 can finish a frame.  false (beyond that, or no memory): the stream is failed, cancel
 * will come; the caller needs to do nothing. */
bool srv_stream_put(struct srv_call *call, const void *data, size_t bytes);

/* The stream is complete: what was put is sent, then the proper end (the last chunk). */
void srv_stream_end(struct srv_call *call);

/* The stream cannot go on: what was put is sent, then the connection is closed without its end. */
void srv_stream_fail(struct srv_call *call);

/* ---- waking: main thread ------------------------------------------------------------------------ */

/* There is news for the call: drain runs before the loop waits again. */
void srv_call_wake(struct srv_call *call);

#endif
