/* Barriers, runs and the end of the compute team. */
#include <stdatomic.h>

#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "backends/cpu/team.h"
#include "tests/support/support.h"

enum { ROUNDS = 500 };

struct sum {
    struct cpu_team *team;
    uint32_t members;
    uint64_t cells[CPU_TEAM_MAX]; /* plain memory: the barrier alone orders it */
    _Atomic uint32_t wrong;
    _Atomic uint32_t calls;
};

/* Every member writes its cell; after the barrier each must see all cells of the round. */
static void sum_body(void *context, uint32_t member)
{
    struct sum *sum = context;
    atomic_fetch_add(&sum->calls, 1);
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        sum->cells[member] = round;
        cpu_team_barrier(sum->team);
        uint64_t total = 0;
        for (uint32_t i = 0; i < sum->members; i++)
            total += sum->cells[i];
        if (total != round * sum->members)
            atomic_fetch_add(&sum->wrong, 1);
        cpu_team_barrier(sum->team);
    }
}

START_TEST(all_writes_before_a_barrier_are_seen_after_it)
{
    static const uint32_t counts[] = {1, 2, 3, 7};
    for (uint32_t i = 0; i < 4; i++) {
        struct sum sum = {.members = counts[i]};
        struct fm_err err;
        ck_assert_int_eq(cpu_team_new(counts[i], &sum.team, &err), FM_OK);
        ck_assert_uint_eq(cpu_team_member_count(sum.team), counts[i]);
        cpu_team_run(sum.team, sum_body, &sum);
        cpu_team_run(sum.team, sum_body, &sum);
        ck_assert_uint_eq(atomic_load(&sum.wrong), 0);
        ck_assert_uint_eq(atomic_load(&sum.calls), 2 * counts[i]);
        cpu_team_free(sum.team);
    }
}
END_TEST

static void count_body(void *context, uint32_t member)
{
    struct sum *sum = context;
    sum->cells[member]++;
}

START_TEST(many_short_runs_lose_no_member)
{
    struct sum sum = {.members = 3};
    struct fm_err err;
    ck_assert_int_eq(cpu_team_new(3, &sum.team, &err), FM_OK);
    for (uint32_t i = 0; i < 2000; i++)
        cpu_team_run(sum.team, count_body, &sum);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_uint_eq(sum.cells[i], 2000);
    cpu_team_free(sum.team);
}
END_TEST

START_TEST(new_survives_every_alloc_failure)
{
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct cpu_team *team = NULL;
        struct fm_err err = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = cpu_team_new(4, &team, &err);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert((team != NULL) == (status == FM_OK));
        cpu_team_free(team);
    }
}
END_TEST

START_TEST(free_takes_null)
{
    cpu_team_free(NULL);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backends/cpu/team");
    TCase *tcase = tcase_create("team");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, all_writes_before_a_barrier_are_seen_after_it);
    tcase_add_test(tcase, many_short_runs_lose_no_member);
    tcase_add_test(tcase, new_survives_every_alloc_failure);
    tcase_add_test(tcase, free_takes_null);
    suite_add_tcase(suite, tcase);
    return suite;
}
