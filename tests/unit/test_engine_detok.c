/* test_engine_detok.c - bytes of tokens to text, whole and as they come. */
#include <string.h>

#include "backends/base/prng.h"
#include "backends/base/utf8.h"
#include "tests/support/golden.h"
#include "tests/support/support.h"

START_TEST(every_row_of_the_vectors_streams_in_its_chunks)
{
    struct golden_list rows = {0};
    struct eng_slice row, chunk;
    struct eng_tokens ids;
    struct fm_buf got, want, whole;
    eng_tokens_init(&ids, 1000);
    fm_buf_init(&got, 4096);
    fm_buf_init(&want, 4096);
    fm_buf_init(&whole, 4096);
    while (golden_next(&rows, golden_file("tokenizer/decode.json"), &row)) {
        struct golden_list chunks = {0};
        struct eng_detok detok = {0};
        golden_ids(golden_member(row, "ids"), &ids);
        while (golden_next(&chunks, golden_member(row, "stream_chunks"), &chunk)) {
            fm_buf_clear(&got);
            if (chunks.index <= ids.count) {
                struct eng_slice token = eng_text_token(golden_text(), ids.ids[chunks.index - 1]);
                ck_assert(eng_detok_feed(&detok, token.data, token.length, &got));
            } else {
                ck_assert(eng_detok_flush(&detok, &got));
            }
            golden_string(chunk, &want);
            ck_assert_msg(got.length == want.length &&
                              (got.length == 0 || memcmp(got.data, want.data, got.length) == 0),
                          "row %u, chunk %u: '%s', want '%s'", rows.index, chunks.index, got.data,
                          want.data);
        }
        ck_assert_uint_eq(chunks.index, ids.count + 1);
        fm_buf_clear(&whole);
        golden_string(golden_member(row, "text"), &want);
        ck_assert_int_eq(eng_decode(golden_text(), ids.ids, ids.count, &whole, NULL), FM_OK);
        ck_assert_uint_eq(whole.length, want.length);
        ck_assert_mem_eq(whole.data, want.data, want.length);
    }
    ck_assert_uint_eq(rows.index, 19);
    eng_tokens_done(&ids);
    fm_buf_done(&got);
    fm_buf_done(&want);
    fm_buf_done(&whole);
}
END_TEST

START_TEST(random_bytes_become_valid_text_however_they_are_cut)
{
    static const unsigned char bytes[] = {0x41, 0x80, 0xbf, 0xc1, 0xc3, 0xe0, 0x9f, 0xa0, 0xed,
                                          0xe2, 0x82, 0xac, 0xf0, 0x90, 0x8f, 0xf4, 0xff};
    uint64_t seed = test_seed(), draw = 0;
    struct fm_buf whole, cut;
    fm_buf_init(&whole, 4096);
    fm_buf_init(&cut, 4096);
    for (uint32_t round = 0; round < 4000; round++) {
        unsigned char data[40];
        struct eng_detok detok = {0};
        fm_buf_clear(&whole);
        fm_buf_clear(&cut);
        for (size_t i = 0; i < sizeof data; i++)
            data[i] = bytes[fm_prng_u64(seed, 0, draw++) % sizeof bytes];
        ck_assert(eng_detok_feed(&detok, data, sizeof data, &whole));
        ck_assert(eng_detok_flush(&detok, &whole));
        for (size_t at = 0; at < sizeof data;) {
            size_t step = fm_prng_u64(seed, 0, draw++) % 4;
            if (step > sizeof data - at)
                step = sizeof data - at;
            ck_assert(eng_detok_feed(&detok, data + at, step, &cut));
            ck_assert_uint_eq(fm_utf8_valid(cut.data, cut.length), cut.length);
            ck_assert_uint_le(detok.held_count, 3);
            at += step;
        }
        ck_assert(eng_detok_flush(&detok, &cut));
        ck_assert_uint_eq(fm_utf8_valid(whole.data, whole.length), whole.length);
        ck_assert_uint_eq(whole.length, cut.length);
        ck_assert_mem_eq(whole.data, cut.data, cut.length);
    }
    fm_buf_done(&whole);
    fm_buf_done(&cut);
}
END_TEST

START_TEST(an_unknown_id_and_a_full_buffer_are_errors)
{
    const uint32_t ids[] = {100, 5000};
    struct fm_err err = {0};
    struct fm_buf out;
    fm_buf_init(&out, 2);
    ck_assert_int_eq(eng_decode(golden_small_text(), ids, 2, &out, &err), FM_INVALID);
    ck_assert_str_eq(err.text, "no token has the id 5000");
    const uint32_t long_ids[] = {0};
    ck_assert_int_eq(eng_decode(golden_small_text(), long_ids, 1, &out, &err), FM_LIMIT);
    fm_buf_done(&out);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/detok");
    TCase *cases = tcase_create("detok");
    tcase_set_timeout(cases, 60);
    tcase_add_test(cases, every_row_of_the_vectors_streams_in_its_chunks);
    tcase_add_test(cases, random_bytes_become_valid_text_however_they_are_cut);
    tcase_add_test(cases, an_unknown_id_and_a_full_buffer_are_errors);
    suite_add_tcase(suite, cases);
    return suite;
}
