/* metrics_engine.h - the scheduler's figures as metrics: names that dashboards for other engines
 * know, under metrics.prefix, and a few of our own.  Main thread. */
#ifndef SRV_METRICS_ENGINE_H
#define SRV_METRICS_ENGINE_H

#include "backends/base/buf.h"

struct sch_scheduler;
struct srv_config;

struct srv_engine_metrics {
    char prefix[40];
    char labels[320];                /* model_name="...",engine="0" */
    struct sch_scheduler *scheduler; /* NULL: the model is not loaded, nothing is written */
};

void srv_engine_metrics_init(struct srv_engine_metrics *metrics, const struct srv_config *config);
/* The scheduler outlives the metrics' use. */
void srv_engine_metrics_start(struct srv_engine_metrics *metrics, const char *model_name,
                              struct sch_scheduler *scheduler);
void srv_engine_metrics_collect(void *metrics, struct fm_buf *out);

#endif
