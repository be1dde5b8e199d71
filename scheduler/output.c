/* output.c - tokens to pieces, pieces to the ring or to the backlog; see output.h. */
#include "scheduler/output.h"

#include <math.h>
#include <string.h>

#include "backends/base/assert.h"
#include "scheduler/stream.h"

size_t sch_output_ring_bytes_min(uint32_t choices)
{
    /* Half of the ring takes the largest record beside the terminal ones (stream.h: the reader
     * rings when the ring is half empty, and that must be enough to go on). */
    size_t record = sizeof(struct sch_piece) + SCH_PIECE_BYTES_MAX;
    size_t terminal = ((size_t)choices + 1) * sizeof(struct sch_piece);
    return 2 * (record + terminal);
}

/* ---- records ------------------------------------------------------------------------------- */

/* Room for the records that must always find some: an END of each choice that has none in the
 * ring, and DONE. */
static size_t spare_bytes(const struct sch_request *req)
{
    size_t records = 1;
    for (uint32_t i = 0; i < req->choice_count; i++)
        records += !req->choices[i].is_end_delivered;
    return records * sizeof(struct sch_piece);
}

static bool ring_put(struct sch_request *req, const struct sch_piece *piece, const void *body)
{
    size_t spare = spare_bytes(req);
    if (piece->kind == SCH_PIECE_END || piece->kind == SCH_PIECE_DONE)
        spare -= sizeof *piece; /* this one is what the room was kept for */
    if (!sch_stream_put(req->stream, piece, body, spare))
        return false;
    if (piece->kind == SCH_PIECE_END)
        req->choices[piece->choice].is_end_delivered = true;
    return true;
}

bool sch_output_is_behind(const struct sch_request *req)
{
    return req->backlog.length != req->backlog_taken;
}

/* Into the ring, or behind what waits.  false when the backlog cannot take it. */
static bool put(struct sch_request *req, const struct sch_piece *piece, const void *body)
{
    if (!sch_output_is_behind(req) && ring_put(req, piece, body))
        return true;
    size_t length = req->backlog.length;
    size_t body_bytes = sch_stream_record_bytes(piece) - sizeof *piece;
    if (fm_buf_put(&req->backlog, piece, sizeof *piece) &&
        (body_bytes == 0 || fm_buf_put(&req->backlog, body, body_bytes)))
        return true;
    req->backlog.length = length; /* no half records */
    req->backlog.is_broken = false;
    return false;
}

bool sch_output_flush(struct sch_request *req)
{
    size_t taken = req->backlog_taken;
    while (sch_output_is_behind(req)) {
        struct sch_piece piece;
        const char *record = req->backlog.data + req->backlog_taken;
        FM_ASSERT(req->backlog.length - req->backlog_taken >= sizeof piece);
        memcpy(&piece, record, sizeof piece);
        if (!ring_put(req, &piece, record + sizeof piece))
            break;
        req->backlog_taken += sch_stream_record_bytes(&piece);
        FM_ASSERT(req->backlog_taken <= req->backlog.length);
    }
    bool has_moved = req->backlog_taken != taken;
    if (!sch_output_is_behind(req)) {
        fm_buf_clear(&req->backlog);
        req->backlog_taken = 0;
    }
    return has_moved;
}

/* ---- text ---------------------------------------------------------------------------------- */

/* Bytes of the longest beginning that is at most `bytes_max` long and splits no character. */
static size_t whole_characters(const char *data, size_t bytes, size_t bytes_max)
{
    if (bytes <= bytes_max)
        return bytes;
    size_t cut = bytes_max;
    while (cut > 0 && ((unsigned char)data[cut] & 0xc0) == 0x80)
        cut--;
    return cut > 0 ? cut : bytes_max;
}

static enum sch_piece_kind piece_kind(enum eng_piece_kind kind)
{
    switch (kind) {
    case ENG_PIECE_REASONING: return SCH_PIECE_REASONING;
    case ENG_PIECE_CONTENT: return SCH_PIECE_CONTENT;
    case ENG_PIECE_TOOL_BEGIN: return SCH_PIECE_TOOL_BEGIN;
    case ENG_PIECE_TOOL_ARGS: return SCH_PIECE_TOOL_ARGS;
    case ENG_PIECE_TOOL_END: return SCH_PIECE_TOOL_END;
    }
    FM_UNREACHABLE();
}

/* One piece of the parser, cut where it is longer than a record. */
static bool parsed_put(struct sch_choice *choice, const struct eng_piece *parsed)
{
    struct sch_piece piece = {
        .kind = (uint8_t)piece_kind(parsed->kind),
        .choice = choice->index,
        .index = parsed->call_index,
        .token_first = parsed->token_first,
        .token_end = parsed->token_end,
    };
    size_t at = 0;
    do {
        size_t bytes =
            whole_characters(parsed->data + at, parsed->length - at, SCH_PIECE_BYTES_MAX);
        piece.byte_count = (uint32_t)bytes;
        if (!put(choice->request, &piece, parsed->data + at))
            return false;
        at += bytes;
        piece.token_first = piece.token_end; /* they count for the first part */
        if (parsed->kind == ENG_PIECE_TOOL_BEGIN)
            break; /* a name begins one call, however long it is */
    } while (at < parsed->length);
    return true;
}

static bool all_parsed_put(struct sch_choice *choice, const struct eng_piece *pieces,
                           uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!parsed_put(choice, &pieces[i]))
            return false;
    return true;
}

/* ---- ends ---------------------------------------------------------------------------------- */

static bool is_given_up(enum sch_end end)
{
    return end != SCH_END_STOP && end != SCH_END_LENGTH && end != SCH_END_TOOL_CALLS;
}

static struct sch_piece end_piece(const struct sch_choice *choice)
{
    const struct eng_parser_stats *stats = eng_parser_stats(choice->parser);
    return (struct sch_piece){
        .kind = SCH_PIECE_END,
        .end = (uint8_t)choice->end,
        .choice = choice->index,
        .logprob = NAN,
        .completion_tokens = choice->generated_count,
        .reasoning_tokens = stats->reasoning_count,
        .prompt_tokens = choice->request->prompt_count,
        .stop_string = choice->stop_string,
        .stop_token = choice->stop_token,
    };
}

void sch_output_end(struct sch_choice *choice, enum sch_end end)
{
    FM_ASSERT(!choice->is_ended);
    const struct eng_piece *pieces = NULL;
    uint32_t count = 0;
    if (!is_given_up(end) && eng_parser_end(choice->parser) == ENG_END_NONE) {
        if (eng_parser_finish(choice->parser, &pieces, &count, NULL) != FM_OK ||
            !all_parsed_put(choice, pieces, count))
            end = SCH_END_FAILED;
    }
    choice->is_ended = true;
    choice->end = end;
    struct sch_piece piece = end_piece(choice);
    if (!put(choice->request, &piece, NULL))
        choice->end = SCH_END_FAILED; /* the backlog is full: close puts this END into the ring */
}

bool sch_output_is_complete(const struct sch_request *req)
{
    for (uint32_t i = 0; i < req->choice_count; i++)
        if (!req->choices[i].is_ended)
            return false;
    return true;
}

void sch_output_close(struct sch_request *req, enum sch_end end)
{
    fm_buf_clear(&req->backlog);
    req->backlog_taken = 0;
    for (uint32_t i = 0; i < req->choice_count; i++) {
        struct sch_choice *choice = &req->choices[i];
        if (!choice->is_end_delivered) { /* also one that has ended: its last text was dropped */
            choice->is_ended = true;
            choice->end = end;
            struct sch_piece piece = end_piece(choice);
            bool is_put = ring_put(req, &piece, NULL);
            FM_ASSERT(is_put); /* the room was kept */
        }
    }
    struct sch_piece done = {.kind = SCH_PIECE_DONE, .logprob = NAN};
    bool is_put = ring_put(req, &done, NULL);
    FM_ASSERT(is_put);
}

/* ---- tokens -------------------------------------------------------------------------------- */

static bool logprob_put(struct sch_request *req, struct sch_piece *piece,
                        const struct eng_drawn *drawn)
{
    piece->logprob = drawn != NULL ? drawn->logprob : NAN;
    piece->candidate_count = drawn != NULL ? drawn->candidate_count : 0;
    return put(req, piece, drawn != NULL ? drawn->candidates : NULL);
}

void sch_output_prompt(struct sch_request *req, uint32_t index, const struct eng_drawn *drawn)
{
    struct sch_piece piece = {.kind = SCH_PIECE_PROMPT, .token = req->prompt[index]};
    if (!logprob_put(req, &piece, drawn))
        for (uint32_t i = 0; i < req->choice_count; i++)
            if (!req->choices[i].is_ended)
                sch_output_end(&req->choices[i], SCH_END_FAILED);
}

static bool is_stop_token(const struct sch_request *req, uint32_t token)
{
    for (uint32_t i = 0; i < req->stop_token_count; i++)
        if (req->stop_tokens[i] == token)
            return true;
    return false;
}

/* What the parser's end means for the client, or SCH_END_COUNT to go on. */
static enum sch_end parsed_end(struct sch_choice *choice)
{
    switch (eng_parser_end(choice->parser)) {
    case ENG_END_BLOCK: /* may hold no call that is complete */
    case ENG_END_EOS:
        return eng_parser_stats(choice->parser)->complete_count > 0 ? SCH_END_TOOL_CALLS
                                                                    : SCH_END_STOP;
    case ENG_END_STOP:
        choice->stop_string = eng_parser_stop_index(choice->parser);
        return SCH_END_STOP;
    case ENG_END_NONE:
    case ENG_END_CUT: break;
    }
    return choice->generated_count == choice->request->tokens_max ? SCH_END_LENGTH : SCH_END_COUNT;
}

void sch_output_token(struct sch_choice *choice, const struct eng_drawn *drawn,
                      const struct eng_text *text)
{
    struct sch_request *req = choice->request;
    FM_ASSERT(!choice->is_ended);
    FM_ASSERT(choice->generated_count < req->tokens_max);
    FM_ASSERT(drawn->token < eng_text_info(text)->vocab_size);
    uint32_t token = eng_parser_replace(choice->parser, drawn->token);
    uint32_t position = choice->generated_count;
    choice->generated[choice->generated_count++] = token;

    struct sch_piece piece = {.kind = SCH_PIECE_TOKEN,
                              .choice = choice->index,
                              .token = token,
                              .token_first = position,
                              .token_end = position + 1};
    if (req->sampling.wants_logprob && !logprob_put(req, &piece, drawn)) {
        sch_output_end(choice, SCH_END_FAILED);
        return;
    }
    if (is_stop_token(req, token)) {
        choice->stop_token = token;
        sch_output_end(choice, SCH_END_STOP);
        return;
    }

    const struct eng_piece *pieces = NULL;
    uint32_t count = 0;
    enum sch_end end = SCH_END_FAILED;
    if (eng_parser_feed(choice->parser, token, &pieces, &count, NULL) == FM_OK &&
        all_parsed_put(choice, pieces, count))
        end = parsed_end(choice);
    if (end != SCH_END_COUNT)
        sch_output_end(choice, end);
}
