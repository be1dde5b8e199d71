/* test_daemon_loop.c - sources, their removal in mid-delivery, signals, wake-ups; the loader. */
#include "daemon/loop.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "backends/base/log.h"
#include "daemon/health.h"
#include "daemon/loader.h"
#include "tests/support/support.h"

static struct srv_loop *loop;

static void setup(void)
{
    struct fm_err err;
    ck_assert_int_eq(srv_loop_new(&loop, &err), FM_OK);
}

static void teardown(void)
{
    srv_loop_free(loop);
}

static void wait_ms(uint32_t timeout_ms)
{
    struct fm_err err;
    ck_assert_int_eq(srv_loop_wait(loop, timeout_ms, &err), FM_OK);
}

static struct srv_source pair[2];
static int fds[2], fired;

static void remove_the_other(void *context, uint32_t events)
{
    struct srv_source *own = context;
    ck_assert((events & EPOLLIN) != 0);
    fired++;
    srv_loop_remove(loop, own == &pair[0] ? &pair[1] : &pair[0]);
}

START_TEST(removed_source_is_not_called_in_the_same_wait)
{
    struct fm_err err;
    for (int i = 0; i < 2; i++) {
        fds[i] = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        pair[i] = (struct srv_source){.ready = remove_the_other, .context = &pair[i]};
        ck_assert_int_eq(srv_loop_add(loop, &pair[i], fds[i], EPOLLIN, &err), FM_OK);
    }
    wait_ms(1000);
    ck_assert_int_eq(fired, 1);
    ck_assert_int_eq(pair[0].is_added + pair[1].is_added, 1);
    srv_loop_remove(loop, &pair[0]);
    srv_loop_remove(loop, &pair[1]);
    srv_loop_remove(loop, &pair[1]); /* twice is allowed */
    wait_ms(0);
    ck_assert_int_eq(fired, 1);
    (void)close(fds[0]);
    (void)close(fds[1]);
}
END_TEST

START_TEST(unwatchable_descriptor_is_an_answer)
{
    struct srv_source source = {.ready = remove_the_other};
    struct fm_err err;
    ck_assert_int_eq(srv_loop_add(loop, &source, -1, EPOLLIN, &err), FM_IO);
    ck_assert(!source.is_added);
}
END_TEST

START_TEST(wait_ends_at_the_earliest_wish)
{
    uint64_t begin = fm_clock_ns();
    srv_loop_wake_at(loop, begin + 200 * FM_NS_PER_MS);
    srv_loop_wake_at(loop, begin + 20 * FM_NS_PER_MS);
    wait_ms(UINT32_MAX);
    uint64_t took_ms = (fm_clock_ns() - begin) / FM_NS_PER_MS;
    ck_assert_uint_ge(took_ms, 19);
    ck_assert_uint_lt(took_ms, 150);
    srv_loop_wake_at(loop, 1); /* passed */
    begin = fm_clock_ns();
    wait_ms(UINT32_MAX);
    ck_assert_uint_lt(fm_clock_ns() - begin, 100 * FM_NS_PER_MS);
}
END_TEST

static int caught[3], caught_count;

static void catch_signal(void *context, int number)
{
    ck_assert_ptr_eq(context, caught);
    caught[caught_count++] = number;
}

START_TEST(signals_come_through_the_loop)
{
    struct fm_err err;
    ck_assert_int_eq(srv_loop_signals(loop, catch_signal, caught, &err), FM_OK);
    (void)raise(SIGHUP);
    (void)raise(SIGTERM);
    wait_ms(1000);
    ck_assert_int_eq(caught_count, 2);
    ck_assert(caught[0] == SIGHUP && caught[1] == SIGTERM);
    (void)raise(SIGPIPE); /* ignored */
}
END_TEST

/* ---- the loader ------------------------------------------------------------------------------ */

static enum fm_status load(void *context, struct srv_loader *loader, struct fm_err *err)
{
    for (uint64_t i = 1; i <= 4; i++)
        srv_loader_progress(loader, i, 4);
    if (*(int *)context == 1)
        return FM_FAIL(err, FM_CORRUPT, "file 7 is broken");
    return FM_OK;
}

static char loaded_text[512];
static int loaded_count;

static void loaded(void *context, enum fm_status status, const struct fm_err *err)
{
    (void)context;
    loaded_count++;
    (void)snprintf(loaded_text, sizeof loaded_text, "%s", status == FM_OK ? "fine" : err->text);
}

START_TEST(loader_reports_on_the_main_thread_once)
{
    struct srv_health health;
    struct srv_loader *loader = NULL;
    struct fm_err err;
    fm_log_set_level(FM_LOG_ERROR);
    for (int mode = 0; mode < 2; mode++) {
        srv_health_init(&health, 60);
        struct srv_loader_spec spec = {
            .load = load, .loaded = loaded, .context = &mode, .health = &health, .loop = loop};
        ck_assert_int_eq(srv_loader_start(&spec, &loader, &err), FM_OK);
        ck_assert(srv_loader_is_running(loader));
        for (int i = 0; i < 50 && loaded_count == mode; i++)
            wait_ms(100);
        ck_assert_int_eq(loaded_count, mode + 1);
        ck_assert_str_eq(loaded_text, mode == 0 ? "fine" : "file 7 is broken");
        ck_assert_uint_eq(atomic_load(&health.progress_permille), 1000);
        ck_assert(!srv_loader_is_running(loader));
        srv_loader_stop(loader);
    }
}
END_TEST

START_TEST(loader_that_is_stopped_reports_nothing)
{
    struct srv_health health;
    struct srv_loader *loader = NULL;
    struct fm_err err;
    int mode = 0;
    srv_health_init(&health, 60);
    struct srv_loader_spec spec = {
        .load = load, .loaded = loaded, .context = &mode, .health = &health, .loop = loop};
    ck_assert_int_eq(srv_loader_start(&spec, &loader, &err), FM_OK);
    srv_loader_stop(loader);
    wait_ms(0);
    ck_assert_int_eq(loaded_count, 0);

    bool has_fired = true;
    for (uint64_t nth = 1; has_fired; nth++) {
        fm_fault_arm("alloc", nth);
        enum fm_status status = srv_loader_start(&spec, &loader, &err);
        has_fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, has_fired ? FM_NOMEM : FM_OK);
    }
    srv_loader_stop(loader);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon loop");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, removed_source_is_not_called_in_the_same_wait);
    tcase_add_test(all, unwatchable_descriptor_is_an_answer);
    tcase_add_test(all, wait_ends_at_the_earliest_wish);
    tcase_add_test(all, signals_come_through_the_loop);
    tcase_add_test(all, loader_reports_on_the_main_thread_once);
    tcase_add_test(all, loader_that_is_stopped_reports_nothing);
    suite_add_tcase(suite, all);
    return suite;
}
