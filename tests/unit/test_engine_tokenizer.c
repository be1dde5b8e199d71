/* test_engine_tokenizer.c - tokenizer.json, text to tokens and back, against recorded vectors. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "engine/bpe.h"
#include "engine/pretok.h"
#include "engine/tokenizer.h"
#include "tests/support/golden.h"
#include "tests/support/support.h"

static void ids_check(const struct eng_tokens *got, const struct eng_tokens *want, const char *what,
                      uint32_t row)
{
    ck_assert_msg(got->count == want->count, "%s %u: %u tokens, want %u", what, row, got->count,
                  want->count);
    for (uint32_t i = 0; i < got->count; i++)
        ck_assert_msg(got->ids[i] == want->ids[i], "%s %u: token %u is %u, want %u", what, row, i,
                      got->ids[i], want->ids[i]);
}

START_TEST(every_text_of_the_vectors_has_its_ids)
{
    const struct eng_text *text = golden_text();
    struct golden_list list = {0};
    struct eng_slice row;
    struct fm_buf bytes;
    struct eng_tokens got, want;
    fm_buf_init(&bytes, 1 << 24);
    eng_tokens_init(&got, 1 << 20);
    eng_tokens_init(&want, 1 << 20);
    while (golden_next(&list, golden_file("tokenizer/tokens.json"), &row)) {
        struct eng_slice plain = eng_json_member(row, "ids_plain");
        golden_string(golden_member(row, "text"), &bytes);
        golden_ids(golden_member(row, "ids"), &want);
        got.count = 0;
        ck_assert_int_eq(eng_encode(text, bytes.data, bytes.length, ENG_ENCODE_CONTROL, &got, NULL),
                         FM_OK);
        ids_check(&got, &want, "tokens.json", list.index);
        if (plain.data != NULL)
            golden_ids(plain, &want);
        got.count = 0;
        ck_assert_int_eq(eng_encode(text, bytes.data, bytes.length, ENG_ENCODE_TEXT, &got, NULL),
                         FM_OK);
        ids_check(&got, &want, "tokens.json, plain", list.index);
    }
    ck_assert_uint_eq(list.index, 213);
    eng_tokens_done(&got);
    eng_tokens_done(&want);
    fm_buf_done(&bytes);
}
END_TEST

START_TEST(every_prompt_of_the_vectors_has_its_ids)
{
    struct golden_list list = {0};
    struct eng_slice row;
    struct fm_buf bytes;
    struct eng_tokens got, want;
    fm_buf_init(&bytes, 1 << 24);
    eng_tokens_init(&got, 1 << 20);
    eng_tokens_init(&want, 1 << 20);
    while (golden_next(&list, golden_file("tokenizer/chat_tokens.json"), &row)) {
        golden_string(golden_member(row, "text"), &bytes);
        golden_ids(golden_member(row, "ids"), &want);
        got.count = 0;
        ck_assert_int_eq(
            eng_encode(golden_text(), bytes.data, bytes.length, ENG_ENCODE_CONTROL, &got, NULL),
            FM_OK);
        ids_check(&got, &want, "chat_tokens.json", list.index);
    }
    ck_assert_uint_eq(list.index, 13);
    eng_tokens_done(&got);
    eng_tokens_done(&want);
    fm_buf_done(&bytes);
}
END_TEST

START_TEST(every_added_token_is_found_by_its_name)
{
    const struct eng_text *text = golden_text();
    const struct eng_text_info *info = eng_text_info(text);
    struct golden_list list = {0};
    struct eng_slice row;
    struct fm_buf name;
    fm_buf_init(&name, 4096);
    struct eng_slice all = golden_file("tokenizer/added_tokens.json");
    while (golden_next(&list, all, &row)) {
        struct fm_json reader;
        uint64_t id = 0;
        struct eng_slice number = golden_member(row, "id");
        fm_json_init(&reader, number.data, number.length);
        ck_assert(fm_json_u64(&reader, UINT32_MAX, &id));
        golden_string(golden_member(row, "content"), &name);
        ck_assert_uint_eq(eng_text_control_id(text, name.data), id);
        ck_assert_int_eq(eng_text_token_kind(text, (uint32_t)id), ENG_TOKEN_CONTROL);
        struct eng_slice token = eng_text_token(text, (uint32_t)id);
        ck_assert_uint_eq(token.length, name.length);
        ck_assert_mem_eq(token.data, name.data, name.length);
    }
    ck_assert_uint_eq(list.index, 1283);
    ck_assert_uint_eq(info->vocab_size, 129280);
    ck_assert_uint_eq(info->token_count, 129280);
    ck_assert_uint_eq(info->bos, 0);
    ck_assert_uint_eq(info->eos, 1);
    ck_assert_uint_eq(info->user, 128803);
    ck_assert_uint_eq(info->assistant, 128804);
    ck_assert_uint_eq(info->think_start, 128821);
    ck_assert_uint_eq(info->think_end, 128822);
    ck_assert_uint_eq(info->dsml, 128825);
    ck_assert_uint_eq(info->latest_reminder, 128828);
    ck_assert_uint_eq(info->fim_hole, 128800);
    ck_assert_uint_eq(info->task_title, 128836);
    ck_assert_uint_eq(info->bytes_max, 128);
    ck_assert_int_eq(info->revision, ENG_REVISION_R1);
    ck_assert(info->revision_is_guess);
    fm_buf_done(&name);
}
END_TEST

/* Merging as BPE is defined: the lowest rank first, the leftmost of equals. */
static uint32_t naive_encode(const struct eng_vocab *vocab, const unsigned char *piece,
                             size_t length, uint32_t *ids)
{
    uint32_t count = (uint32_t)length;
    for (size_t i = 0; i < length; i++)
        ids[i] = vocab->byte_ids[piece[i]];
    for (;;) {
        uint32_t best = ENG_VOCAB_NONE, at = 0;
        for (uint32_t i = 0; i + 1 < count; i++) {
            uint32_t merged = eng_vocab_merged(vocab, ids[i], ids[i + 1]);
            if (merged < best) {
                best = merged;
                at = i;
            }
        }
        if (best == ENG_VOCAB_NONE)
            return count;
        ids[at] = best;
        memmove(ids + at + 1, ids + at + 2, (count - at - 2) * sizeof ids[0]);
        count--;
    }
}

static uint32_t below(uint64_t seed, uint64_t *draw, uint32_t bound)
{
    return (uint32_t)(fm_prng_u64(seed, 0, (*draw)++) % bound);
}

static void pieces_check(const struct eng_vocab *vocab, uint64_t seed)
{
    enum { LENGTH_MAX = 90 };
    uint64_t draw = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        unsigned char piece[LENGTH_MAX * 2];
        uint32_t want[LENGTH_MAX * 2], got[LENGTH_MAX * 2];
        uint64_t dead[LENGTH_MAX * 2 / 64 + 2];
        size_t length = 0, wanted = 1 + below(seed, &draw, LENGTH_MAX);
        uint32_t alphabet = 1 + below(seed, &draw, 6);
        while (length < wanted) {
            if (below(seed, &draw, 2) == 0) { /* parts of real tokens are where merges compete */
                const struct eng_vocab_token *token =
                    &vocab->tokens[below(seed, &draw, vocab->id_count)];
                size_t part = token->length == 0 ? 0 : 1 + below(seed, &draw, token->length);
                if (part > LENGTH_MAX)
                    part = LENGTH_MAX;
                memcpy(piece + length, vocab->bytes + token->offset, part);
                length += part;
            } else {
                piece[length++] = (unsigned char)("aesn t"[below(seed, &draw, alphabet)]);
            }
        }
        uint32_t want_count = naive_encode(vocab, piece, length, want);
        size_t got_count = eng_bpe_encode(vocab, piece, length, got, dead);
        ck_assert_msg(got_count == want_count && memcmp(got, want, got_count * sizeof got[0]) == 0,
                      "round %u of seed %llu differs", round, (unsigned long long)seed);
    }
}

START_TEST(tokens_are_those_of_merging_by_rank)
{
    pieces_check(&golden_text()->vocab, test_seed());
    pieces_check(&golden_small_text()->vocab, test_seed() + 1);
}
END_TEST

START_TEST(every_token_of_text_encodes_to_itself)
{
    const struct eng_vocab *vocab = &golden_text()->vocab;
    uint32_t ids[256];
    uint64_t dead[8];
    for (uint32_t id = 0; id < vocab->id_count; id++) {
        const struct eng_vocab_token *token = &vocab->tokens[id];
        if (token->length == 0)
            continue;
        ck_assert_uint_eq(eng_vocab_find(vocab, vocab->bytes + token->offset, token->length, 0),
                          id);
        ck_assert_uint_eq(
            eng_bpe_encode(vocab, vocab->bytes + token->offset, token->length, ids, dead), 1);
        ck_assert_uint_eq(ids[0], id);
    }
}
END_TEST

START_TEST(a_megabyte_of_one_word_takes_no_longer_than_of_many)
{
    static const char *const units[] = {"a", "ab", "-", " ", "zq", "\xe4\xbd\xa0", "aaaaaaab"};
    enum { LENGTH = 1 << 20 };
    char *bytes = malloc(LENGTH);
    struct eng_tokens tokens;
    struct fm_buf back;
    ck_assert_ptr_nonnull(bytes);
    fm_buf_init(&back, LENGTH);
    eng_tokens_init(&tokens, LENGTH);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        size_t unit = strlen(units[i]), length = LENGTH / unit * unit;
        for (size_t at = 0; at < length; at += unit)
            memcpy(bytes + at, units[i], unit);
        tokens.count = 0;
        ck_assert_int_eq(eng_encode(golden_text(), bytes, length, ENG_ENCODE_TEXT, &tokens, NULL),
                         FM_OK);
        fm_buf_clear(&back);
        ck_assert_int_eq(eng_decode(golden_text(), tokens.ids, tokens.count, &back, NULL), FM_OK);
        ck_assert_uint_eq(back.length, length);
        ck_assert_mem_eq(back.data, bytes, length);
    }
    fm_buf_done(&back);
    eng_tokens_done(&tokens);
    free(bytes);
}
END_TEST

START_TEST(names_of_control_tokens_are_text_unless_asked_for)
{
    static const char name[] = "x<｜User｜><think>";
    const struct eng_text *text = golden_small_text();
    const struct eng_text_info *info = eng_text_info(text);
    struct eng_tokens tokens;
    eng_tokens_init(&tokens, 100);
    ck_assert_int_eq(eng_encode(text, name, strlen(name), ENG_ENCODE_TEXT, &tokens, NULL), FM_OK);
    for (uint32_t i = 0; i < tokens.count; i++)
        ck_assert_int_eq(eng_text_token_kind(text, tokens.ids[i]), ENG_TOKEN_BYTES);
    tokens.count = 0;
    ck_assert_int_eq(eng_encode(text, name, strlen(name), ENG_ENCODE_CONTROL, &tokens, NULL),
                     FM_OK);
    ck_assert_uint_eq(tokens.count, 3);
    ck_assert_uint_eq(tokens.ids[1], info->user);
    ck_assert_uint_eq(tokens.ids[2], info->think_start);
    eng_tokens_done(&tokens);
}
END_TEST

START_TEST(a_failed_encoding_leaves_the_tokens_alone)
{
    const struct eng_text *text = golden_small_text();
    struct eng_tokens tokens;
    struct fm_err err = {0};
    eng_tokens_init(&tokens, 5);
    ck_assert_int_eq(eng_tokens_put(&tokens, 7, &err), FM_OK);
    ck_assert_int_eq(eng_encode(text, "ab\xff", 3, ENG_ENCODE_TEXT, &tokens, &err), FM_INVALID);
    ck_assert_str_eq(err.text, "the text is not UTF-8 at byte 2");
    ck_assert_int_eq(eng_encode(text, "q1w2e3r4t5", 10, ENG_ENCODE_TEXT, &tokens, &err), FM_LIMIT);
    ck_assert_uint_eq(tokens.count, 1);
    ck_assert_int_eq(eng_encode(text, "", 0, ENG_ENCODE_TEXT, &tokens, &err), FM_OK);
    ck_assert_int_eq(eng_encode(text, NULL, 0, ENG_ENCODE_CONTROL, &tokens, &err), FM_OK);
    ck_assert_uint_eq(tokens.count, 1);
    ck_assert_uint_eq(tokens.ids[0], 7);
    eng_tokens_done(&tokens);
}
END_TEST

START_TEST(encoding_survives_every_alloc_failure)
{
    char *word = malloc(4000);
    ck_assert_ptr_nonnull(word);
    memset(word, 'x', 4000);
    const struct eng_text *text = golden_small_text();
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct eng_tokens tokens;
        eng_tokens_init(&tokens, 1 << 16);
        fm_fault_arm("alloc", nth);
        enum fm_status status = eng_encode(text, word, 4000, ENG_ENCODE_TEXT, &tokens, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert(fired ? tokens.count == 0 : tokens.count > 0);
        eng_tokens_done(&tokens);
    }
    free(word);
}
END_TEST

START_TEST(opening_survives_every_alloc_failure)
{
    uint32_t fails = 0;
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct eng_text *text = NULL;
        fm_fault_arm("alloc", nth);
        enum fm_status status = eng_text_open("conf/model", NULL, &text, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert((text != NULL) == (status == FM_OK));
        eng_text_free(text);
        fails += fired;
    }
    ck_assert_uint_gt(fails, 10);
}
END_TEST

/* A small, complete tokenizer.json with one place changed. */
static void tokenizer_write(const char *dir, const char *from, const char *to)
{
    static char json[1 << 16];
    char path[512];
    size_t at = 0;
    at += (size_t)snprintf(
        json, sizeof json,
        "{\"added_tokens\":[{\"id\":300,\"content\":\"<｜begin▁of▁sentence｜>\",\"lstrip\":false},"
        "{\"id\":301,\"content\":\"<｜end▁of▁sentence｜>\"},{\"id\":302,\"content\":\"<｜User｜>\"}"
        ","
        "{\"id\":303,\"content\":\"<｜Assistant｜>\"},{\"id\":304,\"content\":\"<think>\"},"
        "{\"id\":305,\"content\":\"</think>\"},{\"id\":306,\"content\":\"｜DSML｜\"}],"
        "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < 3; i++) {
        at += (size_t)snprintf(json + at, sizeof json - at,
                               "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"");
        for (const char *c = eng_pretok_patterns[i]; *c != '\0'; c++) {
            const char *format = *c == '"' || *c == '\\'    ? "\\%c"
                                 : *c == '\r' || *c == '\n' ? "\\u%04x"
                                                            : "%c";
            at += (size_t)snprintf(json + at, sizeof json - at, format, *c);
        }
        at += (size_t)snprintf(json + at, sizeof json - at,
                               "\"},\"behavior\":\"Isolated\",\"invert\":false},");
    }
    at += (size_t)snprintf(json + at, sizeof json - at,
                           "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
                           "]},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
                           "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"vocab\":{");
    for (unsigned code = 0x21, id = 0; code <= 0x143; code++) {
        if ((code >= 0x7f && code <= 0xa0) || code == 0xad)
            continue;
        at += (size_t)snprintf(json + at, sizeof json - at, "\"\\u%04x\":%u,", code, id++);
    }
    (void)snprintf(json + at, sizeof json - at,
                   "\"ab\":256,\"abc\":257,\"bc\":258},"
                   "\"merges\":[\"a b\",[\"ab\",\"c\"],\"b c\"]}}");
    char *place = from != NULL ? strstr(json, from) : NULL;
    ck_assert(from == NULL || place != NULL);
    (void)mkdir(dir, 0700);
    (void)snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    if (place != NULL) {
        (void)fwrite(json, 1, (size_t)(place - json), file);
        (void)fputs(to, file);
        (void)fputs(place + strlen(from), file);
    } else {
        (void)fputs(json, file);
    }
    ck_assert_int_eq(fclose(file), 0);
}

START_TEST(a_tokenizer_of_another_kind_is_refused_by_name)
{
    static const struct {
        const char *from, *to, *says;
        enum fm_status status;
    } rows[] = {
        {NULL, NULL, "", FM_OK},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[]}", "",
         FM_OK},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}", "normalizer", FM_UNSUPPORTED},
        {"\\\\p{N}{1,3}", "\\\\p{N}{1,2}", "pre_tokenizer: step 0", FM_UNSUPPORTED},
        {"\"Isolated\"", "\"Removed\"", "pre_tokenizer: step 0", FM_UNSUPPORTED},
        {"\"use_regex\":false", "\"use_regex\":true", "pre_tokenizer: step 3", FM_UNSUPPORTED},
        {"\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":{\"type\":\"Fuse\"}", "decoder",
         FM_UNSUPPORTED},
        {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", "model.type", FM_UNSUPPORTED},
        {"\"dropout\":null", "\"dropout\":0.1", "dropout", FM_UNSUPPORTED},
        {"\"dropout\":null", "\"byte_fallback\":true", "byte_fallback", FM_UNSUPPORTED},
        {"\"dropout\":null", "\"ignore_merges\":true", "", FM_OK},
        {"\"lstrip\":false", "\"lstrip\":true", "lstrip", FM_UNSUPPORTED},
        {"｜DSML｜", "DSML", "'｜DSML｜' is missing", FM_UNSUPPORTED},
        {"\"id\":306", "\"id\":305", "two have the id 305", FM_INVALID},
        {"\"id\":306", "\"id\":1048576", "", FM_CORRUPT},
        {"\"abc\":257,\"bc\":258", "\"abc\":258,\"bc\":257", "ids do not follow", FM_UNSUPPORTED},
        {"\"abc\":257,\"bc\":258", "\"abc\":257,\"bd\":258", "merge 2", FM_INVALID},
        {",\"b c\"]", "]", "token 258 has no merge", FM_UNSUPPORTED},
        {"[\"a b\",[\"ab\",\"c\"],\"b c\"]", "[\"a b\",[\"ab\"],\"b c\"]", "merge 1 is not two",
         FM_INVALID},
        {"[\"a b\",[\"ab\",\"c\"],\"b c\"]", "[\"ab\"]", "merge 0 is not two", FM_INVALID},
        {"\"\\u0143\":255,", "", "byte 0xad", FM_INVALID},
        {"\"ab\":256", "\"a b\":256", "token 256 is not written in bytes", FM_INVALID},
        {"\"merges\":", "\"mergers\":", "vocab or merges is missing", FM_INVALID},
        {"\"decoder\":", "\"encoder\":", "decoder is missing", FM_INVALID},
        {"\"b c\"]}}", "\"b c\"]}", "", FM_CORRUPT},
    };
    char dir[512];
    (void)snprintf(dir, sizeof dir, "%s/kinds", test_dir());
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct eng_text *text = NULL;
        struct fm_err err = {0};
        tokenizer_write(dir, rows[i].from, rows[i].to);
        enum fm_status status = eng_text_open(dir, NULL, &text, &err);
        ck_assert_msg(status == rows[i].status, "row %zu: status %d, want %d: %s", i, status,
                      rows[i].status, err.text);
        ck_assert_msg(strstr(err.text, rows[i].says) != NULL, "row %zu says: %s", i, err.text);
        ck_assert((text != NULL) == (status == FM_OK));
        eng_text_free(text);
    }
}
END_TEST

START_TEST(ids_without_a_token_are_masked_and_empty)
{
    char dir[512];
    (void)snprintf(dir, sizeof dir, "%s/holes", test_dir());
    tokenizer_write(dir, NULL, NULL);
    struct eng_text *text = NULL;
    struct fm_err err = {0};
    struct eng_text_options options = {.vocab_size = 306};
    ck_assert_int_eq(eng_text_open(dir, &options, &text, &err), FM_INVALID);
    ck_assert_ptr_nonnull(strstr(err.text, "ids up to 306, the model has 306 rows"));
    options.vocab_size = 320;
    ck_assert_int_eq(eng_text_open(dir, &options, &text, &err), FM_OK);
    const struct eng_text_info *info = eng_text_info(text);
    ck_assert_uint_eq(info->vocab_size, 320);
    ck_assert_uint_eq(info->mask_words, 5);
    ck_assert_uint_eq(info->token_count, 259 + 7);
    ck_assert_uint_eq(info->fim_hole, ENG_ID_NONE);
    ck_assert_int_eq(eng_text_token_kind(text, 270), ENG_TOKEN_NONE);
    ck_assert_uint_eq(eng_text_token(text, 270).length, 0);
    ck_assert_uint_eq(eng_text_token(text, UINT32_MAX).length, 0);
    for (unsigned mask_class = 0; mask_class < ENG_MASK_CLASSES; mask_class++) {
        const uint64_t *mask = eng_text_mask(text, mask_class);
        for (uint32_t id = 0; id < 320; id++) {
            bool want = id < 259 || (id == info->eos && (mask_class & ENG_MASK_EOS) != 0) ||
                        (id == info->think_end && (mask_class & ENG_MASK_THINK_END) != 0) ||
                        (id == info->dsml && (mask_class & ENG_MASK_DSML) != 0);
            ck_assert_int_eq((int)(mask[id / 64] >> (id % 64) & 1), want);
        }
    }
    struct eng_tokens tokens;
    eng_tokens_init(&tokens, 10);
    ck_assert_int_eq(
        eng_encode_fim(text, (struct eng_slice){"a", 1}, (struct eng_slice){"b", 1}, &tokens, &err),
        FM_UNSUPPORTED);
    eng_tokens_done(&tokens);
    eng_text_free(text);
}
END_TEST

START_TEST(the_revision_is_found_in_the_encoder_then_in_the_name)
{
    static const struct {
        const char *name, *encoder;
        enum eng_revision revision;
        bool is_guess;
    } rows[] = {
        {"DeepSeek-V4-Flash", NULL, ENG_REVISION_R1, true},
        {"DeepSeek-V4-Flash-0731", NULL, ENG_REVISION_R2, false},
        {"DeepSeek-V4-Pro-0813", NULL, ENG_REVISION_R2, false},
        {"DeepSeek-V4-Pro-0424", NULL, ENG_REVISION_R1, true},
        {"DeepSeek-V4-20260731", NULL, ENG_REVISION_R1, true},
        {"DeepSeek-V4-9999", NULL, ENG_REVISION_R1, true},
        {"V4-Vision-Exp", NULL, ENG_REVISION_R2, false},
        {"V4-a", "x = 'Reasoning Effort: Absolute maximum'", ENG_REVISION_R1, false},
        {"V4-0731-b", "x = 'Absolute maximum'", ENG_REVISION_R1, false},
        {"V4-c", "'Absolute maximum', 'Beyond maximum'", ENG_REVISION_R2, false},
        {"V4-d", "nothing of the kind", ENG_REVISION_R1, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char dir[512], path[600];
        struct eng_text *text = NULL;
        (void)snprintf(dir, sizeof dir, "%s/%s", test_dir(), rows[i].name);
        tokenizer_write(dir, NULL, NULL);
        if (rows[i].encoder != NULL) {
            (void)snprintf(path, sizeof path, "%s/encoding", dir);
            (void)mkdir(path, 0700);
            (void)snprintf(path, sizeof path, "%s/encoding/encoding_dsv4.py", dir);
            FILE *file = fopen(path, "wb");
            ck_assert_ptr_nonnull(file);
            (void)fputs(rows[i].encoder, file);
            ck_assert_int_eq(fclose(file), 0);
        }
        ck_assert_int_eq(eng_text_open(dir, NULL, &text, NULL), FM_OK);
        ck_assert_msg(eng_text_info(text)->revision == rows[i].revision, "%s", rows[i].name);
        ck_assert_msg(eng_text_info(text)->revision_is_guess == rows[i].is_guess, "%s",
                      rows[i].name);
        eng_text_free(text);
        struct eng_text_options options = {.revision = ENG_REVISION_R2};
        ck_assert_int_eq(eng_text_open(dir, &options, &text, NULL), FM_OK);
        ck_assert_int_eq(eng_text_info(text)->revision, ENG_REVISION_R2);
        ck_assert(!eng_text_info(text)->revision_is_guess);
        eng_text_free(text);
    }
    struct fm_err err = {0};
    struct eng_text *text = NULL;
    ck_assert_int_eq(eng_text_open("/nonexistent", NULL, &text, &err), FM_IO);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/tokenizer");
    TCase *cases = tcase_create("tokenizer");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, every_text_of_the_vectors_has_its_ids);
    tcase_add_test(cases, every_prompt_of_the_vectors_has_its_ids);
    tcase_add_test(cases, every_added_token_is_found_by_its_name);
    tcase_add_test(cases, tokens_are_those_of_merging_by_rank);
    tcase_add_test(cases, every_token_of_text_encodes_to_itself);
    tcase_add_test(cases, a_megabyte_of_one_word_takes_no_longer_than_of_many);
    tcase_add_test(cases, names_of_control_tokens_are_text_unless_asked_for);
    tcase_add_test(cases, a_failed_encoding_leaves_the_tokens_alone);
    tcase_add_test(cases, encoding_survives_every_alloc_failure);
    tcase_add_test(cases, opening_survives_every_alloc_failure);
    tcase_add_test(cases, a_tokenizer_of_another_kind_is_refused_by_name);
    tcase_add_test(cases, ids_without_a_token_are_masked_and_empty);
    tcase_add_test(cases, the_revision_is_found_in_the_encoder_then_in_the_name);
    suite_add_tcase(suite, cases);
    return suite;
}
