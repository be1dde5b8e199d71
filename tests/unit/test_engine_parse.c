/* test_engine_parse.c - sampled tokens to reasoning, answer and tool calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/fault.h"
#include "backends/base/prng.h"
#include "backends/base/utf8.h"
#include "engine/bpe.h"
#include "engine/json.h"
#include "engine/tokenizer.h"
#include "tests/support/golden.h"
#include "tests/support/support.h"

enum { CALLS_MAX = 8, REPAIR_ANY = ENG_REPAIR_COUNT + 1 };

#define S(text) ((struct eng_slice){text, sizeof(text) - 1})

/* ---- An answer, put together from pieces ---- */

struct answer {
    struct fm_buf reasoning, content;
    struct fm_buf names[CALLS_MAX], args[CALLS_MAX];
    bool is_complete[CALLS_MAX];
    uint32_t call_count;
    uint32_t next_token; /* pieces' tokens never go back */
    uint32_t piece_count;
};

static void answer_init(struct answer *answer)
{
    *answer = (struct answer){0};
    fm_buf_init(&answer->reasoning, 1 << 22);
    fm_buf_init(&answer->content, 1 << 22);
    for (int i = 0; i < CALLS_MAX; i++) {
        fm_buf_init(&answer->names[i], 1 << 22);
        fm_buf_init(&answer->args[i], 1 << 23);
    }
}

static void answer_done(struct answer *answer)
{
    fm_buf_done(&answer->reasoning);
    fm_buf_done(&answer->content);
    for (int i = 0; i < CALLS_MAX; i++) {
        fm_buf_done(&answer->names[i]);
        fm_buf_done(&answer->args[i]);
    }
}

static void answer_add(struct answer *answer, const struct eng_piece *pieces, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct eng_piece *piece = &pieces[i];
        uint32_t call = piece->call_index;
        ck_assert_uint_lt(call, CALLS_MAX);
        ck_assert_uint_eq(fm_utf8_valid(piece->data, piece->length), piece->length);
        ck_assert_uint_lt(piece->token_first, piece->token_end);
        ck_assert_uint_ge(piece->token_end, answer->next_token);
        answer->next_token = piece->token_first;
        answer->piece_count++;
        switch (piece->kind) {
        case ENG_PIECE_REASONING:
            ck_assert_uint_eq(answer->content.length, 0);
            ck_assert(fm_buf_put(&answer->reasoning, piece->data, piece->length));
            break;
        case ENG_PIECE_CONTENT:
            ck_assert_uint_eq(answer->call_count, 0);
            ck_assert(fm_buf_put(&answer->content, piece->data, piece->length));
            break;
        case ENG_PIECE_TOOL_BEGIN:
            ck_assert_uint_eq(call, answer->call_count++);
            ck_assert(fm_buf_put(&answer->names[call], piece->data, piece->length));
            break;
        case ENG_PIECE_TOOL_ARGS:
            ck_assert_uint_eq(call + 1, answer->call_count);
            ck_assert(!answer->is_complete[call]);
            ck_assert(fm_buf_put(&answer->args[call], piece->data, piece->length));
            break;
        case ENG_PIECE_TOOL_END:
            ck_assert(!answer->is_complete[call]);
            answer->is_complete[call] = true;
            break;
        }
    }
}

/* ---- Text with the names of control tokens in it, as ids, cut in three ways ---- */

enum cut { CUT_TOKENS, CUT_BYTES, CUT_RANDOM, CUT_COUNT };

static void run_encode(const struct eng_text *text, const char *run, size_t length, enum cut cut,
                       uint64_t seed, uint64_t *draw, struct eng_tokens *ids)
{
    const unsigned char *bytes = (const unsigned char *)run;
    while (length > 0) {
        size_t step = cut == CUT_TOKENS  ? length
                      : cut == CUT_BYTES ? 1
                                         : 1 + fm_prng_u64(seed, 0, (*draw)++) % 12;
        if (step > length)
            step = length;
        uint32_t got[8192];
        uint64_t dead[8192 / 64 + 1];
        ck_assert_uint_le(step, 8000);
        size_t count = eng_bpe_encode(&text->vocab, bytes, step, got, dead);
        for (size_t i = 0; i < count; i++)
            ck_assert_int_eq(eng_tokens_put(ids, got[i], NULL), FM_OK);
        bytes += step;
        length -= step;
    }
}

static void output_encode(const struct eng_text *text, const char *output, size_t length,
                          enum cut cut, uint64_t seed, struct eng_tokens *ids)
{
    static const char *const names[] = {"<think>", "</think>", "｜DSML｜", "<｜User｜>",
                                        "<｜end▁of▁sentence｜>"};
    uint64_t draw = 0;
    size_t run = 0, at = 0;
    ids->count = 0;
    while (at < length) {
        size_t name = 0;
        while (name < 5 && strncmp(output + at, names[name], strlen(names[name])) != 0)
            name++;
        if (name == 5) {
            at++;
            continue;
        }
        run_encode(text, output + run, at - run, cut, seed, &draw, ids);
        ck_assert_int_eq(eng_tokens_put(ids, eng_text_control_id(text, names[name]), NULL), FM_OK);
        at += strlen(names[name]);
        run = at;
    }
    run_encode(text, output + run, length - run, cut, seed, &draw, ids);
}

struct outcome {
    enum eng_end end;
    struct eng_parser_stats stats;
    uint32_t stop_index;
};

/* Parse the ids; after them EOS, or a cut. */
static void parse(const struct eng_parser_spec *spec, const struct eng_tokens *ids, bool is_cut,
                  struct answer *answer, struct outcome *ret_outcome)
{
    struct eng_parser *parser;
    const struct eng_piece *pieces;
    uint32_t count;
    ck_assert_int_eq(eng_parser_new(spec, &parser, NULL), FM_OK);
    for (uint32_t i = 0; i < ids->count; i++) {
        ck_assert_int_eq(eng_parser_feed(parser, ids->ids[i], &pieces, &count, NULL), FM_OK);
        answer_add(answer, pieces, count);
    }
    if (!is_cut) {
        ck_assert_int_eq(
            eng_parser_feed(parser, eng_text_info(spec->text)->eos, &pieces, &count, NULL), FM_OK);
        answer_add(answer, pieces, count);
    }
    ck_assert_int_eq(eng_parser_finish(parser, &pieces, &count, NULL), FM_OK);
    answer_add(answer, pieces, count);
    ck_assert_int_eq(eng_parser_finish(parser, &pieces, &count, NULL), FM_OK);
    ck_assert_uint_eq(count, 0);
    *ret_outcome = (struct outcome){eng_parser_end(parser), *eng_parser_stats(parser), 0};
    if (ret_outcome->end == ENG_END_STOP)
        ret_outcome->stop_index = eng_parser_stop_index(parser);
    eng_parser_free(parser);
}

static const char *text_of(const struct fm_buf *buf)
{
    return buf->data != NULL ? buf->data : "";
}

static bool is_word(struct eng_slice json, const char *word)
{
    return json.length == strlen(word) && memcmp(json.data, word, json.length) == 0;
}

/* ---- Vectors ---- */

static const char *finish_reason(const struct outcome *outcome)
{
    if (outcome->end == ENG_END_CUT)
        return "\"length\"";
    return outcome->stats.complete_count != 0 ? "\"tool_calls\"" : "\"stop\"";
}

static void row_check(const struct eng_text *text, struct eng_slice row, struct eng_tools *tools,
                      enum cut cut, uint64_t seed)
{
    struct eng_slice expected = golden_member(row, "expected"), call;
    struct golden_list calls = {0};
    struct answer answer;
    struct outcome outcome;
    struct eng_tokens ids;
    struct fm_buf output, want, name;
    fm_buf_init(&output, 1 << 16);
    fm_buf_init(&want, 1 << 16);
    fm_buf_init(&name, 1 << 16);
    eng_tokens_init(&ids, 1 << 16);
    answer_init(&answer);
    golden_string(golden_member(row, "name"), &name);
    golden_string(golden_member(row, "output_before_stop"), &output);
    output_encode(text, output.data, output.length, cut, seed, &ids);
    struct eng_parser_spec spec = {
        .text = text,
        .tools = is_word(golden_member(row, "tools"), "true") ? tools : NULL,
        .start = is_word(golden_member(row, "thinking"), "true") ? ENG_CHANNEL_REASONING
                                                                 : ENG_CHANNEL_CONTENT};
    parse(&spec, &ids, is_word(golden_member(row, "ended_by"), "\"length\""), &answer, &outcome);

    golden_string(golden_member(expected, "reasoning_content"), &want);
    ck_assert_msg(strcmp(text_of(&answer.reasoning), want.data) == 0, "%s, cut %d: reasoning '%s'",
                  name.data, cut, text_of(&answer.reasoning));
    golden_string(golden_member(expected, "content"), &want);
    ck_assert_msg(strcmp(text_of(&answer.content), want.data) == 0, "%s, cut %d: content '%s'",
                  name.data, cut, text_of(&answer.content));
    while (golden_next(&calls, golden_member(expected, "tool_calls"), &call)) {
        uint32_t index = calls.index - 1;
        ck_assert_msg(index < answer.call_count, "%s, cut %d: too few calls", name.data, cut);
        golden_string(golden_member(call, "name"), &want);
        ck_assert_str_eq(text_of(&answer.names[index]), want.data);
        golden_string(golden_member(call, "arguments"), &want);
        ck_assert_msg(strcmp(text_of(&answer.args[index]), want.data) == 0,
                      "%s, cut %d: arguments '%s', want '%s'", name.data, cut,
                      text_of(&answer.args[index]), want.data);
    }
    ck_assert_msg(calls.index == answer.call_count, "%s, cut %d: %u calls", name.data, cut,
                  answer.call_count);
    ck_assert_uint_eq(outcome.stats.call_count, answer.call_count);
    ck_assert_msg(is_word(golden_member(expected, "finish_reason"), finish_reason(&outcome)),
                  "%s, cut %d: %s", name.data, cut, finish_reason(&outcome));
    answer_done(&answer);
    eng_tokens_done(&ids);
    fm_buf_done(&output);
    fm_buf_done(&want);
    fm_buf_done(&name);
}

START_TEST(every_output_of_the_vectors_parses_however_it_is_cut)
{
    struct eng_slice all = golden_file("encoding/parse.json"), row;
    struct golden_list rows = {0};
    struct eng_tools *tools;
    uint64_t seed = test_seed();
    ck_assert_int_eq(eng_tools_new(golden_member(all, "tools"), 8, &tools, NULL), FM_OK);
    while (golden_next(&rows, golden_member(all, "cases"), &row)) {
        row_check(golden_text(), row, tools, CUT_TOKENS, 0);
        row_check(golden_small_text(), row, tools, CUT_TOKENS, 0);
        row_check(golden_text(), row, tools, CUT_BYTES, 0);
        for (uint64_t i = 0; i < 20; i++)
            row_check(golden_text(), row, tools, CUT_RANDOM, seed + i);
    }
    ck_assert_uint_eq(rows.index, 31);
    eng_tools_unref(tools);
}
END_TEST

/* ---- Rules that the vectors do not show ---- */

#define OPEN "<｜DSML｜tool_calls>\n"
#define CLOSE "\n</｜DSML｜tool_calls>"
#define INVOKE(name) "<｜DSML｜invoke name=\"" name "\">\n"
#define END_INVOKE "\n</｜DSML｜invoke>"
#define PARAM(name, flag, value)                                                                   \
    "<｜DSML｜parameter name=\"" name "\" string=\"" flag "\">" value "</｜DSML｜parameter>"

static const char tools_json[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"run\",\"parameters\":{\"type\":\"object\","
    "\"properties\":{\"cmd\":{\"type\":\"string\"},\"n\":{\"type\":[\"integer\",\"null\"]},"
    "\"ok\":{\"anyOf\":[{\"type\":\"boolean\"},{\"type\":\"null\"}]},\"mode\":{\"enum\":[1,2]}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"wrap\",\"parameters\":{\"properties\":"
    "{\"arguments\":{\"type\":\"object\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"bare\"}}]";

struct want {
    const char *output;
    const char *reasoning, *content;
    const char *calls; /* "name(arguments)" for complete ones, "name(arguments" for others */
    unsigned repair;   /* that was counted once; ENG_REPAIR_COUNT: none was; REPAIR_ANY */
    enum eng_end end;
    bool starts_in_content, is_cut;
};

static void want_check(const struct want *want, size_t index, enum cut cut, uint64_t seed)
{
    struct answer answer;
    struct outcome outcome;
    struct eng_tokens ids;
    struct eng_tools *tools;
    struct fm_buf calls;
    fm_buf_init(&calls, 1 << 22);
    eng_tokens_init(&ids, 1 << 20);
    answer_init(&answer);
    ck_assert_int_eq(eng_tools_new(S(tools_json), 8, &tools, NULL), FM_OK);
    struct eng_parser_spec spec = {.text = golden_small_text(),
                                   .tools = tools,
                                   .start = want->starts_in_content ? ENG_CHANNEL_CONTENT
                                                                    : ENG_CHANNEL_REASONING};
    output_encode(spec.text, want->output, strlen(want->output), cut, seed, &ids);
    parse(&spec, &ids, want->is_cut, &answer, &outcome);
    for (uint32_t i = 0; i < answer.call_count; i++) {
        (void)fm_buf_printf(&calls, "%s(%s%s", text_of(&answer.names[i]), text_of(&answer.args[i]),
                            answer.is_complete[i] ? ")" : "");
        if (answer.is_complete[i])
            ck_assert_int_eq(
                eng_json_type((struct eng_slice){answer.args[i].data, answer.args[i].length}),
                FM_JSON_OBJECT);
    }
    ck_assert_msg(strcmp(text_of(&answer.reasoning), want->reasoning) == 0,
                  "row %zu, cut %d: reasoning '%s'", index, cut, text_of(&answer.reasoning));
    ck_assert_msg(strcmp(text_of(&answer.content), want->content) == 0,
                  "row %zu, cut %d: content '%s'", index, cut, text_of(&answer.content));
    ck_assert_msg(strcmp(text_of(&calls), want->calls) == 0, "row %zu, cut %d: calls '%s'", index,
                  cut, text_of(&calls));
    ck_assert_msg(outcome.end == want->end, "row %zu, cut %d: end %d", index, cut, outcome.end);
    for (unsigned repair = 0; repair < ENG_REPAIR_COUNT; repair++) {
        uint32_t counted = outcome.stats.repairs[repair];
        if (want->repair != ENG_REPAIR_COUNT && repair == want->repair)
            ck_assert_msg(counted == 1, "row %zu, cut %d: %s %u times", index, cut,
                          eng_repair_name(repair), counted);
        else if (want->repair == ENG_REPAIR_COUNT)
            ck_assert_msg(counted == 0, "row %zu, cut %d: %s", index, cut, eng_repair_name(repair));
    }
    eng_tools_unref(tools);
    answer_done(&answer);
    eng_tokens_done(&ids);
    fm_buf_done(&calls);
}

START_TEST(damage_is_repaired_by_the_rules_and_counted)
{
    static const struct want rows[] = {
        /* two calls of the same function */
        {"</think>\n\n" OPEN INVOKE("run") PARAM("cmd", "true", "a") END_INVOKE "\n" INVOKE("run")
             PARAM("cmd", "true", "b") END_INVOKE CLOSE,
         "", "", "run({\"cmd\": \"a\"})run({\"cmd\": \"b\"})", ENG_REPAIR_COUNT, ENG_END_BLOCK,
         false, false},
        /* nothing behind the block is shown */
        {"a\n\n" OPEN INVOKE("bare") END_INVOKE CLOSE "and more", "", "a", "bare({})",
         ENG_REPAIR_COUNT, ENG_END_BLOCK, true, false},
        /* three newlines: one is content */
        {"a\n\n\n" OPEN INVOKE("bare") END_INVOKE CLOSE, "", "a\n", "bare({})", ENG_REPAIR_COUNT,
         ENG_END_BLOCK, true, false},
        {"a" OPEN INVOKE("bare") END_INVOKE CLOSE, "", "a", "bare({})", ENG_REPAIR_COUNT,
         ENG_END_BLOCK, true, false},
        /* a "<" at the end is text */
        {"1 <", "", "1 <", "", ENG_REPAIR_COUNT, ENG_END_EOS, true, false},
        {"1 <\n\n", "1 <\n\n", "", "", ENG_REPAIR_COUNT, ENG_END_CUT, false, true},
        {"a<｜DSML｜tool_ca", "", "a<｜DSML｜tool_ca", "", ENG_REPAIR_COUNT, ENG_END_CUT, true,
         true},
        /* markup in prose */
        {"the <｜DSML｜invoke name=\"x\"> is the tag", "",
         "the <｜DSML｜invoke name=\"x\"> is the tag", "", ENG_REPAIR_COUNT, ENG_END_EOS, true,
         false},
        {"the <｜DSML｜invoke name=\"run\"> is the tag", "",
         "the <｜DSML｜invoke name=\"run\"> is the tag", "", ENG_REPAIR_COUNT, ENG_END_EOS, true,
         false},
        {"see <｜DSML｜invoke name=\"run\"> then\n\n" OPEN INVOKE("bare") END_INVOKE CLOSE, "",
         "see <｜DSML｜invoke name=\"run\"> then", "bare({})", ENG_REPAIR_COUNT, ENG_END_BLOCK,
         true, false},
        {"｜DSML｜ and </｜DSML｜invoke> and <｜DSML｜", "",
         "｜DSML｜ and </｜DSML｜invoke> and <｜DSML｜", "", ENG_REPAIR_COUNT, ENG_END_EOS, true,
         false},
        {"<｜DSML｜toolcalls> is wrong", "", "<｜DSML｜toolcalls> is wrong", "", ENG_REPAIR_COUNT,
         ENG_END_EOS, true, false},
        {"r <｜DSML｜invoke name=\"run\">\n</｜DSML｜invoke>",
         "r <｜DSML｜invoke name=\"run\">\n</｜DSML｜invoke>", "", "", ENG_REPAIR_COUNT,
         ENG_END_EOS, false, false},
        /* bare calls */
        {"ok\n\n" INVOKE("run") PARAM("cmd", "true", "a") END_INVOKE "\n" INVOKE("bare") END_INVOKE,
         "", "ok", "run({\"cmd\": \"a\"})bare({})", ENG_REPAIR_OPENER, ENG_END_EOS, true, false},
        {INVOKE("run") PARAM("cmd", "true", "a"), "", INVOKE("run") PARAM("cmd", "true", "a"), "",
         ENG_REPAIR_COUNT, ENG_END_CUT, true, true},
        /* names */
        {OPEN INVOKE("other") END_INVOKE CLOSE, "", "", "other({})", ENG_REPAIR_UNDECLARED_NAME,
         ENG_END_BLOCK, true, false},
        {OPEN "<｜DSML｜invoke>\n" END_INVOKE CLOSE, "", "", "", ENG_REPAIR_JUNK, ENG_END_BLOCK,
         true, false},
        {OPEN INVOKE("run") PARAM("we\"ird", "true", "a") END_INVOKE CLOSE, "", "",
         "run({\"we\\\"ird\": \"a\"})", ENG_REPAIR_COUNT, ENG_END_BLOCK, true, false},
        /* ends that are missing */
        {OPEN INVOKE("run") "<｜DSML｜parameter name=\"cmd\" string=\"true\">a\n" END_INVOKE CLOSE,
         "", "", "run({\"cmd\": \"a\\n\"})", ENG_REPAIR_PARAMETER_END, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") "<｜DSML｜parameter name=\"cmd\" string=\"true\">a" CLOSE, "", "",
         "run({\"cmd\": \"a\"})", ENG_REPAIR_INVOKE_END, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") PARAM("cmd", "true", "a") "\n" INVOKE("bare") END_INVOKE CLOSE, "", "",
         "run({\"cmd\": \"a\"})bare({})", ENG_REPAIR_INVOKE_END, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("bare") END_INVOKE, "", "", "bare({})", ENG_REPAIR_BLOCK_END, ENG_END_EOS,
         true, false},
        {OPEN INVOKE("run") PARAM("cmd", "true", "a"), "", "", "run({\"cmd\": \"a\"",
         ENG_REPAIR_BLOCK_END, ENG_END_EOS, true, false},
        /* cut calls are not closed, and no tag leaks */
        {OPEN INVOKE(
             "run") "<｜DSML｜parameter name=\"cmd\" string=\"true\">2>&1</｜DSML｜parameter",
         "", "", "run({\"cmd\": \"2>&1", ENG_REPAIR_COUNT, ENG_END_CUT, true, true},
        {OPEN INVOKE("run") "<｜DSML｜parameter name=\"cmd\" string=\"true\">a</", "", "",
         "run({\"cmd\": \"a</", ENG_REPAIR_COUNT, ENG_END_CUT, true, true},
        {OPEN INVOKE("run") "<｜DSML｜parameter name=\"n\" string=\"false\">12", "", "",
         "run({\"n\": ", ENG_REPAIR_COUNT, ENG_END_CUT, true, true},
        {OPEN INVOKE("run"), "", "", "run(", ENG_REPAIR_COUNT, ENG_END_CUT, true, true},
        {OPEN "<｜DSML｜invoke name=\"ru", "", "", "", ENG_REPAIR_COUNT, ENG_END_CUT, true, true},
        /* junk */
        {OPEN "so: " INVOKE("bare") END_INVOKE CLOSE, "", "", "bare({})", ENG_REPAIR_JUNK,
         ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") "with " PARAM("cmd", "true", "a") " and" END_INVOKE CLOSE, "", "",
         "run({\"cmd\": \"a\"})", REPAIR_ANY, ENG_END_BLOCK, true, false},
        /* the body as one object */
        {OPEN INVOKE("run") " {\"cmd\":\"a\",\"n\":[1]}\n" END_INVOKE CLOSE, "", "",
         "run({\"cmd\":\"a\",\"n\":[1]})", ENG_REPAIR_JSON_BODY, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") "{\"cmd\":\"a\"" END_INVOKE CLOSE, "", "", "run({})", ENG_REPAIR_JUNK,
         ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") "{ " PARAM("cmd", "true", "a") END_INVOKE CLOSE, "", "",
         "run({\"cmd\": \"a\"})", ENG_REPAIR_JUNK, ENG_END_BLOCK, true, false},
        /* wrappers */
        {OPEN INVOKE("run") PARAM("input", "true", " {\"cmd\":\"a\"} ") END_INVOKE CLOSE, "", "",
         "run({\"cmd\":\"a\"})", ENG_REPAIR_UNWRAPPED, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") PARAM("input", "true", "{\"other\":1}") END_INVOKE CLOSE, "", "",
         "run({\"input\": \"{\\\"other\\\":1}\"})", ENG_REPAIR_COUNT, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") PARAM("input", "false", "{\"cmd\":1}") PARAM("n", "false", "1")
             END_INVOKE CLOSE,
         "", "", "run({\"input\": {\"cmd\":1}, \"n\": 1})", ENG_REPAIR_COUNT, ENG_END_BLOCK, true,
         false},
        {OPEN INVOKE("wrap") PARAM("arguments", "false", "{\"arguments\":1}") END_INVOKE CLOSE, "",
         "", "wrap({\"arguments\": {\"arguments\":1}})", ENG_REPAIR_COUNT, ENG_END_BLOCK, true,
         false},
        {OPEN INVOKE("run") "<｜DSML｜parameter name=\"input\" string=\"true\">{\"cmd", "", "",
         "run({\"input\": \"{\\\"cmd", ENG_REPAIR_COUNT, ENG_END_CUT, true, true},
        /* values */
        {OPEN INVOKE("run") PARAM("ok", "false", "None") END_INVOKE CLOSE, "", "",
         "run({\"ok\": null})", ENG_REPAIR_VALUE, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") PARAM("n", "false", "True") END_INVOKE CLOSE, "", "",
         "run({\"n\": \"True\"})", ENG_REPAIR_VALUE, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") PARAM("n", "false", " a\"b\n") END_INVOKE CLOSE, "", "",
         "run({\"n\": \"a\\\"b\"})", ENG_REPAIR_VALUE, ENG_END_BLOCK, true, false},
        {OPEN INVOKE(
             "run") "<｜DSML｜parameter name=\"mode\">2</｜DSML｜parameter>" END_INVOKE CLOSE,
         "", "", "run({\"mode\": 2})", ENG_REPAIR_STRING_FLAG, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") "<｜DSML｜parameter name=\"x\">2</｜DSML｜parameter>" END_INVOKE CLOSE,
         "", "", "run({\"x\": \"2\"})", ENG_REPAIR_STRING_FLAG, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") PARAM("cmd", "true", "a") PARAM("cmd", "true", "b") END_INVOKE CLOSE,
         "", "", "run({\"cmd\": \"a\"})", ENG_REPAIR_DUPLICATE, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") PARAM("cmd", "true", "a<b</x｜DSML｜<\n\n") END_INVOKE CLOSE, "", "",
         "run({\"cmd\": \"a<b</x｜DSML｜<\\n\\n\"})", ENG_REPAIR_COUNT, ENG_END_BLOCK, true, false},
        {OPEN INVOKE("run") PARAM("cmd", "true", "\xf0\x9f\x99\xe9\x80") END_INVOKE CLOSE, "", "",
         "run({\"cmd\": \"\xef\xbf\xbd\xef\xbf\xbd\"})", ENG_REPAIR_COUNT, ENG_END_BLOCK, true,
         false},
        /* control tokens that mean nothing */
        {"a<｜User｜>b", "", "ab", "", ENG_REPAIR_CONTROL_DROPPED, ENG_END_EOS, true, false},
        {"a\xf0\x9f</think>\x99\x82z", "a\xef\xbf\xbd", "\xef\xbf\xbd\xef\xbf\xbdz", "",
         ENG_REPAIR_COUNT, ENG_END_EOS, false, false},
        /* the end of the reasoning */
        {"a\n\n" OPEN INVOKE("other") END_INVOKE CLOSE,
         "a\n\n" OPEN INVOKE("other") END_INVOKE CLOSE, "", "", ENG_REPAIR_COUNT, ENG_END_EOS,
         false, false},
        {"a" OPEN INVOKE("bare") END_INVOKE CLOSE, "a", "", "bare({})",
         ENG_REPAIR_IMPLICIT_THINK_END, ENG_END_BLOCK, false, false},
        {"only thinking", "only thinking", "", "", ENG_REPAIR_COUNT, ENG_END_EOS, false, false},
    };
    uint64_t seed = test_seed();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        want_check(&rows[i], i, CUT_TOKENS, 0);
        want_check(&rows[i], i, CUT_BYTES, 0);
        for (uint64_t round = 0; round < 10; round++)
            want_check(&rows[i], i, CUT_RANDOM, seed + round);
    }
}
END_TEST

/* ---- Stop strings ---- */

struct stop_row {
    const char *output, *content;
    enum eng_end end;
    uint32_t index;
};

static void stops_check(const struct eng_parser_spec *spec, const struct stop_row *row, size_t i)
{
    for (int cut = 0; cut < CUT_COUNT; cut++) {
        struct answer answer;
        struct outcome outcome;
        struct eng_tokens ids;
        eng_tokens_init(&ids, 1 << 16);
        answer_init(&answer);
        output_encode(spec->text, row->output, strlen(row->output), cut, 7, &ids);
        parse(spec, &ids, false, &answer, &outcome);
        ck_assert_msg(strcmp(text_of(&answer.content), row->content) == 0, "row %zu, cut %d: '%s'",
                      i, cut, text_of(&answer.content));
        ck_assert_msg(outcome.end == row->end, "row %zu, cut %d: end %d", i, cut, outcome.end);
        ck_assert_uint_eq(outcome.stop_index, row->index);
        answer_done(&answer);
        eng_tokens_done(&ids);
    }
}

START_TEST(stop_strings_end_the_content_and_nothing_else)
{
    static const struct eng_slice stops[] = {{"STOP", 4}, {"\n\n", 2}, {"\xc3\xa9t\xc3\xa9", 5}};
    static const struct stop_row rows[] = {
        {"STOP in thought</think>one STOP two", "one ", ENG_END_STOP, 0},
        {"</think>one\n\ntwo", "one", ENG_END_STOP, 1},
        {"</think>STO STO", "STO STO", ENG_END_EOS, 0},
        {"</think>STSTOP", "ST", ENG_END_STOP, 0},
        {"</think>un \xc3\xa9t\xc3\xa9 ici", "un ", ENG_END_STOP, 2},
        {"</think>un \xc3\xa9t\xc3", "un \xc3\xa9t\xef\xbf\xbd", ENG_END_EOS, 0},
        {"</think>a<STOP", "a<", ENG_END_STOP, 0},
        {"</think>x\n\n" OPEN INVOKE("run") PARAM("cmd", "true", "STOP") END_INVOKE CLOSE, "x",
         ENG_END_BLOCK, 0},
    };
    struct eng_tools *tools;
    ck_assert_int_eq(eng_tools_new(S(tools_json), 8, &tools, NULL), FM_OK);
    struct eng_parser_spec spec = {.text = golden_small_text(),
                                   .tools = tools,
                                   .start = ENG_CHANNEL_REASONING,
                                   .stops = stops,
                                   .stop_count = 3};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        stops_check(&spec, &rows[i], i);
    static const struct stop_row shown = {"</think>one STOP two", "one STOP", ENG_END_STOP, 0};
    spec.shows_stop = true;
    stops_check(&spec, &shown, 100);
    eng_tools_unref(tools);
}
END_TEST

START_TEST(of_stop_strings_the_earliest_wins_then_the_longest)
{
    static const struct eng_slice stops[] = {{"c", 1}, {"bcd", 3}, {"b", 1}, {"bc", 2}};
    struct eng_parser_spec spec = {
        .text = golden_small_text(), .start = ENG_CHANNEL_CONTENT, .stops = stops, .stop_count = 4};
    struct eng_parser *parser;
    const struct eng_piece *pieces;
    uint32_t count;
    /* "bc" in one token: both begin at b, the longer is told */
    struct eng_tokens ids;
    eng_tokens_init(&ids, 8);
    ck_assert_int_eq(eng_encode(spec.text, " sub", 4, ENG_ENCODE_TEXT, &ids, NULL), FM_OK);
    ck_assert_uint_eq(ids.count, 1);
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    ck_assert_int_eq(eng_parser_feed(parser, ids.ids[0], &pieces, &count, NULL), FM_OK);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(pieces[0].length, 3);
    ck_assert_int_eq(eng_parser_end(parser), ENG_END_STOP);
    ck_assert_uint_eq(eng_parser_stop_index(parser), 2);
    eng_parser_free(parser);
    eng_tokens_done(&ids);
}
END_TEST

START_TEST(no_more_is_held_back_than_may_become_a_stop)
{
    static const struct eng_slice stop = {"ABCDEFGH", 8};
    struct eng_parser_spec spec = {
        .text = golden_small_text(), .start = ENG_CHANNEL_CONTENT, .stops = &stop, .stop_count = 1};
    static const struct {
        char byte;
        size_t shown; /* bytes that go out with it */
    } rows[] = {{'x', 1}, {'A', 0}, {'B', 0}, {'A', 2}, {'B', 0}, {'C', 0}, {'y', 4}, {'A', 0}};
    struct eng_parser *parser;
    const struct eng_piece *pieces;
    uint32_t count;
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint32_t id = spec.text->vocab.byte_ids[(uint8_t)rows[i].byte];
        ck_assert_int_eq(eng_parser_feed(parser, id, &pieces, &count, NULL), FM_OK);
        ck_assert_uint_eq(count != 0 ? pieces[0].length : 0, rows[i].shown);
        if (i == 6) { /* "ABC" and "y" come from tokens 3 .. 6 */
            ck_assert_uint_eq(pieces[0].token_first, 3);
            ck_assert_uint_eq(pieces[0].token_end, 7);
        }
    }
    ck_assert_int_eq(eng_parser_finish(parser, &pieces, &count, NULL), FM_OK);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(pieces[0].token_first, 7);
    eng_parser_free(parser);

    struct eng_slice bad[17] = {{"", 0}};
    struct fm_err err = {0};
    spec.stops = bad;
    ck_assert_int_eq(eng_parser_new(&spec, &parser, &err), FM_INVALID);
    for (int i = 0; i < 17; i++)
        bad[i] = (struct eng_slice){"x", 1};
    spec.stop_count = 17;
    ck_assert_int_eq(eng_parser_new(&spec, &parser, &err), FM_INVALID);
}
END_TEST

/* ---- Modes, masks, limits ---- */

START_TEST(a_raw_completion_is_all_content)
{
    static const struct eng_slice stop = {"</think", 7};
    const struct eng_text *text = golden_small_text();
    struct eng_parser_spec spec = {.text = text, .is_raw = true, .stops = &stop, .stop_count = 1};
    static const struct stop_row row = {"a<think>b<｜DSML｜c</ think", "ab<c</ think", ENG_END_EOS,
                                        0};
    stops_check(&spec, &row, 0);
    struct eng_parser *parser;
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    ck_assert_uint_eq(eng_parser_mask_class(parser), ENG_MASK_EOS);
    ck_assert_uint_eq(eng_parser_replace(parser, eng_text_info(text)->eos),
                      eng_text_info(text)->eos);
    eng_parser_free(parser);
}
END_TEST

START_TEST(eos_in_the_reasoning_becomes_its_end_once)
{
    const struct eng_text *text = golden_small_text();
    const struct eng_text_info *info = eng_text_info(text);
    struct eng_parser_spec spec = {.text = text, .start = ENG_CHANNEL_REASONING};
    struct eng_parser *parser;
    const struct eng_piece *pieces;
    uint32_t count;
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    ck_assert_uint_eq(eng_parser_replace(parser, 100), 100);
    ck_assert_uint_eq(eng_parser_replace(parser, info->eos), info->think_end);
    ck_assert_int_eq(eng_parser_feed(parser, info->think_end, &pieces, &count, NULL), FM_OK);
    ck_assert_uint_eq(eng_parser_replace(parser, info->eos), info->eos);
    ck_assert_int_eq(eng_parser_end(parser), ENG_END_NONE);
    ck_assert_int_eq(eng_parser_feed(parser, info->eos, &pieces, &count, NULL), FM_OK);
    ck_assert_int_eq(eng_parser_end(parser), ENG_END_EOS);
    ck_assert_uint_eq(eng_parser_stats(parser)->repairs[ENG_REPAIR_EOS_IN_REASONING], 1);
    ck_assert_uint_eq(eng_parser_stats(parser)->reasoning_count, 1);
    ck_assert_uint_eq(eng_parser_stats(parser)->token_count, 2);
    eng_parser_free(parser);
    spec.keeps_eos_in_reasoning = true;
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    ck_assert_uint_eq(eng_parser_replace(parser, info->eos), info->eos);
    eng_parser_free(parser);
}
END_TEST

START_TEST(the_mask_follows_the_state)
{
    const struct eng_text *text = golden_small_text();
    const struct eng_text_info *info = eng_text_info(text);
    struct eng_tools *tools;
    struct eng_parser *parser;
    const struct eng_piece *pieces;
    uint32_t count;
    struct eng_tokens ids;
    eng_tokens_init(&ids, 1 << 16);
    ck_assert_int_eq(eng_tools_new(S(tools_json), 8, &tools, NULL), FM_OK);
    struct eng_parser_spec spec = {.text = text, .tools = tools, .start = ENG_CHANNEL_REASONING};
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    static const char output[] = "r</think>a<b\n\n" OPEN INVOKE("run") PARAM("cmd", "true", "a<b")
        PARAM("n", "false", "1") END_INVOKE CLOSE;
    output_encode(text, output, strlen(output), CUT_BYTES, 0, &ids);
    uint32_t dsml_count = 0, open_count = 0;
    for (uint32_t i = 0; i < ids.count; i++) {
        const uint64_t *mask = eng_text_mask(text, eng_parser_mask_class(parser));
        uint32_t id = ids.ids[i];
        ck_assert_msg((mask[id / 64] >> (id % 64) & 1) == 1, "token %u of a good output is masked",
                      i);
        dsml_count += (eng_parser_mask_class(parser) & ENG_MASK_DSML) != 0;
        open_count += id == info->dsml;
        if (i == 0)
            ck_assert_uint_eq(eng_parser_mask_class(parser), ENG_MASK_EOS | ENG_MASK_THINK_END);
        ck_assert_int_eq(eng_parser_feed(parser, id, &pieces, &count, NULL), FM_OK);
    }
    ck_assert_int_eq(eng_parser_end(parser), ENG_END_BLOCK);
    /* one DSML for each tag, and one more chance behind the "<" in the answer */
    ck_assert_uint_ge(dsml_count, open_count + 1);
    ck_assert_uint_eq(eng_parser_stats(parser)->reasoning_count, 2);
    eng_parser_free(parser);

    spec.calls_are_banned = true; /* then DSML is never allowed, and text if it comes */
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    for (uint32_t i = 0; i < ids.count; i++) {
        ck_assert_uint_eq(eng_parser_mask_class(parser) & ENG_MASK_DSML, 0);
        ck_assert_int_eq(eng_parser_feed(parser, ids.ids[i], &pieces, &count, NULL), FM_OK);
    }
    ck_assert_uint_eq(eng_parser_stats(parser)->call_count, 0);
    eng_parser_free(parser);
    eng_tools_unref(tools);
    eng_tokens_done(&ids);
}
END_TEST

START_TEST(what_a_call_can_make_us_keep_is_bounded)
{
    const struct eng_text *text = golden_small_text();
    struct eng_tools *tools;
    struct eng_parser *parser;
    const struct eng_piece *pieces;
    uint32_t count, fed = 0;
    struct eng_tokens ids;
    struct fm_err err = {0};
    eng_tokens_init(&ids, 1 << 16);
    ck_assert_int_eq(eng_tools_new(S(tools_json), 8, &tools, NULL), FM_OK);
    struct eng_parser_spec spec = {.text = text, .tools = tools, .start = ENG_CHANNEL_CONTENT};
    /* a JSON value that never ends */
    static const char value[] =
        OPEN INVOKE("run") "<｜DSML｜parameter name=\"n\" string=\"false\">[";
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    output_encode(text, value, strlen(value), CUT_TOKENS, 0, &ids);
    enum fm_status status = FM_OK;
    for (uint32_t i = 0; i < ids.count; i++)
        ck_assert_int_eq(eng_parser_feed(parser, ids.ids[i], &pieces, &count, NULL), FM_OK);
    while (status == FM_OK && fed < 2 << 20) {
        status = eng_parser_feed(parser, text->vocab.byte_ids['1'], &pieces, &count, &err);
        fed++;
    }
    ck_assert_int_eq(status, FM_LIMIT);
    ck_assert_uint_eq(fed, 1 << 20);
    ck_assert_int_eq(eng_parser_feed(parser, 100, &pieces, &count, &err), FM_LIMIT);
    eng_parser_free(parser);
    /* a bare call that never ends turns out to be text */
    static const char bare[] = "x" INVOKE("run");
    size_t shown = 0;
    ck_assert_int_eq(eng_parser_new(&spec, &parser, NULL), FM_OK);
    output_encode(text, bare, strlen(bare), CUT_TOKENS, 0, &ids);
    for (uint32_t i = 0; i < ids.count; i++)
        ck_assert_int_eq(eng_parser_feed(parser, ids.ids[i], &pieces, &count, NULL), FM_OK);
    for (fed = 0; shown == 0 && fed < 1 << 17; fed++) {
        ck_assert_int_eq(eng_parser_feed(parser, text->vocab.byte_ids['y'], &pieces, &count, NULL),
                         FM_OK);
        shown = count != 0 ? pieces[0].length : 0;
    }
    ck_assert_uint_gt(shown, 64 << 10);
    ck_assert_uint_lt(shown, 66 << 10);
    eng_parser_free(parser);
    eng_tools_unref(tools);
    eng_tokens_done(&ids);
}
END_TEST

START_TEST(parsing_survives_every_alloc_failure)
{
    static const struct eng_slice stop = {"STOP", 4};
    static const char output[] = "r</think>STO\n\n" OPEN INVOKE("run") PARAM("input", "true", "a")
        PARAM("n", "false", "None") END_INVOKE CLOSE;
    const struct eng_text *text = golden_small_text();
    struct eng_tools *tools;
    struct eng_tokens ids;
    eng_tokens_init(&ids, 1 << 16);
    output_encode(text, output, strlen(output), CUT_TOKENS, 0, &ids);
    ck_assert_int_eq(eng_tools_new(S(tools_json), 8, &tools, NULL), FM_OK);
    struct eng_parser_spec spec = {.text = text,
                                   .tools = tools,
                                   .start = ENG_CHANNEL_REASONING,
                                   .stops = &stop,
                                   .stop_count = 1};
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct eng_parser *parser = NULL;
        const struct eng_piece *pieces;
        uint32_t count;
        fm_fault_arm("alloc", nth);
        enum fm_status status = eng_parser_new(&spec, &parser, NULL);
        for (uint32_t i = 0; i < ids.count && status == FM_OK; i++)
            status = eng_parser_feed(parser, ids.ids[i], &pieces, &count, NULL);
        fired = fm_fault_disarm("alloc");
        if (fired)
            ck_assert(status == FM_NOMEM || status == FM_LIMIT);
        else
            ck_assert_int_eq(status, FM_OK);
        eng_parser_free(parser);
    }
    eng_tools_unref(tools);
    eng_tokens_done(&ids);
}
END_TEST

/* Random markup in random order: no crash, valid text, and the same answer however it is cut. */
START_TEST(random_markup_gives_one_answer_however_it_is_cut)
{
    static const char *const parts[] = {
        "<",
        "</",
        "｜DSML｜",
        "tool_calls>",
        "invoke name=\"",
        "run\">",
        "\n",
        "\n\n",
        "parameter ",
        "name=\"cmd\"",
        " string=\"",
        "true\">",
        "false\">",
        "parameter>",
        "invoke>",
        "</think>",
        "<think>",
        "{\"cmd\": 1}",
        "text ",
        "\xf0\x9f\x99\x82",
        "\xe2\x82",
        "\"",
        "STOP",
        "ST",
        "toolcalls>",
        OPEN,
        CLOSE,
        INVOKE("run"),
        END_INVOKE,
        PARAM("cmd", "true", "v"),
        "input\" ",
        "None",
        PARAM("n", "false", "1"),
    };
    static const struct eng_slice stop = {"STOPme", 6};
    uint64_t seed = test_seed(), draw = 0;
    const struct eng_text *text = golden_small_text();
    struct eng_tools *tools;
    struct eng_tokens ids;
    struct fm_buf output;
    eng_tokens_init(&ids, 1 << 16);
    fm_buf_init(&output, 1 << 16);
    ck_assert_int_eq(eng_tools_new(S(tools_json), 8, &tools, NULL), FM_OK);
    for (uint32_t round = 0; round < 600; round++) {
        struct answer first, other;
        struct outcome first_outcome, outcome;
        struct eng_parser_spec spec = {.text = text,
                                       .tools = tools,
                                       .stops = &stop,
                                       .stop_count = 1,
                                       .start = round % 2 == 0 ? ENG_CHANNEL_REASONING
                                                               : ENG_CHANNEL_CONTENT};
        bool is_cut = round % 3 == 0;
        size_t part_count = 1 + fm_prng_u64(seed, 1, draw++) % 40;
        fm_buf_clear(&output);
        for (size_t i = 0; i < part_count; i++)
            (void)fm_buf_puts(
                &output, parts[fm_prng_u64(seed, 1, draw++) % (sizeof parts / sizeof parts[0])]);
        answer_init(&first);
        output_encode(text, output.data, output.length, CUT_BYTES, 0, &ids);
        parse(&spec, &ids, is_cut, &first, &first_outcome);
        for (int cut = 0; cut < 3; cut++) {
            answer_init(&other);
            output_encode(text, output.data, output.length, cut == 0 ? CUT_TOKENS : CUT_RANDOM,
                          seed + (uint64_t)cut, &ids);
            parse(&spec, &ids, is_cut, &other, &outcome);
            ck_assert_msg(strcmp(text_of(&first.reasoning), text_of(&other.reasoning)) == 0 &&
                              strcmp(text_of(&first.content), text_of(&other.content)) == 0 &&
                              first.call_count == other.call_count &&
                              first_outcome.end == outcome.end,
                          "output '%s'", output.data);
            for (uint32_t i = 0; i < first.call_count; i++)
                ck_assert_msg(strcmp(text_of(&first.args[i]), text_of(&other.args[i])) == 0 &&
                                  strcmp(text_of(&first.names[i]), text_of(&other.names[i])) == 0 &&
                                  first.is_complete[i] == other.is_complete[i],
                              "output '%s'", output.data);
            ck_assert_mem_eq(first_outcome.stats.repairs, outcome.stats.repairs,
                             sizeof outcome.stats.repairs);
            answer_done(&other);
        }
        answer_done(&first);
    }
    eng_tools_unref(tools);
    eng_tokens_done(&ids);
    fm_buf_done(&output);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/parse");
    TCase *cases = tcase_create("parse");
    tcase_set_timeout(cases, 120);
    tcase_add_test(cases, every_output_of_the_vectors_parses_however_it_is_cut);
    tcase_add_test(cases, damage_is_repaired_by_the_rules_and_counted);
    tcase_add_test(cases, stop_strings_end_the_content_and_nothing_else);
    tcase_add_test(cases, of_stop_strings_the_earliest_wins_then_the_longest);
    tcase_add_test(cases, no_more_is_held_back_than_may_become_a_stop);
    tcase_add_test(cases, a_raw_completion_is_all_content);
    tcase_add_test(cases, eos_in_the_reasoning_becomes_its_end_once);
    tcase_add_test(cases, the_mask_follows_the_state);
    tcase_add_test(cases, what_a_call_can_make_us_keep_is_bounded);
    tcase_add_test(cases, parsing_survives_every_alloc_failure);
    tcase_add_test(cases, random_markup_gives_one_answer_however_it_is_cut);
    suite_add_tcase(suite, cases);
    return suite;
}
