/* test_daemon_notify.c - what the service manager hears, and the heartbeats behind the watchdog. */
#include "daemon/notify.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/thread.h"
#include "daemon/health.h"
#include "tests/support/support.h"

/* A manager's socket; name with @ for the abstract namespace. */
static int manager(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_int_ge(fd, 0);
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, bytes), 0);
    return fd;
}

static const char *heard(int fd)
{
    static char text[600];
    ssize_t got = recv(fd, text, sizeof text - 1, 0);
    text[got < 0 ? 0 : got] = '\0';
    return text;
}

START_TEST(messages_arrive_at_a_path_and_at_an_abstract_name)
{
    char names[2][108];
    (void)snprintf(names[0], sizeof names[0], "%s/notify", test_dir());
    (void)snprintf(names[1], sizeof names[1], "@fathom-test-%d", (int)getpid());
    for (int i = 0; i < 2; i++) {
        struct srv_notify notify;
        struct fm_err err;
        int fd = manager(names[i]);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", names[i], 1), 0);
        ck_assert_int_eq(srv_notify_open(&notify, &err), FM_OK);
        ck_assert_ptr_null(getenv("NOTIFY_SOCKET"));
        srv_notify_send(&notify, "READY=1\nSTATUS=serving %s", "m");
        ck_assert_str_eq(heard(fd), "READY=1\nSTATUS=serving m");
        srv_notify_close(&notify);
        (void)close(fd);
    }
}
END_TEST

START_TEST(nobody_listening_is_no_failure_and_a_wrong_name_is)
{
    struct srv_notify notify;
    struct fm_err err;
    (void)unsetenv("NOTIFY_SOCKET");
    ck_assert_int_eq(srv_notify_open(&notify, &err), FM_OK);
    srv_notify_send(&notify, "READY=1");
    srv_notify_close(&notify);
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", "relative", 1), 0);
    ck_assert_int_eq(srv_notify_open(&notify, &err), FM_INVALID);
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1), 0);
    ck_assert_int_eq(srv_notify_open(&notify, &err), FM_IO);
    srv_notify_close(&notify);
}
END_TEST

START_TEST(watchdog_is_fed_in_time_and_only_while_live)
{
    struct srv_notify notify;
    struct fm_err err;
    char name[108], pid[16];
    uint64_t now = 1000 * FM_NS_PER_S;
    fm_clock_fake(&now);
    (void)snprintf(name, sizeof name, "@fathom-dog-%d", (int)getpid());
    (void)snprintf(pid, sizeof pid, "%d", (int)getpid());
    int fd = manager(name);
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", name, 1), 0);
    ck_assert_int_eq(setenv("WATCHDOG_USEC", "3000000", 1), 0);
    ck_assert_int_eq(setenv("WATCHDOG_PID", pid, 1), 0);
    ck_assert_int_eq(srv_notify_open(&notify, &err), FM_OK);
    srv_notify_feed(&notify, true);
    ck_assert_str_eq(heard(fd), "WATCHDOG=1");
    now += FM_NS_PER_S / 2;
    srv_notify_feed(&notify, true);
    ck_assert_str_eq(heard(fd), "");
    now += FM_NS_PER_S / 2;
    srv_notify_feed(&notify, false);
    ck_assert_str_eq(heard(fd), "");
    srv_notify_feed(&notify, true);
    ck_assert_str_eq(heard(fd), "WATCHDOG=1");
    srv_notify_close(&notify);

    ck_assert_int_eq(setenv("WATCHDOG_USEC", "3000000", 1), 0);
    ck_assert_int_eq(setenv("WATCHDOG_PID", "1", 1), 0); /* another process's */
    ck_assert_int_eq(setenv("NOTIFY_SOCKET", name, 1), 0);
    ck_assert_int_eq(srv_notify_open(&notify, &err), FM_OK);
    srv_notify_feed(&notify, true);
    ck_assert_str_eq(heard(fd), "");
    srv_notify_close(&notify);
    (void)close(fd);
    fm_clock_fake(NULL);
}
END_TEST

static _Atomic int step; /* 1: the thread is stuck; 2: it ends */

static void *stuck_main(void *arg)
{
    (void)arg;
    fm_thread_beat();
    atomic_store(&step, 1);
    while (atomic_load(&step) != 2)
        (void)usleep(1000);
    return NULL;
}

START_TEST(thread_without_heartbeat_stalls_the_process)
{
    struct srv_health health;
    struct fm_thread *thread = NULL;
    struct fm_err err;
    uint64_t now = 1000 * FM_NS_PER_S;
    fm_log_set_level(FM_LOG_ERROR);
    fm_clock_fake(&now);
    srv_health_init(&health, 10);
    ck_assert(srv_health_look(&health));
    ck_assert_int_eq(fm_thread_start("stuck", FM_THREAD_IO, stuck_main, NULL, &thread, &err),
                     FM_OK);
    while (atomic_load(&step) != 1)
        (void)usleep(1000);
    now += FM_NS_PER_S;
    (void)srv_health_look(&health); /* takes note of the one beat */
    now += 9 * FM_NS_PER_S;
    ck_assert(srv_health_look(&health));
    now += 2 * FM_NS_PER_S;
    ck_assert(!srv_health_look(&health));
    ck_assert(health.is_stalled);
    atomic_store(&step, 2);
    fm_thread_join(thread);
    ck_assert(srv_health_look(&health));
    ck_assert(!health.is_stalled);
    fm_clock_fake(NULL);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon notify");
    TCase *all = tcase_create("all");
    tcase_add_test(all, messages_arrive_at_a_path_and_at_an_abstract_name);
    tcase_add_test(all, nobody_listening_is_no_failure_and_a_wrong_name_is);
    tcase_add_test(all, watchdog_is_fed_in_time_and_only_while_live);
    tcase_add_test(all, thread_without_heartbeat_stalls_the_process);
    suite_add_tcase(suite, all);
    return suite;
}
