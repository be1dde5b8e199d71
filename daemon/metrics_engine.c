/* metrics_engine.c - the scheduler's figures as metrics; see metrics_engine.h. */
#include "daemon/metrics_engine.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "daemon/config.h"
#include "daemon/metrics.h"
#include "scheduler/scheduler.h"

_Static_assert((int)SCH_HISTOGRAM_BUCKETS <= (int)SRV_BUCKETS_MAX,
               "a histogram of the scheduler fits");

struct writer {
    const struct srv_engine_metrics *metrics;
    struct fm_buf *out;
};

void srv_engine_metrics_init(struct srv_engine_metrics *metrics, const struct srv_config *config)
{
    *metrics = (struct srv_engine_metrics){0};
    (void)snprintf(metrics->prefix, sizeof metrics->prefix, "%s", config->metrics_prefix);
}

void srv_engine_metrics_start(struct srv_engine_metrics *metrics, const char *model_name,
                              struct sch_scheduler *scheduler)
{
    char name[256];
    size_t at = 0;
    for (; *model_name != '\0' && at + 2 < sizeof name; model_name++) {
        if (*model_name == '"' || *model_name == '\\')
            name[at++] = '\\';
        name[at++] = *model_name;
    }
    name[at] = '\0';
    (void)snprintf(metrics->labels, sizeof metrics->labels, "model_name=\"%s\",engine=\"0\"", name);
    metrics->scheduler = scheduler;
}

static void name_of(const struct writer *to, const char *name, char ret_name[128])
{
    (void)snprintf(ret_name, 128, "%s%s", to->metrics->prefix, name);
}

static void put_one(const struct writer *to, const char *name, const char *type, const char *help,
                    double value)
{
    char full[128];
    name_of(to, name, full);
    srv_metric_head(to->out, full, type, help);
    srv_metric_value(to->out, full, to->metrics->labels, value);
}

static void put_histogram(const struct writer *to, const char *full, const char *help,
                          const struct sch_histogram *source)
{
    double bounds[SCH_HISTOGRAM_BUCKETS];
    struct srv_histogram histogram = {
        .bounds = bounds, .bound_count = SCH_HISTOGRAM_BUCKETS - 1, .sum = source->sum_s};
    for (uint32_t i = 0; i < SCH_HISTOGRAM_BUCKETS; i++) {
        bounds[i] = sch_bucket_s(i);
        histogram.counts[i] = source->buckets[i];
    }
    srv_metric_head(to->out, full, "histogram", help);
    srv_metric_histogram(to->out, full, to->metrics->labels, &histogram);
}

static void put_known_histograms(const struct writer *to, const struct sch_stats *stats)
{
    const struct {
        const char *name, *help;
        const struct sch_histogram *histogram;
    } known[] = {
        {"time_to_first_token_seconds", "From arrival to the first token.", &stats->ttft},
        {"request_time_per_output_token_seconds", "Mean time between tokens of a request.",
         &stats->tpot},
        {"e2e_request_latency_seconds", "From arrival to the last token.", &stats->e2e},
        {"request_queue_time_seconds", "From arrival to the first step.", &stats->queue_wait},
    };
    for (size_t i = 0; i < FM_COUNT(known); i++) {
        char full[128];
        name_of(to, known[i].name, full);
        put_histogram(to, full, known[i].help, known[i].histogram);
    }
    put_histogram(to, "fathom_step_seconds", "Time of one step of the model.", &stats->step);
    put_histogram(to, "fathom_cancel_latency_seconds", "From a cancel to its effect.",
                  &stats->cancel_latency);
}

static void put_ends(const struct writer *to, const struct sch_stats *stats)
{
    uint64_t by_reason[4] = {0};
    static const char *const reasons[] = {"stop", "length", "abort", "error"};
    for (uint32_t end = 0; end < SCH_END_COUNT; end++) {
        uint32_t reason = 3;
        if (end == SCH_END_STOP || end == SCH_END_TOOL_CALLS)
            reason = 0;
        else if (end == SCH_END_LENGTH)
            reason = 1;
        else if (end == SCH_END_CANCELED)
            reason = 2;
        by_reason[reason] += stats->requests_by_end[end];
    }
    char full[128], labels[400];
    name_of(to, "request_success_total", full);
    srv_metric_head(to->out, full, "counter", "Requests that have ended, by reason.");
    for (size_t i = 0; i < FM_COUNT(reasons); i++) {
        (void)snprintf(labels, sizeof labels, "%s,finished_reason=\"%s\"", to->metrics->labels,
                       reasons[i]);
        srv_metric_value(to->out, full, labels, (double)by_reason[i]);
    }
}

static void put_cache(const struct writer *to, const struct sch_stats *stats)
{
    static const char *const pools[BE_POOL_COUNT] = {"growing", "window", "tail"};
    uint64_t total = 0, free_count = 0;
    srv_metric_head(to->out, "fathom_kv_pages", "gauge", "Pages of the cache by pool and state.");
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++) {
        char labels[64];
        uint32_t used = stats->units_total[pool] - stats->units_free[pool];
        total += stats->units_total[pool];
        free_count += stats->units_free[pool];
        (void)snprintf(labels, sizeof labels, "pool=\"%s\",state=\"used\"", pools[pool]);
        srv_metric_value(to->out, "fathom_kv_pages", labels, used);
        (void)snprintf(labels, sizeof labels, "pool=\"%s\",state=\"free\"", pools[pool]);
        srv_metric_value(to->out, "fathom_kv_pages", labels, stats->units_free[pool]);
    }
    put_one(to, "kv_cache_usage_perc", "gauge", "Part of the cache's pages in use, 0 to 1.",
            total == 0 ? 0 : (double)(total - free_count) / (double)total);
}

void srv_engine_metrics_collect(void *context, struct fm_buf *out)
{
    const struct srv_engine_metrics *metrics = context;
    if (metrics->scheduler == NULL)
        return;
    struct sch_stats stats;
    sch_stats(metrics->scheduler, &stats);
    struct writer to = {metrics, out};
    put_one(&to, "num_requests_running", "gauge", "Sequences that are generated.",
            stats.running_seqs);
    put_one(&to, "num_requests_waiting", "gauge", "Requests in the queue.", stats.queued);
    put_one(&to, "prompt_tokens_total", "counter", "Prompt tokens computed.",
            (double)stats.prefill_tokens);
    put_one(&to, "generation_tokens_total", "counter", "Tokens generated.",
            (double)stats.decode_tokens);
    put_ends(&to, &stats);
    put_cache(&to, &stats);
    put_known_histograms(&to, &stats);
    srv_metric_head(out, "fathom_queue_prompt_tokens", "gauge", "Prompt tokens in the queue.");
    srv_metric_value(out, "fathom_queue_prompt_tokens", NULL, (double)stats.queued_tokens);
    srv_metric_head(out, "fathom_requests_parked", "gauge",
                    "Requests whose client reads too slowly.");
    srv_metric_value(out, "fathom_requests_parked", NULL, stats.parked);
    srv_metric_head(out, "fathom_requests_rejected_total", "counter",
                    "Requests refused, by reason.");
    srv_metric_value(out, "fathom_requests_rejected_total", "reason=\"queue_full\"",
                     (double)stats.refused);
    srv_metric_head(out, "fathom_steps_total", "counter", "Steps of the model.");
    srv_metric_value(out, "fathom_steps_total", NULL, (double)stats.steps);
}
