/* served.h - the model as the API shows it: its names, its date and its context, before its weights
 * are there. */
#ifndef SRV_SERVED_H
#define SRV_SERVED_H

#include "backends/base/status.h"

struct api_model;
struct srv_config;

/* Fill in id, aliases, fingerprint, created_s and context_max from the settings and from
 * config.json of model.path; text and has_fim are the loader's.  FM_INVALID: no such directory, or
 * an alias that cannot be. */
enum fm_status srv_served_init(struct api_model *model, const struct srv_config *config,
                               struct fm_err *err) FM_MUST_CHECK;

#endif
