/* api_request.c - what a generation request asks for; see api_request.h. */
#include "daemon/api_request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"

bool api_model_find(const struct api_model *model, const char *name,
                    enum api_thinking *ret_thinking)
{
    if (strcmp(name, model->id) == 0) {
        *ret_thinking = API_THINKING_UNSET;
        return true;
    }
    for (uint32_t i = 0; i < model->alias_count; i++)
        if (strcmp(name, model->aliases[i].name) == 0) {
            *ret_thinking = model->aliases[i].thinking;
            return true;
        }
    return false;
}

void api_request_done(struct api_request *request)
{
    eng_tools_unref(request->tools);
    fm_arena_done(&request->arena);
    *request = (struct api_request){0};
}

/* ---- what preparing needs -------------------------------------------------------------------- */

void *api_parse_take(struct api_parse *parse, size_t count, size_t bytes)
{
    void *block = fm_arena_take_array(&parse->request->arena, count, bytes);
    if (block == NULL)
        api_problem_nomem(parse->reader.problem);
    return block;
}

void api_parse_warn(struct api_parse *parse, const char *code)
{
    if (parse->warnings.length != 0 && strstr(parse->warnings.data, code) != NULL)
        return;
    if (parse->warnings.length != 0)
        fm_buf_putc(&parse->warnings, ',');
    fm_buf_puts(&parse->warnings, code);
}

void api_parse_failed(struct api_parse *parse, const char *param, const struct fm_err *err)
{
    if (err->status == FM_NOMEM)
        api_problem_nomem(parse->reader.problem);
    else if (err->status == FM_UNSUPPORTED)
        api_problem_set(parse->reader.problem, 400, "unsupported_parameter", param,
                        "Unsupported parameter: '%s': %s.", param, err->text);
    else
        api_problem_set(parse->reader.problem, 400, "invalid_value", param,
                        "Invalid value for '%s': %s.", param, err->text);
}

bool api_parse_prompt(struct api_parse *parse, uint32_t prompt_index,
                      const struct eng_tokens *tokens)
{
    FM_ASSERT(prompt_index < parse->request->prompt_count);
    uint32_t *copy = api_parse_take(parse, tokens->count, sizeof *copy);
    if (copy == NULL)
        return false;
    if (tokens->count != 0)
        memcpy(copy, tokens->ids, tokens->count * sizeof *copy);
    struct api_prompt *prompt = &parse->request->prompts[prompt_index];
    prompt->tokens = copy;
    prompt->token_count = tokens->count;
    return true;
}

/* ---- shared fields --------------------------------------------------------------------------- */

void api_parse_model(struct api_parse *parse)
{
    struct eng_slice name;
    enum api_thinking thinking;
    if (!api_field_string(&parse->reader, "model", SIZE_MAX, &name))
        return;
    if (!api_model_find(parse->request->model, name.data, &thinking))
        api_problem_set(parse->reader.problem, 404, "model_not_found", "model",
                        "The model `%s` does not exist or you do not have access to it.",
                        api_quote(name.data).text);
}

static void stream_parse(struct api_parse *parse)
{
    struct api_request *request = parse->request;
    api_field_bool(&parse->reader, "stream", &request->is_stream);
    const cJSON *options = api_field_object(&parse->reader, "stream_options");
    if (options == NULL)
        return;
    struct api_reader reader = {
        .object = options, .path = "stream_options.", .problem = parse->reader.problem};
    bool usage = false, continuous = false;
    api_field_bool(&reader, "include_usage", &usage);
    api_field_bool(&reader, "continuous_usage_stats", &continuous);
    request->includes_usage = usage && request->is_stream;
    request->has_continuous_usage = continuous && request->is_stream;
}

static void stops_parse(struct api_parse *parse)
{
    const struct api_reader *reader = &parse->reader;
    const cJSON *stop = api_field(reader, "stop");
    if (stop == NULL)
        return;
    if (!cJSON_IsString(stop) && !cJSON_IsArray(stop)) {
        api_field_mistyped(reader, "stop", "a string or an array of strings", stop);
        return;
    }
    uint32_t count = cJSON_IsString(stop) ? 1 : (uint32_t)cJSON_GetArraySize(stop);
    if (count > ENG_STOPS_MAX) {
        api_field_invalid(reader, "stop", "expected at most %d strings, but got %u.", ENG_STOPS_MAX,
                          count);
        return;
    }
    struct eng_slice *stops = api_parse_take(parse, count, sizeof *stops);
    const cJSON *item = cJSON_IsString(stop) ? stop : stop->child;
    for (uint32_t i = 0; i < count && stops != NULL; i++, item = item->next) {
        if (!cJSON_IsString(item)) {
            api_field_mistyped(reader, "stop", "strings", item);
            return;
        }
        size_t length = strlen(item->valuestring);
        if (length == 0 || length > ENG_STOP_BYTES_MAX) {
            api_field_invalid(reader, "stop", "expected strings of 1 to %d bytes, but got %zu.",
                              ENG_STOP_BYTES_MAX, length);
            return;
        }
        stops[i].data = fm_arena_copy(&parse->request->arena, item->valuestring, length);
        stops[i].length = length;
        if (stops[i].data == NULL) {
            api_problem_nomem(parse->reader.problem);
            return;
        }
    }
    parse->request->parser.stops = stops;
    parse->request->parser.stop_count = count;
}

/* The ids of an array of token ids into ret_ids [count_max]; the number of them. */
static uint32_t ids_parse(struct api_parse *parse, const char *name, const cJSON *array,
                          uint32_t count_max, uint32_t *ret_ids)
{
    uint32_t vocab = eng_text_info(parse->request->model->text)->vocab_size, count = 0;
    for (const cJSON *item = array->child; item != NULL; item = item->next) {
        double value = item->valuedouble;
        if (!cJSON_IsNumber(item) || value != floor(value)) {
            api_field_mistyped(&parse->reader, name, "token ids", item);
            return 0;
        }
        if (!(value >= 0 && value < vocab)) {
            api_field_invalid(&parse->reader, name, "token ids are 0 to %u.", vocab - 1);
            return 0;
        }
        FM_ASSERT(count < count_max);
        ret_ids[count++] = (uint32_t)value;
    }
    return count;
}

static void stop_tokens_parse(struct api_parse *parse)
{
    struct sch_spec *spec = &parse->request->spec;
    const cJSON *array = api_field_array(&parse->reader, "stop_token_ids");
    if (array == NULL)
        return;
    if (cJSON_GetArraySize(array) > SCH_STOP_TOKENS_MAX) {
        api_field_invalid(&parse->reader, "stop_token_ids", "expected at most %d token ids.",
                          SCH_STOP_TOKENS_MAX);
        return;
    }
    spec->stop_token_count =
        ids_parse(parse, "stop_token_ids", array, SCH_STOP_TOKENS_MAX, spec->stop_tokens);
}

/* A mask of the request's own; `all`: every token is in it at first. */
static uint64_t *mask_take(struct api_parse *parse, bool all)
{
    uint32_t words = eng_text_info(parse->request->model->text)->mask_words;
    uint64_t *mask = api_parse_take(parse, words, sizeof *mask);
    if (mask != NULL && all)
        memset(mask, 0xff, words * sizeof *mask);
    return mask;
}

static uint64_t *allowed_parse(struct api_parse *parse)
{
    const cJSON *array = api_field_array(&parse->reader, "allowed_token_ids");
    if (array == NULL)
        return NULL;
    uint32_t count = (uint32_t)cJSON_GetArraySize(array);
    if (count == 0) {
        api_field_invalid(&parse->reader, "allowed_token_ids", "expected at least one token id.");
        return NULL;
    }
    uint32_t *ids = fm_alloc_array(count, sizeof *ids);
    uint64_t *mask = ids != NULL ? mask_take(parse, false) : NULL;
    if (ids == NULL)
        api_problem_nomem(parse->reader.problem);
    if (mask != NULL) {
        count = ids_parse(parse, "allowed_token_ids", array, count, ids);
        for (uint32_t i = 0; i < count; i++)
            mask[ids[i] / 64] |= UINT64_C(1) << (ids[i] % 64);
    }
    fm_free(ids);
    return mask;
}

static int bias_compare(const void *a, const void *b)
{
    uint32_t left = ((const struct eng_bias *)a)->token;
    uint32_t right = ((const struct eng_bias *)b)->token;
    return (left > right) - (left < right);
}

/* A bias of -100 is a ban, whatever the logit: it leaves the mask instead. */
static void bias_parse(struct api_parse *parse, uint64_t *mask)
{
    enum { ENTRIES_MAX = 4096 };
    const struct api_reader *reader = &parse->reader;
    const cJSON *object = api_field_object(reader, "logit_bias");
    if (object == NULL)
        return;
    int size = cJSON_GetArraySize(object);
    if (size > ENTRIES_MAX) {
        api_field_invalid(reader, "logit_bias", "expected at most %d entries, but got %d.",
                          ENTRIES_MAX, size);
        return;
    }
    struct sch_spec *spec = &parse->request->spec;
    uint32_t vocab = eng_text_info(parse->request->model->text)->vocab_size, count = 0;
    struct eng_bias *bias = api_parse_take(parse, (size_t)size, sizeof *bias);
    for (const cJSON *item = object->child; item != NULL && bias != NULL; item = item->next) {
        uint64_t token;
        if (!fm_parse_u64(item->string, 0, vocab - 1, &token)) {
            api_field_invalid(reader, "logit_bias", "keys are token ids, 0 to %u, but got '%s'.",
                              vocab - 1, api_quote(item->string).text);
            return;
        }
        if (!cJSON_IsNumber(item)) {
            api_field_mistyped(reader, "logit_bias", "numbers", item);
            return;
        }
        if (!(item->valuedouble >= -100 && item->valuedouble <= 100)) {
            api_field_invalid(reader, "logit_bias", "expected numbers between -100 and 100.");
            return;
        }
        if (item->valuedouble <= -100) {
            if (mask == NULL && (mask = mask_take(parse, true)) == NULL)
                return;
            mask[token / 64] &= ~(UINT64_C(1) << (token % 64));
        } else {
            bias[count++] =
                (struct eng_bias){.token = (uint32_t)token, .bias = (float)item->valuedouble};
        }
    }
    if (bias == NULL)
        return;
    qsort(bias, count, sizeof *bias, bias_compare);
    for (uint32_t i = 1; i < count; i++)
        if (bias[i].token == bias[i - 1].token) {
            api_field_invalid(reader, "logit_bias", "token %u is there twice.", bias[i].token);
            return;
        }
    spec->sampling.bias = bias;
    spec->sampling.bias_count = count;
    if (mask != NULL)
        spec->sampling.allowed = mask;
}

/* A word is banned as it stands and behind a blank. */
static void bad_words_parse(struct api_parse *parse)
{
    const struct api_reader *reader = &parse->reader;
    const cJSON *array = api_field_array(reader, "bad_words");
    if (array == NULL || array->child == NULL)
        return;
    uint32_t count = (uint32_t)cJSON_GetArraySize(array);
    if (count > SCH_BAD_WORDS_MAX / 2) {
        api_field_invalid(reader, "bad_words", "expected at most %d strings, but got %u.",
                          SCH_BAD_WORDS_MAX / 2, count);
        return;
    }
    struct sch_bad_word *words = api_parse_take(parse, count * 2, sizeof *words);
    uint32_t at = 0;
    for (const cJSON *item = array->child; item != NULL && words != NULL; item = item->next) {
        if (!cJSON_IsString(item)) {
            api_field_mistyped(reader, "bad_words", "strings", item);
            return;
        }
        size_t length = strlen(item->valuestring);
        if (length == 0 || length > ENG_STOP_BYTES_MAX) {
            api_field_invalid(reader, "bad_words",
                              "expected strings of 1 to %d bytes, but got %zu.", ENG_STOP_BYTES_MAX,
                              length);
            return;
        }
        for (int with_blank = 0; with_blank < 2; with_blank++) {
            char text[ENG_STOP_BYTES_MAX + 1] = " ";
            memcpy(text + with_blank, item->valuestring, length);
            struct eng_tokens tokens;
            struct fm_err err;
            eng_tokens_init(&tokens, ENG_STOP_BYTES_MAX + 1);
            enum fm_status status =
                eng_encode(parse->request->model->text, text, length + (size_t)with_blank,
                           ENG_ENCODE_TEXT, &tokens, &err);
            uint32_t *ids =
                status == FM_OK ? api_parse_take(parse, tokens.count, sizeof *ids) : NULL;
            if (status != FM_OK)
                api_parse_failed(parse, "bad_words", &err);
            if (ids != NULL) {
                memcpy(ids, tokens.ids, tokens.count * sizeof *ids);
                words[at++] = (struct sch_bad_word){.tokens = ids, .token_count = tokens.count};
            }
            eng_tokens_done(&tokens);
            if (ids == NULL)
                return;
        }
    }
    parse->request->spec.bad_words = words;
    parse->request->spec.bad_word_count = at;
}

static void sampling_parse(struct api_parse *parse)
{
    const struct api_reader *reader = &parse->reader;
    struct eng_sampling *how = &parse->request->spec.sampling;
    uint32_t vocab = eng_text_info(parse->request->model->text)->vocab_size;
    int64_t top_k = 0;

    *how = (struct eng_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    api_field_f32(reader, "temperature", 0, 2, &how->temperature);
    api_field_f32(reader, "top_p", 0, 1, &how->top_p);
    if (api_field_i64(reader, "top_k", -1, vocab, &top_k))
        how->top_k = top_k < 0 ? 0 : (uint32_t)top_k;
    api_field_f32(reader, "min_p", 0, 1, &how->min_p);
    api_field_f32(reader, "presence_penalty", -2, 2, &how->presence_penalty);
    api_field_f32(reader, "frequency_penalty", -2, 2, &how->frequency_penalty);
    if (api_field_f32(reader, "repetition_penalty", 0, 2, &how->repetition_penalty) &&
        !(how->repetition_penalty > 0))
        api_field_invalid(reader, "repetition_penalty",
                          "expected a number above 0 and at most 2, but got 0.");
    if (!api_field_seed(reader, parse->raw, "seed", &how->seed))
        fm_random_bytes(&how->seed, sizeof how->seed);

    uint64_t *mask = allowed_parse(parse);
    how->allowed = mask;
    bias_parse(parse, mask);
    bad_words_parse(parse);
}

/* Up to 16 pairs of short strings. */
static void metadata_check(const struct api_reader *reader)
{
    const cJSON *object = api_field_object(reader, "metadata");
    if (object == NULL)
        return;
    if (cJSON_GetArraySize(object) > 16) {
        api_field_invalid(reader, "metadata", "expected at most 16 pairs, but got %d.",
                          cJSON_GetArraySize(object));
        return;
    }
    for (const cJSON *item = object->child; item != NULL; item = item->next) {
        if (!cJSON_IsString(item))
            api_field_mistyped(reader, "metadata", "strings", item);
        else if (strlen(item->string) > 64 * 4 || strlen(item->valuestring) > 512 * 4)
            api_field_invalid(reader, "metadata",
                              "keys have at most 64 characters and values at most 512.");
    }
}

static void tier_parse(struct api_parse *parse)
{
    static const char *const words[] = {"auto", "default", "flex", "scale", "priority", "fast"};
    uint32_t index;
    parse->request->echoes_tier =
        api_field_word(&parse->reader, "service_tier", words, FM_COUNT(words), &index);
}

/* Fields that are held to their types and then have no effect here. */
static void hints_check(struct api_parse *parse)
{
    const struct api_reader *reader = &parse->reader;
    struct eng_slice text;
    bool flag;
    int64_t number;
    api_field_string(reader, "user", 512, &text);
    api_field_string(reader, "safety_identifier", 512, &text);
    api_field_string(reader, "user_id", 512, &text);
    metadata_check(reader);
    api_field_bool(reader, "store", &flag);
    api_field_string(reader, "prompt_cache_key", 256, &text);
    if (api_field_string(reader, "cache_salt", 1024, &text) && text.length == 0)
        api_field_invalid(reader, "cache_salt", "expected 1 to 1024 bytes, but got 0.");
    api_field_i64(reader, "priority", INT64_MIN, INT64_MAX, &number);
}

static void refusals_check(struct api_parse *parse)
{
    static const char *const refused[] = {
        "structured_outputs",     "guided_json", "guided_regex", "guided_choice",
        "guided_grammar",         "regex",       "ebnf",         "json_schema",
        "truncate_prompt_tokens",
    };
    const struct api_reader *reader = &parse->reader;
    const cJSON *format = api_field_object(reader, "response_format");
    if (format != NULL) {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(format, "type");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0)
            api_field_refuse(reader, "response_format", "Only the type 'text' is.");
    }
    for (uint32_t i = 0; i < FM_COUNT(refused); i++)
        api_field_refuse(reader, refused[i], "");
    bool flag;
    if (api_field_bool(reader, "use_beam_search", &flag) && flag)
        api_field_refuse(reader, "use_beam_search", "");
    if (api_field_bool(reader, "skip_special_tokens", &flag) && !flag)
        api_problem_set(reader->problem, 400, "unsupported_value", "skip_special_tokens",
                        "Unsupported value: 'skip_special_tokens' cannot be false.");
}

void api_parse_shared(struct api_parse *parse)
{
    struct api_request *request = parse->request;
    const struct api_reader *reader = &parse->reader;

    stream_parse(parse);
    request->choice_count = 1;
    api_field_u32(reader, "n", 1, (uint32_t)parse->config->api_max_n, &request->choice_count);
    request->generate_count = request->choice_count;
    stops_parse(parse);
    sampling_parse(parse);
    stop_tokens_parse(parse);
    api_field_u32(reader, "min_tokens", 0, INT32_MAX, &request->spec.tokens_min);
    api_field_bool(reader, "ignore_eos", &request->spec.ignore_eos);
    api_field_bool(reader, "include_stop_str_in_output", &request->parser.shows_stop);
    api_field_bool(reader, "return_token_ids", &request->wants_token_ids);
    uint32_t prompt_logprobs;
    if (api_field_u32(reader, "prompt_logprobs", 0, ENG_LOGPROBS_MAX, &prompt_logprobs)) {
        if (request->is_stream)
            api_field_invalid(reader, "prompt_logprobs", "it cannot be streamed.");
        request->wants_prompt_logprobs = true;
        request->spec.wants_prompt_logprobs = true;
        request->spec.sampling.wants_logprob = true;
        request->spec.sampling.logprob_count = prompt_logprobs;
    }
    tier_parse(parse);
    hints_check(parse);
    refusals_check(parse);
    if (request->wants_token_ids || request->has_continuous_usage)
        request->spec.sampling.wants_logprob = true; /* or tokens would not be reported */
}

/* ---- lengths --------------------------------------------------------------------------------- */

uint32_t api_tokens_bound(const struct api_model *model)
{
    return fm_u32((uint64_t)model->context_max + (UINT32_C(1) << 20));
}

void api_parse_overlong(struct api_parse *parse, uint64_t prompt_tokens, bool is_bound,
                        const char *what)
{
    bool is_chat = strcmp(what, "messages") == 0;
    api_problem_set(parse->reader.problem, 400, "context_length_exceeded", what,
                    "This model's maximum context length is %u tokens. However, your %s resulted "
                    "in %s%llu tokens. Please reduce the length of the messages.",
                    parse->request->model->context_max, is_chat ? "messages" : "prompt",
                    is_bound ? "at least " : "", (unsigned long long)prompt_tokens);
}

bool api_parse_bytes_fit(struct api_parse *parse, size_t bytes, const char *what)
{
    uint64_t least = fm_div_ceil(bytes, eng_text_info(parse->request->model->text)->bytes_max);
    if (least < parse->request->model->context_max)
        return true;
    api_parse_overlong(parse, least, true, what);
    return false;
}

void api_parse_lengths(struct api_parse *parse, uint32_t prompt_index, struct api_limit limit,
                       const char *what)
{
    const struct api_model *model = parse->request->model;
    struct api_prompt *prompt = &parse->request->prompts[prompt_index];
    uint32_t least = parse->request->spec.tokens_min;
    if (parse->reader.problem->status != 0)
        return;
    if (prompt->token_count >= model->context_max) {
        api_parse_overlong(parse, prompt->token_count, false, what);
        return;
    }
    uint32_t room = model->context_max - prompt->token_count;
    uint32_t wanted = limit.is_given ? limit.tokens : fm_min_u32(limit.tokens, room);
    if (least > wanted) {
        api_field_invalid(&parse->reader, "min_tokens", "%u is more than the %u tokens at most.",
                          least, wanted);
        return;
    }
    if (wanted > room && parse->config->api_max_tokens_overflow == SRV_OVERFLOW_REJECT) {
        api_problem_set(parse->reader.problem, 400, "context_length_exceeded", what,
                        "This model's maximum context length is %u tokens. However, you requested "
                        "%llu tokens (%u in the %s, %u in the completion). Please reduce the "
                        "length of the messages or completion.",
                        model->context_max, (unsigned long long)prompt->token_count + wanted,
                        prompt->token_count, what, wanted);
        return;
    }
    if (wanted > room) {
        wanted = room;
        api_parse_warn(parse, "max_tokens_clamped");
    }
    prompt->tokens_max = wanted;
}

struct sch_spec api_request_spec(const struct api_request *request, uint32_t prompt_index)
{
    FM_ASSERT(prompt_index < request->prompt_count);
    const struct api_prompt *prompt = &request->prompts[prompt_index];
    struct sch_spec spec = request->spec;
    spec.prompt = prompt->tokens;
    spec.prompt_count = prompt->token_count;
    spec.tokens_max = prompt->tokens_max;
    spec.choice_count = request->generate_count;
    spec.parser = &request->parser;
    return spec;
}

/* ---- the whole ------------------------------------------------------------------------------- */

enum fm_status api_request_parse(const struct api_endpoint *endpoint, const struct api_model *model,
                                 const struct srv_config *config, struct eng_slice bytes,
                                 struct api_request *ret_request, struct srv_error *ret_problem)
{
    struct srv_body body;
    struct srv_body_problem fault;
    struct srv_error problem = {0};

    const struct srv_body_limits limits = {.depth_max = (uint32_t)config->http_max_json_depth,
                                           .values_max = (uint32_t)config->http_max_json_values};
    if (!srv_body_parse(bytes.data, bytes.length, &limits, &body, &fault)) {
        api_problem_body(&problem, &fault);
        *ret_problem = problem;
        return FM_INVALID;
    }
    *ret_request = (struct api_request){
        .model = model, .kind = endpoint->kind, .reasoning_field = config->api_reasoning_field};
    fm_arena_init(&ret_request->arena, config->api_max_request_bytes);
    struct api_parse parse = {
        .request = ret_request,
        .config = config,
        .reader = {.object = body.root, .path = "", .problem = &problem},
        .raw = body.text,
    };
    fm_buf_init(&parse.warnings, 256);
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(body.root, "model");
    if (cJSON_IsString(name))
        (void)api_model_find(model, name->valuestring, &parse.alias_thinking);
    endpoint->fields(&parse);

    struct fm_buf ignored;
    fm_buf_init(&ignored, 512);
    if (problem.status == 0) {
        struct fm_arena *arena = &ret_request->arena;
        api_ignored_list(body.root, endpoint->honoured, endpoint->honoured_count, &ignored);
        if (ignored.length != 0)
            ret_request->ignored = fm_arena_copy(arena, ignored.data, ignored.length);
        if (parse.warnings.length != 0)
            ret_request->warnings =
                fm_arena_copy(arena, parse.warnings.data, parse.warnings.length);
        ret_request->parser.text = model->text;
        ret_request->parser.tools = ret_request->tools;
        if (ignored.is_broken || parse.warnings.is_broken)
            api_problem_nomem(&problem);
    }
    fm_buf_done(&ignored);
    fm_buf_done(&parse.warnings);
    srv_body_done(&body);
    if (problem.status != 0) {
        api_request_done(ret_request);
        *ret_problem = problem;
        return FM_INVALID;
    }
    return FM_OK;
}
