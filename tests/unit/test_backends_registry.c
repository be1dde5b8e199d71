/* Which backend is chosen, and what is said when none is. */
#include <string.h>

#include "backends/backend.h"
#include "tests/support/support.h"

START_TEST(every_backend_has_a_name_and_the_interface_of_this_build)
{
    uint32_t count = 0;
    for (; be_registry_get(count) != NULL; count++) {
        const struct be_ops *ops = be_registry_get(count);
        ck_assert_uint_eq(ops->abi, BE_OPS_ABI);
        for (uint32_t i = 0; i < count; i++)
            ck_assert_str_ne(ops->name, be_registry_get(i)->name);
    }
    ck_assert_uint_ge(count, 1);
    ck_assert_ptr_null(be_registry_get(UINT32_MAX));
}
END_TEST

START_TEST(an_unknown_name_is_named)
{
    struct be_device_options options = {0};
    struct be_device *device = NULL;
    struct fm_err err;
    ck_assert_int_eq(be_registry_open("abacus", &options, &device, &err), FM_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.text, "abacus"));
    ck_assert_ptr_null(device);
}
END_TEST

START_TEST(without_a_name_the_best_that_runs_is_opened)
{
    struct be_device_options options = {.threads = 1};
    struct be_device *device = NULL;
    struct fm_err err = {0};
    ck_assert_int_eq(be_registry_open(NULL, &options, &device, &err), FM_OK);
    const char *reason = NULL;
    int score = device->ops->score(&reason);
    for (uint32_t i = 0; be_registry_get(i) != NULL; i++)
        ck_assert_int_le(be_registry_get(i)->score(&reason), score);
    device->ops->close(device);
    options.variant = "mmx";
    device = NULL;
    ck_assert_int_eq(be_registry_open("cpu", &options, &device, &err), FM_UNSUPPORTED);
    ck_assert_ptr_null(device);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backends/registry");
    TCase *tcase = tcase_create("registry");
    tcase_add_test(tcase, every_backend_has_a_name_and_the_interface_of_this_build);
    tcase_add_test(tcase, an_unknown_name_is_named);
    tcase_add_test(tcase, without_a_name_the_best_that_runs_is_opened);
    suite_add_tcase(suite, tcase);
    return suite;
}
