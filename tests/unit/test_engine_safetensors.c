/* The safetensors header: what is taken, every way to be broken, and that written files read back. */
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/fault.h"
#include "backends/base/file.h"
#include "engine/safetensors.h"
#include "tests/support/support.h"

/* A file of this header and that many bytes of data. */
static struct {
    unsigned char bytes[1 << 16];
    uint64_t length;
} file;

static void file_set(const char *header, uint64_t data_bytes)
{
    uint64_t length = strlen(header);
    ck_assert_uint_lt(8 + length + data_bytes, sizeof file.bytes);
    memset(file.bytes, 0, sizeof file.bytes);
    for (int i = 0; i < 8; i++)
        file.bytes[i] = (unsigned char)(length >> (8 * i));
    memcpy(file.bytes + 8, header, length);
    file.length = 8 + length + data_bytes;
}

static enum fm_status parse(struct eng_safetensors *ret_header, struct fm_err *err)
{
    return eng_safetensors_parse(file.bytes, file.length, ret_header, err);
}

START_TEST(a_header_is_read_and_sorted_by_name)
{
    static const char text[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"w\\u0062\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[6,30]},"
        "\"a\":{\"data_offsets\":[0,6],\"shape\":[3],\"dtype\":\"BF16\"},"
        "\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[30,38]},"
        "\"none\":{\"dtype\":\"F8_E4M3\",\"shape\":[0,7],\"data_offsets\":[38,38]},"
        "\"rest\":{\"dtype\":\"F4\",\"shape\":[1,4],\"data_offsets\":[38,40]}}  ";
    struct eng_safetensors header = {0};
    struct fm_err err = {0};
    file_set(text, 40);
    ck_assert_msg(parse(&header, &err) == FM_OK, "%s", err.text);
    ck_assert_uint_eq(header.count, 5);
    ck_assert_str_eq(header.entries[0].name, "a");
    ck_assert_str_eq(header.entries[4].name, "wb");
    const struct eng_safetensors_entry *entry = eng_safetensors_find(&header, "wb");
    ck_assert_ptr_eq(entry, &header.entries[4]);
    ck_assert_int_eq(entry->dtype, ENG_DTYPE_F32);
    ck_assert_uint_eq(entry->rank, 2);
    ck_assert_uint_eq(entry->dims[0], 2);
    ck_assert_uint_eq(entry->dims[1], 3);
    ck_assert_uint_eq(entry->bytes, 24);
    ck_assert_uint_eq(entry->offset, 8 + strlen(text) + 6);
    ck_assert_int_eq(eng_safetensors_find(&header, "rest")->dtype, ENG_DTYPE_OTHER);
    ck_assert_uint_eq(eng_safetensors_find(&header, "s")->rank, 0);
    ck_assert_ptr_null(eng_safetensors_find(&header, "w"));
    eng_safetensors_done(&header);
    eng_safetensors_done(&header);
    ck_assert_ptr_null(eng_safetensors_find(&header, "wb"));
}
END_TEST

START_TEST(a_file_without_tensors_is_sound)
{
    struct eng_safetensors header = {0};
    file_set("{}", 0);
    ck_assert_int_eq(parse(&header, NULL), FM_OK);
    ck_assert_uint_eq(header.count, 0);
    eng_safetensors_done(&header);
}
END_TEST

#define TENSOR(name, dtype, shape, offsets)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *header;
    uint64_t data_bytes;
    const char *piece; /* of the sentence */
} broken[] = {
    {"", 0, "byte 0 of the header"},
    {"[]", 0, "an object is expected"},
    {"{} x", 0, "more text"},
    {"{\"a\":1}", 0, "tensor 'a': an object is expected"},
    {"{\"a\":{}}", 0, "tensor 'a' has no dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor 'a' has no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor 'a' has no data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "a key that is there twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}", 4,
     "a key other than"},
    {"{" TENSOR("a", "F33", "[1]", "[0,4]") "}", 4, "tensor 'a': a dtype"},
    {"{" TENSOR("a", "F32", "[-1]", "[0,4]") "}", 4, "tensor 'a': a number below 0"},
    {"{" TENSOR("a", "F32", "[1.5]", "[0,6]") "}", 6, "a whole number is expected"},
    {"{" TENSOR("a", "F32", "1", "[0,4]") "}", 4, "an array is expected"},
    {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1]", "[0,4]") "}", 4, "more than 6 dimensions"},
    {"{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "not the size"},
    {"{" TENSOR("a", "F32", "[4611686018427387904]", "[0,0]") "}", 0, "not the size"},
    {"{" TENSOR("a", "F32", "[9223372036854775808]", "[0,4]") "}", 4, "too large"},
    {"{" TENSOR("a", "F32", "[2,2]", "[0,12]") "}", 12,
     "'a' has 12 bytes of data, which is not "
     "the size of 32-bit elements in shape "
     "[2, 2]"},
    {"{" TENSOR("a", "F4", "[3]", "[0,2]") "}", 2, "not the size of 4-bit"},
    {"{" TENSOR("a", "F32", "[1]", "[0]") "}", 4, "not two whole numbers"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4,8]") "}", 4, "not two whole numbers"},
    {"{" TENSOR("a", "F32", "[1]", "[4,0]") "}", 4, "data_offsets [4, 0]"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 3,
     "'a' has data_offsets [0, 4], the file has "
     "data [0, 3]"},
    {"{" TENSOR("a", "F32", "[1]", "[0,9223372036854775807]") "}", 4, "data_offsets"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[2,6]") "}", 6,
     "'a' and 'b' overlap"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[0,4]") "}", 4,
     "overlap"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[5,9]") "}", 9,
     "before tensor 'b'"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 5, "no tensor has the last bytes"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("a", "F32", "[1]", "[4,8]") "}", 8,
     "tensor 'a' is there twice"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("\\u0061", "F32", "[1]", "[4,8]") "}", 8,
     "tensor 'a' is there twice"},
    {"{" TENSOR("", "F32", "[1]", "[0,4]") "}", 4, "is empty"},
    {"{" TENSOR("\xff", "F32", "[1]", "[0,4]") "}", 4, "not UTF-8"},
    {"{" TENSOR("\\u0000", "F32", "[1]", "[0,4]") "}", 4, "no text"},
    {"{\"__metadata__\":{\"a\":}}", 0, "a value is expected"},
};

START_TEST(every_break_is_refused_with_its_reason)
{
    struct eng_safetensors header = {0};
    struct fm_err err = {0};
    file_set(broken[_i].header, broken[_i].data_bytes);
    ck_assert_msg(parse(&header, &err) == FM_CORRUPT, "taken: %s", broken[_i].header);
    ck_assert_msg(strstr(err.text, broken[_i].piece) != NULL, "%s: %s", broken[_i].header,
                  err.text);
    ck_assert_ptr_null(header.entries);
    ck_assert_int_eq(parse(&header, NULL), FM_CORRUPT);
}
END_TEST

START_TEST(a_length_beyond_the_file_is_refused)
{
    static const uint64_t lengths[] = {3, 4, UINT64_C(1) << 32, UINT64_C(1) << 63, UINT64_MAX};
    struct eng_safetensors header = {0};
    file_set("{}", 0);
    for (size_t i = 0; i < FM_COUNT(lengths); i++) {
        for (int b = 0; b < 8; b++)
            file.bytes[b] = (unsigned char)(lengths[i] >> (8 * b));
        ck_assert_int_eq(parse(&header, NULL), FM_CORRUPT);
    }
}
END_TEST

START_TEST(every_cut_of_a_file_is_refused)
{
    static const char text[] =
        "{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "BF16", "[2,2]", "[4,12]") "}";
    struct eng_safetensors header = {0};
    file_set(text, 12);
    uint64_t whole = file.length;
    for (file.length = 0; file.length < whole; file.length++)
        ck_assert_int_eq(parse(&header, NULL), FM_CORRUPT);
    ck_assert_int_eq(parse(&header, NULL), FM_OK);
    eng_safetensors_done(&header);
}
END_TEST

START_TEST(a_name_of_255_bytes_is_the_longest)
{
    char text[1024], name[300];
    struct eng_safetensors header = {0};
    for (int bytes = 255; bytes <= 256; bytes++) {
        memset(name, 'n', sizeof name);
        name[bytes] = '\0';
        (void)snprintf(text, sizeof text,
                       "{\"%s\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
        file_set(text, 1);
        ck_assert_int_eq(parse(&header, NULL), bytes == 255 ? FM_OK : FM_CORRUPT);
    }
    eng_safetensors_done(&header);
}
END_TEST

static const float some_floats[6] = {1, 2, 3, 4, 5, 6};
static const uint8_t some_codes[3] = {7, 8, 9};
static const struct eng_safetensors_item items[] = {
    {"layer.0", ENG_DTYPE_F32, 2, {2, 3}, some_floats},
    {"codes", ENG_DTYPE_F8_E4M3, 1, {3}, some_codes},
    {"empty", ENG_DTYPE_I64, 1, {0}, NULL},
};

START_TEST(what_is_written_reads_back)
{
    char path[512];
    struct fm_file map;
    struct fm_err err = {0};
    struct eng_safetensors header = {0};
    (void)snprintf(path, sizeof path, "%s/some.safetensors", test_dir());
    ck_assert_msg(eng_safetensors_write(path, items, FM_COUNT(items), &err) == FM_OK, "%s",
                  err.text);
    ck_assert_int_eq(fm_file_map(path, UINT64_MAX, &map, NULL), FM_OK);
    ck_assert_int_eq(eng_safetensors_parse(map.data, map.bytes, &header, &err), FM_OK);
    ck_assert_uint_eq(header.count, 3);
    const struct eng_safetensors_entry *floats = eng_safetensors_find(&header, "layer.0");
    const struct eng_safetensors_entry *codes = eng_safetensors_find(&header, "codes");
    ck_assert_uint_eq(floats->offset % 8, 0);
    ck_assert_mem_eq((const char *)map.data + floats->offset, some_floats, sizeof some_floats);
    ck_assert_mem_eq((const char *)map.data + codes->offset, some_codes, sizeof some_codes);
    ck_assert_int_eq(codes->dtype, ENG_DTYPE_F8_E4M3);
    eng_safetensors_done(&header);
    fm_file_unmap(&map);
}
END_TEST

START_TEST(a_failed_write_leaves_no_file)
{
    char path[512];
    bool fired = true;
    (void)snprintf(path, sizeof path, "%s/failed.safetensors", test_dir());
    static const char *const points[] = {"open", "write", "alloc"};
    for (size_t p = 0; p < FM_COUNT(points); p++) {
        fired = true;
        for (uint64_t nth = 1; fired; nth++) {
            struct fm_err err = {0};
            (void)remove(path);
            fm_fault_arm(points[p], nth);
            enum fm_status status = eng_safetensors_write(path, items, FM_COUNT(items), &err);
            fired = fm_fault_disarm(points[p]);
            ck_assert_int_eq(status, !fired ? FM_OK : p == 2 ? FM_NOMEM : FM_IO);
            FILE *stream = fopen(path, "rb");
            ck_assert_msg((stream != NULL) == !fired, "%s %u", points[p], (unsigned)nth);
            if (stream != NULL)
                (void)fclose(stream);
        }
    }
    ck_assert_int_eq(eng_safetensors_write("/nowhere/x", items, 1, NULL), FM_IO);
}
END_TEST

START_TEST(parse_survives_every_alloc_failure)
{
    char text[16384] = "{";
    bool fired = true;
    for (int i = 0; i < 100; i++) /* enough for the table to grow */
        (void)snprintf(text + strlen(text), sizeof text - strlen(text),
                       "%s\"t%d\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                       i == 0 ? "" : ",", i, i, i + 1);
    (void)snprintf(text + strlen(text), sizeof text - strlen(text), "}");
    file_set(text, 100);
    for (uint64_t nth = 1; fired; nth++) {
        struct eng_safetensors header = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = parse(&header, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert_uint_eq(header.count, fired ? 0 : 100);
        eng_safetensors_done(&header);
        ck_assert_uint_lt(nth, 1000);
    }
}
END_TEST

START_TEST(types_have_their_names_and_sizes)
{
    ck_assert_str_eq(eng_dtype_name(ENG_DTYPE_F8_E8M0), "F8_E8M0");
    ck_assert_str_eq(eng_dtype_name(ENG_DTYPE_OTHER), "other");
    ck_assert_uint_eq(eng_dtype_bits(ENG_DTYPE_I64), 64);
    ck_assert_uint_eq(eng_dtype_bits(ENG_DTYPE_BF16), 16);
    ck_assert_uint_eq(eng_dtype_bits(ENG_DTYPE_OTHER), 0);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine_safetensors");
    TCase *tcase = tcase_create("safetensors");
    tcase_add_test(tcase, a_header_is_read_and_sorted_by_name);
    tcase_add_test(tcase, a_file_without_tensors_is_sound);
    tcase_add_loop_test(tcase, every_break_is_refused_with_its_reason, 0, (int)FM_COUNT(broken));
    tcase_add_test(tcase, a_length_beyond_the_file_is_refused);
    tcase_add_test(tcase, every_cut_of_a_file_is_refused);
    tcase_add_test(tcase, a_name_of_255_bytes_is_the_longest);
    tcase_add_test(tcase, what_is_written_reads_back);
    tcase_add_test(tcase, a_failed_write_leaves_no_file);
    tcase_add_test(tcase, parse_survives_every_alloc_failure);
    tcase_add_test(tcase, types_have_their_names_and_sizes);
    suite_add_tcase(suite, tcase);
    return suite;
}
