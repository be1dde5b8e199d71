/* access.h - the record of what was asked and answered: one log line and some counts per request.
 *
 * Main thread. */
#ifndef SRV_ACCESS_H
#define SRV_ACCESS_H

#include <stdint.h>

#include "daemon/call.h"
#include "daemon/metrics.h"
#include "daemon/route.h"

enum { SRV_ACCESS_METHODS = 5, SRV_ACCESS_CODES = 22 };

struct srv_access {
    const struct srv_routes *routes;
    /* The last route counts what fits none; the last code what is not in the list. */
    uint64_t requests[SRV_ROUTE_COUNT + 1][SRV_ACCESS_METHODS][SRV_ACCESS_CODES];
    struct srv_histogram durations[SRV_ROUTE_COUNT + 1];
    uint64_t canceled[SRV_CANCEL_SHUTDOWN + 1];
    uint64_t connections;
};

void srv_access_init(struct srv_access *access, const struct srv_routes *routes);

/* The call has ended; a client that went away before the end counts as 499. */
void srv_access_count(struct srv_access *access, const struct srv_call *call, bool is_complete);
void srv_access_canceled(struct srv_access *access, enum srv_cancel why);

/* http_requests_total, http_request_duration_seconds, http_connections, requests_cancelled_total. */
void srv_access_collect(void *access, struct fm_buf *out);

#endif
