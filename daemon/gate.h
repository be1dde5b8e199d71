/* gate.h - what is checked before a request's body is looked at, in the order that the API fixes:
 * route, method, cross-origin, key, size and media type; then, with the body complete, readiness.
 *
 * Knows no library: http.c hands it the head through `header`.  Main thread. */
#ifndef SRV_GATE_H
#define SRV_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/auth.h"
#include "daemon/health.h"
#include "daemon/route.h"

struct srv_call;

enum { SRV_REJECTIONS_MAX = 32 };

struct srv_gate {
    const struct srv_routes *routes;
    const struct srv_health *health;
    struct srv_keys *keys; /* NULL: nobody is asked */
    struct srv_auth_failures failures;
    uint64_t body_bytes; /* reserved by all calls, against http.body_memory_bytes */
};

struct srv_head {
    const char *method, *path; /* path: decoded once */
    size_t uri_bytes, head_bytes;
    bool has_body;   /* a length above 0, or chunks */
    bool has_length; /* content_length is known */
    uint64_t content_length;
    bool is_ambiguous;   /* a framing header came more than once */
    const void *address; /* of the client, without its port */
    size_t address_bytes;
    const char *(*header)(void *context, const char *name); /* NULL: it did not come */
    void *context;
};

/* Fill in the call from the head; on a failed check the call is answered. */
void srv_gate_enter(struct srv_gate *gate, const struct srv_head *head, struct srv_call *call);

/* The body is complete: is there somebody to do the work?  Answers the call if not. */
void srv_gate_ready(const struct srv_gate *gate, struct srv_call *call);

/* Make room for `bytes` more of the call's body.  false: all bodies together have too much; the
 * call is answered. */
bool srv_gate_reserve(struct srv_gate *gate, struct srv_call *call, size_t bytes);
void srv_gate_release(struct srv_gate *gate, struct srv_call *call);

#endif
