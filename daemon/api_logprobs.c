/* api_logprobs.c - log probabilities of tokens; see api_logprobs.h. */
#include "daemon/api_logprobs.h"

#include <math.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/utf8.h"
#include "daemon/json.h"

void api_logprobs_init(struct api_logprobs *list, bool is_legacy, size_t bytes_max)
{
    *list = (struct api_logprobs){.is_legacy = is_legacy};
    for (int i = 0; i < API_LOGPROBS_PARTS; i++)
        fm_buf_init(&list->parts[i], bytes_max);
}

void api_logprobs_done(struct api_logprobs *list)
{
    for (int i = 0; i < API_LOGPROBS_PARTS; i++)
        fm_buf_done(&list->parts[i]);
    list->count = 0;
}

void api_logprobs_clear(struct api_logprobs *list)
{
    for (int i = 0; i < API_LOGPROBS_PARTS; i++)
        fm_buf_clear(&list->parts[i]);
    list->count = 0;
}

bool api_logprobs_is_broken(const struct api_logprobs *list)
{
    bool is_broken = false;
    for (int i = 0; i < API_LOGPROBS_PARTS; i++)
        is_broken = is_broken || list->parts[i].is_broken;
    return is_broken;
}

void api_logprobs_copy(const struct api_logprobs *from, struct api_logprobs *to)
{
    if (from->count == 0)
        return;
    for (int i = 0; i < API_LOGPROBS_PARTS; i++) {
        if (to->count > 0 && from->parts[i].length > 0)
            fm_buf_putc(&to->parts[i], ',');
        fm_buf_put(&to->parts[i], from->parts[i].data, from->parts[i].length);
        to->parts[i].is_broken = to->parts[i].is_broken || from->parts[i].is_broken;
    }
    to->count += from->count;
}

void api_logprobs_move(struct api_logprobs *from, struct api_logprobs *to)
{
    api_logprobs_copy(from, to);
    api_logprobs_clear(from);
}

/* ---- one token ------------------------------------------------------------------------------- */

/* The token's bytes as a JSON string; what is not UTF-8 in them becomes U+FFFD. */
static void token_json(const struct eng_text *text, uint32_t id, struct fm_buf *out)
{
    struct eng_slice bytes = eng_text_token(text, id);
    if (fm_utf8_valid(bytes.data, bytes.length) == bytes.length) {
        srv_json_string(out, bytes.data, bytes.length);
        return;
    }
    struct fm_buf valid;
    struct eng_detok detok = {0};
    fm_buf_init(&valid, 3 * (bytes.length + 3));
    (void)eng_detok_feed(&detok, bytes.data, bytes.length, &valid);
    (void)eng_detok_flush(&detok, &valid);
    srv_json_string(out, valid.data, valid.length);
    out->is_broken = out->is_broken || valid.is_broken;
    fm_buf_done(&valid);
}

/* "token":...,"logprob":...,"bytes":[...] */
static void entry_json(const struct eng_text *text, uint32_t id, float logprob, struct fm_buf *out)
{
    struct eng_slice bytes = eng_text_token(text, id);
    fm_buf_puts(out, "\"token\":");
    token_json(text, id, out);
    fm_buf_puts(out, ",\"logprob\":");
    srv_json_logprob(out, logprob);
    fm_buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < bytes.length; i++) {
        if (i > 0)
            fm_buf_putc(out, ',');
        srv_json_u64(out, (unsigned char)bytes.data[i]);
    }
    fm_buf_putc(out, ']');
}

static void chat_add(struct fm_buf *out, const struct eng_text *text, const struct api_token *token)
{
    fm_buf_putc(out, '{');
    entry_json(text, token->id, token->logprob, out);
    fm_buf_puts(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < token->candidate_count; i++) {
        fm_buf_puts(out, i == 0 ? "{" : ",{");
        entry_json(text, token->candidates[i].token, token->candidates[i].logprob, out);
        fm_buf_putc(out, '}');
    }
    fm_buf_puts(out, "]}");
}

static bool texts_are_equal(const struct eng_text *text, uint32_t a, uint32_t b)
{
    struct eng_slice left = eng_text_token(text, a), right = eng_text_token(text, b);
    return left.length == right.length && memcmp(left.data, right.data, left.length) == 0;
}

/* {"text":logprob,...}: the candidates, and the token itself when it is not among them.  Of two
 * with the same text the first, which is the more likely one, stays. */
static void alternatives_json(const struct eng_text *text, const struct api_token *token,
                              struct fm_buf *out)
{
    if (isnan(token->logprob) || token->candidate_count == 0) {
        fm_buf_puts(out, "null");
        return;
    }
    fm_buf_putc(out, '{');
    for (uint32_t i = 0; i <= token->candidate_count; i++) {
        bool is_own = i == token->candidate_count;
        uint32_t id = is_own ? token->id : token->candidates[i].token;
        bool is_there = false;
        for (uint32_t j = 0; j < i && !is_there; j++)
            is_there = texts_are_equal(text, id, token->candidates[j].token);
        if (is_there)
            continue;
        if (i > 0)
            fm_buf_putc(out, ',');
        token_json(text, id, out);
        fm_buf_putc(out, ':');
        srv_json_logprob(out, is_own ? token->logprob : token->candidates[i].logprob);
    }
    fm_buf_putc(out, '}');
}

void api_logprobs_add(struct api_logprobs *list, const struct eng_text *text,
                      const struct api_token *token)
{
    uint32_t used = list->is_legacy ? API_LOGPROBS_PARTS : 1;
    for (uint32_t i = 0; i < used && list->count > 0; i++)
        fm_buf_putc(&list->parts[i], ',');
    list->count++;
    if (!list->is_legacy) {
        chat_add(&list->parts[0], text, token);
        return;
    }
    srv_json_u64(&list->parts[0], token->text_offset);
    if (isnan(token->logprob))
        fm_buf_puts(&list->parts[1], "null");
    else
        srv_json_logprob(&list->parts[1], token->logprob);
    token_json(text, token->id, &list->parts[2]);
    alternatives_json(text, token, &list->parts[3]);
}

static void array_json(struct fm_buf *out, const struct fm_buf *items)
{
    fm_buf_putc(out, '[');
    fm_buf_put(out, items->data, items->length);
    fm_buf_putc(out, ']');
}

void api_logprobs_json(const struct api_logprobs *list, struct fm_buf *out)
{
    static const char *const keys[API_LOGPROBS_PARTS] = {
        "{\"text_offset\":", ",\"token_logprobs\":", ",\"tokens\":", ",\"top_logprobs\":"};
    if (!list->is_legacy) {
        array_json(out, &list->parts[0]);
        return;
    }
    for (int i = 0; i < API_LOGPROBS_PARTS; i++) {
        fm_buf_puts(out, keys[i]);
        array_json(out, &list->parts[i]);
    }
    fm_buf_putc(out, '}');
}

static void ranked_json(const struct eng_text *text, uint32_t id, float logprob, uint32_t rank,
                        struct fm_buf *out)
{
    fm_buf_printf(out, "\"%u\":{\"logprob\":", id);
    srv_json_logprob(out, logprob);
    if (rank == 0)
        fm_buf_puts(out, ",\"rank\":null,\"decoded_token\":");
    else
        fm_buf_printf(out, ",\"rank\":%u,\"decoded_token\":", rank);
    token_json(text, id, out);
    fm_buf_putc(out, '}');
}

void api_prompt_logprob_json(const struct eng_text *text, const struct api_token *token,
                             struct fm_buf *out)
{
    if (isnan(token->logprob)) {
        fm_buf_puts(out, "null");
        return;
    }
    bool is_there = false;
    fm_buf_putc(out, '{');
    for (uint32_t i = 0; i < token->candidate_count; i++) {
        const struct eng_candidate *candidate = &token->candidates[i];
        is_there = is_there || candidate->token == token->id;
        if (i > 0)
            fm_buf_putc(out, ',');
        ranked_json(text, candidate->token, candidate->logprob, i + 1, out);
    }
    if (!is_there) {
        if (token->candidate_count > 0)
            fm_buf_putc(out, ',');
        ranked_json(text, token->id, token->logprob, 0, out); /* below the candidates */
    }
    fm_buf_putc(out, '}');
}

/* ---- characters ------------------------------------------------------------------------------ */

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

uint64_t api_token_characters(const struct eng_text *text, uint32_t id)
{
    if (eng_text_token_kind(text, id) != ENG_TOKEN_BYTES)
        return 0;
    struct eng_slice bytes = eng_text_token(text, id);
    uint64_t count = 0;
    for (size_t i = 0; i < bytes.length; i++)
        count += is_continuation(bytes.data[i]) ? 0 : 1;
    return count;
}

uint64_t api_token_offset(const struct eng_text *text, uint32_t id, uint64_t count)
{
    struct eng_slice bytes = eng_text_token(text, id);
    bool continues = eng_text_token_kind(text, id) == ENG_TOKEN_BYTES && bytes.length > 0 &&
                     is_continuation(bytes.data[0]);
    return continues && count > 0 ? count - 1 : count;
}
