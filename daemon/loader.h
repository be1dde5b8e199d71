/* loader.h - work of minutes on a thread of its own, with its progress shown: loading the model.
 *
 * Progress is a bar on a terminal, a log line every ten percent elsewhere, and the number behind
 * /ready.  Main thread, but load: the loader's. */
#ifndef SRV_LOADER_H
#define SRV_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

struct srv_health;
struct srv_loader; /* opaque: loader.c */
struct srv_loop;

struct srv_loader_spec {
    /* The work.  Calls srv_loader_progress; writes err on failure. */
    enum fm_status (*load)(void *context, struct srv_loader *loader, struct fm_err *err);
    /* On the main thread, once, when it has ended. */
    void (*loaded)(void *context, enum fm_status status, const struct fm_err *err);
    void *context;
    struct srv_health *health;
    struct srv_loop *loop;
};

enum fm_status srv_loader_start(const struct srv_loader_spec *spec, struct srv_loader **ret_loader,
                                struct fm_err *err) FM_MUST_CHECK;

/* Waits for the work to end; `loaded` is not called any more.  NULL is allowed. */
void srv_loader_stop(struct srv_loader *loader);

/* The work has not ended, or `loaded` was not called yet. */
bool srv_loader_is_running(const struct srv_loader *loader);

/* From load, or as a callback of eng_options: bytes done and in all. */
void srv_loader_progress(void *loader, uint64_t done, uint64_t total);

#endif
