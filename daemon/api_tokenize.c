/* api_tokenize.c - text and token ids without inference; see api_tokenize.h. */
#include "daemon/api_tokenize.h"

#include <math.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "daemon/api_chat.h"
#include "daemon/api_generate.h"
#include "daemon/call.h"
#include "daemon/json.h"

/* A request of which only the tokens are wanted: parsed, answered and gone. */
struct query {
    struct api_request request;
    struct api_parse parse;
    struct srv_body body;
    struct srv_error problem;
};

static bool query_open(struct query *query, const struct api_model *model,
                       const struct srv_config *config, struct eng_slice bytes)
{
    struct srv_body_problem fault;
    const struct srv_body_limits limits = {.depth_max = (uint32_t)config->http_max_json_depth,
                                           .values_max = (uint32_t)config->http_max_json_values};
    *query = (struct query){0};
    if (!srv_body_parse(bytes.data, bytes.length, &limits, &query->body, &fault)) {
        api_problem_body(&query->problem, &fault);
        return false;
    }
    query->request = (struct api_request){.model = model, .kind = API_CHAT};
    fm_arena_init(&query->request.arena, config->api_max_request_bytes);
    query->parse = (struct api_parse){
        .request = &query->request,
        .config = config,
        .reader = {.object = query->body.root, .path = "", .problem = &query->problem},
        .raw = query->body.text,
    };
    fm_buf_init(&query->parse.warnings, 256);
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(query->body.root, "model");
    if (cJSON_IsString(name))
        (void)api_model_find(model, name->valuestring, &query->parse.alias_thinking);
    return true;
}

static enum fm_status query_close(struct query *query, struct srv_error *ret_problem)
{
    fm_buf_done(&query->parse.warnings);
    api_request_done(&query->request);
    srv_body_done(&query->body);
    if (query->problem.status == 0)
        return FM_OK;
    *ret_problem = query->problem;
    return FM_INVALID;
}

/* ---- /tokenize ------------------------------------------------------------------------------- */

static void prompt_encode(struct query *query, struct eng_slice prompt, bool adds_bos,
                          struct eng_tokens *tokens)
{
    const struct eng_text *text = query->request.model->text;
    bool is_special = query->parse.config->api_parse_special;
    struct fm_err err = {0};
    enum fm_status status = FM_OK;
    if (adds_bos)
        status = eng_tokens_put(tokens, eng_text_info(text)->bos, &err);
    if (status == FM_OK)
        status = eng_encode(text, prompt.data, prompt.length,
                            is_special ? ENG_ENCODE_CONTROL : ENG_ENCODE_TEXT, tokens, &err);
    if (status == FM_LIMIT)
        api_parse_overlong(&query->parse, tokens->count_max, true, "prompt");
    else if (status != FM_OK)
        api_parse_failed(&query->parse, "prompt", &err);
}

static void tokens_json(const struct query *query, const struct eng_tokens *tokens, bool with_text,
                        bool with_prompt, struct fm_buf *out)
{
    const struct api_model *model = query->request.model;
    fm_buf_printf(out, "{\"count\":%u,\"max_model_len\":%u,\"tokens\":[", tokens->count,
                  model->context_max);
    for (uint32_t i = 0; i < tokens->count; i++) {
        if (i > 0)
            fm_buf_putc(out, ',');
        srv_json_u64(out, tokens->ids[i]);
    }
    fm_buf_puts(out, with_text ? "],\"token_strs\":[" : "],\"token_strs\":null");
    struct fm_buf valid;
    fm_buf_init(&valid, 65536);
    for (uint32_t i = 0; with_text && i < tokens->count; i++) {
        struct eng_detok detok = {0};
        struct eng_slice bytes = eng_text_token(model->text, tokens->ids[i]);
        fm_buf_clear(&valid);
        (void)eng_detok_feed(&detok, bytes.data, bytes.length, &valid);
        (void)eng_detok_flush(&detok, &valid);
        if (i > 0)
            fm_buf_putc(out, ',');
        srv_json_string(out, valid.data, valid.length);
        out->is_broken = out->is_broken || valid.is_broken;
    }
    fm_buf_done(&valid);
    if (with_text)
        fm_buf_putc(out, ']');
    if (with_prompt) {
        struct fm_buf prompt;
        struct fm_err err;
        fm_buf_init(&prompt, out->bytes_max);
        if (eng_decode(model->text, tokens->ids, tokens->count, &prompt, &err) != FM_OK)
            out->is_broken = true;
        fm_buf_puts(out, ",\"prompt\":");
        srv_json_string(out, prompt.data, prompt.length);
        fm_buf_done(&prompt);
    }
    fm_buf_puts(out, "}\n");
}

static void tokens_find(struct query *query, struct eng_tokens *tokens)
{
    const struct api_reader *reader = &query->parse.reader;
    struct eng_slice prompt;
    bool adds_bos = true;
    api_field_bool(reader, "add_special_tokens", &adds_bos);
    if (api_field(reader, "messages") != NULL) {
        struct api_chat_prompt chat = {0};
        if (api_field(reader, "prompt") != NULL)
            api_field_invalid(reader, "prompt", "it excludes 'messages'.");
        if (api_chat_render(&query->parse, tokens, &chat))
            eng_tools_unref(chat.tools);
        return;
    }
    bool has_prompt = api_field_string(reader, "prompt", SIZE_MAX, &prompt);
    if (!has_prompt)
        api_field_missing(reader, "prompt");
    api_parse_model(&query->parse);
    if (query->problem.status == 0)
        prompt_encode(query, prompt, adds_bos, tokens);
}

enum fm_status api_tokenize(const struct api_model *model, const struct srv_config *config,
                            struct eng_slice body, struct fm_buf *out,
                            struct srv_error *ret_problem)
{
    struct query query;
    struct eng_tokens tokens;
    bool with_text = false, with_prompt = false;
    /* A text that no request could use may still be counted. */
    eng_tokens_init(&tokens, (uint32_t)fm_min_u64(2 * body.length + 65536, UINT32_MAX));
    if (query_open(&query, model, config, body)) {
        api_field_bool(&query.parse.reader, "return_token_strs", &with_text);
        api_field_bool(&query.parse.reader, "return_prompt", &with_prompt);
        tokens_find(&query, &tokens);
        if (query.problem.status == 0)
            tokens_json(&query, &tokens, with_text, with_prompt, out);
        if (query.problem.status == 0 && out->is_broken)
            api_problem_nomem(&query.problem);
    }
    eng_tokens_done(&tokens);
    return query_close(&query, ret_problem);
}

/* ---- /detokenize ----------------------------------------------------------------------------- */

static void ids_decode(struct query *query, const cJSON *array, struct fm_buf *out)
{
    const struct api_reader *reader = &query->parse.reader;
    const struct eng_text *text = query->request.model->text;
    uint32_t count = (uint32_t)cJSON_GetArraySize(array), at = 0;
    uint32_t *ids = fm_alloc_array(count, sizeof *ids);
    struct fm_buf prompt;
    struct fm_err err;
    fm_buf_init(&prompt, out->bytes_max);
    for (const cJSON *item = array->child; item != NULL && ids != NULL; item = item->next) {
        double value = item->valuedouble;
        if (!cJSON_IsNumber(item) || value != floor(value)) {
            api_field_mistyped(reader, "tokens", "token ids", item);
            break;
        }
        if (!(value >= 0 && value < eng_text_info(text)->vocab_size) ||
            eng_text_token_kind(text, (uint32_t)value) == ENG_TOKEN_NONE) {
            api_field_invalid(reader, "tokens", "no token has the id %.0f.", value);
            break;
        }
        ids[at++] = (uint32_t)value;
    }
    if (ids == NULL ||
        (query->problem.status == 0 && eng_decode(text, ids, count, &prompt, &err) != FM_OK))
        api_problem_nomem(&query->problem);
    if (query->problem.status == 0) {
        fm_buf_puts(out, "{\"prompt\":");
        srv_json_string(out, prompt.data, prompt.length);
        fm_buf_puts(out, "}\n");
        if (out->is_broken)
            api_problem_nomem(&query->problem);
    }
    fm_buf_done(&prompt);
    fm_free(ids);
}

enum fm_status api_detokenize(const struct api_model *model, const struct srv_config *config,
                              struct eng_slice body, struct fm_buf *out,
                              struct srv_error *ret_problem)
{
    struct query query;
    if (query_open(&query, model, config, body)) {
        const cJSON *array = api_field_array(&query.parse.reader, "tokens");
        if (array == NULL)
            api_field_missing(&query.parse.reader, "tokens");
        api_parse_model(&query.parse);
        if (query.problem.status == 0 && array != NULL)
            ids_decode(&query, array, out);
    }
    return query_close(&query, ret_problem);
}

/* ---- handlers: all of it on the preparation thread ------------------------------------------- */

static void answer(struct srv_call *call,
                   enum fm_status (*make)(const struct api_model *model,
                                          const struct srv_config *config, struct eng_slice body,
                                          struct fm_buf *out, struct srv_error *ret_problem))
{
    const struct api_service *service = call->context;
    struct eng_slice bytes = {.data = call->body.data != NULL ? call->body.data : "",
                              .length = call->body.length};
    struct srv_error problem;
    struct fm_buf out;
    fm_buf_init(&out, call->config->api_max_answer_bytes);
    if (make(&service->model, call->config, bytes, &out, &problem) == FM_OK)
        srv_reply_json(call, 200, &out);
    else
        srv_error_reply(call, &problem);
    fm_buf_done(&out);
}

static void tokenize_prepare(struct srv_call *call)
{
    answer(call, api_tokenize);
}

static void detokenize_prepare(struct srv_call *call)
{
    answer(call, api_detokenize);
}

const struct srv_handler api_tokenize_handler = {.name = "tokenize", .prepare = tokenize_prepare};
const struct srv_handler api_detokenize_handler = {.name = "detokenize",
                                                   .prepare = detokenize_prepare};
