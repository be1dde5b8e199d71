/* metrics.c - Prometheus text; see metrics.h. */
#include "daemon/metrics.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "daemon/call.h"
#include "daemon/route.h"
#include "daemon/version.h"

enum { TEXT_BYTES_MAX = 4194304 };

void srv_metric_head(struct fm_buf *out, const char *name, const char *type, const char *help)
{
    (void)fm_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_number(struct fm_buf *out, double value)
{
    if (isnan(value))
        (void)fm_buf_puts(out, "NaN");
    else if (isinf(value))
        (void)fm_buf_puts(out, value > 0 ? "+Inf" : "-Inf");
    else
        (void)fm_buf_printf(out, "%.17g", value);
}

void srv_metric_value(struct fm_buf *out, const char *name, const char *labels, double value)
{
    (void)fm_buf_puts(out, name);
    if (labels != NULL && labels[0] != '\0')
        (void)fm_buf_printf(out, "{%s}", labels);
    (void)fm_buf_putc(out, ' ');
    put_number(out, value);
    (void)fm_buf_putc(out, '\n');
}

void srv_histogram_add(struct srv_histogram *histogram, double value)
{
    FM_ASSERT(histogram->bound_count < SRV_BUCKETS_MAX);
    uint32_t bucket = 0;
    while (bucket < histogram->bound_count && value > histogram->bounds[bucket])
        bucket++;
    histogram->counts[bucket]++;
    histogram->sum += value;
}

void srv_metric_histogram(struct fm_buf *out, const char *name, const char *labels,
                          const struct srv_histogram *histogram)
{
    const char *own = labels == NULL ? "" : labels;
    const char *comma = own[0] == '\0' ? "" : ",";
    uint64_t total = 0;
    for (uint32_t i = 0; i < histogram->bound_count; i++) {
        total += histogram->counts[i];
        (void)fm_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, own, comma,
                            histogram->bounds[i], (unsigned long long)total);
    }
    total += histogram->counts[histogram->bound_count];
    (void)fm_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, own, comma,
                        (unsigned long long)total);
    const char *open = own[0] == '\0' ? "" : "{", *close = own[0] == '\0' ? "" : "}";
    (void)fm_buf_printf(out, "%s_sum%s%s%s ", name, open, own, close);
    put_number(out, histogram->sum);
    (void)fm_buf_printf(out, "\n%s_count%s%s%s %llu\n", name, open, own, close,
                        (unsigned long long)total);
}

/* ---- the process ----------------------------------------------------------------------------- */

static void gauge(struct fm_buf *out, const char *name, const char *help, double value)
{
    srv_metric_head(out, name, "gauge", help);
    srv_metric_value(out, name, NULL, value);
}

static double open_descriptors(void)
{
    double count = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL)
        return NAN;
    while (readdir(dir) != NULL)
        count++;
    (void)closedir(dir);
    return count - 3; /* ".", "..", and the directory's own */
}

static void memory(struct fm_buf *out)
{
    unsigned long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL)
        return;
    int found = fscanf(file, "%llu %llu", &total, &resident);
    (void)fclose(file);
    double page = (double)sysconf(_SC_PAGESIZE);
    if (found != 2)
        return;
    gauge(out, "process_resident_memory_bytes", "Memory that is resident.",
          (double)resident * page);
    gauge(out, "process_virtual_memory_bytes", "Address space in use.", (double)total * page);
}

static void process_collect(void *context, struct fm_buf *out)
{
    static double start_s; /* the first look is close enough: metrics start with the process */
    (void)context;
    if (start_s == 0)
        start_s = (double)fm_clock_wall_s();
    if (out == NULL)
        return;
    srv_metric_head(out, "fathom_build_info", "gauge", "Always 1; the version is the label.");
    srv_metric_value(out, "fathom_build_info", "version=\"" SRV_VERSION "\"", 1);
    memory(out);
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        srv_metric_head(out, "process_cpu_seconds_total", "counter", "Processor time used.");
        srv_metric_value(out, "process_cpu_seconds_total", NULL,
                         (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
                             (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    }
    gauge(out, "process_open_fds", "Open descriptors.", open_descriptors());
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        gauge(out, "process_max_fds", "Limit of open descriptors.", (double)limit.rlim_cur);
    gauge(out, "process_start_time_seconds", "Start, in seconds since 1970.", start_s);
}

/* ---- registry and endpoint ------------------------------------------------------------------- */

static void metrics_start(struct srv_call *call)
{
    struct fm_buf body;
    fm_buf_init(&body, TEXT_BYTES_MAX);
    srv_metrics_text(call->context, &body);
    if (body.is_broken) {
        srv_reply_json(call, 503, &body);
        return;
    }
    srv_reply_buf(call, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

void srv_metrics_init(struct srv_metrics *metrics, struct srv_routes *routes)
{
    static const struct srv_handler handler = {.name = "metrics", .start = metrics_start};
    *metrics = (struct srv_metrics){0};
    process_collect(NULL, NULL);
    srv_metrics_add(metrics, process_collect, NULL);
    srv_routes_bind(routes, SRV_ROUTE_METRICS, &handler, metrics);
}

void srv_metrics_add(struct srv_metrics *metrics,
                     void (*collect)(void *context, struct fm_buf *out), void *context)
{
    FM_ASSERT(metrics->count < SRV_COLLECTORS_MAX);
    metrics->collectors[metrics->count].collect = collect;
    metrics->collectors[metrics->count++].context = context;
}

void srv_metrics_text(const struct srv_metrics *metrics, struct fm_buf *out)
{
    for (uint32_t i = 0; i < metrics->count; i++)
        metrics->collectors[i].collect(metrics->collectors[i].context, out);
}
