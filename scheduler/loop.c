/* loop.c - the scheduler's turn; see loop.h. */
#include "scheduler/loop.h"

#include <math.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/mem.h"
#include "backends/base/thread.h"
#include "scheduler/output.h"
#include "scheduler/stream.h"

/* Weight of the newest value in the moving averages: the last few dozen steps count. */
static const double average_weight = 1.0 / 16;

static void average_add(double *average, double value)
{
    *average = *average == 0 ? value : *average + average_weight * (value - *average);
}

/* ---- news and ends ------------------------------------------------------------------------- */

void sch_loop_post(struct sch_loop *loop)
{
    for (uint32_t i = 0; i < loop->news_count; i++) {
        struct sch_news *news = &loop->news[i];
        sch_stream_post(news->stream, loop->options.ready);
        if (news->request != NULL)
            news->request->is_in_news = false;
        else
            sch_stream_finish(news->stream);
    }
    loop->news_count = 0;
}

static void news_add(struct sch_loop *loop, struct sch_request *req)
{
    if (req->is_in_news)
        return;
    if (loop->news_count == loop->slot_count) /* slots that were used twice in one turn */
        sch_loop_post(loop);
    loop->news[loop->news_count++] = (struct sch_news){.stream = req->stream, .request = req};
    req->is_in_news = true;
}

/* The request is over: its slot goes back to the main thread, its stream after the last news. */
static void release(struct sch_loop *loop, struct sch_request *req)
{
    FM_ASSERT(req->state == SCH_STATE_DONE);
    news_add(loop, req);
    for (uint32_t i = 0; i < loop->news_count; i++)
        if (loop->news[i].request == req)
            loop->news[i].request = NULL;
    req->stream = NULL;

    struct sch_stats *stats = &loop->stats;
    stats->requests_by_end[req->choices[0].end]++;
    sch_histogram_add(&stats->e2e, fm_clock_ns() - req->submit_ns);
    uint64_t answer = 0;
    for (uint32_t i = 0; i < req->choice_count; i++) {
        const struct sch_choice *choice = &req->choices[i];
        const struct eng_parser_stats *parsed = eng_parser_stats(choice->parser);
        answer += choice->generated_count;
        for (uint32_t r = 0; r < ENG_REPAIR_COUNT; r++)
            stats->repairs[r] += parsed->repairs[r];
    }
    if (answer != 0) {
        average_add(&loop->answer_tokens, (double)answer);
        atomic_store_explicit(&loop->gate.answer_tokens, (uint64_t)ceil(loop->answer_tokens),
                              memory_order_relaxed);
    }

    sch_request_clear(req);
    sch_request_move(req, SCH_STATE_FREE);
    /* Release: pairs with the acquire of sch_is_idle, for the records and the figures. */
    atomic_fetch_sub_explicit(&loop->gate.live_count, 1, memory_order_release);
    fm_mailbox_put(loop->released, &req->message.link);
}

/* Give back the pages: nothing of the request is computed any more. */
static void units_release(struct sch_loop *loop, struct sch_request *req)
{
    FM_ASSERT(sch_request_is_active(req));
    sch_request_close_seqs(req);
    sch_queue_release(&loop->queue, req);
}

static void active_remove(struct sch_loop *loop, struct sch_request *req)
{
    uint32_t at = 0;
    while (at < loop->active_count && loop->active[at] != req)
        at++;
    FM_ASSERT(at < loop->active_count);
    loop->active_count--;
    for (; at < loop->active_count; at++)
        loop->active[at] = loop->active[at + 1];
}

static void cancel_latency_add(struct sch_loop *loop, const struct sch_request *req, uint64_t now)
{
    /* Acquire: pairs with the release in sch_cancel, for the time beside the mark. */
    if (atomic_load_explicit(&req->cancel_generation, memory_order_acquire) != req->generation)
        return;
    uint64_t since = atomic_load_explicit(&req->cancel_ns, memory_order_relaxed);
    sch_histogram_add(&loop->stats.cancel_latency, now > since ? now - since : 0);
}

/* End the request now as `end`, or when the step that holds it is over.  It may be in any live
 * state. */
static void request_abort(struct sch_loop *loop, struct sch_request *req, enum sch_end end)
{
    if (req->span_count != 0) {
        if (!req->is_end_wanted)
            req->wanted_end = end;
        req->is_end_wanted = true;
        return;
    }
    if (req->state == SCH_STATE_QUEUED) {
        sch_queue_remove(&loop->queue, req);
        sch_gate_leave(&loop->gate, req->prompt_count);
    } else {
        if (sch_request_is_active(req))
            units_release(loop, req);
        active_remove(loop, req);
    }
    if (end == SCH_END_CANCELED)
        cancel_latency_add(loop, req, fm_clock_ns());
    sch_output_close(req, end);
    sch_request_move(req, SCH_STATE_DONE);
    release(loop, req);
}

/* Move what waits into the ring.  false: some still waits, and the bell will ring for it. */
static bool catch_up(struct sch_request *req, uint64_t now)
{
    while (sch_output_is_behind(req)) {
        if (sch_output_flush(req))
            req->progress_ns = now;
        /* With half of the ring free the next flush moves at least one record. */
        if (sch_output_is_behind(req) && !sch_stream_ask_room(req->stream))
            return false;
    }
    return true;
}

/* Bring the request's state in line with its pieces: parked while some wait, over when all choices
 * have ended and the reader has been given everything.  Not within a step. */
static void request_settle(struct sch_loop *loop, struct sch_request *req, uint64_t now)
{
    FM_ASSERT(req->span_count == 0);
    news_add(loop, req);
    bool is_caught_up = catch_up(req, now);
    if (!sch_output_is_complete(req)) {
        if (is_caught_up && req->state == SCH_STATE_PARKED)
            sch_request_move(req, SCH_STATE_RUNNING);
        if (!is_caught_up && req->state == SCH_STATE_RUNNING) {
            req->progress_ns = now;
            sch_request_move(req, SCH_STATE_PARKED);
        }
        return;
    }
    if (sch_request_is_active(req))
        units_release(loop, req);
    if (!is_caught_up) {
        if (req->state == SCH_STATE_RUNNING) {
            req->progress_ns = now;
            sch_request_move(req, SCH_STATE_FLUSHING);
        }
        return;
    }
    active_remove(loop, req);
    sch_output_close(req, SCH_END_FAILED); /* DONE alone: all choices have ended */
    sch_request_move(req, SCH_STATE_DONE);
    release(loop, req);
}

/* ---- time limits and marks ----------------------------------------------------------------- */

static bool is_canceled(const struct sch_request *req)
{
    /* Acquire: pairs with the release in sch_cancel.  A mark of an older generation is stale. */
    return atomic_load_explicit(&req->cancel_generation, memory_order_acquire) == req->generation ||
           sch_stream_is_closed(req->stream);
}

/* from + limit_ms, UINT64_MAX without a limit. */
static uint64_t deadline_of(uint64_t from_ns, uint64_t limit_ms)
{
    if (limit_ms == 0 || limit_ms > (UINT64_MAX - from_ns) / FM_NS_PER_MS)
        return UINT64_MAX;
    return from_ns + limit_ms * FM_NS_PER_MS;
}

/* Why the request must end now, or SCH_END_COUNT; *wake_ns is lowered to when that may change. */
static enum sch_end end_due(const struct sch_loop *loop, const struct sch_request *req,
                            uint64_t now, uint64_t *wake_ns)
{
    if (is_canceled(req) || atomic_load_explicit(&loop->gate.is_stopping, memory_order_relaxed))
        return SCH_END_CANCELED;
    if (atomic_load_explicit(&loop->gate.is_broken, memory_order_relaxed))
        return SCH_END_FAILED;

    uint64_t limit_ns = UINT64_MAX;
    enum sch_end end = SCH_END_COUNT;
    if (req->state == SCH_STATE_QUEUED) {
        if (atomic_load_explicit(&loop->gate.is_draining, memory_order_relaxed))
            return SCH_END_DRAINING;
        limit_ns = deadline_of(req->submit_ns, loop->options.queue_timeout_ms);
        end = SCH_END_QUEUE_TIMEOUT;
    } else if (req->state != SCH_STATE_RUNNING) {
        limit_ns = deadline_of(req->progress_ns, loop->options.reader_timeout_ms);
        end = SCH_END_CANCELED;
    }
    if (req->deadline_ns <= now)
        return SCH_END_TIMEOUT;
    if (limit_ns <= now)
        return end;
    *wake_ns = fm_min_u64(*wake_ns, fm_min_u64(limit_ns, req->deadline_ns));
    return SCH_END_COUNT;
}

/* End what must end, let those go on whose readers have caught up.  Returns when to look again. */
static uint64_t requests_look(struct sch_loop *loop, uint64_t now)
{
    uint64_t wake_ns = UINT64_MAX;
    struct sch_request *next;
    for (struct sch_request *req = loop->queue.first; req != NULL; req = next) {
        next = req->next;
        enum sch_end end = end_due(loop, req, now, &wake_ns);
        if (end != SCH_END_COUNT)
            request_abort(loop, req, end);
    }
    /* Backwards: a request that ends takes its place out of the array. */
    for (uint32_t i = loop->active_count; i-- > 0;) {
        struct sch_request *req = loop->active[i];
        if (req->is_end_wanted)
            continue;
        enum sch_end end = end_due(loop, req, now, &wake_ns);
        if (end != SCH_END_COUNT)
            request_abort(loop, req, end);
        else if (req->state != SCH_STATE_RUNNING)
            request_settle(loop, req, now);
    }
    return wake_ns;
}

/* ---- admission ----------------------------------------------------------------------------- */

static void request_start(struct sch_loop *loop, struct sch_request *req, uint64_t now)
{
    sch_gate_leave(&loop->gate, req->prompt_count);
    sch_histogram_add(&loop->stats.queue_wait, now - req->submit_ns);
    sch_request_move(req, SCH_STATE_RUNNING);
    loop->active[loop->active_count++] = req;
    if (req->wants_prompt_logprobs)
        sch_output_prompt(req, 0, NULL);
    if (sch_request_prompt_target(req) == 0) {
        for (uint32_t i = 0; i < req->choice_count; i++)
            sch_output_end(&req->choices[i], SCH_END_LENGTH);
        request_settle(loop, req, now);
        return;
    }
    enum fm_status status = kv_seq_open(loop->cache, &req->choices[0].seq);
    FM_ASSERT(status == FM_OK); /* the slot was promised */
    req->needs_reset = true;
}

static void requests_admit(struct sch_loop *loop, uint64_t now)
{
    struct sch_request *req;
    while ((req = sch_queue_admit(&loop->queue)) != NULL)
        request_start(loop, req, now);
}

/* ---- a step's results ---------------------------------------------------------------------- */

static void choice_token(struct sch_loop *loop, struct sch_choice *choice,
                         const struct eng_drawn *drawn, uint64_t now)
{
    struct sch_request *req = choice->request;
    if (choice->token_ns == 0 && choice->index == 0)
        sch_histogram_add(&loop->stats.ttft, now - req->submit_ns);
    if (choice->token_ns != 0)
        sch_histogram_add(&loop->stats.tpot, now - choice->token_ns);
    choice->token_ns = now;
    loop->stats.decode_tokens++;
    sch_output_token(choice, drawn, loop->text);
    if (choice->is_ended) {
        kv_seq_close(choice->seq);
        choice->seq = NULL;
    }
}

/* The prompt was computed once, in the first choice's sequence: every choice that goes on gets a
 * sequence of its own.  The first of them takes that one over, so that no page is given back that
 * a copy still reads. */
static void request_fork(struct sch_request *req, struct kv_seq *seq)
{
    struct sch_choice *first = NULL;
    for (uint32_t i = 0; i < req->choice_count; i++) {
        struct sch_choice *choice = &req->choices[i];
        if (choice->is_ended)
            continue;
        if (first == NULL) {
            first = choice;
            choice->seq = seq;
            continue;
        }
        uint32_t count = 0;
        enum fm_status status =
            kv_seq_fork(seq, &choice->seq, req->copies + req->copy_count, &count);
        FM_ASSERT(status == FM_OK); /* the units were promised */
        req->copy_count += count;
    }
    if (first == NULL)
        kv_seq_close(seq);
}

static void prompt_apply(struct sch_loop *loop, const struct sch_share *share, uint32_t row_count,
                         uint64_t now)
{
    struct sch_request *req = share->request;
    const struct eng_drawn *drawn = loop->step->drawn + share->drawn_first;
    uint32_t end = share->prompt_first + row_count;
    if (end == req->prompt_count) {
        FM_ASSERT(share->drawn_count == req->choice_count);
        struct kv_seq *seq = req->choices[0].seq;
        req->choices[0].seq = NULL;
        for (uint32_t i = 0; i < req->choice_count; i++)
            choice_token(loop, &req->choices[i], &drawn[i], now);
        request_fork(req, seq);
        return;
    }
    for (uint32_t i = 0; i < share->drawn_count && !sch_output_is_complete(req); i++)
        sch_output_prompt(req, share->prompt_first + i + 1, &drawn[i]);
    if (end == sch_request_prompt_target(req) && !sch_output_is_complete(req))
        for (uint32_t i = 0; i < req->choice_count; i++)
            sch_output_end(&req->choices[i], SCH_END_LENGTH);
}

static void share_apply(struct sch_loop *loop, uint32_t index, uint64_t now)
{
    const struct sch_share *share = &loop->step->shares[index];
    uint32_t row_count = loop->step->plan.spans[index].token_count;
    kv_seq_commit(share->choice->seq, row_count);
    if (share->request->is_end_wanted)
        return;
    if (share->is_prompt)
        prompt_apply(loop, share, row_count, now);
    else
        choice_token(loop, share->choice, &loop->step->drawn[share->drawn_first], now);
}

static void step_measure(struct sch_loop *loop, const struct sch_step *step)
{
    uint64_t ns = step->end_ns - step->start_ns;
    uint32_t rows = step->prefill_rows + step->decode_rows;
    loop->stats.steps++;
    loop->stats.prefill_tokens += step->prefill_rows;
    sch_histogram_add(&loop->stats.step, ns);
    if (ns == 0)
        return;
    average_add(&loop->rows_per_s, rows * (double)FM_NS_PER_S / (double)ns);
    atomic_store_explicit(&loop->gate.rows_per_s, (uint64_t)fmax(1, loop->rows_per_s),
                          memory_order_relaxed);
}

static void step_failed(struct sch_loop *loop, const struct sch_step *step)
{
    static struct fm_log_limit limit;
    uint64_t dropped = 0;
    if (step->status == FM_DEVICE)
        atomic_store_explicit(&loop->gate.is_broken, true, memory_order_relaxed);
    if (step->status == FM_DEVICE || fm_log_limit_pass(&limit, &dropped))
        fm_log(FM_LOG_ERROR, "step_failed", "status=%s sequences=%u dropped=%llu text=\"%s\"",
               fm_status_name(step->status), step->plan.span_count, (unsigned long long)dropped,
               step->err.text);
}

static void step_complete(struct sch_loop *loop)
{
    struct sch_step *step = loop->step;
    uint64_t now = fm_clock_ns();
    FM_ASSERT(loop->is_step_running);
    loop->is_step_running = false;
    if (step->status == FM_OK) {
        step_measure(loop, step);
        for (uint32_t i = 0; i < step->plan.span_count; i++)
            share_apply(loop, i, now);
    } else {
        step_failed(loop, step);
    }

    /* Each request once; a request that is over is no longer ours to look at. */
    uint32_t count = 0;
    for (uint32_t i = 0; i < step->plan.span_count; i++) {
        struct sch_request *req = step->shares[i].request;
        if (req->span_count == 0)
            continue;
        req->span_count = 0;
        loop->stepped[count++] = req;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct sch_request *req = loop->stepped[i];
        if (req->is_end_wanted)
            request_abort(loop, req, req->wanted_end);
        else if (step->status != FM_OK)
            request_abort(loop, req, SCH_END_FAILED);
        else
            request_settle(loop, req, now);
    }
}

/* ---- the turn ------------------------------------------------------------------------------ */

void sch_loop_receive(struct sch_loop *loop, struct fm_link *link)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_SCHEDULER));
    struct sch_message *message = FM_CONTAINER(link, struct sch_message, link);
    switch (message->kind) {
    case SCH_MESSAGE_BELL: sch_gate_clear(&loop->gate); return;
    case SCH_MESSAGE_SUBMIT: {
        struct sch_request *req = FM_CONTAINER(message, struct sch_request, message);
        sch_request_move(req, SCH_STATE_QUEUED);
        sch_queue_push(&loop->queue, req);
        return;
    }
    case SCH_MESSAGE_STEP:
        FM_ASSERT(&loop->step->message == message);
        step_complete(loop);
        return;
    }
    FM_UNREACHABLE();
}

static void stats_publish(struct sch_loop *loop)
{
    struct sch_stats *stats = &loop->stats;
    struct kv_stats cache;
    kv_cache_stats(loop->cache, &cache);
    stats->queued = loop->queue.count;
    stats->queued_tokens = atomic_load_explicit(&loop->gate.queued_tokens, memory_order_relaxed);
    stats->running_seqs = cache.seq_count;
    stats->parked = 0;
    for (uint32_t i = 0; i < loop->active_count; i++)
        stats->parked += loop->active[i]->state == SCH_STATE_PARKED;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++) {
        stats->units_total[pool] = cache.units_total[pool];
        stats->units_free[pool] = cache.units_free[pool];
    }
    stats->is_broken = atomic_load_explicit(&loop->gate.is_broken, memory_order_relaxed);
    sch_board_publish(&loop->board, stats);
}

struct sch_step *sch_loop_turn(struct sch_loop *loop, uint64_t *ret_wake_ns)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_SCHEDULER));
    uint64_t now = fm_clock_ns();
    struct sch_step *step = NULL;
    *ret_wake_ns = requests_look(loop, now);
    requests_admit(loop, now);
    if (!loop->is_step_running && sch_batch_compose(loop->step, loop->active, loop->active_count,
                                                    loop->text, &loop->limits)) {
        step = loop->step;
        loop->is_step_running = true;
    }
    stats_publish(loop);
    FM_ASSERT_SLOW(sch_loop_sane(loop));
    return step;
}

bool sch_loop_is_over(const struct sch_loop *loop)
{
    return atomic_load_explicit(&loop->gate.is_stopping, memory_order_acquire) &&
           atomic_load_explicit(&loop->gate.live_count, memory_order_acquire) == 0 &&
           !loop->is_step_running && loop->news_count == 0;
}

/* ---- audit --------------------------------------------------------------------------------- */

static bool request_sane(const struct sch_loop *loop, const struct sch_request *req)
{
    bool is_active = sch_request_is_active(req);
    if (!is_active && req->state != SCH_STATE_FLUSHING)
        return false;
    if (req->span_count != 0 && (!loop->is_step_running || req->state != SCH_STATE_RUNNING))
        return false;
    if ((req->state == SCH_STATE_RUNNING) != !sch_output_is_behind(req))
        return false;
    for (uint32_t i = 0; i < req->choice_count; i++) {
        const struct sch_choice *choice = &req->choices[i];
        if (choice->seq != NULL && (choice->is_ended || !is_active))
            return false;
        /* All but the last generated token are in the cache. */
        if (choice->seq != NULL && choice->generated_count != 0 &&
            kv_seq_length(choice->seq) != req->prompt_count + choice->generated_count - 1)
            return false;
        if (choice->seq == NULL && !choice->is_ended && choice->generated_count != 0)
            return false;
    }
    return true;
}

bool sch_loop_sane(const struct sch_loop *loop)
{
    uint32_t seqs = 0, units[BE_POOL_COUNT] = {0};
    struct kv_stats stats;
    for (uint32_t i = 0; i < loop->active_count; i++) {
        const struct sch_request *req = loop->active[i];
        if (!request_sane(loop, req))
            return false;
        if (!sch_request_is_active(req))
            continue;
        seqs += req->choice_count;
        for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
            units[pool] += req->need[pool];
    }
    if (seqs != loop->queue.seqs_promised || seqs > loop->queue.seqs_max)
        return false;
    kv_cache_stats(loop->cache, &stats);
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++) {
        uint32_t used = stats.units_total[pool] - stats.units_free[pool];
        if (units[pool] != loop->queue.units_promised[pool] || used > units[pool] ||
            units[pool] > loop->queue.units_max[pool])
            return false;
    }
    return kv_cache_sane(loop->cache);
}

/* ---- life ---------------------------------------------------------------------------------- */

static enum fm_status memory_take(struct sch_loop *loop, struct fm_err *err)
{
    loop->slots = fm_alloc_array(loop->slot_count, sizeof *loop->slots);
    loop->active = fm_alloc_array(loop->slot_count, sizeof(void *));
    loop->news = fm_alloc_array(loop->slot_count, sizeof *loop->news);
    loop->stepped = fm_alloc_array(loop->limits.seqs_max, sizeof(void *));
    if (loop->slots == NULL || loop->active == NULL || loop->news == NULL || loop->stepped == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u requests", loop->slot_count);
    for (uint32_t i = 0; i < loop->slot_count; i++) {
        struct sch_request *req = &loop->slots[i];
        req->slot = i;
        req->message.kind = SCH_MESSAGE_SUBMIT;
        atomic_init(&req->cancel_generation, 0);
        atomic_init(&req->cancel_ns, 0);
    }
    enum fm_status status = sch_step_new(&loop->limits, &loop->step, err);
    if (status == FM_OK)
        status = fm_mailbox_new(false, &loop->inbox, err);
    if (status == FM_OK)
        status = fm_mailbox_new(false, &loop->released, err);
    if (status == FM_OK)
        sch_gate_init(&loop->gate, loop->inbox);
    return status;
}

static enum fm_status cache_take(struct sch_loop *loop, const struct eng_info *info,
                                 struct fm_err *err)
{
    struct kv_options options = {.seq_tokens_max = info->context_max};
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        options.units[pool] = info->units[pool];
    enum fm_status status = kv_cache_new(&info->layout, &options, &loop->cache, err);
    if (status != FM_OK)
        return status;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        loop->queue.units_max[pool] = info->units[pool] - 1;
    loop->queue.seqs_max = loop->limits.seqs_max;
    return FM_OK;
}

/* The bounds that make "every decoding sequence in every step" and "a full ring can always be
 * ended" true. */
static enum fm_status options_check(const struct eng_info *info, const struct sch_options *options,
                                    struct fm_err *err)
{
    size_t ring_min = sch_output_ring_bytes_min(options->choices_max);
    if (options->queue_max == 0 || options->running_max == 0 || options->chunk_tokens_max == 0 ||
        options->choices_max == 0 || options->choices_max > UINT16_MAX || options->ready == NULL)
        return FM_FAIL(err, FM_INVALID, "queue, running, chunk and choices must be at least 1");
    if (options->running_max > info->seqs_max || options->running_max > info->logit_rows_max)
        return FM_FAIL(err, FM_INVALID,
                       "%u running sequences, but the engine takes %u with %u logit rows",
                       options->running_max, info->seqs_max, info->logit_rows_max);
    if (options->step_tokens_max > info->step_rows_max ||
        options->step_tokens_max < options->running_max)
        return FM_FAIL(err, FM_INVALID, "steps of %u rows must be between %u and %u",
                       options->step_tokens_max, options->running_max, info->step_rows_max);
    if ((options->stream_bytes & (options->stream_bytes - 1)) != 0 ||
        options->stream_bytes < ring_min)
        return FM_FAIL(err, FM_INVALID, "streams of %u bytes must be a power of two, at least %zu",
                       options->stream_bytes, ring_min);
    return FM_OK;
}

enum fm_status sch_loop_new(const struct eng_info *info, const struct eng_text *text,
                            const struct sch_options *options, struct sch_loop **ret_loop,
                            struct fm_err *err)
{
    enum fm_status status = options_check(info, options, err);
    if (status != FM_OK)
        return status;
    struct sch_loop *loop = fm_alloc(sizeof *loop);
    if (loop == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the scheduler");
    loop->options = *options;
    loop->text = text;
    loop->layout = info->layout;
    loop->vocab = info->vocab;
    loop->limits = (struct sch_limits){
        .step_tokens_max = options->step_tokens_max,
        .chunk_tokens_max = options->chunk_tokens_max,
        .logit_rows_max = info->logit_rows_max,
        .seqs_max = options->running_max,
        .page_tokens = info->layout.page_tokens,
    };
    /* Those that wait, those that run, and as many that are read to the end. */
    loop->slot_count = options->queue_max + 2 * options->running_max + 16;
    sch_board_init(&loop->board);
    status = memory_take(loop, err);
    if (status == FM_OK)
        status = cache_take(loop, info, err);
    if (status != FM_OK) {
        sch_loop_free(loop);
        return status;
    }
    *ret_loop = loop;
    return FM_OK;
}

/* Messages that nobody has to see any more: a bell that was rung at the end, returned slots. */
static void mailbox_empty(struct fm_mailbox *mailbox)
{
    if (mailbox == NULL)
        return;
    while (fm_mailbox_poll(mailbox) != NULL)
        continue;
}

void sch_loop_free(struct sch_loop *loop)
{
    if (loop == NULL)
        return;
    FM_ASSERT(loop->active_count == 0 && loop->queue.count == 0 && loop->news_count == 0);
    mailbox_empty(loop->inbox);
    mailbox_empty(loop->released);
    fm_mailbox_free(loop->inbox);
    fm_mailbox_free(loop->released);
    sch_step_free(loop->step);
    kv_cache_free(loop->cache);
    fm_free(loop->slots);
    fm_free(loop->active);
    fm_free(loop->news);
    fm_free(loop->stepped);
    fm_free(loop);
}
