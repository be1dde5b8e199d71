/* api_chat.c - POST /v1/chat/completions: the request.  api_generate.c makes the answer. */
#include "daemon/api_chat.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "daemon/api_generate.h"
#include "daemon/api_messages.h"

static const char *const honoured[] = {
    "messages",
    "model",
    "stream",
    "stream_options",
    "max_completion_tokens",
    "max_tokens",
    "n",
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
    "top_logprobs",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "include_stop_str_in_output",
    "bad_words",
    "allowed_token_ids",
    "skip_special_tokens",
    "return_token_ids",
    "prompt_logprobs",
    "thinking_token_budget",
    "thinking",
    "reasoning_effort",
    "chat_template_kwargs",
    "enable_thinking",
    "think",
    "include_reasoning",
    "separate_reasoning",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "continue_final_message",
    "add_generation_prompt",
};

/* ---- thinking -------------------------------------------------------------------------------- */

struct thinking {
    bool is_on;
    enum eng_effort effort;
    bool bounds_reasoning;
    uint32_t reasoning_max;
};

/* A token budget: -1 is none. */
static void budget_parse(const struct api_reader *reader, const char *name,
                         struct thinking *thinking)
{
    int64_t budget;
    if (!api_field_i64(reader, name, -1, UINT32_MAX, &budget) || budget < 0)
        return;
    thinking->bounds_reasoning = true;
    thinking->reasoning_max = (uint32_t)budget;
}

static enum api_thinking switch_of(bool is_on)
{
    return is_on ? API_THINKING_ON : API_THINKING_OFF;
}

/* `thinking`: {"type": ..., "budget_tokens": ...} or a boolean. */
static enum api_thinking thinking_object_parse(const struct api_reader *reader,
                                               struct thinking *thinking)
{
    static const char *const types[] = {"disabled", "enabled", "adaptive"};
    const cJSON *field = api_field(reader, "thinking");
    if (field == NULL)
        return API_THINKING_UNSET;
    if (cJSON_IsBool(field))
        return switch_of(cJSON_IsTrue(field));
    if (!cJSON_IsObject(field)) {
        api_field_mistyped(reader, "thinking", "an object", field);
        return API_THINKING_UNSET;
    }
    struct api_reader inner = {.object = field, .path = "thinking.", .problem = reader->problem};
    uint32_t type;
    budget_parse(&inner, "budget_tokens", thinking);
    if (api_field_word(&inner, "type", types, FM_COUNT(types), &type))
        return switch_of(type != 0);
    return API_THINKING_UNSET;
}

/* What the switches say: off if one does. */
static enum api_thinking switches_parse(const struct api_reader *reader,
                                        const struct api_reader *template,
                                        struct thinking *thinking)
{
    enum api_thinking said = thinking_object_parse(reader, thinking);
    static const char *const names[] = {"think", "enable_thinking"};
    bool flag = false, other = false;
    for (size_t i = 0; i < FM_COUNT(names); i++)
        if (api_field_bool(reader, names[i], &flag) && said != API_THINKING_OFF)
            said = switch_of(flag);
    if (template == NULL)
        return said;
    bool has_flag = api_field_bool(template, "thinking", &flag);
    bool has_other = api_field_bool(template, "enable_thinking", &other);
    if (has_flag && has_other && flag != other)
        api_field_invalid(template, "enable_thinking", "it contradicts 'thinking'.");
    if ((has_flag || has_other) && said == API_THINKING_UNSET)
        said = switch_of(has_flag ? flag : other);
    return said;
}

/* The effort word of `reader`, if any: true when there is one. */
static bool effort_parse(const struct api_reader *reader, enum eng_effort *ret_effort,
                         bool *ret_is_off)
{
    struct eng_slice word;
    if (!api_field_string(reader, "reasoning_effort", SIZE_MAX, &word))
        return false;
    if (eng_effort_parse(word, ret_effort, ret_is_off))
        return true;
    api_field_invalid(reader, "reasoning_effort",
                      "expected 'none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max' or "
                      "'ultra', but got '%s'.",
                      api_quote(word.data).text);
    return false;
}

static struct thinking thinking_parse(struct api_parse *parse)
{
    const struct api_reader *reader = &parse->reader;
    struct thinking thinking = {.effort = (enum eng_effort)parse->config->thinking_effort};
    const cJSON *kwargs = api_field_object(reader, "chat_template_kwargs");
    struct api_reader inner = {
        .object = kwargs, .path = "chat_template_kwargs.", .problem = reader->problem};
    const struct api_reader *template = kwargs != NULL ? &inner : NULL;

    budget_parse(reader, "thinking_token_budget", &thinking);
    enum api_thinking said = switches_parse(reader, template, &thinking);
    bool is_off = false;
    bool has_effort = effort_parse(reader, &thinking.effort, &is_off);
    if (!has_effort && template != NULL)
        has_effort = effort_parse(template, &thinking.effort, &is_off);

    if (said == API_THINKING_OFF || (has_effort && is_off))
        thinking.is_on = false;
    else if (said == API_THINKING_ON || has_effort)
        thinking.is_on = true;
    else if (parse->alias_thinking != API_THINKING_UNSET)
        thinking.is_on = parse->alias_thinking == API_THINKING_ON;
    else
        thinking.is_on = parse->config->thinking_default != 0;
    return thinking;
}

/* ---- tools ----------------------------------------------------------------------------------- */

/* One entry of `tools`: false when it is of a kind that is left out. */
static bool tool_check(struct api_parse *parse, const cJSON *tool, struct eng_slice raw,
                       uint32_t index)
{
    char path[64], inner_path[64];
    (void)snprintf(path, sizeof path, "tools[%u].", index);
    (void)snprintf(inner_path, sizeof inner_path, "tools[%u].function.", index);
    struct api_reader reader = {.object = tool, .path = path, .problem = parse->reader.problem};
    struct eng_slice type, name, text;
    bool flag;
    if (!cJSON_IsObject(tool)) {
        path[strlen(path) - 1] = '\0';
        api_field_mistyped(&reader, "", "an object", tool);
        return false;
    }
    if (!api_field_string(&reader, "type", SIZE_MAX, &type)) {
        api_field_missing(&reader, "type");
        return false;
    }
    if (strcmp(type.data, "function") != 0) {
        api_parse_warn(parse, "tool_type_dropped");
        return false;
    }
    if (raw.length > API_TOOL_BYTES_MAX) {
        path[strlen(path) - 1] = '\0';
        api_field_invalid(&reader, "", "a tool has at most %d bytes, but this one has %zu.",
                          API_TOOL_BYTES_MAX, raw.length);
    }
    const cJSON *function = api_field_object(&reader, "function");
    if (function == NULL) {
        api_field_missing(&reader, "function");
        return false;
    }
    struct api_reader inner = {.object = function, .path = inner_path, .problem = reader.problem};
    if (!api_field_string(&inner, "name", SIZE_MAX, &name))
        api_field_missing(&inner, "name");
    else if (name.length == 0 || name.length > 64 ||
             strspn(name.data,
                    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") !=
                 name.length)
        api_field_invalid(&inner, "name",
                          "expected 1 to 64 letters, digits, '_' or '-', but got '%s'.",
                          api_quote(name.data).text);
    api_field_string(&inner, "description", SIZE_MAX, &text);
    (void)api_field_object(&inner, "parameters");
    api_field_bool(&inner, "strict", &flag);
    return true;
}

static struct eng_tools *tools_parse(struct api_parse *parse)
{
    const struct api_reader *reader = &parse->reader;
    const cJSON *array = api_field_array(reader, "tools");
    if (array == NULL || array->child == NULL)
        return NULL;
    uint32_t count = (uint32_t)cJSON_GetArraySize(array), index = 0, kept = 0;
    if (count > parse->config->api_max_tools) {
        api_field_invalid(reader, "tools", "expected at most %u tools, but got %u.",
                          (uint32_t)parse->config->api_max_tools, count);
        return NULL;
    }
    struct eng_slice text = srv_raw_member(parse->raw, "tools"), raw = {0};
    struct srv_raw items;
    srv_raw_init(&items, text);
    for (const cJSON *tool = array->child; tool != NULL; tool = tool->next, index++) {
        bool has_text = srv_raw_next(&items, &raw);
        FM_ASSERT(has_text);
        kept += tool_check(parse, tool, raw, index) ? 1 : 0;
        if (reader->problem->status != 0)
            return NULL;
    }
    if (kept == 0)
        return NULL;

    struct eng_tools *tools = NULL;
    struct fm_err err = {0};
    enum fm_status status = eng_tools_new(text, count, &tools, &err);
    if (status == FM_LIMIT) /* there are no more than count: their text found no memory */
        api_problem_nomem(reader->problem);
    else if (status != FM_OK)
        api_parse_failed(parse, "tools", &err);
    return tools;
}

/* A choice that would need the sampler to be guided by a grammar. */
static void choice_refuse(struct api_parse *parse, const char *what)
{
    api_problem_set(parse->reader.problem, 400, "unsupported_value", "tool_choice",
                    "Unsupported value: 'tool_choice' %s is not supported by this server; use "
                    "'auto' or 'none'.",
                    what);
}

static void choice_object_parse(struct api_parse *parse, const cJSON *choice,
                                const struct eng_tools *tools)
{
    static const char *const types[] = {"function", "allowed_tools"};
    struct api_reader reader = {
        .object = choice, .path = "tool_choice.", .problem = parse->reader.problem};
    uint32_t type;
    if (!api_field_word(&reader, "type", types, FM_COUNT(types), &type)) {
        api_field_missing(&reader, "type");
        return;
    }
    if (type == 1) {
        choice_refuse(parse, "of type 'allowed_tools'");
        return;
    }
    const cJSON *function = api_field_object(&reader, "function");
    if (function == NULL) {
        api_field_missing(&reader, "function");
        return;
    }
    struct api_reader inner = {
        .object = function, .path = "tool_choice.function.", .problem = reader.problem};
    struct eng_slice name;
    if (!api_field_string(&inner, "name", SIZE_MAX, &name))
        api_field_missing(&inner, "name");
    else if (!eng_tools_has(tools, name))
        api_field_invalid(&inner, "name", "no tool has the name '%s'.", api_quote(name.data).text);
    else
        choice_refuse(parse, "of type 'function'");
}

static void choice_parse(struct api_parse *parse, struct api_chat_prompt *prompt)
{
    static const char *const words[] = {"none", "auto", "required"};
    const struct api_reader *reader = &parse->reader;
    const cJSON *choice = api_field(reader, "tool_choice");
    bool is_parallel = true;
    if (api_field_bool(reader, "parallel_tool_calls", &is_parallel))
        prompt->has_one_call = !is_parallel;
    if (choice == NULL)
        return;
    uint32_t word = 1;
    if (!cJSON_IsObject(choice) && !cJSON_IsString(choice)) {
        api_field_mistyped(reader, "tool_choice", "a string or an object", choice);
        return;
    }
    if (cJSON_IsString(choice) &&
        !api_field_word(reader, "tool_choice", words, FM_COUNT(words), &word))
        return;
    if (prompt->tools == NULL && (cJSON_IsObject(choice) || word == 2)) {
        api_field_invalid(reader, "tool_choice", "it needs 'tools'.");
        return;
    }
    prompt->calls_are_banned = cJSON_IsString(choice) && word == 0;
    if (cJSON_IsObject(choice))
        choice_object_parse(parse, choice, prompt->tools);
    else if (word == 2)
        choice_refuse(parse, "'required'");
}

/* ---- the prompt ------------------------------------------------------------------------------ */

static bool continues_parse(struct api_parse *parse)
{
    bool continues = false, opens = true;
    api_field_bool(&parse->reader, "continue_final_message", &continues);
    if (api_field_bool(&parse->reader, "add_generation_prompt", &opens) && !opens && !continues)
        api_problem_set(parse->reader.problem, 400, "unsupported_value", "add_generation_prompt",
                        "Unsupported value: 'add_generation_prompt' can be false only together "
                        "with 'continue_final_message'.");
    return continues;
}

static const cJSON *messages_field(struct api_parse *parse)
{
    const cJSON *array = api_field_array(&parse->reader, "messages");
    if (array == NULL)
        api_field_missing(&parse->reader, "messages");
    return array;
}

static void chat_encode(struct api_parse *parse, const struct api_messages *messages,
                        const struct thinking *thinking, struct eng_tokens *tokens,
                        struct api_chat_prompt *prompt)
{
    struct eng_chat chat = {.messages = messages->items,
                            .message_count = messages->count,
                            .effort = thinking->effort,
                            .is_thinking = thinking->is_on,
                            .tools = prompt->tools};
    struct fm_err err = {0};
    if (!api_parse_bytes_fit(parse, messages->text_bytes, "messages"))
        return;
    enum fm_status status =
        eng_chat_encode(parse->request->model->text, &chat, tokens, &prompt->start, &err);
    /* A token has at least one byte, and rendering less than doubles the body: what is short of the
     * maximum by then was short of memory. */
    if (status == FM_LIMIT && 2 * parse->raw.length + 65536 < tokens->count_max)
        api_problem_nomem(parse->reader.problem);
    else if (status == FM_LIMIT)
        api_parse_overlong(parse, tokens->count_max, true, "messages");
    else if (status != FM_OK)
        api_parse_failed(parse, "messages", &err);
}

bool api_chat_render(struct api_parse *parse, struct eng_tokens *tokens,
                     struct api_chat_prompt *ret_prompt)
{
    struct srv_error *problem = parse->reader.problem;
    struct api_chat_prompt prompt = {0};
    struct api_messages messages = {0};
    const cJSON *array = messages_field(parse);
    bool continues = continues_parse(parse);
    struct thinking thinking = thinking_parse(parse);
    if (problem->status == 0)
        api_messages_parse(parse, array, srv_raw_member(parse->raw, "messages"), continues,
                           &messages);
    if (problem->status == 0)
        prompt.tools = tools_parse(parse);
    choice_parse(parse, &prompt);
    if (problem->status == 0 && messages.lacks_reasoning && thinking.is_on) {
        if (parse->config->api_require_reasoning_replay)
            api_field_invalid(&parse->reader, "messages",
                              "a message with tool calls lacks its 'reasoning_content'.");
        api_parse_warn(parse, "reasoning_replay_missing");
    }
    api_parse_model(parse);
    if (problem->status == 0)
        chat_encode(parse, &messages, &thinking, tokens, &prompt);
    if (problem->status != 0) {
        eng_tools_unref(prompt.tools);
        return false;
    }
    prompt.is_thinking = thinking.is_on;
    prompt.bounds_reasoning = thinking.bounds_reasoning && thinking.is_on;
    prompt.reasoning_max = thinking.reasoning_max;
    *ret_prompt = prompt;
    return true;
}

/* ---- the request ----------------------------------------------------------------------------- */

static void logprobs_parse(struct api_parse *parse)
{
    struct api_request *request = parse->request;
    struct eng_sampling *how = &request->spec.sampling;
    api_field_bool(&parse->reader, "logprobs", &request->wants_logprobs);
    api_field_u32(&parse->reader, "top_logprobs", 0, ENG_LOGPROBS_MAX, &request->top_logprobs);
    if (request->top_logprobs > 0 && !request->wants_logprobs)
        api_field_invalid(&parse->reader, "top_logprobs", "it needs 'logprobs' to be true.");
    if (request->wants_logprobs)
        how->wants_logprob = true;
    how->logprob_count = fm_max_u32(how->logprob_count, request->top_logprobs);
}

/* Fields that would change the answer's meaning and are not offered. */
static void refusals_check(struct api_parse *parse)
{
    const struct api_reader *reader = &parse->reader;
    api_field_refuse(reader, "functions", "Use 'tools' instead.");
    const cJSON *call = api_field(reader, "function_call");
    if (!cJSON_IsString(call) || strcmp(call->valuestring, "none") != 0)
        api_field_refuse(reader, "function_call", "Use 'tool_choice' instead.");
    api_field_refuse(reader, "chat_template", "");
    api_field_refuse(reader, "audio", "");
    api_field_refuse(reader, "web_search_options", "");
    bool echo = false;
    if (api_field_bool(reader, "echo", &echo) && echo)
        api_problem_set(reader->problem, 400, "unsupported_value", "echo",
                        "Unsupported value: 'echo' cannot be true in a chat.");

    const cJSON *modalities = api_field_array(reader, "modalities");
    if (modalities != NULL)
        for (const cJSON *item = modalities->child; item != NULL; item = item->next)
            if (!cJSON_IsString(item) || strcmp(item->valuestring, "text") != 0)
                api_problem_set(reader->problem, 400, "unsupported_value", "modalities",
                                "Unsupported value: 'modalities' can only be [\"text\"].");
    const cJSON *prediction = api_field_object(reader, "prediction");
    if (prediction != NULL) {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(prediction, "type");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "content") != 0)
            api_field_refuse(reader, "prediction", "Only the type 'content' is.");
    }
}

static struct api_limit limit_parse(struct api_parse *parse)
{
    uint32_t fallback = (uint32_t)parse->config->api_default_max_tokens;
    struct api_limit limit = {.tokens = fallback != 0 ? fallback : UINT32_MAX};
    uint32_t older = 0;
    bool has_older = api_field_u32(&parse->reader, "max_tokens", 1, UINT32_MAX, &older);
    limit.is_given =
        api_field_u32(&parse->reader, "max_completion_tokens", 1, UINT32_MAX, &limit.tokens);
    if (!limit.is_given && has_older)
        limit = (struct api_limit){.is_given = true, .tokens = older};
    return limit;
}

static void sampling_fix(struct api_parse *parse)
{
    if (parse->config->thinking_sampling == 0 || !parse->request->is_thinking)
        return;
    struct eng_sampling *how = &parse->request->spec.sampling;
    how->temperature = 1;
    how->top_p = 1;
    how->presence_penalty = 0;
    how->frequency_penalty = 0;
}

static void chat_fields(struct api_parse *parse)
{
    struct api_request *request = parse->request;
    bool includes = true, separates = true;
    struct api_chat_prompt prompt = {0};
    struct eng_tokens tokens;

    (void)messages_field(parse); /* what matters most is complained about first */
    api_parse_shared(parse);
    logprobs_parse(parse);
    struct api_limit limit = limit_parse(parse);
    api_field_bool(&parse->reader, "include_reasoning", &includes);
    api_field_bool(&parse->reader, "separate_reasoning", &separates);
    refusals_check(parse);

    request->prompt_count = 1;
    request->prompts = api_parse_take(parse, 1, sizeof *request->prompts);
    eng_tokens_init(&tokens, api_tokens_bound(request->model));
    if (request->prompts != NULL && api_chat_render(parse, &tokens, &prompt)) {
        request->tools = prompt.tools;
        request->parser.start = prompt.start;
        request->parser.calls_are_banned = prompt.calls_are_banned;
        request->spec.bounds_reasoning = prompt.bounds_reasoning;
        request->spec.reasoning_max = prompt.reasoning_max;
        request->has_one_call = prompt.has_one_call;
        request->is_thinking = prompt.is_thinking;
        request->hides_reasoning = !includes;
        request->merges_reasoning = !separates && includes && prompt.is_thinking;
        sampling_fix(parse);
        if (api_parse_prompt(parse, 0, &tokens))
            api_parse_lengths(parse, 0, limit, "messages");
    }
    eng_tokens_done(&tokens);
}

const struct api_endpoint api_chat_endpoint = {
    .kind = API_CHAT,
    .fields = chat_fields,
    .honoured = honoured,
    .honoured_count = FM_COUNT(honoured),
};

static void chat_prepare(struct srv_call *call)
{
    api_generate_prepare(call, &api_chat_endpoint);
}

const struct srv_handler api_chat_handler = {
    .name = "chat",
    .prepare = chat_prepare,
    .start = api_generate_start,
    .drain = api_generate_drain,
    .cancel = api_generate_cancel,
    .done = api_generate_done,
};
