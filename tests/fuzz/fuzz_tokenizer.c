/* fuzz_tokenizer.c - any bytes as a text: refused where they are no UTF-8, else encoded and back. */
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/utf8.h"
#include "engine/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(const struct eng_text *text, const uint8_t *data, size_t bytes,
                  enum eng_encode_flags flags)
{
    struct eng_tokens tokens;
    struct fm_buf back;
    eng_tokens_init(&tokens, UINT32_MAX);
    fm_buf_init(&back, bytes + 1);
    enum fm_status status = eng_encode(text, (const char *)data, bytes, flags, &tokens, NULL);
    FM_ASSERT((status == FM_OK) == (fm_utf8_valid(data, bytes) == bytes));
    if (status == FM_OK) {
        FM_ASSERT(tokens.count <= bytes);
        FM_ASSERT(eng_decode(text, tokens.ids, tokens.count, &back, NULL) == FM_OK);
        FM_ASSERT(back.length == bytes && (bytes == 0 || memcmp(back.data, data, bytes) == 0));
    }
    for (uint32_t i = 0; i < tokens.count && flags == ENG_ENCODE_TEXT; i++)
        FM_ASSERT(eng_text_token_kind(text, tokens.ids[i]) == ENG_TOKEN_BYTES);
    eng_tokens_done(&tokens);
    fm_buf_done(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct eng_text *text; /* lives as long as the process */
    if (text == NULL && eng_text_open("conf/model", NULL, &text, NULL) != FM_OK)
        abort();
    check(text, data, bytes, ENG_ENCODE_TEXT);
    check(text, data, bytes, ENG_ENCODE_CONTROL);
    return 0;
}
