/* fuzz_tokenizer_json.c - any bytes as a tokenizer.json: refused, or good for encoding. */
#include <stdlib.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "engine/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char sample[] = "abc abcabc 12 \xe4\xbd\xa0<think>";
    struct eng_text *text = fm_alloc(sizeof *text);
    struct fm_err err = {0};
    if (text == NULL)
        abort();
    eng_vocab_init(&text->vocab);
    if (eng_tokenizer_parse(text, (const char *)data, bytes, &err) == FM_OK) {
        struct eng_tokens tokens;
        eng_tokens_init(&tokens, 1 << 16);
        FM_ASSERT(eng_encode(text, sample, sizeof sample - 1, ENG_ENCODE_CONTROL, &tokens, &err) ==
                  FM_OK);
        eng_tokens_done(&tokens);
    } else {
        FM_ASSERT(err.text[0] != '\0');
    }
    eng_text_free(text);
    return 0;
}
