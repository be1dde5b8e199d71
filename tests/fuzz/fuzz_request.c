/* fuzz_request.c - any bytes as the body of a request: an error of the contract, or a request whose
 * figures are within its limits.
 *
 * Input: a byte that chooses the endpoint, then the body. */
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "daemon/api_chat.h"
#include "daemon/api_completions.h"
#include "daemon/api_tokenize.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { CONTEXT = 4096 };

static void error_check(const struct srv_error *error)
{
    FM_ASSERT(error->status == 400 || error->status == 404 || error->status == 503);
    FM_ASSERT(error->code != NULL && error->message[0] != '\0');
}

static void request_check(const struct api_request *request)
{
    FM_ASSERT(request->prompt_count >= 1 && request->generate_count >= request->choice_count);
    for (uint32_t i = 0; i < request->prompt_count; i++) {
        struct sch_spec spec = api_request_spec(request, i);
        FM_ASSERT(spec.prompt_count >= 1 && spec.prompt_count < CONTEXT);
        FM_ASSERT(spec.tokens_max <= CONTEXT - spec.prompt_count);
        FM_ASSERT(spec.tokens_min <= spec.tokens_max);
    }
}

static void generation_try(const struct api_endpoint *endpoint, const struct api_model *model,
                           const struct srv_config *config, struct eng_slice body)
{
    struct api_request request;
    struct srv_error error = {0};
    if (api_request_parse(endpoint, model, config, body, &request, &error) == FM_OK) {
        request_check(&request);
        api_request_done(&request);
    } else {
        error_check(&error);
    }
}

static void query_try(bool is_text, const struct api_model *model, const struct srv_config *config,
                      struct eng_slice body)
{
    struct srv_error error = {0};
    struct fm_buf out;
    fm_buf_init(&out, 1 << 20);
    enum fm_status status = is_text ? api_tokenize(model, config, body, &out, &error)
                                    : api_detokenize(model, config, body, &out, &error);
    if (status != FM_OK)
        error_check(&error);
    else
        FM_ASSERT(out.length > 1 && out.data[out.length - 1] == '\n');
    fm_buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct srv_config *config;
    static struct api_model model = {.id = "model", .context_max = CONTEXT, .has_fim = true};
    if (config == NULL) {
        static struct eng_text *text;
        struct srv_config_sources sources = {0};
        FM_ASSERT(srv_config_load(&sources, &config, NULL) == FM_OK);
        FM_ASSERT(eng_text_open("conf/model", NULL, &text, NULL) == FM_OK);
        model.text = text;
        srv_body_init();
    }
    if (bytes == 0)
        return 0;
    struct eng_slice body = {.data = (const char *)data + 1, .length = bytes - 1};
    switch (data[0] % 4) {
    case 0: generation_try(&api_chat_endpoint, &model, config, body); break;
    case 1: generation_try(&api_completions_endpoint, &model, config, body); break;
    case 2: query_try(true, &model, config, body); break;
    default: query_try(false, &model, config, body); break;
    }
    return 0;
}
