/* Mapped files: what they hold, and each way that a path can be refused. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/base/fault.h"
#include "backends/base/file.h"
#include "tests/support/support.h"

static char path[512];

static void file_write(const char *name, const char *text)
{
    (void)snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    FILE *stream = fopen(path, "wb");
    ck_assert_ptr_nonnull(stream);
    ck_assert_int_ge(fputs(text, stream), 0);
    ck_assert_int_eq(fclose(stream), 0);
}

START_TEST(a_file_is_there_as_memory)
{
    struct fm_file file = {0};
    file_write("some", "fathom");
    ck_assert_int_eq(fm_file_map(path, 6, &file, NULL), FM_OK);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_uint_eq(file.bytes, 6);
    ck_assert_int_eq(memcmp(file.data, "fathom", 6), 0);
    fm_file_unmap(&file);
    ck_assert_ptr_null(file.data);
    fm_file_unmap(&file);
}
END_TEST

START_TEST(an_empty_file_has_no_bytes)
{
    struct fm_file file = {0};
    file_write("empty", "");
    ck_assert_int_eq(fm_file_map(path, 0, &file, NULL), FM_OK);
    ck_assert_uint_eq(file.bytes, 0);
    ck_assert_ptr_nonnull(file.data);
    fm_file_unmap(&file);
}
END_TEST

START_TEST(what_is_no_file_of_bounded_size_is_refused)
{
    struct fm_file file = {"untouched", 9};
    struct fm_err err = {0};
    char pipe[600];

    file_write("seven", "7 bytes");
    ck_assert_int_eq(fm_file_map(path, 6, &file, &err), FM_LIMIT);
    ck_assert_msg(strstr(err.text, "has 7 bytes, at most 6") != NULL, "%s", err.text);
    ck_assert_int_eq(fm_file_map("/nowhere/at/all", 6, &file, &err), FM_MISS);
    ck_assert_int_eq(fm_file_map(test_dir(), 6, &file, &err), FM_IO);
    (void)snprintf(pipe, sizeof pipe, "%s.pipe", path);
    ck_assert_int_eq(mkfifo(pipe, 0600), 0);
    ck_assert_int_eq(fm_file_map(pipe, 6, &file, &err), FM_IO);
    ck_assert_msg(strstr(err.text, "not a regular file") != NULL, "%s", err.text);
    ck_assert_uint_eq(file.bytes, 9);
}
END_TEST

START_TEST(refusals_of_the_kernel_are_reported)
{
    static const char *const points[] = {"open", "map"};
    struct fm_file file = {"untouched", 9};
    file_write("some", "fathom");
    for (int i = 0; i < 2; i++) {
        struct fm_err err = {0};
        fm_fault_arm(points[i], 1);
        ck_assert_int_eq(fm_file_map(path, 6, &file, &err), FM_IO);
        ck_assert(fm_fault_disarm(points[i]));
        ck_assert_msg(strstr(err.text, path) != NULL, "%s", err.text);
        ck_assert_uint_eq(file.bytes, 9);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("base_file");
    TCase *tcase = tcase_create("file");
    tcase_add_test(tcase, a_file_is_there_as_memory);
    tcase_add_test(tcase, an_empty_file_has_no_bytes);
    tcase_add_test(tcase, what_is_no_file_of_bounded_size_is_refused);
    tcase_add_test(tcase, refusals_of_the_kernel_are_reported);
    suite_add_tcase(suite, tcase);
    return suite;
}
