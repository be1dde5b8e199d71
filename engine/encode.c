/* encode.c - text to token ids: control names cut the text, the pre-tokenizer cuts the rest, and
 * each piece is a token or is made of some. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "backends/base/utf8.h"
#include "engine/bpe.h"
#include "engine/pretok.h"
#include "engine/tokenizer.h"

enum { SHORT_PIECE = 256 }; /* bytes; the scratch of longer ones comes from the allocator */

void eng_tokens_init(struct eng_tokens *tokens, uint32_t count_max)
{
    *tokens = (struct eng_tokens){.count_max = count_max};
}

void eng_tokens_done(struct eng_tokens *tokens)
{
    if (tokens->ids != NULL)
        fm_wipe(tokens->ids, tokens->capacity * sizeof tokens->ids[0]);
    fm_free(tokens->ids);
    eng_tokens_init(tokens, tokens->count_max);
}

/* Room for `count` more ids: FM_OK, FM_LIMIT, FM_NOMEM. */
static enum fm_status tokens_reserve(struct eng_tokens *tokens, size_t count, struct fm_err *err)
{
    FM_ASSERT(tokens->count <= tokens->count_max);
    if (count <= tokens->capacity - tokens->count)
        return FM_OK;
    if (count > tokens->count_max - tokens->count)
        return FM_FAIL(err, FM_LIMIT, "the text has more than %u tokens", tokens->count_max);

    size_t capacity = tokens->capacity < 64 ? 64 : (size_t)tokens->capacity * 2;
    if (capacity < tokens->count + count)
        capacity = tokens->count + count;
    if (capacity > tokens->count_max)
        capacity = tokens->count_max;
    uint32_t *ids = fm_alloc_array(capacity, sizeof ids[0]); /* not realloc: prompts are wiped */
    if (ids == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %zu tokens", capacity);
    if (tokens->ids != NULL) {
        memcpy(ids, tokens->ids, tokens->count * sizeof ids[0]);
        fm_wipe(tokens->ids, tokens->count * sizeof ids[0]);
        fm_free(tokens->ids);
    }
    tokens->ids = ids;
    tokens->capacity = (uint32_t)capacity;
    return FM_OK;
}

enum fm_status eng_tokens_put(struct eng_tokens *tokens, uint32_t id, struct fm_err *err)
{
    enum fm_status status = tokens_reserve(tokens, 1, err);
    if (status == FM_OK)
        tokens->ids[tokens->count++] = id;
    return status;
}

static enum fm_status tokens_append(struct eng_tokens *tokens, const uint32_t *ids, size_t count,
                                    struct fm_err *err)
{
    enum fm_status status = tokens_reserve(tokens, count, err);
    if (status != FM_OK)
        return status;
    memcpy(tokens->ids + tokens->count, ids, count * sizeof ids[0]);
    tokens->count += (uint32_t)count;
    return FM_OK;
}

/* A piece that is not one token. */
static enum fm_status piece_encode(const struct eng_text *text, const unsigned char *piece,
                                   size_t length, struct eng_tokens *tokens, struct fm_err *err)
{
    uint32_t short_ids[SHORT_PIECE];
    uint64_t short_dead[SHORT_PIECE / 64 + 1];
    if (length <= SHORT_PIECE) {
        size_t count = eng_bpe_encode(&text->vocab, piece, length, short_ids, short_dead);
        return tokens_append(tokens, short_ids, count, err);
    }
    enum fm_status status;
    uint32_t *ids = fm_alloc_array(length, sizeof ids[0]);
    uint64_t *dead = fm_alloc_array(length / 64 + 2, sizeof dead[0]);
    if (ids == NULL || dead == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory to encode a word of %zu bytes", length);
    } else {
        size_t count = eng_bpe_encode(&text->vocab, piece, length, ids, dead);
        status = tokens_append(tokens, ids, count, err);
        fm_wipe(ids, count * sizeof ids[0]);
    }
    fm_free(ids);
    fm_free(dead);
    return status;
}

static enum fm_status span_encode(const struct eng_text *text, const unsigned char *bytes,
                                  size_t length, struct eng_tokens *tokens, struct fm_err *err)
{
    size_t at = 0;
    while (at < length) {
        size_t end = eng_pretok_next(bytes, length, at);
        uint32_t id = eng_vocab_find(&text->vocab, bytes + at, end - at, length - at);
        enum fm_status status = FM_OK;
        if (id == ENG_VOCAB_NONE)
            status = piece_encode(text, bytes + at, end - at, tokens, err);
        else if (tokens->count < tokens->capacity)
            tokens->ids[tokens->count++] = id;
        else
            status = eng_tokens_put(tokens, id, err);
        if (status != FM_OK)
            return status;
        at = end;
    }
    return FM_OK;
}

/* Names of control tokens become the tokens: leftmost first, the longest of those that start there. */
static enum fm_status controls_encode(const struct eng_text *text, const unsigned char *bytes,
                                      size_t length, struct eng_tokens *tokens, struct fm_err *err)
{
    size_t span = 0, at = 0;
    while (at < length) {
        uint32_t id = eng_trie_longest(&text->control_trie, bytes + at, length - at);
        if (id == ENG_TRIE_NONE) {
            at++;
            continue;
        }
        enum fm_status status = span_encode(text, bytes + span, at - span, tokens, err);
        if (status == FM_OK)
            status = eng_tokens_put(tokens, id, err);
        if (status != FM_OK)
            return status;
        at += eng_text_control(text, id)->length;
        span = at;
    }
    return span_encode(text, bytes + span, length - span, tokens, err);
}

enum fm_status eng_encode(const struct eng_text *text, const char *bytes, size_t length,
                          enum eng_encode_flags flags, struct eng_tokens *tokens,
                          struct fm_err *err)
{
    FM_ASSERT(bytes != NULL || length == 0);
    size_t valid = fm_utf8_valid(bytes, length);
    if (valid != length)
        return FM_FAIL(err, FM_INVALID, "the text is not UTF-8 at byte %zu", valid);

    uint32_t count = tokens->count;
    const unsigned char *data = (const unsigned char *)bytes;
    enum fm_status status = (flags & ENG_ENCODE_CONTROL) != 0
                                ? controls_encode(text, data, length, tokens, err)
                                : span_encode(text, data, length, tokens, err);
    if (status != FM_OK)
        tokens->count = count;
    return status;
}

enum fm_status eng_encode_fim(const struct eng_text *text, struct eng_slice prefix,
                              struct eng_slice suffix, struct eng_tokens *tokens,
                              struct fm_err *err)
{
    const struct eng_text_info *info = &text->info;
    if (info->fim_begin == ENG_ID_NONE || info->fim_hole == ENG_ID_NONE ||
        info->fim_end == ENG_ID_NONE)
        return FM_FAIL(err, FM_UNSUPPORTED, "the model has no fill-in-the-middle tokens");

    uint32_t count = tokens->count;
    enum fm_status status = eng_tokens_put(tokens, info->bos, err);
    if (status == FM_OK)
        status = eng_tokens_put(tokens, info->fim_begin, err);
    if (status == FM_OK)
        status = eng_encode(text, prefix.data, prefix.length, ENG_ENCODE_TEXT, tokens, err);
    if (status == FM_OK)
        status = eng_tokens_put(tokens, info->fim_hole, err);
    if (status == FM_OK)
        status = eng_encode(text, suffix.data, suffix.length, ENG_ENCODE_TEXT, tokens, err);
    if (status == FM_OK)
        status = eng_tokens_put(tokens, info->fim_end, err);
    if (status != FM_OK)
        tokens->count = count;
    return status;
}
