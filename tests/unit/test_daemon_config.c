/* test_daemon_config.c - settings: the table agrees with itself, and every mistake is named with
 * its place. */
#include "daemon/config.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "tests/support/support.h"

static struct srv_config *load(const struct srv_config_sources *sources)
{
    struct srv_config *config = NULL;
    struct fm_err err;
    enum fm_status status = srv_config_load(sources, &config, &err);
    ck_assert_msg(status == FM_OK, "%s", status == FM_OK ? "" : err.text);
    return config;
}

static struct srv_config *with(const char *override)
{
    return load(&(struct srv_config_sources){.overrides = &override, .override_count = 1});
}

/* The message that these sources are refused with. */
static const char *refusal(const struct srv_config_sources *sources)
{
    static struct fm_err err;
    struct srv_config *config = NULL;
    ck_assert_int_lt(srv_config_load(sources, &config, &err), 0);
    ck_assert_ptr_null(config);
    return err.text;
}

static const char *refused(const char *override)
{
    return refusal(&(struct srv_config_sources){.overrides = &override, .override_count = 1});
}

static const char *file_with(const char *text)
{
    static char path[512];
    (void)snprintf(path, sizeof path, "%s/test.conf", test_dir());
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
    return path;
}

static const char *refused_file(const char *text)
{
    const char *path = file_with(text);
    const char *message = refusal(&(struct srv_config_sources){.files = &path, .file_count = 1});
    ck_assert_ptr_nonnull(strstr(message, path));
    return strstr(message, "test.conf:");
}

START_TEST(defaults_are_those_of_the_table)
{
    struct srv_config *config = load(&(struct srv_config_sources){0});
    ck_assert_str_eq(config->http_listen, "127.0.0.1:8080");
    ck_assert_uint_eq(config->http_max_body_bytes, 67108864);
    ck_assert_double_eq(config->http_keepalive_interval_s, 10);
    ck_assert(!config->auth_allow_anonymous);
    ck_assert_uint_eq(config->api_max_tokens_overflow, SRV_OVERFLOW_CLAMP);
    ck_assert_str_eq(config->auth_keys_file, "");
    srv_config_put(config);
}
END_TEST

START_TEST(later_sources_win)
{
    const char *path = file_with("# a comment\n\n  http.prep_threads = 3\nlog.level=debug\r\n"
                                 "http.max_connections = 77\n");
    char *environment[] = {"HOME=/", "FATHOM_HTTP_PREP_THREADS=4", "FATHOM_LOG_LEVEL=error",
                           "FATHOM_SEED=1", NULL};
    const char *override = "http.prep_threads=5";
    struct srv_config *config = load(&(struct srv_config_sources){.files = &path,
                                                                  .file_count = 1,
                                                                  .environment = environment,
                                                                  .overrides = &override,
                                                                  .override_count = 1});
    ck_assert_uint_eq(config->http_prep_threads, 5);
    ck_assert_uint_eq(config->log_level, 0);
    ck_assert_uint_eq(config->http_max_connections, 77);
    srv_config_put(config);
}
END_TEST

START_TEST(bytes_take_suffixes)
{
    static const struct {
        const char *text;
        uint64_t value;
    } cases[] = {{"http.max_body_bytes=2048", 2048},
                 {"http.max_body_bytes=64K", 65536},
                 {"http.max_body_bytes=2MiB", 2097152},
                 {"http.max_body_bytes=1GB", 1073741824}};
    for (size_t i = 0; i < 4; i++) {
        struct srv_config *config = with(cases[i].text);
        ck_assert_uint_eq(config->http_max_body_bytes, cases[i].value);
        srv_config_put(config);
    }
    ck_assert_str_eq(refused("http.max_body_bytes=2Mi"),
                     "--set: http.max_body_bytes is '2Mi', expected a whole number (bytes)");
    ck_assert_ptr_nonnull(strstr(refused("http.max_connections=1K"), "is '1K'"));
    ck_assert_ptr_nonnull(strstr(refused("http.max_body_bytes=99999999999999999999T"), "is '9"));
}
END_TEST

START_TEST(wrong_values_are_refused_with_their_range)
{
    ck_assert_str_eq(refused("http.prep_threads=0"),
                     "--set: http.prep_threads is 0, expected 1 to 64 threads");
    ck_assert_str_eq(refused("http.prep_threads=-1"),
                     "--set: http.prep_threads is '-1', expected a whole number (threads)");
    ck_assert_str_eq(refused("http.idle_timeout_s=0.01"),
                     "--set: http.idle_timeout_s is 0.01, expected 0.1 to 86400 seconds");
    ck_assert_ptr_nonnull(strstr(refused("http.idle_timeout_s=nan"), "is 'nan'"));
    ck_assert_str_eq(refused("auth.allow_anonymous=yes"),
                     "--set: auth.allow_anonymous is 'yes', expected true or false");
    ck_assert_str_eq(refused("log.level=loud"),
                     "--set: log.level is 'loud', expected one of error|warning|info|debug");
    ck_assert_str_eq(refused("no.such=1"), "--set: there is no setting 'no.such'");
    ck_assert_str_eq(refused("http.listen"), "--set: expected name=value, got 'http.listen'");
    ck_assert_ptr_nonnull(strstr(refused("sched.stream_bytes=70000"), "a power of two"));
    ck_assert_ptr_nonnull(strstr(refused("sched.step_tokens=100"), "sched.chunk_tokens is 256"));
    ck_assert_ptr_nonnull(strstr(refused("model.path=a\tb"), "control character"));
}
END_TEST

START_TEST(mistakes_in_a_file_have_their_line)
{
    ck_assert_str_eq(refused_file("\n#\nhttp.prep_threads = 65\n"),
                     "test.conf:3: http.prep_threads is 65, expected 1 to 64 threads");
    ck_assert_str_eq(refused_file("http.prep_thread = 1"),
                     "test.conf:1: there is no setting 'http.prep_thread'");
    ck_assert_str_eq(refused_file("log.level = info\nlog.level = info\n"),
                     "test.conf:2: log.level is set twice");
    ck_assert_str_eq(refused_file("[http]\n"), "test.conf:1: expected 'name = value'");
}
END_TEST

START_TEST(other_sources_are_named_too)
{
    char *unknown[] = {"FATHOM_NO_SUCH=1", NULL};
    char *wrong[] = {"FATHOM_HTTP_PREP_THREADS=x", NULL};
    ck_assert_str_eq(refusal(&(struct srv_config_sources){.environment = unknown}),
                     "environment: FATHOM_NO_SUCH names no setting");
    ck_assert_ptr_nonnull(strstr(refusal(&(struct srv_config_sources){.environment = wrong}),
                                 "environment: http.prep_threads is 'x'"));
    const char *const twice[] = {"log.level=info", "log.level=info"};
    ck_assert_str_eq(refusal(&(struct srv_config_sources){.overrides = twice, .override_count = 2}),
                     "--set: log.level is set twice");
    const char *path = "/nonexistent/f.conf";
    ck_assert_ptr_nonnull(
        strstr(refusal(&(struct srv_config_sources){.files = &path, .file_count = 1}), path));
}
END_TEST

START_TEST(printed_settings_read_back_equal)
{
    struct srv_config *config = with("http.idle_timeout_s=0.3");
    struct fm_buf first, second;
    fm_buf_init(&first, 65536);
    fm_buf_init(&second, 65536);
    srv_config_print(config, &first);
    const char *path = file_with(first.data);
    struct srv_config *again = load(&(struct srv_config_sources){.files = &path, .file_count = 1});
    srv_config_print(again, &second);
    ck_assert_str_eq(first.data, second.data);
    uint32_t cursor = 0;
    ck_assert_ptr_null(srv_config_needs_restart(config, again, &cursor));
    fm_buf_done(&first);
    fm_buf_done(&second);
    srv_config_put(config);
    srv_config_put(again);
}
END_TEST

START_TEST(reload_names_what_it_cannot_change)
{
    const char *const changes[] = {"http.listen=[::1]:1", "http.prep_threads=9", "log.level=debug",
                                   "http.idle_timeout_s=7"};
    struct srv_config *before = load(&(struct srv_config_sources){0});
    struct srv_config *after =
        load(&(struct srv_config_sources){.overrides = changes, .override_count = 4});
    uint32_t cursor = 0;
    ck_assert_str_eq(srv_config_needs_restart(before, after, &cursor), "http.listen");
    ck_assert_str_eq(srv_config_needs_restart(before, after, &cursor), "http.prep_threads");
    ck_assert_ptr_null(srv_config_needs_restart(before, after, &cursor));
    srv_config_put(before);
    srv_config_put(after);
}
END_TEST

/* The committed file is what the table prints; `fathomd --sample-config` makes it anew. */
START_TEST(sample_file_is_current)
{
    struct fm_buf sample;
    char *committed = NULL;
    struct fm_err err;
    fm_buf_init(&sample, 262144);
    srv_config_sample(&sample);
    ck_assert_int_eq(srv_config_text("conf/fathomd.conf", &committed, &err), FM_OK);
    ck_assert_str_eq(committed, sample.data);
    fm_free(committed);

    /* Each line that is commented out, taken as it stands, is a sound setting. */
    for (char *at = strstr(sample.data, "\n#"); at != NULL; at = strstr(at + 1, "\n#"))
        if (at[2] != ' ' && at[2] != '\n')
            at[1] = ' ';
    const char *path = file_with(sample.data);
    struct srv_config *config = load(&(struct srv_config_sources){.files = &path, .file_count = 1});
    struct srv_config *standard = load(&(struct srv_config_sources){0});
    uint32_t cursor = 0;
    ck_assert_ptr_null(srv_config_needs_restart(standard, config, &cursor));
    srv_config_put(config);
    srv_config_put(standard);
    fm_buf_done(&sample);
}
END_TEST

START_TEST(help_names_every_setting)
{
    struct srv_config *config = load(&(struct srv_config_sources){0});
    struct fm_buf help, print;
    fm_buf_init(&help, 262144);
    fm_buf_init(&print, 65536);
    srv_config_help(&help);
    srv_config_print(config, &print);
    uint32_t count = 0;
    for (const char *line = print.data; *line != '\0'; line = strchr(line, '\n') + 1, count++) {
        char name[128];
        (void)snprintf(name, sizeof name, "  %.*s=", (int)strcspn(line, " "), line);
        ck_assert_msg(strstr(help.data, name) != NULL, "%s is not in the help", name);
    }
    ck_assert_uint_gt(count, 40);
    fm_buf_done(&help);
    fm_buf_done(&print);
    srv_config_put(config);
}
END_TEST

START_TEST(load_survives_every_alloc_failure)
{
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct srv_config *config = NULL;
        struct fm_err err = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = srv_config_load(&(struct srv_config_sources){0}, &config, &err);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert_msg((config != NULL) == (status == FM_OK), "ret_config written on failure");
        srv_config_put(config);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon config");
    TCase *all = tcase_create("all");
    tcase_add_test(all, defaults_are_those_of_the_table);
    tcase_add_test(all, later_sources_win);
    tcase_add_test(all, bytes_take_suffixes);
    tcase_add_test(all, wrong_values_are_refused_with_their_range);
    tcase_add_test(all, mistakes_in_a_file_have_their_line);
    tcase_add_test(all, other_sources_are_named_too);
    tcase_add_test(all, printed_settings_read_back_equal);
    tcase_add_test(all, reload_names_what_it_cannot_change);
    tcase_add_test(all, sample_file_is_current);
    tcase_add_test(all, help_names_every_setting);
    tcase_add_test(all, load_survives_every_alloc_failure);
    suite_add_tcase(suite, all);
    return suite;
}
