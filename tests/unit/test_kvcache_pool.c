/* Units of one pool: taken, shared, given back. */
#include "backends/base/fault.h"
#include "kvcache/pool.h"
#include "tests/support/support.h"

START_TEST(every_unit_but_the_null_unit_is_taken_once)
{
    struct kv_pool pool;
    bool seen[9] = {false};
    ck_assert_int_eq(kv_pool_init(&pool, 9, NULL), FM_OK);
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t unit = kv_pool_take(&pool);
        ck_assert_uint_gt(unit, 0);
        ck_assert_uint_lt(unit, 9);
        ck_assert(!seen[unit]);
        seen[unit] = true;
    }
    ck_assert_uint_eq(kv_pool_take(&pool), 0);
    kv_pool_put(&pool, 5);
    ck_assert_uint_eq(kv_pool_take(&pool), 5);
    kv_pool_done(&pool);
}
END_TEST

START_TEST(a_unit_is_free_after_its_last_reference)
{
    struct kv_pool pool;
    ck_assert_int_eq(kv_pool_init(&pool, 3, NULL), FM_OK);
    uint32_t unit = kv_pool_take(&pool);
    ck_assert(kv_pool_is_private(&pool, unit));
    kv_pool_ref(&pool, unit);
    ck_assert(!kv_pool_is_private(&pool, unit));
    kv_pool_put(&pool, unit);
    ck_assert_uint_eq(pool.free_count, 1);
    kv_pool_put(&pool, unit);
    ck_assert_uint_eq(pool.free_count, 2);
    kv_pool_done(&pool);
}
END_TEST

START_TEST(the_audit_sees_a_wrong_count_a_lost_unit_and_a_twin)
{
    struct kv_pool pool;
    uint32_t counted[5] = {0};
    ck_assert_int_eq(kv_pool_init(&pool, 5, NULL), FM_OK);
    uint32_t unit = kv_pool_take(&pool);
    counted[unit] = 1;
    ck_assert(kv_pool_sane(&pool, counted));

    counted[unit] = 2;
    ck_assert(!kv_pool_sane(&pool, counted));
    counted[unit] = 1;

    pool.free_count--;
    ck_assert(!kv_pool_sane(&pool, counted));
    pool.free_count++;

    uint32_t kept = pool.free_units[0];
    pool.free_units[0] = pool.free_units[1];
    ck_assert(!kv_pool_sane(&pool, counted));
    pool.free_units[0] = kept;
    ck_assert(kv_pool_sane(&pool, counted));

    pool.free_units[0] = unit;
    ck_assert(!kv_pool_sane(&pool, counted));
    kv_pool_done(&pool);
}
END_TEST

START_TEST(init_survives_every_alloc_failure)
{
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct kv_pool pool = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = kv_pool_init(&pool, 4, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert((pool.free_units != NULL) == (status == FM_OK));
        kv_pool_done(&pool);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("kvcache/pool");
    TCase *tcase = tcase_create("units");
    tcase_add_test(tcase, every_unit_but_the_null_unit_is_taken_once);
    tcase_add_test(tcase, a_unit_is_free_after_its_last_reference);
    tcase_add_test(tcase, the_audit_sees_a_wrong_count_a_lost_unit_and_a_twin);
    tcase_add_test(tcase, init_survives_every_alloc_failure);
    suite_add_tcase(suite, tcase);
    return suite;
}
