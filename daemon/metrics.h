/* metrics.h - Prometheus text, version 0.0.4.
 *
 * A file that owns numbers registers one collector, which writes its metrics when /metrics is
 * asked for.  Names have their unit, label values come from bounded sets, and one file owns each
 * name.  Main thread. */
#ifndef SRV_METRICS_H
#define SRV_METRICS_H

#include <stdint.h>

#include "backends/base/buf.h"

struct srv_routes;

enum { SRV_COLLECTORS_MAX = 16, SRV_BUCKETS_MAX = 24 };

struct srv_metrics {
    struct {
        void (*collect)(void *context, struct fm_buf *out);
        void *context;
    } collectors[SRV_COLLECTORS_MAX];
    uint32_t count;
};

/* With the process's own numbers and build_info; binds /metrics. */
void srv_metrics_init(struct srv_metrics *metrics, struct srv_routes *routes);
void srv_metrics_add(struct srv_metrics *metrics,
                     void (*collect)(void *context, struct fm_buf *out), void *context);
/* Everything; out says whether it is broken. */
void srv_metrics_text(const struct srv_metrics *metrics, struct fm_buf *out);

/* ---- for collectors ------------------------------------------------------------------------------ */

/* "# HELP" and "# TYPE": once per name, before its values. */
void srv_metric_head(struct fm_buf *out, const char *name, const char *type, const char *help);

/* labels: `a="x",b="y"`, already escaped, or NULL. */
void srv_metric_value(struct fm_buf *out, const char *name, const char *labels, double value);

/* Counts by upper bound, not cumulated; the last bucket of `counts` is the one above all bounds. */
struct srv_histogram {
    const double *bounds; /* ascending, bound_count of them */
    uint32_t bound_count; /* at most SRV_BUCKETS_MAX - 1 */
    uint64_t counts[SRV_BUCKETS_MAX];
    double sum;
};
void srv_histogram_add(struct srv_histogram *histogram, double value);
void srv_metric_histogram(struct fm_buf *out, const char *name, const char *labels,
                          const struct srv_histogram *histogram);

#endif
