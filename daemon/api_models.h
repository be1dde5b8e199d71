/* api_models.h - GET /v1/models and /v1/models/{id}, in both surfaces' shapes.  Served while
 * loading too. */
#ifndef API_MODELS_H
#define API_MODELS_H

#include <stdbool.h>

#include "backends/base/buf.h"

struct api_model;
struct srv_handler;

/* Bind with a struct api_service as context. */
extern const struct srv_handler api_models_handler;
extern const struct srv_handler api_model_handler;

/* The model's object, without a newline.  Exposed for tests. */
void api_model_json(const struct api_model *model, bool is_anthropic, struct fm_buf *out);

#endif
