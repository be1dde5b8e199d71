/* access.c - the record of requests; see access.h. */
#include "daemon/access.h"

#include <stdio.h>

#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "daemon/auth.h"

static const int codes[SRV_ACCESS_CODES - 1] = {200, 202, 204, 400, 401, 403, 404,
                                                405, 408, 409, 413, 414, 415, 429,
                                                431, 499, 500, 501, 503, 504, 529};
static const char *const methods[SRV_ACCESS_METHODS] = {"GET", "POST", "DELETE", "OPTIONS",
                                                        "OTHER"};
static const double bounds[] = {.005, .01, .025, .05, .1, .25, .5,  1,
                                2.5,  5,   10,   30,  60, 300, 1800};

void srv_access_init(struct srv_access *access, const struct srv_routes *routes)
{
    *access = (struct srv_access){.routes = routes};
    for (uint32_t i = 0; i <= SRV_ROUTE_COUNT; i++) {
        access->durations[i].bounds = bounds;
        access->durations[i].bound_count = sizeof bounds / sizeof bounds[0];
    }
}

static uint32_t route_index(const struct srv_access *access, const struct srv_call *call)
{
    return call->route == NULL ? SRV_ROUTE_COUNT
                               : (uint32_t)(call->route - access->routes->entries);
}

static const char *route_name(const struct srv_access *access, uint32_t index)
{
    return index == SRV_ROUTE_COUNT ? "none" : access->routes->entries[index].name;
}

static uint32_t method_index(enum srv_method method)
{
    uint32_t index = 0;
    while (index + 1 < SRV_ACCESS_METHODS && (1u << index) != (uint32_t)method)
        index++;
    return index;
}

static uint32_t code_index(int status)
{
    uint32_t index = 0;
    while (index < SRV_ACCESS_CODES - 1 && codes[index] != status)
        index++;
    return index;
}

void srv_access_count(struct srv_access *access, const struct srv_call *call, bool is_complete)
{
    int status = is_complete ? call->status : 499;
    double seconds = (double)(fm_clock_ns() - call->received_ns) / (double)FM_NS_PER_S;
    uint32_t route = route_index(access, call), method = method_index(call->method);
    access->requests[route][method][code_index(status)]++;
    srv_histogram_add(&access->durations[route], seconds);
    bool is_quiet = call->route != NULL && (call->route->flags & SRV_ROUTE_QUIET) != 0;
    fm_log(is_quiet ? FM_LOG_DEBUG : FM_LOG_INFO, "request",
           "req=%llu id=%s method=%s route=%s status=%d ms=%.1f in=%llu out=%llu key=%s",
           (unsigned long long)call->number, call->id, call->is_head ? "HEAD" : methods[method],
           route_name(access, route), status, seconds * 1e3, (unsigned long long)call->body_seen,
           (unsigned long long)call->sent_bytes, call->key == NULL ? "-" : call->key->name);
}

void srv_access_canceled(struct srv_access *access, enum srv_cancel why)
{
    access->canceled[why]++;
}

void srv_access_collect(void *context, struct fm_buf *out)
{
    static const char *const reasons[] = {"disconnect", "stall", "shutdown"};
    const struct srv_access *access = context;
    char labels[128];
    srv_metric_head(out, "fathom_http_connections", "gauge", "Connections that are open.");
    srv_metric_value(out, "fathom_http_connections", NULL, (double)access->connections);
    srv_metric_head(out, "fathom_requests_cancelled_total", "counter",
                    "Requests that were given up, by reason.");
    for (uint32_t i = 0; i <= SRV_CANCEL_SHUTDOWN; i++) {
        (void)snprintf(labels, sizeof labels, "reason=\"%s\"", reasons[i]);
        srv_metric_value(out, "fathom_requests_cancelled_total", labels,
                         (double)access->canceled[i]);
    }
    srv_metric_head(out, "fathom_http_requests_total", "counter", "Requests that have ended.");
    for (uint32_t r = 0; r <= SRV_ROUTE_COUNT; r++) {
        for (uint32_t m = 0; m < SRV_ACCESS_METHODS; m++) {
            for (uint32_t c = 0; c < SRV_ACCESS_CODES; c++) {
                if (access->requests[r][m][c] == 0)
                    continue;
                char code[16] = "other";
                if (c < SRV_ACCESS_CODES - 1)
                    (void)snprintf(code, sizeof code, "%d", codes[c]);
                (void)snprintf(labels, sizeof labels, "route=\"%s\",method=\"%s\",code=\"%s\"",
                               route_name(access, r), methods[m], code);
                srv_metric_value(out, "fathom_http_requests_total", labels,
                                 (double)access->requests[r][m][c]);
            }
        }
    }
    srv_metric_head(out, "fathom_http_request_duration_seconds", "histogram",
                    "From the request's head to the end of its answer.");
    for (uint32_t r = 0; r <= SRV_ROUTE_COUNT; r++) {
        (void)snprintf(labels, sizeof labels, "route=\"%s\"", route_name(access, r));
        if (r == SRV_ROUTE_COUNT || access->routes->entries[r].handler != NULL)
            srv_metric_histogram(out, "fathom_http_request_duration_seconds", labels,
                                 &access->durations[r]);
    }
}
