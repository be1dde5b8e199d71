/* api_completions.h - POST /v1/completions. */
#ifndef API_COMPLETIONS_H
#define API_COMPLETIONS_H

#include "daemon/api_request.h"

struct srv_handler;

/* Bind with a struct api_service as context (api_generate.h). */
extern const struct srv_handler api_completions_handler;

/* Exposed for tests and for fuzzing: how the body becomes a request. */
extern const struct api_endpoint api_completions_endpoint;

#endif
