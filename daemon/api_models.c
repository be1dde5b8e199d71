/* api_models.c - which models are served; see api_models.h. */
#include "daemon/api_models.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "daemon/api_error.h"
#include "daemon/api_generate.h"
#include "daemon/call.h"
#include "daemon/json.h"

static void openai_json(const struct api_model *model, struct fm_buf *out)
{
    fm_buf_puts(out, "{\"id\":");
    srv_json_text(out, model->id);
    fm_buf_printf(out, ",\"object\":\"model\",\"created\":%" PRIu64 ",\"owned_by\":\"fathom\",",
                  model->created_s);
    fm_buf_puts(out, "\"root\":");
    srv_json_text(out, model->id);
    fm_buf_printf(out,
                  ",\"parent\":null,\"max_model_len\":%u,\"context_length\":%u,"
                  "\"max_output_tokens\":%u,\"aliases\":[",
                  model->context_max, model->context_max, model->context_max);
    for (uint32_t i = 0; i < model->alias_count; i++) {
        if (i > 0)
            fm_buf_putc(out, ',');
        srv_json_text(out, model->aliases[i].name);
    }
    fm_buf_printf(out,
                  "],\"capabilities\":{\"tools\":true,\"thinking\":true,\"json_schema\":false,"
                  "\"fim\":%s,\"vision\":false}}",
                  model->has_fim ? "true" : "false");
}

static void anthropic_json(const struct api_model *model, struct fm_buf *out)
{
    char created[32];
    struct tm parts;
    time_t seconds = (time_t)model->created_s;
    if (gmtime_r(&seconds, &parts) == NULL ||
        strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        (void)snprintf(created, sizeof created, "1970-01-01T00:00:00Z");
    fm_buf_puts(out, "{\"type\":\"model\",\"id\":");
    srv_json_text(out, model->id);
    fm_buf_puts(out, ",\"display_name\":");
    srv_json_text(out, model->id);
    fm_buf_printf(out, ",\"created_at\":\"%s\",\"max_input_tokens\":%u,\"max_tokens\":%u}", created,
                  model->context_max, model->context_max);
}

void api_model_json(const struct api_model *model, bool is_anthropic, struct fm_buf *out)
{
    if (is_anthropic)
        anthropic_json(model, out);
    else
        openai_json(model, out);
}

static void models_start(struct srv_call *call)
{
    const struct api_service *service = call->context;
    struct fm_buf body;
    fm_buf_init(&body, 16384);
    fm_buf_puts(&body, call->is_anthropic ? "{\"data\":[" : "{\"object\":\"list\",\"data\":[");
    api_model_json(&service->model, call->is_anthropic, &body);
    fm_buf_putc(&body, ']');
    if (call->is_anthropic) {
        fm_buf_puts(&body, ",\"has_more\":false,\"first_id\":");
        srv_json_text(&body, service->model.id);
        fm_buf_puts(&body, ",\"last_id\":");
        srv_json_text(&body, service->model.id);
    }
    fm_buf_puts(&body, "}\n");
    srv_reply_json(call, 200, &body);
    fm_buf_done(&body);
}

static void model_start(struct srv_call *call)
{
    const struct api_service *service = call->context;
    enum api_thinking thinking;
    struct fm_buf body;
    if (!api_model_find(&service->model, call->parameter, &thinking)) {
        srv_error_replyf(call, 404, "model_not_found", "model",
                         "The model `%s` does not exist or you do not have access to it.",
                         api_quote(call->parameter).text);
        return;
    }
    fm_buf_init(&body, 16384);
    api_model_json(&service->model, call->is_anthropic, &body);
    fm_buf_putc(&body, '\n');
    srv_reply_json(call, 200, &body);
    fm_buf_done(&body);
}

const struct srv_handler api_models_handler = {.name = "models", .start = models_start};
const struct srv_handler api_model_handler = {.name = "model", .start = model_start};
