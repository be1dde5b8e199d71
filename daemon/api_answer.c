/* api_answer.c - pieces of a generation into JSON; see api_answer.h. */
#include "daemon/api_answer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "daemon/json.h"

/* ---- life ------------------------------------------------------------------------------------ */

static void id_make(struct api_answer *answer)
{
    unsigned char random[16];
    fm_random_bytes(random, sizeof random);
    int at = snprintf(answer->id, sizeof answer->id, "%s-",
                      answer->request->kind == API_CHAT ? "chatcmpl" : "cmpl");
    for (size_t i = 0; i < sizeof random; i++)
        at += snprintf(answer->id + at, sizeof answer->id - (size_t)at, "%02x", random[i]);
}

enum fm_status api_answer_init(struct api_answer *answer, const struct api_request *request,
                               const struct api_sink *sink, size_t bytes_max)
{
    FM_ASSERT(request->is_stream == (sink != NULL));
    bool is_legacy = request->kind == API_COMPLETION;
    *answer = (struct api_answer){.request = request,
                                  .created_s = fm_clock_wall_s(),
                                  .choice_count = request->prompt_count * request->generate_count};
    if (sink != NULL)
        answer->sink = *sink;
    id_make(answer);
    fm_buf_init(&answer->chunk, bytes_max);
    answer->choices = fm_alloc_array(answer->choice_count, sizeof *answer->choices);
    answer->parts = fm_alloc_array(request->prompt_count, sizeof *answer->parts);
    if (answer->choices == NULL || answer->parts == NULL) {
        fm_free(answer->choices);
        fm_free(answer->parts);
        *answer = (struct api_answer){0};
        return FM_NOMEM;
    }
    for (uint32_t i = 0; i < answer->choice_count; i++) {
        struct api_choice *choice = &answer->choices[i];
        fm_buf_init(&choice->content, bytes_max);
        fm_buf_init(&choice->reasoning, bytes_max);
        fm_buf_init(&choice->token_ids, bytes_max);
        api_logprobs_init(&choice->content_tokens, is_legacy, bytes_max);
        api_logprobs_init(&choice->reasoning_tokens, is_legacy, bytes_max);
        api_logprobs_init(&choice->waiting, is_legacy, bytes_max);
        choice->is_reasoning = request->parser.start == ENG_CHANNEL_REASONING;
        choice->stop_string = SCH_NO_STOP;
        choice->stop_token = SCH_NO_STOP;
    }
    for (uint32_t i = 0; i < request->prompt_count; i++) {
        api_logprobs_init(&answer->parts[i].prompt_tokens, is_legacy, bytes_max);
        fm_buf_init(&answer->parts[i].prompt_logprobs, bytes_max);
    }
    return FM_OK;
}

void api_answer_done(struct api_answer *answer)
{
    for (uint32_t i = 0; i < answer->choice_count; i++) {
        struct api_choice *choice = &answer->choices[i];
        fm_buf_done(&choice->content);
        fm_buf_done(&choice->reasoning);
        fm_buf_done(&choice->token_ids);
        srv_toolcalls_done(&choice->calls);
        api_logprobs_done(&choice->content_tokens);
        api_logprobs_done(&choice->reasoning_tokens);
        api_logprobs_done(&choice->waiting);
    }
    for (uint32_t i = 0; answer->parts != NULL && i < answer->request->prompt_count; i++) {
        api_logprobs_done(&answer->parts[i].prompt_tokens);
        fm_buf_done(&answer->parts[i].prompt_logprobs);
    }
    fm_free(answer->choices);
    fm_free(answer->parts);
    fm_buf_done(&answer->chunk);
    *answer = (struct api_answer){0};
}

/* ---- shared objects -------------------------------------------------------------------------- */

static void usage_json(const struct api_answer *answer, struct fm_buf *out)
{
    const struct api_request *request = answer->request;
    uint64_t prompt = 0, cached = 0, completion = 0, reasoning = 0;
    for (uint32_t i = 0; i < request->prompt_count; i++) {
        prompt += request->prompts[i].token_count;
        cached += answer->parts[i].cached_tokens;
    }
    for (uint32_t i = 0; i < answer->choice_count; i++) {
        completion += answer->choices[i].token_count;
        reasoning += answer->choices[i].reasoning_count;
    }
    fm_buf_puts(out, "\"usage\":{\"prompt_tokens\":");
    srv_json_u64(out, prompt);
    fm_buf_puts(out, ",\"completion_tokens\":");
    srv_json_u64(out, completion);
    fm_buf_puts(out, ",\"total_tokens\":");
    srv_json_u64(out, prompt + completion);
    fm_buf_puts(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    srv_json_u64(out, cached);
    fm_buf_puts(out, "},\"completion_tokens_details\":{\"reasoning_tokens\":");
    srv_json_u64(out, reasoning);
    fm_buf_puts(out, "},\"prompt_cache_hit_tokens\":");
    srv_json_u64(out, cached);
    fm_buf_puts(out, ",\"prompt_cache_miss_tokens\":");
    srv_json_u64(out, prompt - cached);
    fm_buf_putc(out, '}');
}

static const char *finish_reason(const struct api_choice *choice)
{
    switch ((enum sch_end)choice->end) {
    case SCH_END_STOP: return "stop";
    case SCH_END_TOOL_CALLS: return "tool_calls";
    default: return "length";
    }
}

static void stop_reason_json(const struct api_answer *answer, const struct api_choice *choice,
                             struct fm_buf *out)
{
    fm_buf_puts(out, ",\"stop_reason\":");
    if (choice->stop_string != SCH_NO_STOP) {
        FM_ASSERT(choice->stop_string < answer->request->parser.stop_count);
        struct eng_slice stop = answer->request->parser.stops[choice->stop_string];
        srv_json_string(out, stop.data, stop.length);
    } else if (choice->stop_token != SCH_NO_STOP) {
        srv_json_u64(out, choice->stop_token);
    } else {
        fm_buf_puts(out, "null");
    }
}

static void head_json(const struct api_answer *answer, const char *object, struct fm_buf *out)
{
    const struct api_model *model = answer->request->model;
    fm_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%llu,\"model\":", answer->id,
                  object, (unsigned long long)answer->created_s);
    srv_json_text(out, model->id);
    fm_buf_printf(out, ",\"system_fingerprint\":\"%s\",\"choices\":[", model->fingerprint);
}

static void prompt_ids_json(const struct api_prompt *prompt, struct fm_buf *out)
{
    fm_buf_puts(out, ",\"prompt_token_ids\":[");
    for (uint32_t i = 0; i < prompt->token_count; i++) {
        if (i > 0)
            fm_buf_putc(out, ',');
        srv_json_u64(out, prompt->tokens[i]);
    }
    fm_buf_putc(out, ']');
}

/* What stands behind the choices: prompt ids, tier. */
static void extras_json(const struct api_answer *answer, bool is_first, struct fm_buf *out)
{
    const struct api_request *request = answer->request;
    if (request->echoes_tier)
        fm_buf_puts(out, ",\"service_tier\":\"default\"");
    if (request->wants_token_ids && is_first && request->kind == API_CHAT)
        prompt_ids_json(&request->prompts[0], out);
}

static void reasoning_key_json(const struct api_request *request, const char *text, size_t bytes,
                               struct fm_buf *out)
{
    static const char *const keys[] = {[SRV_REASONING_CONTENT] = "\"reasoning_content\":",
                                       [SRV_REASONING_REASONING] = "\"reasoning\":"};
    if (request->reasoning_field == SRV_REASONING_BOTH) {
        fm_buf_puts(out, keys[SRV_REASONING_CONTENT]);
        srv_json_string(out, text, bytes);
        fm_buf_puts(out, ",");
        fm_buf_puts(out, keys[SRV_REASONING_REASONING]);
    } else {
        fm_buf_puts(out, keys[request->reasoning_field]);
    }
    srv_json_string(out, text, bytes);
}

/* Has the answer a field for reasoning? */
static bool shows_reasoning(const struct api_request *request)
{
    return request->is_thinking && !request->hides_reasoning && !request->merges_reasoning;
}

static void logprobs_value_json(const struct api_answer *answer, const struct api_choice *choice,
                                struct fm_buf *out)
{
    const struct api_request *request = answer->request;
    if (!request->wants_logprobs) {
        fm_buf_puts(out, "null");
    } else if (request->kind == API_COMPLETION) {
        api_logprobs_json(&choice->content_tokens, out);
    } else {
        fm_buf_puts(out, "{\"content\":");
        api_logprobs_json(&choice->content_tokens, out);
        fm_buf_puts(out, ",\"refusal\":null");
        if (request->is_thinking && !request->hides_reasoning) {
            fm_buf_puts(out, ",\"reasoning_content\":");
            api_logprobs_json(&choice->reasoning_tokens, out);
        }
        fm_buf_putc(out, '}');
    }
}

static void token_ids_json(const struct api_answer *answer, const struct api_choice *choice,
                           struct fm_buf *out)
{
    if (!answer->request->wants_token_ids)
        return;
    fm_buf_puts(out, ",\"token_ids\":[");
    fm_buf_put(out, choice->token_ids.data, choice->token_ids.length);
    fm_buf_putc(out, ']');
}

/* ---- chunks ---------------------------------------------------------------------------------- */

/* The index of a choice among those of the answer. */
static uint32_t choice_index(const struct api_answer *answer, const struct api_choice *choice)
{
    return (uint32_t)(choice - answer->choices);
}

static void chunk_begin(struct api_answer *answer)
{
    fm_buf_clear(&answer->chunk);
    head_json(answer,
              answer->request->kind == API_CHAT ? "chat.completion.chunk" : "text_completion",
              &answer->chunk);
}

static void chunk_end(struct api_answer *answer, bool is_first)
{
    const struct api_request *request = answer->request;
    struct fm_buf *out = &answer->chunk;
    fm_buf_putc(out, ']');
    if (request->has_continuous_usage) {
        fm_buf_putc(out, ',');
        usage_json(answer, out);
    } else if (request->includes_usage) {
        fm_buf_puts(out, ",\"usage\":null");
    }
    extras_json(answer, is_first, out);
    fm_buf_putc(out, '}');
    if (out->is_broken ||
        (!answer->is_broken && !answer->sink.put(answer->sink.context, out->data, out->length)))
        answer->is_broken = true;
}

/* The rest of a choice behind its delta or text, and the chunk's end. */
static void chunk_choice_end(struct api_answer *answer, struct api_choice *choice, bool with_tokens)
{
    struct fm_buf *out = &answer->chunk;
    fm_buf_puts(out, ",\"logprobs\":");
    if (with_tokens)
        logprobs_value_json(answer, choice, out);
    else
        fm_buf_puts(out, "null");
    if (choice->is_ended) {
        fm_buf_printf(out, ",\"finish_reason\":\"%s\"", finish_reason(choice));
        stop_reason_json(answer, choice, out);
    } else {
        fm_buf_puts(out, ",\"finish_reason\":null");
    }
    token_ids_json(answer, choice, out);
    if (with_tokens || choice->is_ended) {
        api_logprobs_clear(&choice->content_tokens);
        api_logprobs_clear(&choice->reasoning_tokens);
    }
    fm_buf_clear(&choice->token_ids);
    fm_buf_putc(out, '}');
}

static void chunk_choice_begin(struct api_answer *answer, const struct api_choice *choice)
{
    fm_buf_puts(&answer->chunk, "{\"index\":");
    srv_json_u64(&answer->chunk, choice_index(answer, choice));
    fm_buf_puts(&answer->chunk, answer->request->kind == API_CHAT ? ",\"delta\":" : ",\"text\":");
}

/* One role chunk per choice, in order, before anything else. */
static void roles_put(struct api_answer *answer)
{
    const struct api_request *request = answer->request;
    answer->has_roles = true;
    for (uint32_t i = 0; i < answer->choice_count; i++) {
        struct api_choice *choice = &answer->choices[i];
        struct fm_buf held = choice->token_ids; /* they belong to the text */
        choice->token_ids = (struct fm_buf){0};
        chunk_begin(answer);
        chunk_choice_begin(answer, choice);
        fm_buf_puts(&answer->chunk, "{\"role\":\"assistant\",\"content\":");
        if (shows_reasoning(request)) {
            fm_buf_puts(&answer->chunk, "null,");
            reasoning_key_json(request, "", 0, &answer->chunk);
        } else {
            fm_buf_puts(&answer->chunk, "\"\"");
        }
        fm_buf_putc(&answer->chunk, '}');
        chunk_choice_end(answer, choice, false);
        choice->token_ids = held;
        chunk_end(answer, i == 0);
    }
}

/* ---- text ------------------------------------------------------------------------------------ */

static void text_show(struct api_answer *answer, struct api_choice *choice, bool is_reasoning,
                      const char *bytes, size_t length)
{
    const struct api_request *request = answer->request;
    struct fm_buf *out = &answer->chunk;
    api_logprobs_move(&choice->waiting,
                      is_reasoning ? &choice->reasoning_tokens : &choice->content_tokens);
    if (!is_reasoning && length > 0)
        choice->has_text = true;
    if (!request->is_stream) {
        fm_buf_put(is_reasoning ? &choice->reasoning : &choice->content, bytes, length);
        return;
    }
    chunk_begin(answer);
    chunk_choice_begin(answer, choice);
    if (request->kind == API_COMPLETION) {
        srv_json_string(out, bytes, length);
    } else {
        fm_buf_putc(out, '{');
        if (is_reasoning) {
            reasoning_key_json(request, bytes, length, out);
        } else {
            fm_buf_puts(out, "\"content\":");
            srv_json_string(out, bytes, length);
        }
        fm_buf_putc(out, '}');
    }
    chunk_choice_end(answer, choice, true);
    chunk_end(answer, false);
}

/* Reasoning that is shown in front of the content stands between its marks. */
static void merged_end(struct api_answer *answer, struct api_choice *choice)
{
    static const char mark[] = "</think>";
    if (!choice->is_marked)
        return;
    choice->is_marked = false;
    if (answer->request->is_stream) {
        struct api_logprobs waiting = choice->waiting; /* the mark is no token's text */
        api_logprobs_init(&choice->waiting, false, waiting.parts[0].bytes_max);
        text_show(answer, choice, false, mark, sizeof mark - 1);
        api_logprobs_done(&choice->waiting);
        choice->waiting = waiting;
    } else {
        fm_buf_puts(&choice->content, mark);
    }
}

static void reasoning_take(struct api_answer *answer, struct api_choice *choice, const char *bytes,
                           size_t length)
{
    const struct api_request *request = answer->request;
    if (request->hides_reasoning) {
        api_logprobs_clear(&choice->waiting);
        return;
    }
    if (!request->merges_reasoning) {
        text_show(answer, choice, true, bytes, length);
        return;
    }
    struct fm_buf text;
    fm_buf_init(&text, length + 16);
    fm_buf_puts(&text, choice->is_marked ? "" : "<think>");
    fm_buf_put(&text, bytes, length);
    choice->is_marked = true;
    api_logprobs_move(&choice->waiting, &choice->reasoning_tokens);
    text_show(answer, choice, false, text.data, text.length);
    answer->is_broken = answer->is_broken || text.is_broken;
    fm_buf_done(&text);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void call_take(struct api_answer *answer, struct api_choice *choice,
                      const struct sch_piece *piece, const char *bytes)
{
    const struct api_request *request = answer->request;
    struct fm_buf *out = &answer->chunk;
    bool is_begin = piece->kind == SCH_PIECE_TOOL_BEGIN;

    api_logprobs_clear(&choice->waiting); /* markup is in no list */
    if (piece->kind == SCH_PIECE_TOOL_END || (request->has_one_call && piece->index > 0))
        return;
    merged_end(answer, choice);
    if (is_begin && !srv_toolcalls_add(&choice->calls, bytes, piece->byte_count, out->bytes_max)) {
        answer->is_broken = true;
        return;
    }
    FM_ASSERT(piece->index + 1 == choice->calls.count);
    struct srv_toolcall *call = &choice->calls.items[piece->index];
    if (!request->is_stream) {
        if (!is_begin)
            fm_buf_put(&call->arguments, bytes, piece->byte_count);
        return;
    }
    chunk_begin(answer);
    chunk_choice_begin(answer, choice);
    if (is_begin)
        srv_toolcall_begin_json(piece->index, call->id, bytes, piece->byte_count, out);
    else
        srv_toolcall_args_json(piece->index, bytes, piece->byte_count, out);
    chunk_choice_end(answer, choice, false);
    chunk_end(answer, false);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void token_take(struct api_answer *answer, struct api_choice *choice,
                       const struct sch_piece *piece, const struct eng_candidate *candidates)
{
    const struct api_request *request = answer->request;
    const struct eng_text *text = request->model->text;
    if (isfinite(piece->logprob))
        choice->logprob_sum += (double)piece->logprob;
    choice->token_count++;
    if (choice->is_reasoning)
        choice->reasoning_count++;
    if (piece->token == eng_text_info(text)->think_end)
        choice->is_reasoning = false;
    if (request->wants_token_ids) {
        if (choice->token_ids.length > 0)
            fm_buf_putc(&choice->token_ids, ',');
        srv_json_u64(&choice->token_ids, piece->token);
    }
    if (request->wants_logprobs && eng_text_token_kind(text, piece->token) == ENG_TOKEN_BYTES) {
        struct api_token token = {
            .id = piece->token,
            .logprob = piece->logprob,
            .candidates = candidates,
            .candidate_count = fm_min_u32(piece->candidate_count, request->top_logprobs),
            .text_offset = api_token_offset(text, piece->token, choice->characters)};
        api_logprobs_add(&choice->waiting, text, &token);
    }
    choice->characters += api_token_characters(text, piece->token);
}

static void prompt_token_take(struct api_answer *answer, struct api_part *part,
                              const struct sch_piece *piece, const struct eng_candidate *candidates)
{
    const struct api_request *request = answer->request;
    const struct eng_text *text = request->model->text;
    struct api_token token = {.id = piece->token,
                              .logprob = piece->logprob,
                              .candidates = candidates,
                              .candidate_count = piece->candidate_count,
                              .text_offset =
                                  api_token_offset(text, piece->token, part->characters)};
    if (request->wants_prompt_logprobs) {
        if (part->prompt_logprob_count++ > 0)
            fm_buf_putc(&part->prompt_logprobs, ',');
        api_prompt_logprob_json(text, &token, &part->prompt_logprobs);
    }
    if (request->echoes && request->wants_logprobs) {
        token.candidate_count = fm_min_u32(piece->candidate_count, request->top_logprobs);
        api_logprobs_add(&part->prompt_tokens, text, &token);
    }
    part->characters += api_token_characters(text, piece->token);
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static void end_take(struct api_answer *answer, struct api_part *part, struct api_choice *choice,
                     const struct sch_piece *piece)
{
    choice->is_ended = true;
    choice->end = piece->end;
    choice->stop_string = piece->stop_string;
    choice->stop_token = piece->stop_token;
    choice->token_count = piece->completion_tokens;
    choice->reasoning_count = piece->reasoning_tokens;
    part->cached_tokens = piece->cached_tokens;
    api_logprobs_clear(&choice->waiting);
    if (piece->end != SCH_END_STOP && piece->end != SCH_END_LENGTH &&
        piece->end != SCH_END_TOOL_CALLS)
        return;
    if (choice->is_marked) {
        choice->is_ended = false; /* the mark is content, and content comes before the end */
        merged_end(answer, choice);
        choice->is_ended = true;
    }
    if (!answer->request->is_stream)
        return;
    chunk_begin(answer);
    chunk_choice_begin(answer, choice);
    fm_buf_puts(&answer->chunk, answer->request->kind == API_CHAT ? "{}" : "\"\"");
    chunk_choice_end(answer, choice, false);
    chunk_end(answer, false);
}

/* What comes in front of a prompt's first generated piece: roles, or the echo. */
static void part_begin(struct api_answer *answer, uint32_t prompt_index)
{
    const struct api_request *request = answer->request;
    struct api_part *part = &answer->parts[prompt_index];
    part->is_begun = true;
    if (request->kind == API_CHAT) {
        if (request->is_stream && !answer->has_roles)
            roles_put(answer);
        return;
    }
    if (!request->echoes)
        return;
    for (uint32_t i = 0; i < request->generate_count; i++) {
        struct api_choice *choice = &answer->choices[prompt_index * request->generate_count + i];
        struct eng_slice echo = request->prompts[prompt_index].echo;
        choice->characters = part->characters;
        if (part->prompt_tokens.count == 0) /* no tokens came: count what the text has */
            for (size_t at = 0; at < echo.length; at++)
                choice->characters += ((unsigned char)echo.data[at] & 0xc0) == 0x80 ? 0 : 1;
        api_logprobs_copy(&part->prompt_tokens, &choice->waiting);
        text_show(answer, choice, false, echo.data, echo.length);
    }
}

void api_answer_piece(struct api_answer *answer, uint32_t prompt_index,
                      const struct sch_piece *piece, const struct eng_candidate *candidates,
                      const char *bytes)
{
    const struct api_request *request = answer->request;
    FM_ASSERT(prompt_index < request->prompt_count);
    struct api_part *part = &answer->parts[prompt_index];
    if (piece->kind == SCH_PIECE_PROMPT) {
        prompt_token_take(answer, part, piece, candidates);
        return;
    }
    if (piece->kind == SCH_PIECE_DONE)
        return;
    FM_ASSERT(piece->choice < request->generate_count);
    struct api_choice *choice =
        &answer->choices[prompt_index * request->generate_count + piece->choice];
    bool is_failure = piece->kind == SCH_PIECE_END && piece->end != SCH_END_STOP &&
                      piece->end != SCH_END_LENGTH && piece->end != SCH_END_TOOL_CALLS;
    if (!part->is_begun && !is_failure)
        part_begin(answer, prompt_index);

    switch ((enum sch_piece_kind)piece->kind) {
    case SCH_PIECE_TOKEN: token_take(answer, choice, piece, candidates); return;
    case SCH_PIECE_REASONING: reasoning_take(answer, choice, bytes, piece->byte_count); return;
    case SCH_PIECE_CONTENT:
        merged_end(answer, choice);
        text_show(answer, choice, false, bytes, piece->byte_count);
        return;
    case SCH_PIECE_TOOL_BEGIN:
    case SCH_PIECE_TOOL_ARGS:
    case SCH_PIECE_TOOL_END: call_take(answer, choice, piece, bytes); return;
    case SCH_PIECE_END: end_take(answer, part, choice, piece); return;
    case SCH_PIECE_PROMPT:
    case SCH_PIECE_DONE: break;
    }
    FM_UNREACHABLE();
}

/* ---- the answer in one piece ----------------------------------------------------------------- */

static void message_json(const struct api_answer *answer, const struct api_choice *choice,
                         struct fm_buf *out)
{
    fm_buf_puts(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (choice->calls.count > 0 && choice->content.length == 0)
        fm_buf_puts(out, "null");
    else
        srv_json_string(out, choice->content.data, choice->content.length);
    fm_buf_puts(out, ",\"refusal\":null");
    if (shows_reasoning(answer->request)) {
        fm_buf_putc(out, ',');
        reasoning_key_json(answer->request, choice->reasoning.data, choice->reasoning.length, out);
    }
    if (choice->calls.count > 0) {
        fm_buf_puts(out, ",\"tool_calls\":");
        srv_toolcalls_json(&choice->calls, out);
    }
    fm_buf_putc(out, '}');
}

static double mean_logprob(const struct api_choice *choice)
{
    return choice->token_count == 0 ? 0 : choice->logprob_sum / choice->token_count;
}

/* The best candidate of a prompt that was not taken yet; ties to the first. */
static uint32_t best_take(const struct api_answer *answer, uint32_t from, bool *taken)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < answer->request->generate_count; i++)
        if (!taken[i] && (best == UINT32_MAX || mean_logprob(&answer->choices[from + i]) >
                                                    mean_logprob(&answer->choices[from + best])))
            best = i;
    FM_ASSERT(best != UINT32_MAX);
    taken[best] = true;
    return from + best;
}

static void choice_json(const struct api_answer *answer, const struct api_choice *choice,
                        uint32_t index, uint32_t prompt_index, struct fm_buf *out)
{
    const struct api_request *request = answer->request;
    fm_buf_puts(out, index == 0 ? "{\"index\":" : ",{\"index\":");
    srv_json_u64(out, index);
    fm_buf_putc(out, ',');
    if (request->kind == API_CHAT) {
        message_json(answer, choice, out);
    } else {
        fm_buf_puts(out, "\"text\":");
        srv_json_string(out, choice->content.data, choice->content.length);
    }
    fm_buf_puts(out, ",\"logprobs\":");
    logprobs_value_json(answer, choice, out);
    fm_buf_printf(out, ",\"finish_reason\":\"%s\"", finish_reason(choice));
    stop_reason_json(answer, choice, out);
    token_ids_json(answer, choice, out);
    if (request->kind == API_COMPLETION && request->wants_token_ids)
        prompt_ids_json(&request->prompts[prompt_index], out);
    if (request->kind == API_COMPLETION && request->wants_prompt_logprobs) {
        fm_buf_puts(out, ",\"prompt_logprobs\":[");
        fm_buf_put(out, answer->parts[prompt_index].prompt_logprobs.data,
                   answer->parts[prompt_index].prompt_logprobs.length);
        fm_buf_putc(out, ']');
    }
    fm_buf_putc(out, '}');
}

static bool has_broken_buffer(const struct api_answer *answer)
{
    bool is_broken = answer->chunk.is_broken;
    for (uint32_t i = 0; i < answer->choice_count; i++) {
        const struct api_choice *choice = &answer->choices[i];
        is_broken = is_broken || choice->content.is_broken || choice->reasoning.is_broken ||
                    choice->token_ids.is_broken ||
                    api_logprobs_is_broken(&choice->content_tokens) ||
                    api_logprobs_is_broken(&choice->reasoning_tokens) ||
                    api_logprobs_is_broken(&choice->waiting);
        for (uint32_t c = 0; c < choice->calls.count; c++)
            is_broken = is_broken || choice->calls.items[c].arguments.is_broken;
    }
    for (uint32_t i = 0; i < answer->request->prompt_count; i++)
        is_broken = is_broken || answer->parts[i].prompt_logprobs.is_broken ||
                    api_logprobs_is_broken(&answer->parts[i].prompt_tokens);
    return is_broken;
}

static void body_json(struct api_answer *answer, struct fm_buf *out)
{
    const struct api_request *request = answer->request;
    uint32_t index = 0;
    bool *taken = fm_alloc_array(request->generate_count, sizeof *taken);
    if (taken == NULL) {
        answer->is_broken = true;
        return;
    }
    head_json(answer, request->kind == API_CHAT ? "chat.completion" : "text_completion", out);
    for (uint32_t p = 0; p < request->prompt_count; p++) {
        uint32_t from = p * request->generate_count;
        memset(taken, 0, request->generate_count * sizeof *taken);
        for (uint32_t i = 0; i < request->choice_count; i++) {
            bool is_contest = request->generate_count > request->choice_count;
            uint32_t at = is_contest ? best_take(answer, from, taken) : from + i;
            choice_json(answer, &answer->choices[at], index++, p, out);
        }
    }
    fm_free(taken);
    fm_buf_puts(out, "],");
    usage_json(answer, out);
    extras_json(answer, true, out);
    if (request->kind == API_CHAT && request->wants_prompt_logprobs) {
        fm_buf_puts(out, ",\"prompt_logprobs\":[");
        fm_buf_put(out, answer->parts[0].prompt_logprobs.data,
                   answer->parts[0].prompt_logprobs.length);
        fm_buf_putc(out, ']');
    }
    fm_buf_puts(out, "}\n");
}

void api_answer_finish(struct api_answer *answer, struct fm_buf *out)
{
    const struct api_request *request = answer->request;
    if (has_broken_buffer(answer))
        answer->is_broken = true;
    if (!request->is_stream) {
        body_json(answer, out);
        answer->is_broken = answer->is_broken || out->is_broken;
    } else if (request->includes_usage) {
        struct fm_buf *chunk = &answer->chunk;
        chunk_begin(answer);
        fm_buf_puts(chunk, "],");
        usage_json(answer, chunk);
        extras_json(answer, false, chunk);
        fm_buf_putc(chunk, '}');
        if (chunk->is_broken ||
            (!answer->is_broken &&
             !answer->sink.put(answer->sink.context, chunk->data, chunk->length)))
            answer->is_broken = true;
    }
}
