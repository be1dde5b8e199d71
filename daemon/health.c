/* health.c - live and ready; see health.h. */
#include "daemon/health.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/buf.h"
#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/thread.h"
#include "daemon/call.h"
#include "daemon/json.h"
#include "daemon/metrics.h"
#include "daemon/route.h"
#include "daemon/version.h"

enum { BODY_BYTES_MAX = 1024 };

void srv_health_init(struct srv_health *health, double stall_s)
{
    *health = (struct srv_health){.moved_ns = fm_clock_ns(),
                                  .stall_ns = (uint64_t)(stall_s * (double)FM_NS_PER_S)};
}

void srv_health_move(struct srv_health *health, enum srv_health_phase phase, const char *reason)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_MAIN));
    FM_ASSERT(phase > health->phase);
    FM_ASSERT(health->phase != SRV_DRAINING);
    health->phase = phase;
    if (phase == SRV_FAILED)
        (void)snprintf(health->reason, sizeof health->reason, "%s", reason);
}

void srv_health_progress(struct srv_health *health, uint64_t done, uint64_t total)
{
    uint64_t permille = total == 0 ? 0 : (uint64_t)((double)done / (double)total * 1000.0);
    atomic_store_explicit(&health->progress_permille, (uint32_t)(permille > 1000 ? 1000 : permille),
                          memory_order_relaxed);
}

bool srv_health_look(struct srv_health *health)
{
    const char *name = NULL;
    uint64_t now = fm_clock_ns();
    bool has_moved = fm_threads_moved(&name);
    if (has_moved)
        health->moved_ns = now;
    bool is_stalled = now - health->moved_ns > health->stall_ns;
    if (is_stalled && !health->is_stalled)
        fm_log(FM_LOG_ERROR, "stalled", "thread=%s seconds=%.0f", name == NULL ? "?" : name,
               (double)(now - health->moved_ns) / (double)FM_NS_PER_S);
    if (!is_stalled && health->is_stalled)
        fm_log(FM_LOG_INFO, "moving", "threads=all");
    health->is_stalled = is_stalled;
    return !is_stalled;
}

/* ---- endpoints: each answers at once, on the main thread --------------------------------------- */

static void reply(struct srv_call *call, int status, struct fm_buf *body)
{
    (void)fm_buf_putc(body, '\n');
    if (status == 503)
        srv_call_header(call, "Retry-After", "5");
    srv_reply_json(call, status, body);
}

/* Why the server takes no work, as JSON; 200 only when it does. */
static int ready_state(const struct srv_health *health, struct fm_buf *out)
{
    switch (health->phase) {
    case SRV_LOADING:
        (void)fm_buf_printf(
            out, "{\"status\":\"loading\",\"progress\":%.3g}",
            (double)atomic_load_explicit(&health->progress_permille, memory_order_relaxed) /
                1000.0);
        return 503;
    case SRV_DRAINING:
        (void)fm_buf_printf(out, "{\"status\":\"draining\",\"in_flight\":%u}",
                            health->in_flight == NULL ? 0 : health->in_flight(health->context));
        return 503;
    case SRV_FAILED:
        (void)fm_buf_puts(out, "{\"status\":\"failed\",\"reason\":");
        srv_json_text(out, health->reason);
        (void)fm_buf_putc(out, '}');
        return 503;
    case SRV_READY: break;
    }
    if (health->is_overloaded != NULL && health->is_overloaded(health->context)) {
        (void)fm_buf_puts(out, "{\"status\":\"overloaded\"}");
        return 503;
    }
    (void)fm_buf_puts(out, "{\"status\":\"ready\"}");
    return 200;
}

static void ready_start(struct srv_call *call)
{
    struct fm_buf body;
    fm_buf_init(&body, BODY_BYTES_MAX);
    int status = ready_state(call->context, &body);
    reply(call, status, &body);
}

static void health_start(struct srv_call *call)
{
    const struct srv_health *health = call->context;
    struct fm_buf body;
    fm_buf_init(&body, BODY_BYTES_MAX);
    int status = 200;
    if (health->phase == SRV_READY || health->phase == SRV_DRAINING)
        (void)fm_buf_puts(&body, "{\"status\":\"ok\"}");
    else
        status = ready_state(health, &body);
    reply(call, status, &body);
}

static void live_start(struct srv_call *call)
{
    const struct srv_health *health = call->context;
    struct fm_buf body;
    fm_buf_init(&body, BODY_BYTES_MAX);
    (void)fm_buf_puts(&body,
                      health->is_stalled ? "{\"status\":\"stalled\"}" : "{\"status\":\"ok\"}");
    reply(call, health->is_stalled ? 503 : 200, &body);
}

static void root_start(struct srv_call *call)
{
    struct fm_buf body;
    fm_buf_init(&body, BODY_BYTES_MAX);
    (void)fm_buf_puts(&body, "{\"service\":\"fathom\",\"version\":\"" SRV_VERSION "\"}");
    reply(call, 200, &body);
}

static void version_start(struct srv_call *call)
{
    struct fm_buf body;
    fm_buf_init(&body, BODY_BYTES_MAX);
    (void)fm_buf_puts(&body, "{\"version\":\"" SRV_VERSION "\"}");
    reply(call, 200, &body);
}

void srv_health_bind(struct srv_health *health, struct srv_routes *routes)
{
    static const struct srv_handler root = {.name = "root", .start = root_start};
    static const struct srv_handler version = {.name = "version", .start = version_start};
    static const struct srv_handler live = {.name = "live", .start = live_start};
    static const struct srv_handler ready = {.name = "ready", .start = ready_start};
    static const struct srv_handler well = {.name = "health", .start = health_start};
    srv_routes_bind(routes, SRV_ROUTE_ROOT, &root, health);
    srv_routes_bind(routes, SRV_ROUTE_VERSION, &version, health);
    srv_routes_bind(routes, SRV_ROUTE_LIVE, &live, health);
    srv_routes_bind(routes, SRV_ROUTE_READY, &ready, health);
    srv_routes_bind(routes, SRV_ROUTE_HEALTH, &well, health);
}

void srv_health_collect(void *context, struct fm_buf *out)
{
    const struct srv_health *health = context;
    srv_metric_head(out, "fathom_ready", "gauge", "1 when requests are taken.");
    srv_metric_value(out, "fathom_ready", NULL, health->phase == SRV_READY);
    srv_metric_head(out, "fathom_draining", "gauge", "1 while running requests are finished.");
    srv_metric_value(out, "fathom_draining", NULL, health->phase == SRV_DRAINING);
    srv_metric_head(out, "fathom_model_load_progress", "gauge",
                    "Part of the model that is loaded.");
    double part = (double)atomic_load_explicit(&health->progress_permille, memory_order_relaxed);
    srv_metric_value(out, "fathom_model_load_progress", NULL, part / 1000.0);
}
