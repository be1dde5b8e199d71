/* fuzz_parse.c - any bytes as a model's output: the pieces are valid text, complete calls have JSON
 * objects for arguments, and the answer is the same when each byte is a token of its own.
 *
 * Input: a byte of options, then text in which 0xfe stands for DSML, 0xfd for </think> and 0xfc for
 * <think>; the texts between are cut into tokens of up to 1 + options % 8 bytes. */
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/utf8.h"
#include "engine/bpe.h"
#include "engine/json.h"
#include "engine/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char tools_json[] =
    "[{\"function\":{\"name\":\"run\",\"parameters\":{\"properties\":{\"cmd\":{\"type\":"
    "\"string\"},\"n\":{\"type\":\"integer\"},\"ok\":{\"type\":[\"boolean\",\"null\"]}}}}}]";

static struct eng_text *text;
static struct eng_tools *tools;

/* All pieces one after the other, each run of a kind with its kind in front. */
struct answer {
    struct fm_buf bytes, call;
    int last_kind;
};

static void answer_add(struct answer *answer, const struct eng_piece *pieces, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct eng_piece *piece = &pieces[i];
        FM_ASSERT(fm_utf8_valid(piece->data, piece->length) == piece->length);
        if (answer->last_kind != (int)piece->kind)
            (void)fm_buf_putc(&answer->bytes, (char)('0' + piece->kind));
        answer->last_kind = (int)piece->kind;
        (void)fm_buf_put(&answer->bytes, piece->data, piece->length);
        if (piece->kind == ENG_PIECE_TOOL_BEGIN)
            fm_buf_clear(&answer->call);
        if (piece->kind == ENG_PIECE_TOOL_ARGS)
            (void)fm_buf_put(&answer->call, piece->data, piece->length);
        if (piece->kind == ENG_PIECE_TOOL_END)
            FM_ASSERT(eng_json_type((struct eng_slice){answer->call.data, answer->call.length}) ==
                      FM_JSON_OBJECT);
    }
}

static void parse(const uint8_t *data, size_t bytes, uint8_t options, size_t step,
                  struct answer *answer)
{
    const struct eng_text_info *info = eng_text_info(text);
    struct eng_parser_spec spec = {.text = text,
                                   .tools = (options & 8) == 0 ? tools : NULL,
                                   .start = (options & 16) != 0 ? ENG_CHANNEL_REASONING
                                                                : ENG_CHANNEL_CONTENT,
                                   .is_raw = (options & 32) != 0};
    struct eng_parser *parser;
    const struct eng_piece *pieces;
    uint32_t count;
    if (eng_parser_new(&spec, &parser, NULL) != FM_OK)
        abort();
    enum fm_status status = FM_OK;
    for (size_t at = 0; at < bytes && status == FM_OK;) {
        uint32_t ids[8];
        uint64_t dead[2];
        size_t length = 0, id_count = 1;
        while (at + length < bytes && length < step && data[at + length] < 0xfc)
            length++;
        if (length == 0) {
            ids[0] = data[at] == 0xfe   ? info->dsml
                     : data[at] == 0xfd ? info->think_end
                     : data[at] == 0xfc ? info->think_start
                                        : info->user;
            length = 1;
        } else {
            id_count = eng_bpe_encode(&text->vocab, data + at, length, ids, dead);
        }
        for (size_t i = 0; i < id_count && status == FM_OK; i++) {
            status = eng_parser_feed(parser, ids[i], &pieces, &count, NULL);
            if (status == FM_OK)
                answer_add(answer, pieces, count);
        }
        at += length;
    }
    if (status == FM_OK && (options & 64) != 0)
        status = eng_parser_feed(parser, info->eos, &pieces, &count, NULL);
    else if (status == FM_OK)
        status = eng_parser_finish(parser, &pieces, &count, NULL);
    if (status == FM_OK)
        answer_add(answer, pieces, count);
    FM_ASSERT(eng_parser_end(parser) != ENG_END_NONE);
    eng_parser_free(parser);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct answer answers[2] = {{.last_kind = -1}, {.last_kind = -1}};
    if (text == NULL && (eng_text_open("conf/model", NULL, &text, NULL) != FM_OK ||
                         eng_tools_new((struct eng_slice){tools_json, sizeof tools_json - 1}, 4,
                                       &tools, NULL) != FM_OK))
        abort();
    if (bytes == 0)
        return 0;
    for (int i = 0; i < 2; i++) {
        fm_buf_init(&answers[i].bytes, 1 << 26);
        fm_buf_init(&answers[i].call, 1 << 26);
        parse(data + 1, bytes - 1, data[0], i == 0 ? 1 : 1 + (size_t)data[0] % 8, &answers[i]);
    }
    FM_ASSERT(answers[0].bytes.length == answers[1].bytes.length);
    FM_ASSERT(answers[0].bytes.length == 0 ||
              memcmp(answers[0].bytes.data, answers[1].bytes.data, answers[0].bytes.length) == 0);
    for (int i = 0; i < 2; i++) {
        fm_buf_done(&answers[i].bytes);
        fm_buf_done(&answers[i].call);
    }
    return 0;
}
