/* health.h - live and ready: what probes, the service manager and the gate are told.
 *
 *   LOADING --> READY --> DRAINING
 *      '-------> FAILED      (from LOADING and READY)
 *
 * Main thread, but srv_health_progress: the loader's. */
#ifndef SRV_HEALTH_H
#define SRV_HEALTH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct srv_route;
struct srv_routes;
struct fm_buf;

enum srv_health_phase { SRV_LOADING, SRV_READY, SRV_DRAINING, SRV_FAILED };

enum { SRV_HEALTH_REASON_BYTES = 128 };

struct srv_health {
    enum srv_health_phase phase;
    char reason[SRV_HEALTH_REASON_BYTES]; /* of FAILED: for clients, without file names */
    _Atomic uint32_t progress_permille;   /* of loading; relaxed, a number to look at */
    uint64_t moved_ns;                    /* fm_clock: all heartbeats had moved */
    uint64_t stall_ns;                    /* health.stall_s */
    bool is_stalled;
    /* Set by main.c when a scheduler exists; may be NULL. */
    bool (*is_overloaded)(void *context);
    uint32_t (*in_flight)(void *context);
    void *context;
};

void srv_health_init(struct srv_health *health, double stall_s);

/* The arrow of the diagram; reason is of FAILED. */
void srv_health_move(struct srv_health *health, enum srv_health_phase phase, const char *reason);

void srv_health_progress(struct srv_health *health, uint64_t done, uint64_t total);

/* Look at all heartbeats (fm_threads_moved); about once a second.  Returns whether the process is
 * live: every thread has moved, or was idle, within health.stall_s. */
bool srv_health_look(struct srv_health *health);

/* Bind /, /health, /ready, /livez and /version. */
void srv_health_bind(struct srv_health *health, struct srv_routes *routes);

/* The collector for metrics.h: ready, draining, model_load_progress. */
void srv_health_collect(void *health, struct fm_buf *out);

#endif
