/* outlet.c - see outlet.h. */
#include "engine/outlet.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"

enum { OUTLET_BYTES_MAX = 16 << 20 }; /* of one feed; the parser's own limits are far below */

enum fm_status eng_outlet_init(struct eng_outlet *outlet, const struct eng_parser_spec *spec,
                               struct fm_err *err)
{
    size_t bytes = 0;
    *outlet = (struct eng_outlet){.channel = ENG_PIECE_CONTENT, .shows_stop = spec->shows_stop};
    fm_buf_init(&outlet->data, OUTLET_BYTES_MAX);
    fm_buf_init(&outlet->pending, OUTLET_BYTES_MAX);
    fm_buf_init(&outlet->tokens, OUTLET_BYTES_MAX * sizeof(uint32_t));
    if (spec->stop_count > ENG_STOPS_MAX)
        return FM_FAIL(err, FM_INVALID, "%u stop strings, at most %d", spec->stop_count,
                       ENG_STOPS_MAX);
    for (uint32_t i = 0; i < spec->stop_count; i++) {
        size_t length = spec->stops[i].length;
        if (length == 0 || length > ENG_STOP_BYTES_MAX)
            return FM_FAIL(err, FM_INVALID, "stop string %u has %zu bytes, 1 to %d are possible", i,
                           length, ENG_STOP_BYTES_MAX);
        bytes += length;
    }
    if (spec->stop_count == 0)
        return FM_OK;
    outlet->stop_bytes = fm_alloc(bytes);
    if (outlet->stop_bytes == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the stop strings");
    char *at = outlet->stop_bytes;
    for (uint32_t i = 0; i < spec->stop_count; i++) {
        struct eng_slice stop = spec->stops[i];
        memcpy(at, stop.data, stop.length);
        outlet->stops[i] = (struct eng_slice){at, stop.length};
        outlet->starts_a_stop[(uint8_t)*at] = true;
        if (stop.length > outlet->stop_bytes_max)
            outlet->stop_bytes_max = stop.length;
        at += stop.length;
    }
    outlet->stop_count = spec->stop_count;
    return FM_OK;
}

void eng_outlet_done(struct eng_outlet *outlet)
{
    fm_buf_done(&outlet->data);
    fm_buf_done(&outlet->pending);
    fm_buf_done(&outlet->tokens);
    fm_free(outlet->pieces);
    fm_free(outlet->stop_bytes);
    outlet->pieces = NULL;
    outlet->stop_bytes = NULL;
}

void eng_outlet_begin(struct eng_outlet *outlet)
{
    outlet->piece_count = 0;
    fm_buf_clear(&outlet->data);
}

/* ---- Pieces ---- */

static void piece_put(struct eng_outlet *outlet, const struct eng_piece *piece, const char *data)
{
    if (outlet->piece_count == outlet->piece_capacity) {
        uint32_t capacity = outlet->piece_capacity == 0 ? 4 : outlet->piece_capacity * 2;
        struct eng_piece *pieces = fm_realloc_array(outlet->pieces, capacity, sizeof pieces[0]);
        if (pieces == NULL) {
            outlet->status = FM_NOMEM;
            return;
        }
        outlet->pieces = pieces;
        outlet->piece_capacity = capacity;
    }
    if (!fm_buf_put(&outlet->data, data, piece->length)) {
        outlet->status = FM_NOMEM;
        return;
    }
    outlet->pieces[outlet->piece_count++] = *piece;
}

void eng_outlet_tool(struct eng_outlet *outlet, enum eng_piece_kind kind, uint32_t call_index,
                     const char *data, size_t length, uint32_t token)
{
    if (outlet->status != FM_OK)
        return;
    FM_ASSERT(outlet->pending.length == 0);
    struct eng_piece *last =
        outlet->piece_count != 0 ? &outlet->pieces[outlet->piece_count - 1] : NULL;
    if (kind == ENG_PIECE_TOOL_ARGS && last != NULL && last->kind == kind &&
        last->call_index == call_index) {
        if (!fm_buf_put(&outlet->data, data, length)) {
            outlet->status = FM_NOMEM;
            return;
        }
        last->length += length;
        last->token_end = token + 1;
        return;
    }
    const struct eng_piece piece = {.kind = kind,
                                    .call_index = call_index,
                                    .length = length,
                                    .token_first = token,
                                    .token_end = token + 1};
    piece_put(outlet, &piece, data);
}

void eng_outlet_seal(struct eng_outlet *outlet, const struct eng_piece **ret_pieces,
                     uint32_t *ret_count)
{
    const char *at = outlet->data.data != NULL ? outlet->data.data : "";
    for (uint32_t i = 0; i < outlet->piece_count; i++) {
        outlet->pieces[i].data = at;
        at += outlet->pieces[i].length;
    }
    *ret_pieces = outlet->pieces;
    *ret_count = outlet->piece_count;
}

/* ---- Text ---- */

static uint32_t token_at(const struct eng_outlet *outlet, size_t index)
{
    uint32_t token;
    memcpy(&token, outlet->tokens.data + index * sizeof token, sizeof token);
    return token;
}

/* The bytes that pending got since `from` have their tokens: the first old_count are of the token
 * that began a held character, the others of `token`. */
static void tokens_follow(struct eng_outlet *outlet, size_t from, size_t old_count, uint32_t token)
{
    for (size_t i = from; i < outlet->pending.length; i++) {
        uint32_t value = i - from < old_count ? outlet->detok_token : token;
        if (!fm_buf_put(&outlet->tokens, &value, sizeof value))
            outlet->status = FM_NOMEM;
    }
}

void eng_outlet_text(struct eng_outlet *outlet, enum eng_piece_kind channel, uint8_t byte,
                     uint32_t token)
{
    if (outlet->status != FM_OK || outlet->is_stopped)
        return;
    FM_ASSERT(outlet->channel == channel || outlet->pending.length == 0);
    outlet->channel = channel;
    size_t from = outlet->pending.length;
    bool was_held = outlet->detok.held_count != 0;
    if (!eng_detok_feed(&outlet->detok, &byte, 1, &outlet->pending))
        outlet->status = FM_NOMEM;
    size_t added = outlet->pending.length - from;
    bool is_complete = outlet->detok.held_count == 0 && byte >= 0x80 && added <= 4;
    /* a completed character began in the older token; U+FFFD for it is all of that token */
    tokens_follow(outlet, from, !was_held ? 0 : is_complete ? 1 : 3, token);
    if (outlet->detok.held_count == 1)
        outlet->detok_token = token;
}

/* Give out pending[0 .. length). */
static void release(struct eng_outlet *outlet, size_t length)
{
    if (length == 0 || outlet->status != FM_OK)
        return;
    const struct eng_piece piece = {.kind = outlet->channel,
                                    .length = length,
                                    .token_first = token_at(outlet, 0),
                                    .token_end = token_at(outlet, length - 1) + 1};
    piece_put(outlet, &piece, outlet->pending.data);
    fm_buf_drop(&outlet->pending, length);
    fm_buf_drop(&outlet->tokens, length * sizeof(uint32_t));
}

/* The earliest stop string in pending, of equal places the longest; false: there is none. */
static bool stop_find(const struct eng_outlet *outlet, size_t *ret_at, uint32_t *ret_index)
{
    const struct fm_buf *pending = &outlet->pending;
    for (size_t at = 0; at < pending->length; at++) {
        size_t best = 0;
        if (!outlet->starts_a_stop[(uint8_t)pending->data[at]])
            continue;
        for (uint32_t i = 0; i < outlet->stop_count; i++) {
            struct eng_slice stop = outlet->stops[i];
            if (stop.length > best && stop.length <= pending->length - at &&
                memcmp(pending->data + at, stop.data, stop.length) == 0) {
                best = stop.length;
                *ret_index = i;
            }
        }
        if (best != 0) {
            *ret_at = at;
            return true;
        }
    }
    return false;
}

/* The bytes at the end of pending that may be the beginning of a stop string. */
static size_t stop_held(const struct eng_outlet *outlet)
{
    const struct fm_buf *pending = &outlet->pending;
    size_t most = outlet->stop_bytes_max - 1;
    for (size_t held = pending->length < most ? pending->length : most; held > 0; held--) {
        const char *tail = pending->data + pending->length - held;
        if (!outlet->starts_a_stop[(uint8_t)*tail])
            continue;
        for (uint32_t i = 0; i < outlet->stop_count; i++) {
            if (outlet->stops[i].length > held && memcmp(tail, outlet->stops[i].data, held) == 0)
                return held;
        }
    }
    return 0;
}

void eng_outlet_settle(struct eng_outlet *outlet)
{
    size_t at;
    if (outlet->is_stopped || outlet->status != FM_OK)
        return;
    if (outlet->channel != ENG_PIECE_CONTENT || outlet->stop_count == 0) {
        release(outlet, outlet->pending.length);
    } else if (stop_find(outlet, &at, &outlet->stop_index)) {
        if (outlet->shows_stop)
            at += outlet->stops[outlet->stop_index].length;
        release(outlet, at);
        outlet->is_stopped = true;
        fm_buf_clear(&outlet->pending);
        fm_buf_clear(&outlet->tokens);
        outlet->detok = (struct eng_detok){0};
    } else {
        release(outlet, outlet->pending.length - stop_held(outlet));
    }
}

void eng_outlet_close_text(struct eng_outlet *outlet)
{
    if (outlet->is_stopped || outlet->status != FM_OK)
        return;
    size_t from = outlet->pending.length;
    if (!eng_detok_flush(&outlet->detok, &outlet->pending))
        outlet->status = FM_NOMEM;
    tokens_follow(outlet, from, 0, outlet->detok_token);
    eng_outlet_settle(outlet);
    if (!outlet->is_stopped)
        release(outlet, outlet->pending.length);
}
