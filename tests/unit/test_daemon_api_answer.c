/* test_daemon_api_answer.c - scripted pieces of a generation, and the exact JSON that they become. */
#include "daemon/api_answer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/fault.h"
#include "daemon/api_chat.h"
#include "daemon/api_completions.h"
#include "tests/support/support.h"

static struct srv_config *config;
static struct eng_text *text;
static struct api_model model;
static struct api_request request;
static struct api_answer answer;
static struct fm_buf chunks; /* what the sink got, a line each */

static bool sink_put(void *context, const char *json, size_t bytes)
{
    (void)context;
    fm_buf_put(&chunks, json, bytes);
    return fm_buf_putc(&chunks, '\n');
}

static void setup(void)
{
    struct srv_config_sources sources = {0};
    struct fm_err err;
    ck_assert_msg(srv_config_load(&sources, &config, &err) == FM_OK, "%s", err.text);
    ck_assert_msg(eng_text_open("conf/model", NULL, &text, &err) == FM_OK, "%s", err.text);
    model = (struct api_model){
        .text = text, .id = "toy", .fingerprint = "fp_0123456789", .context_max = 512};
    fm_buf_init(&chunks, 1 << 20);
}

static void teardown(void)
{
    api_answer_done(&answer);
    api_request_done(&request);
    fm_buf_done(&chunks);
    eng_text_free(text);
    srv_config_put(config);
}

static void begin(const struct api_endpoint *endpoint, const char *body)
{
    struct srv_error problem = {0};
    struct eng_slice bytes = {.data = body, .length = strlen(body)};
    const struct api_sink sink = {.put = sink_put};
    api_answer_done(&answer);
    api_request_done(&request);
    fm_buf_clear(&chunks);
    ck_assert_msg(api_request_parse(endpoint, &model, config, bytes, &request, &problem) == FM_OK,
                  "%s", problem.message);
    ck_assert_int_eq(api_answer_init(&answer, &request, request.is_stream ? &sink : NULL, 1 << 20),
                     FM_OK);
    (void)snprintf(answer.id, sizeof answer.id, "ID");
    answer.created_s = 7;
}

static void piece(enum sch_piece_kind kind, uint32_t choice, uint32_t index, const char *bytes)
{
    struct sch_piece one = {.kind = (uint8_t)kind,
                            .choice = (uint16_t)choice,
                            .index = index,
                            .byte_count = (uint32_t)strlen(bytes)};
    api_answer_piece(&answer, 0, &one, NULL, bytes);
}

static uint32_t token_of(const char *bytes)
{
    struct eng_tokens tokens;
    struct fm_err err;
    eng_tokens_init(&tokens, 8);
    ck_assert_int_eq(eng_encode(text, bytes, strlen(bytes), ENG_ENCODE_TEXT, &tokens, &err), FM_OK);
    ck_assert_uint_eq(tokens.count, 1);
    uint32_t id = tokens.ids[0];
    eng_tokens_done(&tokens);
    return id;
}

static void token(enum sch_piece_kind kind, uint32_t choice, uint32_t id, float logprob)
{
    struct eng_candidate candidates[2] = {{.token = id, .logprob = logprob},
                                          {.token = token_of("x"), .logprob = -3}};
    struct sch_piece one = {.kind = (uint8_t)kind,
                            .choice = (uint16_t)choice,
                            .token = id,
                            .logprob = logprob,
                            .candidate_count = isnan(logprob) ? 0 : 2};
    api_answer_piece(&answer, 0, &one, candidates, "");
}

static void end(uint32_t choice, enum sch_end how, uint32_t completion, uint32_t reasoning)
{
    struct sch_piece one = {.kind = SCH_PIECE_END,
                            .end = (uint8_t)how,
                            .choice = (uint16_t)choice,
                            .completion_tokens = completion,
                            .reasoning_tokens = reasoning,
                            .prompt_tokens = request.prompts[0].token_count,
                            .stop_string = SCH_NO_STOP,
                            .stop_token = SCH_NO_STOP};
    api_answer_piece(&answer, 0, &one, NULL, "");
}

static const char *finish(void)
{
    static struct fm_buf body;
    fm_buf_done(&body);
    fm_buf_init(&body, 1 << 20);
    api_answer_finish(&answer, &body);
    ck_assert(!answer.is_broken);
    return request.is_stream ? chunks.data : body.data;
}

/* The lines, with the common head left out. */
static void lines_are(const char *got, const char *object, const char *const *wanted, size_t count)
{
    char head[160];
    (void)snprintf(head, sizeof head,
                   "{\"id\":\"ID\",\"object\":\"%s\",\"created\":7,\"model\":\"toy\","
                   "\"system_fingerprint\":\"fp_0123456789\",\"choices\":[",
                   object);
    for (size_t i = 0; i < count; i++) {
        size_t length = strcspn(got, "\n");
        ck_assert_msg(strncmp(got, head, strlen(head)) == 0, "%.*s", (int)length, got);
        got += strlen(head);
        length -= strlen(head);
        ck_assert_msg(length == strlen(wanted[i]) && memcmp(got, wanted[i], length) == 0,
                      "line %zu:\n%.*s\n%s", i, (int)length, got, wanted[i]);
        got += length + 1;
    }
    ck_assert_str_eq(got, "");
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CHAT "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"

START_TEST(a_streamed_tool_call_has_the_frames_of_the_contract)
{
    begin(&api_chat_endpoint,
          CHAT "," TOOLS ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    piece(SCH_PIECE_REASONING, 0, 0, "Need weather.");
    piece(SCH_PIECE_TOOL_BEGIN, 0, 0, "f");
    piece(SCH_PIECE_TOOL_ARGS, 0, 0, "{\"city\": \"Bei");
    piece(SCH_PIECE_TOOL_ARGS, 0, 0, "jing\"}");
    piece(SCH_PIECE_TOOL_END, 0, 0, "");
    char id[SRV_TOOLCALL_ID_BYTES];
    ck_assert_uint_eq(answer.choices[0].calls.count, 1);
    (void)snprintf(id, sizeof id, "%s", answer.choices[0].calls.items[0].id);
    ck_assert_uint_eq(strlen(id), 29);
    ck_assert_uint_eq(strspn(id + 5, "0123456789abcdef"), 24);
    end(0, SCH_END_TOOL_CALLS, 41, 4);

    char call[512], usage[512];
    uint32_t p = request.prompts[0].token_count;
    (void)snprintf(call, sizeof call,
                   "{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"%s\",\"type\":"
                   "\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]},\"logprobs\":"
                   "null,\"finish_reason\":null}],\"usage\":null}",
                   id);
    (void)snprintf(usage, sizeof usage,
                   "],\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":41,\"total_tokens\":%u,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_details\":"
                   "{\"reasoning_tokens\":4},\"prompt_cache_hit_tokens\":0,"
                   "\"prompt_cache_miss_tokens\":%u}}",
                   p, p + 41, p);
    const char *const wanted[] = {
        "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":"
        "\"\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}",
        "{\"index\":0,\"delta\":{\"reasoning_content\":\"Need weather.\"},\"logprobs\":null,"
        "\"finish_reason\":null}],\"usage\":null}",
        call,
        "{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":"
        "\"{\\\"city\\\": \\\"Bei\"}}]},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}",
        "{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":"
        "\"jing\\\"}\"}}]},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}",
        "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"tool_calls\","
        "\"stop_reason\":null}],\"usage\":null}",
        usage,
    };
    lines_are(finish(), "chat.completion.chunk", wanted, COUNT(wanted));
}
END_TEST

START_TEST(role_chunks_come_first_and_choices_interleave)
{
    begin(&api_chat_endpoint, CHAT ",\"thinking\":false,\"n\":2,\"stream\":true}");
    piece(SCH_PIECE_CONTENT, 1, 0, "b");
    piece(SCH_PIECE_CONTENT, 0, 0, "a\n\n");
    end(1, SCH_END_LENGTH, 1, 0);
    end(0, SCH_END_STOP, 2, 0);
    const char *const wanted[] = {
        "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
        "\"finish_reason\":null}]}",
        "{\"index\":1,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
        "\"finish_reason\":null}]}",
        "{\"index\":1,\"delta\":{\"content\":\"b\"},\"logprobs\":null,\"finish_reason\":null}]}",
        "{\"index\":0,\"delta\":{\"content\":\"a\\n\\n\"},\"logprobs\":null,\"finish_reason\":"
        "null}]}",
        "{\"index\":1,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":"
        "null}]}",
        "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":"
        "null}]}",
    };
    lines_are(finish(), "chat.completion.chunk", wanted, COUNT(wanted));
}
END_TEST

static void body_has(const char *body, const char *part)
{
    ck_assert_msg(strstr(body, part) != NULL, "%s\nlacks %s", body, part);
}

START_TEST(an_answer_in_one_piece_has_the_keys_of_the_contract)
{
    begin(&api_chat_endpoint, CHAT ",\"stop\":\"END\",\"service_tier\":\"flex\"}");
    piece(SCH_PIECE_REASONING, 0, 0, "The user ");
    piece(SCH_PIECE_REASONING, 0, 0, "greets.");
    piece(SCH_PIECE_CONTENT, 0, 0, "Hi");
    piece(SCH_PIECE_CONTENT, 0, 0, "!");
    struct sch_piece last = {.kind = SCH_PIECE_END,
                             .end = SCH_END_STOP,
                             .completion_tokens = 12,
                             .reasoning_tokens = 8,
                             .cached_tokens = 2,
                             .stop_string = 0,
                             .stop_token = SCH_NO_STOP};
    api_answer_piece(&answer, 0, &last, NULL, "");
    const char *body = finish();
    body_has(body, "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
                   "\"Hi!\",\"refusal\":null,\"reasoning_content\":\"The user greets.\"},"
                   "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"END\"}],"
                   "\"usage\":{");
    body_has(body, "\"completion_tokens\":12,");
    body_has(body, "\"cached_tokens\":2},\"completion_tokens_details\":{\"reasoning_tokens\":8},"
                   "\"prompt_cache_hit_tokens\":2,");
    body_has(body, ",\"service_tier\":\"default\"}\n");
}
END_TEST

START_TEST(content_is_null_only_beside_calls)
{
    begin(&api_chat_endpoint, CHAT "," TOOLS ",\"thinking\":false}");
    piece(SCH_PIECE_TOOL_BEGIN, 0, 0, "f");
    piece(SCH_PIECE_TOOL_ARGS, 0, 0, "{}");
    piece(SCH_PIECE_TOOL_END, 0, 0, "");
    piece(SCH_PIECE_TOOL_BEGIN, 0, 1, "f");
    piece(SCH_PIECE_TOOL_ARGS, 0, 1, "{\"a\": 1}");
    piece(SCH_PIECE_TOOL_END, 0, 1, "");
    end(0, SCH_END_TOOL_CALLS, 9, 0);
    const char *body = finish();
    body_has(body, "\"content\":null,\"refusal\":null,\"tool_calls\":[{\"id\":\"call_");
    body_has(body, "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},");
    body_has(body, "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}}]}");
    body_has(body, "\"finish_reason\":\"tool_calls\"");

    begin(&api_chat_endpoint, CHAT ",\"thinking\":false}");
    end(0, SCH_END_LENGTH, 1, 0);
    body_has(finish(), "\"content\":\"\",\"refusal\":null}");
}
END_TEST

START_TEST(one_call_is_kept_where_calls_are_not_parallel)
{
    begin(&api_chat_endpoint, CHAT "," TOOLS ",\"parallel_tool_calls\":false}");
    for (uint32_t i = 0; i < 2; i++) {
        piece(SCH_PIECE_TOOL_BEGIN, 0, i, i == 0 ? "f" : "g");
        piece(SCH_PIECE_TOOL_ARGS, 0, i, "{}");
        piece(SCH_PIECE_TOOL_END, 0, i, "");
    }
    end(0, SCH_END_TOOL_CALLS, 9, 0);
    const char *body = finish();
    body_has(body, "\"name\":\"f\"");
    ck_assert_ptr_null(strstr(body, "\"name\":\"g\""));
}
END_TEST

START_TEST(reasoning_can_be_hidden_merged_and_renamed)
{
    begin(&api_chat_endpoint, CHAT ",\"include_reasoning\":false}");
    piece(SCH_PIECE_REASONING, 0, 0, "r");
    piece(SCH_PIECE_CONTENT, 0, 0, "c");
    end(0, SCH_END_STOP, 3, 2);
    body_has(finish(), "\"content\":\"c\",\"refusal\":null}");

    begin(&api_chat_endpoint, CHAT ",\"separate_reasoning\":false}");
    piece(SCH_PIECE_REASONING, 0, 0, "r");
    piece(SCH_PIECE_REASONING, 0, 0, "s");
    piece(SCH_PIECE_CONTENT, 0, 0, "c");
    end(0, SCH_END_STOP, 3, 2);
    body_has(finish(), "\"content\":\"<think>rs</think>c\",\"refusal\":null}");

    begin(&api_chat_endpoint, CHAT ",\"separate_reasoning\":false,\"stream\":true}");
    piece(SCH_PIECE_REASONING, 0, 0, "r");
    end(0, SCH_END_LENGTH, 3, 2);
    const char *lines = finish();
    body_has(lines,
             "\"delta\":{\"content\":\"<think>r\"},\"logprobs\":null,\"finish_reason\":null");
    body_has(lines,
             "\"delta\":{\"content\":\"</think>\"},\"logprobs\":null,\"finish_reason\":null");

    config->api_reasoning_field = SRV_REASONING_BOTH;
    begin(&api_chat_endpoint, CHAT "}");
    piece(SCH_PIECE_REASONING, 0, 0, "r");
    end(0, SCH_END_STOP, 3, 2);
    body_has(finish(), "\"reasoning_content\":\"r\",\"reasoning\":\"r\"");
}
END_TEST

START_TEST(tokens_are_listed_where_their_text_is_shown)
{
    begin(&api_chat_endpoint,
          CHAT ",\"logprobs\":true,\"top_logprobs\":1,\"stream\":true," TOOLS "}");
    uint32_t end_id = eng_text_info(text)->think_end;
    token(SCH_PIECE_TOKEN, 0, token_of("a"), -0.5f);
    token(SCH_PIECE_TOKEN, 0, token_of("b"), -0.25f);
    piece(SCH_PIECE_REASONING, 0, 0, "ab");
    token(SCH_PIECE_TOKEN, 0, end_id, -0.125f);
    token(SCH_PIECE_TOKEN, 0, token_of("c"), -1);
    piece(SCH_PIECE_CONTENT, 0, 0, "c");
    token(SCH_PIECE_TOKEN, 0, token_of("d"), -2);
    piece(SCH_PIECE_TOOL_BEGIN, 0, 0, "f");
    token(SCH_PIECE_TOKEN, 0, token_of("e"), -2);
    end(0, SCH_END_LENGTH, 6, 3);
    const char *lines = finish();
    body_has(
        lines,
        "\"delta\":{\"reasoning_content\":\"ab\"},\"logprobs\":{\"content\":[],\"refusal\":null,"
        "\"reasoning_content\":[{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],"
        "\"top_logprobs\":[{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97]}]},{\"token\":\"b\","
        "\"logprob\":-0.25,\"bytes\":[98],\"top_logprobs\":[{\"token\":\"b\",\"logprob\":-0.25,"
        "\"bytes\":[98]}]}]},");
    body_has(lines,
             "\"delta\":{\"content\":\"c\"},\"logprobs\":{\"content\":[{\"token\":\"c\","
             "\"logprob\":-1.0,\"bytes\":[99],\"top_logprobs\":[{\"token\":\"c\",\"logprob\":"
             "-1.0,\"bytes\":[99]}]}],\"refusal\":null,\"reasoning_content\":[]},");
    ck_assert_ptr_null(strstr(lines, "\"token\":\"d\""));
    ck_assert_ptr_null(strstr(lines, "\"token\":\"e\""));
    ck_assert_uint_eq(answer.choices[0].reasoning_count, 3);
}
END_TEST

START_TEST(token_ids_and_usage_can_come_with_every_chunk)
{
    begin(&api_chat_endpoint, CHAT ",\"thinking\":false,\"stream\":true,\"return_token_ids\":true,"
                                   "\"stream_options\":{\"continuous_usage_stats\":true}}");
    token(SCH_PIECE_TOKEN, 0, 97, -1);
    token(SCH_PIECE_TOKEN, 0, 98, -1);
    piece(SCH_PIECE_CONTENT, 0, 0, "ab");
    token(SCH_PIECE_TOKEN, 0, 1, -1);
    end(0, SCH_END_STOP, 3, 0);
    const char *lines = finish();
    body_has(lines, "\"token_ids\":[97,98]}],\"usage\":{");
    body_has(lines,
             "\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":[1]}],\"usage\":{");
    body_has(lines, "\"completion_tokens\":2,");
    body_has(lines, "\"completion_tokens\":3,");
    body_has(lines, ",\"prompt_token_ids\":[");
}
END_TEST

START_TEST(a_completion_echoes_and_scores_its_prompt)
{
    begin(&api_completions_endpoint,
          "{\"prompt\":\"a\xf0\x9f\x98\x80x\",\"echo\":true,\"max_tokens\":0,\"logprobs\":1}");
    const struct api_prompt *prompt = &request.prompts[0];
    for (uint32_t i = 0; i < prompt->token_count; i++)
        token(SCH_PIECE_PROMPT, 0, prompt->tokens[i], i == 0 ? NAN : -1);
    end(0, SCH_END_LENGTH, 0, 0);
    const char *body = finish();
    body_has(body, "\"text\":\"a\xf0\x9f\x98\x80x\",\"logprobs\":{\"text_offset\":[0,0,1,");
    body_has(body, "\"token_logprobs\":[null,-1.0,");
    body_has(body, "\"top_logprobs\":[null,{");
    body_has(body, "\"finish_reason\":\"length\",\"stop_reason\":null}]");
    body_has(body, "\"completion_tokens\":0,");
    const char *offsets = strstr(body, "\"text_offset\":[") + 15;
    const char *after = strchr(offsets, ']');
    ck_assert_msg(strncmp(after - 2, ",2]", 3) == 0, "%s", offsets);
}
END_TEST

START_TEST(a_streamed_completion_begins_with_its_echo)
{
    begin(&api_completions_endpoint,
          "{\"prompt\":\"a\",\"echo\":true,\"stream\":true,\"max_tokens\":4}");
    piece(SCH_PIECE_CONTENT, 0, 0, "b");
    end(0, SCH_END_STOP, 2, 0);
    const char *const wanted[] = {
        "{\"index\":0,\"text\":\"a\",\"logprobs\":null,\"finish_reason\":null}]}",
        "{\"index\":0,\"text\":\"b\",\"logprobs\":null,\"finish_reason\":null}]}",
        "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":"
        "null}]}",
    };
    lines_are(finish(), "text_completion", wanted, COUNT(wanted));
}
END_TEST

START_TEST(the_best_candidates_come_first)
{
    begin(&api_completions_endpoint, "{\"prompt\":\"a\",\"n\":2,\"best_of\":3}");
    static const float odds[3] = {-2, -0.5f, -1};
    static const char *const texts[3] = {"worst", "best", "middle"};
    for (uint32_t i = 0; i < 3; i++) {
        token(SCH_PIECE_TOKEN, i, token_of("x"), odds[i]);
        piece(SCH_PIECE_CONTENT, i, 0, texts[i]);
        end(i, SCH_END_STOP, 1, 0);
    }
    const char *body = finish();
    body_has(body, "[{\"index\":0,\"text\":\"best\",\"logprobs\":null,");
    body_has(body, "{\"index\":1,\"text\":\"middle\",\"logprobs\":null,");
    ck_assert_ptr_null(strstr(body, "worst"));
    body_has(body, "\"completion_tokens\":3,");
}
END_TEST

START_TEST(an_answer_survives_every_alloc_failure)
{
    bool fired = true;
    begin(&api_chat_endpoint, CHAT ",\"logprobs\":true,\"top_logprobs\":1," TOOLS "}");
    for (uint32_t nth = 1; fired; nth++) {
        struct api_answer one = {0};
        struct fm_buf body;
        fm_buf_init(&body, 1 << 20);
        fm_fault_arm("alloc", nth);
        enum fm_status status = api_answer_init(&one, &request, NULL, 1 << 20);
        if (status == FM_OK) {
            struct eng_candidate candidate = {.token = 97, .logprob = -1};
            struct sch_piece drawn = {
                .kind = SCH_PIECE_TOKEN, .token = 97, .logprob = -1, .candidate_count = 1};
            struct sch_piece shown = {.kind = SCH_PIECE_CONTENT, .byte_count = 1};
            struct sch_piece called = {.kind = SCH_PIECE_TOOL_BEGIN, .byte_count = 1};
            struct sch_piece last = {.kind = SCH_PIECE_END,
                                     .end = SCH_END_TOOL_CALLS,
                                     .stop_string = SCH_NO_STOP,
                                     .stop_token = SCH_NO_STOP};
            api_answer_piece(&one, 0, &drawn, &candidate, "");
            api_answer_piece(&one, 0, &shown, NULL, "a");
            if (!one.is_broken)
                api_answer_piece(&one, 0, &called, NULL, "f");
            if (!one.is_broken)
                api_answer_piece(&one, 0, &last, NULL, "");
            if (!one.is_broken)
                api_answer_finish(&one, &body);
        }
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(fired, status != FM_OK || one.is_broken);
        api_answer_done(&one);
        fm_buf_done(&body);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon/api_answer");
    TCase *tcase = tcase_create("answers");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_streamed_tool_call_has_the_frames_of_the_contract);
    tcase_add_test(tcase, role_chunks_come_first_and_choices_interleave);
    tcase_add_test(tcase, an_answer_in_one_piece_has_the_keys_of_the_contract);
    tcase_add_test(tcase, content_is_null_only_beside_calls);
    tcase_add_test(tcase, one_call_is_kept_where_calls_are_not_parallel);
    tcase_add_test(tcase, reasoning_can_be_hidden_merged_and_renamed);
    tcase_add_test(tcase, tokens_are_listed_where_their_text_is_shown);
    tcase_add_test(tcase, token_ids_and_usage_can_come_with_every_chunk);
    tcase_add_test(tcase, a_completion_echoes_and_scores_its_prompt);
    tcase_add_test(tcase, a_streamed_completion_begins_with_its_echo);
    tcase_add_test(tcase, the_best_candidates_come_first);
    tcase_add_test(tcase, an_answer_survives_every_alloc_failure);
    suite_add_tcase(suite, tcase);
    return suite;
}
