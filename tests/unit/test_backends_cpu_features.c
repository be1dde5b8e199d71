/* Levels by name, and the number of threads that a cpuset and a quota leave. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/cpu/features.h"
#include "tests/support/support.h"

START_TEST(the_best_level_is_offered_and_every_offered_one_can_be_forced)
{
    struct fm_err err;
    enum cpu_level best, forced;
    (void)unsetenv("FATHOM_ISA");
    ck_assert_int_eq(cpu_level_choose(NULL, &best, &err), FM_OK);
    ck_assert(cpu_level_is_offered(best));
    for (uint32_t i = 0; i < CPU_LEVEL_COUNT; i++) {
        enum cpu_level level = (enum cpu_level)i;
        enum fm_status status = cpu_level_choose(cpu_level_name(level), &forced, &err);
        ck_assert_int_eq(status, cpu_level_is_offered(level) ? FM_OK : FM_UNSUPPORTED);
        if (status == FM_OK)
            ck_assert_int_eq(forced, level);
        ck_assert(!cpu_level_is_offered(level) || level <= best);
    }
}
END_TEST

START_TEST(the_environment_forces_a_level_unless_the_caller_names_one)
{
    struct fm_err err;
    enum cpu_level level = CPU_LEVEL_COUNT;
    (void)setenv("FATHOM_ISA", "scalar", 1);
    ck_assert_int_eq(cpu_level_choose(NULL, &level, &err), FM_OK);
    ck_assert_int_eq(level, CPU_LEVEL_SCALAR);
    (void)setenv("FATHOM_ISA", "mmx", 1);
    ck_assert_int_eq(cpu_level_choose(NULL, &level, &err), FM_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.text, "mmx"));
    ck_assert_int_eq(cpu_level_choose("scalar", &level, &err), FM_OK);
    (void)unsetenv("FATHOM_ISA");
}
END_TEST

static void file_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

START_TEST(the_smallest_quota_on_the_path_counts)
{
    char root[256], path[512];
    (void)snprintf(root, sizeof root, "%.200s/cgroup", test_dir());
    ck_assert_int_eq(mkdir(root, 0700), 0);
    ck_assert_uint_eq(cpu_cgroup_threads(root, "/a/b"), UINT32_MAX);

    (void)snprintf(path, sizeof path, "%s/a", root);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    (void)snprintf(path, sizeof path, "%s/a/cpu.max", root);
    file_write(path, "250000 100000\n");
    ck_assert_uint_eq(cpu_cgroup_threads(root, "/a/b"), 3);
    ck_assert_uint_eq(cpu_cgroup_threads(root, "/c"), UINT32_MAX);

    (void)snprintf(path, sizeof path, "%s/a/b", root);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    (void)snprintf(path, sizeof path, "%s/a/b/cpu.max", root);
    file_write(path, "max 100000\n");
    ck_assert_uint_eq(cpu_cgroup_threads(root, "/a/b"), 3);
    file_write(path, "50000 100000\n");
    ck_assert_uint_eq(cpu_cgroup_threads(root, "/a/b"), 1);
    file_write(path, "nonsense\n");
    ck_assert_uint_eq(cpu_cgroup_threads(root, "/a/b"), 3);

    (void)snprintf(path, sizeof path, "%s/cpu", root);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    (void)snprintf(path, sizeof path, "%s/cpu/cpu.cfs_quota_us", root);
    file_write(path, "200000\n");
    (void)snprintf(path, sizeof path, "%s/cpu/cpu.cfs_period_us", root);
    file_write(path, "100000\n");
    ck_assert_uint_eq(cpu_cgroup_threads(root, "/a/b"), 2);
    (void)snprintf(path, sizeof path, "%s/cpu/cpu.cfs_quota_us", root);
    file_write(path, "-1\n");
    ck_assert_uint_eq(cpu_cgroup_threads(root, "/a/b"), 3);
}
END_TEST

START_TEST(at_least_one_thread_may_compute)
{
    ck_assert_uint_ge(cpu_threads_allowed(), 1);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backends/cpu/features");
    TCase *tcase = tcase_create("features");
    tcase_add_test(tcase, the_best_level_is_offered_and_every_offered_one_can_be_forced);
    tcase_add_test(tcase, the_environment_forces_a_level_unless_the_caller_names_one);
    tcase_add_test(tcase, the_smallest_quota_on_the_path_counts);
    tcase_add_test(tcase, at_least_one_thread_may_compute);
    suite_add_tcase(suite, tcase);
    return suite;
}
