/* test_engine_pretok.c - where a text is cut, against pieces of the reference implementation. */
#include <stdio.h>
#include <string.h>

#include "backends/base/prng.h"
#include "backends/base/utf8.h"
#include "engine/pretok.h"
#include "tests/support/golden.h"
#include "tests/support/support.h"

START_TEST(every_text_of_the_vectors_has_its_pieces)
{
    struct golden_list rows = {0};
    struct eng_slice row, piece;
    struct fm_buf text, want;
    fm_buf_init(&text, 1 << 20);
    fm_buf_init(&want, 1 << 20);
    while (golden_next(&rows, golden_file("tokenizer/pretok.json"), &row)) {
        struct golden_list pieces = {0};
        size_t at = 0;
        golden_string(golden_member(row, "text"), &text);
        const unsigned char *bytes = (const unsigned char *)text.data;
        while (golden_next(&pieces, golden_member(row, "pieces"), &piece)) {
            golden_string(piece, &want);
            ck_assert_msg(at < text.length, "row %u has too few pieces", rows.index);
            size_t end = eng_pretok_next(bytes, text.length, at);
            ck_assert_msg(end - at == want.length && memcmp(bytes + at, want.data, end - at) == 0,
                          "row %u, piece %u: got %zu bytes, want '%s'", rows.index, pieces.index,
                          end - at, want.data);
            at = end;
        }
        ck_assert_uint_eq(at, text.length);
    }
    ck_assert_uint_gt(rows.index, 150);
    fm_buf_done(&text);
    fm_buf_done(&want);
}
END_TEST

static void cuts_are(const char *text, const char *want)
{
    char got[256];
    size_t at = 0, length = strlen(text), written = 0;
    while (at < length) {
        size_t end = eng_pretok_next((const unsigned char *)text, length, at);
        memcpy(got + written, text + at, end - at);
        written += end - at;
        got[written++] = '|';
        at = end;
    }
    got[written] = '\0';
    ck_assert_str_eq(got, want);
}

START_TEST(the_rules_that_are_easily_got_wrong_hold)
{
    cuts_are("a   1", "a|   |1|"); /* the segment ends before the digit */
    cuts_are("a   b", "a|  | b|");
    cuts_are("12345", "123|45|");
    cuts_are("a.\n\nb", "a|.\n\n|b|");  /* newlines belong to the punctuation before */
    cuts_are("a.\t\nb", "a|.|\t\n|b|"); /* but not behind a tab */
    cuts_are("a\tb", "a|\tb|");
    cuts_are("a\t.", "a|\t|.|"); /* only a blank goes with punctuation */
    cuts_are("it's don't", "it|'s| don|'t|");
    cuts_are("  \xe4\xbd\xa0", "  |\xe4\xbd\xa0|"); /* CJK ends the segment */
    cuts_are("\xe3\x82\xab\xe3\x83\xbb\xe3\x82\xab", "\xe3\x82\xab|\xe3\x83\xbb|\xe3\x82\xab|");
    cuts_are("\x01\x02\x03", "\x01\x02\x03|"); /* a gap is one piece */
    cuts_are("\x01\x02"
             "a",
             "\x01|\x02"
             "a|"); /* that ends where a word takes its last */
    cuts_are("   ", "   |");
    cuts_are(" \n \n ", " \n \n| |");
}
END_TEST

START_TEST(pieces_cover_any_text_and_never_cut_a_character)
{
    static const char *const units[] = {
        "a",
        "Z",
        "0",
        " ",
        "\n",
        "\r",
        "\t",
        ".",
        "<",
        "\xc3\xa9",
        "\xcc\x81",
        "\xe4\xbd\xa0",
        "\xe3\x83\xbb",
        "\xe3\x82\x97",
        "$",
        "\xe2\x80\xa8",
        "\xf0\x9f\x99\x82",
        "\xef\xbb\xbf",
        "\x01",
        "\xe0\xa5\xa7",
    };
    uint64_t seed = test_seed(), draw = 0;
    for (uint32_t round = 0; round < 5000; round++) {
        char text[128];
        size_t length = 0, at = 0;
        while (length < 100)
            length += (size_t)snprintf(
                text + length, sizeof text - length, "%s",
                units[fm_prng_u64(seed, 1, draw++) % (sizeof units / sizeof units[0])]);
        while (at < length) {
            size_t end = eng_pretok_next((const unsigned char *)text, length, at);
            ck_assert(end > at && end <= length);
            ck_assert_uint_eq(fm_utf8_valid(text + at, end - at), end - at);
            at = end;
        }
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/pretok");
    TCase *cases = tcase_create("pretok");
    tcase_set_timeout(cases, 60);
    tcase_add_test(cases, every_text_of_the_vectors_has_its_pieces);
    tcase_add_test(cases, the_rules_that_are_easily_got_wrong_hold);
    tcase_add_test(cases, pieces_cover_any_text_and_never_cut_a_character);
    suite_add_tcase(suite, cases);
    return suite;
}
