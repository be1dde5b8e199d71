/* http.h - the HTTP server: requests in, answers out, on libmicrohttpd.
 *
 * The library runs without threads of its own, from the main thread's loop; a connection whose
 * request is being worked on is suspended, so the library looks at it no more, and this file
 * watches its descriptor for a client that hangs up.  Main thread, all of it. */
#ifndef SRV_HTTP_H
#define SRV_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

struct srv_access;
struct srv_call;
struct srv_config;
struct srv_gate;
struct srv_http; /* opaque: http.c */
struct srv_loop;
struct srv_prep;

struct srv_http_spec {
    struct srv_config *config; /* a reference is taken */
    struct srv_loop *loop;
    struct srv_prep *prep;
    struct srv_gate *gate;
    struct srv_access *access;
    int listen_fd; /* from srv_listen_open; the server's from success on */
};

enum fm_status srv_http_start(const struct srv_http_spec *spec, struct srv_http **ret_http,
                              struct fm_err *err) FM_MUST_CHECK;

/* From now on new calls live under these settings. */
void srv_http_reload(struct srv_http *http, struct srv_config *config);

/* Do what can be done without waiting: call before every wait of the loop.  Returns how long that
 * wait may last, for srv_loop_wait. */
uint32_t srv_http_turn(struct srv_http *http);

/* Answers from now on say Connection: close. */
void srv_http_drain(struct srv_http *http);
/* Calls that have not ended. */
uint32_t srv_http_in_flight(const struct srv_http *http);
/* Give up all calls: each is told (SRV_CANCEL_SHUTDOWN) and, if that did not answer it, ended. */
void srv_http_cancel(struct srv_http *http);

/* Close all connections, free.  The preparation pool is still there, the loop too.  NULL is
 * allowed. */
void srv_http_stop(struct srv_http *http);

/* The version of the library, for --capabilities. */
const char *srv_http_library(void);

/* For call.c: something about the call has changed. */
void srv_http_attend(struct srv_http *http, struct srv_call *call);

#endif
