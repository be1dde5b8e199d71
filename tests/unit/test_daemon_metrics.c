/* test_daemon_metrics.c - the text format, and that what is counted shows. */
#include "daemon/metrics.h"

#include <string.h>

#include "daemon/access.h"
#include "daemon/config.h"
#include "daemon/health.h"
#include "daemon/route.h"
#include "tests/support/support.h"

START_TEST(histogram_is_cumulative_and_ends_with_infinity)
{
    static const double bounds[] = {0.5, 1, 2};
    struct srv_histogram histogram = {.bounds = bounds, .bound_count = 3};
    struct fm_buf out;
    fm_buf_init(&out, 4096);
    srv_histogram_add(&histogram, 0.5); /* a bound belongs to its bucket */
    srv_histogram_add(&histogram, 0.6);
    srv_histogram_add(&histogram, 9);
    srv_metric_head(&out, "x_seconds", "histogram", "Help.");
    srv_metric_histogram(&out, "x_seconds", "a=\"b\"", &histogram);
    ck_assert_str_eq(out.data, "# HELP x_seconds Help.\n# TYPE x_seconds histogram\n"
                               "x_seconds_bucket{a=\"b\",le=\"0.5\"} 1\n"
                               "x_seconds_bucket{a=\"b\",le=\"1\"} 2\n"
                               "x_seconds_bucket{a=\"b\",le=\"2\"} 2\n"
                               "x_seconds_bucket{a=\"b\",le=\"+Inf\"} 3\n"
                               "x_seconds_sum{a=\"b\"} 10.1\nx_seconds_count{a=\"b\"} 3\n");
    fm_buf_clear(&out);
    srv_metric_histogram(&out, "y", NULL, &histogram);
    ck_assert_ptr_nonnull(strstr(out.data, "y_bucket{le=\"0.5\"} 1\n"));
    ck_assert_ptr_nonnull(strstr(out.data, "\ny_count 3\n"));
    fm_buf_done(&out);
}
END_TEST

START_TEST(values_keep_their_digits)
{
    struct fm_buf out;
    fm_buf_init(&out, 4096);
    srv_metric_value(&out, "a", NULL, 9007199254740993.0);
    srv_metric_value(&out, "b", "x=\"1\"", 0.5);
    ck_assert_str_eq(out.data, "a 9007199254740992\nb{x=\"1\"} 0.5\n");
    fm_buf_done(&out);
}
END_TEST

START_TEST(requests_are_counted_by_route_method_and_code)
{
    struct srv_routes routes;
    struct srv_access access;
    struct srv_metrics metrics;
    struct srv_health health;
    struct srv_config *config = NULL;
    struct fm_buf out;
    struct fm_err err;
    srv_routes_init(&routes);
    srv_metrics_init(&metrics, &routes);
    srv_health_init(&health, 60);
    srv_access_init(&access, &routes);
    srv_metrics_add(&metrics, srv_access_collect, &access);
    srv_metrics_add(&metrics, srv_health_collect, &health);
    ck_assert_int_eq(srv_config_load(&(struct srv_config_sources){0}, &config, &err), FM_OK);
    struct srv_call *call = srv_call_new(config);
    ck_assert_ptr_nonnull(call);
    call->method = SRV_GET;
    call->status = 200;
    call->route = &routes.entries[SRV_ROUTE_METRICS];
    srv_access_count(&access, call, true);
    srv_access_count(&access, call, true);
    srv_access_count(&access, call, false);
    call->route = NULL;
    call->method = SRV_OTHER;
    call->status = 418;
    srv_access_count(&access, call, true);
    srv_access_canceled(&access, SRV_CANCEL_HANGUP);
    fm_buf_init(&out, 1048576);
    srv_metrics_text(&metrics, &out);
    static const char *const lines[] = {
        "\nfathom_http_requests_total{route=\"/metrics\",method=\"GET\",code=\"200\"} 2\n",
        "\nfathom_http_requests_total{route=\"/metrics\",method=\"GET\",code=\"499\"} 1\n",
        "\nfathom_http_requests_total{route=\"none\",method=\"OTHER\",code=\"other\"} 1\n",
        "\nfathom_http_request_duration_seconds_count{route=\"/metrics\"} 3\n",
        "\nfathom_requests_cancelled_total{reason=\"disconnect\"} 1\n",
        "\nfathom_ready 0\n",
        "\n# TYPE process_cpu_seconds_total counter\n",
        "\nprocess_open_fds ",
        "\nprocess_resident_memory_bytes ",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        ck_assert_msg(strstr(out.data, lines[i]) != NULL, "%s is not in\n%s", lines[i], out.data);
    fm_buf_done(&out);
    srv_call_free(call);
    srv_config_put(config);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon metrics");
    TCase *all = tcase_create("all");
    tcase_add_test(all, histogram_is_cumulative_and_ends_with_infinity);
    tcase_add_test(all, values_keep_their_digits);
    tcase_add_test(all, requests_are_counted_by_route_method_and_code);
    suite_add_tcase(suite, all);
    return suite;
}
