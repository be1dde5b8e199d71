/* api_generate.c - one generation from its call through the scheduler and back; see
 * api_generate.h. */
#include "daemon/api_generate.h"

#include <inttypes.h>
#include <stdio.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/mem.h"
#include "daemon/api_answer.h"
#include "daemon/api_error.h"
#include "daemon/call.h"
#include "daemon/sse.h"

/* The stream of one prompt; NULL once it was read to its end. */
struct source {
    struct sch_stream *stream;
};

struct job {
    struct api_request request;
    struct api_answer answer;
    struct source *sources; /* one per prompt */
    uint32_t open_count;
};

/* ---- prepare --------------------------------------------------------------------------------- */

void api_generate_prepare(struct srv_call *call, const struct api_endpoint *endpoint)
{
    const struct api_service *service = call->context;
    struct srv_error problem;
    struct job *job = fm_alloc(sizeof *job);
    if (job == NULL) {
        srv_error_reply(call, srv_error_of_status(&problem, FM_NOMEM, 0));
        return;
    }
    struct eng_slice body = {.data = call->body.data != NULL ? call->body.data : "",
                             .length = call->body.length};
    if (api_request_parse(endpoint, &service->model, call->config, body, &job->request, &problem) !=
        FM_OK) {
        srv_error_reply(call, &problem);
        fm_free(job);
        return;
    }
    if (job->request.ignored != NULL)
        srv_call_header(call, "x-fathom-ignored", job->request.ignored);
    if (job->request.warnings != NULL)
        srv_call_header(call, "x-fathom-warnings", job->request.warnings);
    call->request = job;
}

/* ---- start ----------------------------------------------------------------------------------- */

static void streams_close(struct job *job)
{
    for (uint32_t i = 0; job->sources != NULL && i < job->request.prompt_count; i++) {
        if (job->sources[i].stream != NULL)
            sch_stream_close(job->sources[i].stream);
        job->sources[i].stream = NULL;
    }
    job->open_count = 0;
}

/* A refusal of the scheduler as an error. */
static void refusal_set(struct srv_error *error, enum fm_status status, uint32_t retry_s,
                        const struct job *job)
{
    if (status == FM_LIMIT)
        srv_error_set(error, 400, "context_length_exceeded",
                      job->request.kind == API_CHAT ? "messages" : "prompt",
                      "The request needs more memory than this server has for one request. Please "
                      "reduce the length of the messages or completion.");
    else
        srv_error_of_status(error, status, retry_s * 1000);
}

static enum fm_status prompt_submit(struct srv_call *call, struct job *job, uint32_t index,
                                    uint32_t *ret_retry_s, struct fm_err *err)
{
    const struct api_service *service = call->context;
    struct sch_spec spec = api_request_spec(&job->request, index);
    struct sch_handle handle;
    double timeout_s = call->config->limits_request_timeout_s;
    spec.request_number = call->number;
    spec.deadline_ns = UINT64_MAX;
    if (timeout_s > 0)
        spec.deadline_ns = call->received_ns + (uint64_t)(timeout_s * (double)FM_NS_PER_S);
    enum fm_status status = sch_submit(service->scheduler, &spec, &handle,
                                       &job->sources[index].stream, ret_retry_s, err);
    if (status == FM_OK) {
        sch_stream_set_owner(job->sources[index].stream, call);
        job->open_count++;
    }
    return status;
}

static bool chunk_put(void *context, const char *json, size_t bytes)
{
    return srv_sse_data(context, json, bytes);
}

void api_generate_start(struct srv_call *call)
{
    struct job *job = call->request;
    const struct api_sink sink = {.put = chunk_put, .context = call};
    struct srv_error error;
    struct fm_err err = {0};
    uint32_t retry_s = 0;

    job->sources = fm_alloc_array(job->request.prompt_count, sizeof *job->sources);
    enum fm_status status = FM_NOMEM;
    if (job->sources != NULL)
        status = api_answer_init(&job->answer, &job->request, job->request.is_stream ? &sink : NULL,
                                 call->config->api_max_answer_bytes);
    for (uint32_t i = 0; i < job->request.prompt_count && status == FM_OK; i++)
        status = prompt_submit(call, job, i, &retry_s, &err);
    if (status != FM_OK) {
        streams_close(job);
        if (status < 0 && status != FM_LIMIT && status != FM_CANCELED)
            fm_log(FM_LOG_WARNING, "submit_failed", "req=%" PRIu64 " error=\"%s\"", call->number,
                   err.text);
        refusal_set(&error, status, retry_s, job);
        srv_error_reply(call, &error);
        return;
    }
    if (job->request.is_stream)
        srv_stream_open(call, SRV_SSE_KEEPALIVE);
}

/* ---- drain ----------------------------------------------------------------------------------- */

static void failure_set(struct srv_error *error, enum sch_end end, const struct srv_call *call)
{
    switch (end) {
    case SCH_END_TIMEOUT:
        srv_error_set(error, 504, "timeout", NULL,
                      "The request took longer than this server allows.");
        return;
    case SCH_END_QUEUE_TIMEOUT:
        srv_error_set(error, 503, "queue_timeout", NULL,
                      "The request waited too long to be started. Please try again in 5.000s.");
        return;
    case SCH_END_DRAINING:
        srv_error_set(error, 503, "draining", NULL, "The server is shutting down.");
        return;
    default:
        srv_error_set(error, 500, "engine_error", NULL,
                      "The model could not answer the request %s.", call->id);
        return;
    }
}

static void job_fail(struct srv_call *call, struct job *job, const struct srv_error *error)
{
    streams_close(job);
    if (job->request.is_stream)
        srv_sse_error(call, error);
    else
        srv_error_reply(call, error);
}

static void internal_fail(struct srv_call *call, struct job *job)
{
    struct srv_error error;
    if (call->is_failed) { /* the client does not read, or memory is short: cancel will come */
        streams_close(job);
        return;
    }
    srv_error_set(&error, 500, "internal_error", NULL, "Something went wrong with the request %s.",
                  call->id);
    job_fail(call, job, &error);
}

static bool is_finish(const struct sch_piece *piece)
{
    return piece->end == SCH_END_STOP || piece->end == SCH_END_LENGTH ||
           piece->end == SCH_END_TOOL_CALLS;
}

/* Read one prompt's stream as far as it goes and the output has room; false: the call is over. */
static bool stream_drain(struct srv_call *call, struct job *job, uint32_t index)
{
    struct sch_piece piece;
    struct eng_candidate candidates[ENG_LOGPROBS_MAX];
    char bytes[SCH_PIECE_BYTES_MAX + 1];
    struct srv_error error;

    while (job->sources[index].stream != NULL) {
        if (job->request.is_stream && srv_stream_room(call) == 0)
            return true;
        enum fm_status status =
            sch_stream_next(job->sources[index].stream, &piece, candidates, bytes);
        if (status == FM_AGAIN)
            return true;
        if (status != FM_OK) {
            internal_fail(call, job);
            return false;
        }
        if (piece.kind == SCH_PIECE_DONE) {
            sch_stream_close(job->sources[index].stream);
            job->sources[index].stream = NULL;
            job->open_count--;
            return true;
        }
        if (piece.kind == SCH_PIECE_END && !is_finish(&piece)) {
            failure_set(&error, (enum sch_end)piece.end, call);
            job_fail(call, job, &error);
            return false;
        }
        api_answer_piece(&job->answer, index, &piece, candidates, bytes);
        if (job->answer.is_broken) {
            internal_fail(call, job);
            return false;
        }
    }
    return true;
}

static void answer_finish(struct srv_call *call, struct job *job)
{
    struct fm_buf body;
    fm_buf_init(&body, call->config->api_max_answer_bytes);
    api_answer_finish(&job->answer, &body);
    if (job->answer.is_broken) {
        internal_fail(call, job);
    } else if (job->request.is_stream) {
        srv_sse_done(call);
    } else {
        char text[32];
        uint64_t spent_ns = fm_clock_ns() - call->received_ns;
        (void)snprintf(text, sizeof text, "%" PRIu64, spent_ns / FM_NS_PER_MS);
        srv_call_header(call, "openai-processing-ms", text);
        srv_reply_json(call, 200, &body);
    }
    fm_buf_done(&body);
}

void api_generate_drain(struct srv_call *call)
{
    struct job *job = call->request;
    if (job == NULL || job->open_count == 0) /* answered: nothing more is read */
        return;
    for (uint32_t i = 0; i < job->request.prompt_count; i++)
        if (!stream_drain(call, job, i))
            return;
    if (job->open_count == 0)
        answer_finish(call, job);
}

/* ---- the end --------------------------------------------------------------------------------- */

void api_generate_cancel(struct srv_call *call, enum srv_cancel why)
{
    struct job *job = call->request;
    struct srv_error error;
    bool was_open = job->open_count > 0;
    if (why != SRV_CANCEL_SHUTDOWN || !was_open) {
        streams_close(job);
        return;
    }
    failure_set(&error, SCH_END_DRAINING, call);
    job_fail(call, job, &error);
}

void api_generate_done(struct srv_call *call)
{
    struct job *job = call->request;
    if (job == NULL)
        return;
    streams_close(job);
    fm_free(job->sources);
    api_answer_done(&job->answer);
    api_request_done(&job->request);
    fm_free(job);
    call->request = NULL;
}

void api_generate_wake(struct fm_mailbox *ready)
{
    struct fm_link *link;
    while ((link = fm_mailbox_poll(ready)) != NULL) {
        struct sch_stream *stream = sch_stream_of(link);
        if (stream != NULL && sch_stream_owner(stream) != NULL)
            srv_call_wake(sch_stream_owner(stream));
    }
}
