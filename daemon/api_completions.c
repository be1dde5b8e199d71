/* api_completions.c - POST /v1/completions: the request.  api_generate.c makes the answer. */
#include "daemon/api_completions.h"

#include <math.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "daemon/api_generate.h"

static const char *const honoured[] = {
    "prompt",
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "n",
    "best_of",
    "stop",
    "seed",
    "user",
    "safety_identifier",
    "user_id",
    "service_tier",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "logprobs",
    "echo",
    "suffix",
    "add_special_tokens",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "include_stop_str_in_output",
    "bad_words",
    "allowed_token_ids",
    "skip_special_tokens",
    "return_token_ids",
    "prompt_logprobs",
    "response_format",
};

enum { DEFAULT_MAX_TOKENS = 16 }; /* of the legacy contract */

/* How the prompts become tokens. */
struct style {
    bool has_suffix, adds_bos;
    struct eng_slice suffix;
};

/* ---- prompts --------------------------------------------------------------------------------- */

static void text_encode(struct api_parse *parse, const struct style *style, const cJSON *string,
                        struct eng_tokens *tokens)
{
    const struct eng_text *text = parse->request->model->text;
    struct eng_slice prompt = {.data = string->valuestring, .length = strlen(string->valuestring)};
    struct fm_err err = {0};
    enum fm_status status = FM_OK;

    if (!api_parse_bytes_fit(parse, prompt.length + style->suffix.length, "prompt"))
        return;
    if (style->has_suffix) {
        status = eng_encode_fim(text, prompt, style->suffix, tokens, &err);
    } else {
        bool is_special = parse->config->api_parse_special;
        if (style->adds_bos)
            status = eng_tokens_put(tokens, eng_text_info(text)->bos, &err);
        if (status == FM_OK)
            status = eng_encode(text, prompt.data, prompt.length,
                                is_special ? ENG_ENCODE_CONTROL : ENG_ENCODE_TEXT, tokens, &err);
    }
    if (status == FM_LIMIT)
        api_parse_overlong(parse, tokens->count_max, true, "prompt");
    else if (status != FM_OK)
        api_parse_failed(parse, style->has_suffix ? "suffix" : "prompt", &err);
    else if (tokens->count == 0)
        api_field_invalid(&parse->reader, "prompt", "it has no tokens.");
}

static void ids_take(struct api_parse *parse, const cJSON *array, struct eng_tokens *tokens)
{
    uint32_t vocab = eng_text_info(parse->request->model->text)->vocab_size;
    struct fm_err err = {0};
    if (array->child == NULL)
        api_field_invalid(&parse->reader, "prompt", "a list of tokens is empty.");
    for (const cJSON *item = array->child; item != NULL; item = item->next) {
        double value = item->valuedouble;
        if (!cJSON_IsNumber(item) || value != floor(value)) {
            api_field_mistyped(&parse->reader, "prompt", "token ids", item);
            return;
        }
        if (!(value >= 0 && value < vocab)) {
            api_field_invalid(&parse->reader, "prompt", "token ids are 0 to %u.", vocab - 1);
            return;
        }
        enum fm_status status = eng_tokens_put(tokens, (uint32_t)value, &err);
        if (status == FM_LIMIT)
            api_parse_overlong(parse, tokens->count_max, true, "prompt");
        else if (status != FM_OK)
            api_parse_failed(parse, "prompt", &err);
        if (status != FM_OK)
            return;
    }
}

/* The prompt as the text that an echo begins with. */
static void echo_set(struct api_parse *parse, const cJSON *item, struct api_prompt *prompt)
{
    struct fm_arena *arena = &parse->request->arena;
    struct eng_slice echo = {0};
    if (cJSON_IsString(item)) {
        echo.length = strlen(item->valuestring);
        echo.data = fm_arena_copy(arena, item->valuestring, echo.length);
    } else {
        struct fm_buf text;
        struct eng_detok detok = {0};
        fm_buf_init(&text, parse->config->api_max_answer_bytes);
        for (uint32_t i = 0; i < prompt->token_count; i++) {
            const struct eng_text *tokenizer = parse->request->model->text;
            struct eng_slice bytes = eng_text_token(tokenizer, prompt->tokens[i]);
            if (eng_text_token_kind(tokenizer, prompt->tokens[i]) == ENG_TOKEN_BYTES)
                (void)eng_detok_feed(&detok, bytes.data, bytes.length, &text);
        }
        (void)eng_detok_flush(&detok, &text);
        echo.length = text.length;
        echo.data = text.is_broken
                        ? NULL
                        : fm_arena_copy(arena, text.data != NULL ? text.data : "", text.length);
        fm_buf_done(&text);
    }
    if (echo.data == NULL)
        api_problem_nomem(parse->reader.problem);
    prompt->echo = echo;
}

static void prompt_take(struct api_parse *parse, const struct style *style, const cJSON *item,
                        uint32_t index)
{
    struct eng_tokens tokens;
    eng_tokens_init(&tokens, api_tokens_bound(parse->request->model));
    if (cJSON_IsString(item))
        text_encode(parse, style, item, &tokens);
    else
        ids_take(parse, item, &tokens);
    if (parse->reader.problem->status == 0 && api_parse_prompt(parse, index, &tokens) &&
        parse->request->echoes)
        echo_set(parse, item, &parse->request->prompts[index]);
    eng_tokens_done(&tokens);
}

/* What the items of the prompt are: strings, ids, or lists of ids.  NULL: a problem. */
static const cJSON *prompt_check(struct api_parse *parse, bool *ret_is_list)
{
    const struct api_reader *reader = &parse->reader;
    const cJSON *prompt = api_field(reader, "prompt");
    if (prompt == NULL) {
        api_field_missing(reader, "prompt");
        return NULL;
    }
    *ret_is_list = false;
    if (cJSON_IsString(prompt))
        return prompt;
    if (!cJSON_IsArray(prompt)) {
        api_field_mistyped(reader, "prompt", "a string or an array", prompt);
        return NULL;
    }
    const cJSON *first = prompt->child;
    if (first == NULL) {
        api_field_invalid(reader, "prompt", "expected at least one prompt.");
        return NULL;
    }
    const int kinds = cJSON_String | cJSON_Number | cJSON_Array;
    for (const cJSON *item = first; item != NULL; item = item->next)
        if ((item->type & 0xff & kinds) == 0 || (item->type & 0xff) != (first->type & 0xff)) {
            api_field_mistyped(reader, "prompt", "strings, token ids or arrays of token ids", item);
            return NULL;
        }
    *ret_is_list = !cJSON_IsNumber(first);
    return prompt;
}

/* ---- the other fields ------------------------------------------------------------------------ */

static void logprobs_parse(struct api_parse *parse)
{
    struct api_request *request = parse->request;
    struct eng_sampling *how = &request->spec.sampling;
    if (!api_field_u32(&parse->reader, "logprobs", 0, ENG_LOGPROBS_MAX, &request->top_logprobs))
        return;
    request->wants_logprobs = true;
    how->wants_logprob = true;
    how->logprob_count = fm_max_u32(how->logprob_count, request->top_logprobs);
    if (request->echoes)
        request->spec.wants_prompt_logprobs = true;
}

static void best_of_parse(struct api_parse *parse)
{
    struct api_request *request = parse->request;
    uint32_t best_of;
    if (!api_field_u32(&parse->reader, "best_of", 1, (uint32_t)parse->config->api_max_n, &best_of))
        return;
    if (best_of < request->choice_count)
        api_field_invalid(&parse->reader, "best_of", "%u is less than 'n', %u.", best_of,
                          request->choice_count);
    else if (best_of > request->choice_count && request->is_stream)
        api_field_invalid(&parse->reader, "best_of", "it cannot be streamed.");
    request->generate_count = best_of;
    if (best_of > request->choice_count)
        request->spec.sampling.wants_logprob = true; /* what the best are found by */
}

static struct api_limit limit_parse(struct api_parse *parse, const struct style *style)
{
    struct api_limit limit = {.is_given = true, .tokens = DEFAULT_MAX_TOKENS};
    uint32_t least = parse->request->echoes ? 0 : 1;
    api_field_u32(&parse->reader, "max_tokens", least, UINT32_MAX, &limit.tokens);
    if (style->has_suffix)
        limit.tokens = fm_min_u32(limit.tokens, (uint32_t)parse->config->api_fim_max_tokens);
    return limit;
}

static void suffix_parse(struct api_parse *parse, const cJSON *prompt, bool is_list,
                         struct style *style)
{
    const struct api_reader *reader = &parse->reader;
    style->has_suffix = api_field_string(reader, "suffix", SIZE_MAX, &style->suffix);
    if (!style->has_suffix)
        return;
    const struct eng_text_info *info = eng_text_info(parse->request->model->text);
    bool is_text = cJSON_IsString(prompt) || (is_list && cJSON_IsString(prompt->child));
    if (!is_text)
        api_field_invalid(reader, "suffix", "it needs a prompt of text.");
    if (parse->request->echoes)
        api_field_invalid(reader, "suffix", "it cannot be used with 'echo'.");
    if (info->fim_begin == ENG_ID_NONE || info->fim_hole == ENG_ID_NONE ||
        info->fim_end == ENG_ID_NONE)
        api_field_refuse(reader, "suffix", "The model has no tokens for it.");
}

static void completion_fields(struct api_parse *parse)
{
    static const char *const of_chat[] = {"messages", "tools", "tool_choice"};
    struct api_request *request = parse->request;
    const struct api_reader *reader = &parse->reader;
    struct style style = {.adds_bos = true};
    bool is_list = false;

    const cJSON *prompt = prompt_check(parse, &is_list);
    api_parse_shared(parse);
    for (size_t i = 0; i < FM_COUNT(of_chat); i++)
        api_field_refuse(reader, of_chat[i], "Use /v1/chat/completions.");
    api_field_bool(reader, "echo", &request->echoes);
    api_field_bool(reader, "add_special_tokens", &style.adds_bos);
    suffix_parse(parse, prompt, is_list, &style);
    logprobs_parse(parse);
    best_of_parse(parse);
    struct api_limit limit = limit_parse(parse, &style);

    uint32_t count = is_list ? (uint32_t)cJSON_GetArraySize(prompt) : 1;
    if (count > parse->config->api_max_prompts)
        api_field_invalid(reader, "prompt", "expected at most %u prompts, but got %u.",
                          (uint32_t)parse->config->api_max_prompts, count);
    api_parse_model(parse);
    if (reader->problem->status != 0)
        return;
    request->parser.is_raw = true;
    request->parser.start = ENG_CHANNEL_CONTENT;
    request->prompts = api_parse_take(parse, count, sizeof *request->prompts);
    request->prompt_count = count;
    const cJSON *item = is_list ? prompt->child : prompt;
    for (uint32_t i = 0; i < count && reader->problem->status == 0; i++, item = item->next) {
        prompt_take(parse, &style, item, i);
        api_parse_lengths(parse, i, limit, "prompt");
    }
}

const struct api_endpoint api_completions_endpoint = {
    .kind = API_COMPLETION,
    .fields = completion_fields,
    .honoured = honoured,
    .honoured_count = FM_COUNT(honoured),
};

static void completions_prepare(struct srv_call *call)
{
    api_generate_prepare(call, &api_completions_endpoint);
}

const struct srv_handler api_completions_handler = {
    .name = "completions",
    .prepare = completions_prepare,
    .start = api_generate_start,
    .drain = api_generate_drain,
    .cancel = api_generate_cancel,
    .done = api_generate_done,
};
