/* api_generate.h - one generation from its HTTP call through the scheduler and back: what chat and
 * completions share.
 *
 *   prepare   body -> struct api_request (preparation thread)
 *   start     one sch_submit per prompt, all or none
 *   drain     pieces -> chunks, or the gathered answer
 *   cancel    streams are closed, which cancels what runs
 *
 * The call owns the job (call->request) and the job the streams. */
#ifndef API_GENERATE_H
#define API_GENERATE_H

#include "daemon/api_request.h"
#include "daemon/call.h"

struct fm_mailbox;
struct sch_scheduler;

/* What the handlers of the API are bound with (srv_routes_bind).  Main thread writes it, before the
 * first call that needs it: model->id, created_s and context_max from the start (for /v1/models),
 * the rest before the server is ready. */
struct api_service {
    struct api_model model;
    struct sch_scheduler *scheduler;
};

/* The parts of a handler; api_chat.c and api_completions.c bind them to their endpoint. */
void api_generate_prepare(struct srv_call *call, const struct api_endpoint *endpoint);
void api_generate_start(struct srv_call *call);
void api_generate_drain(struct srv_call *call);
void api_generate_cancel(struct srv_call *call, enum srv_cancel why);
void api_generate_done(struct srv_call *call);

/* Wake the calls whose streams have news.  Main thread, when the mailbox that the scheduler was
 * started with is readable. */
void api_generate_wake(struct fm_mailbox *ready);

#endif
