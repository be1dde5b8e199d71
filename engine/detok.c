/* detok.c - bytes of tokens to valid UTF-8, as they come; see text.h.
 *
 * held[0 .. held_count) is always the valid beginning of a character of needed_count bytes.  A byte
 * that cannot continue it ends a maximal ill-formed part, which becomes one U+FFFD, and is looked at
 * again as a first byte. */
#include <string.h>

#include "backends/base/assert.h"
#include "engine/text.h"

static const char replacement[] = "\xef\xbf\xbd";

/* May `byte` be the second one behind `lead`? */
static bool is_second(uint8_t lead, uint8_t byte)
{
    switch (lead) {
    case 0xe0: return byte >= 0xa0 && byte <= 0xbf;
    case 0xed: return byte >= 0x80 && byte <= 0x9f;
    case 0xf0: return byte >= 0x90 && byte <= 0xbf;
    case 0xf4: return byte >= 0x80 && byte <= 0x8f;
    default: return byte >= 0x80 && byte <= 0xbf;
    }
}

static uint8_t bytes_needed(uint8_t lead)
{
    if (lead >= 0xc2 && lead <= 0xdf)
        return 2;
    if (lead >= 0xe0 && lead <= 0xef)
        return 3;
    return lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
}

static bool byte_feed(struct eng_detok *detok, uint8_t byte, struct fm_buf *out)
{
    bool is_good = true;
    if (detok->held_count != 0) {
        bool continues =
            detok->held_count == 1 ? is_second(detok->held[0], byte) : byte >= 0x80 && byte <= 0xbf;
        if (continues) {
            detok->held[detok->held_count++] = byte;
            if (detok->held_count < detok->needed_count)
                return true;
            is_good = fm_buf_put(out, detok->held, detok->held_count);
            detok->held_count = 0;
            return is_good;
        }
        detok->held_count = 0;
        is_good = fm_buf_puts(out, replacement);
    }
    if (byte < 0x80)
        return fm_buf_putc(out, (char)byte) && is_good;
    detok->needed_count = bytes_needed(byte);
    if (detok->needed_count == 0)
        return fm_buf_puts(out, replacement) && is_good;
    detok->held[0] = byte;
    detok->held_count = 1;
    return is_good;
}

bool eng_detok_feed(struct eng_detok *detok, const void *bytes, size_t length, struct fm_buf *out)
{
    const uint8_t *data = bytes;
    bool is_good = true;
    FM_ASSERT(detok->held_count < sizeof detok->held);
    for (size_t i = 0; i < length; i++)
        is_good = byte_feed(detok, data[i], out) && is_good;
    return is_good;
}

bool eng_detok_flush(struct eng_detok *detok, struct fm_buf *out)
{
    bool had_part = detok->held_count != 0;
    *detok = (struct eng_detok){0};
    return !had_part || fm_buf_puts(out, replacement);
}

enum fm_status eng_decode(const struct eng_text *text, const uint32_t *ids, uint32_t count,
                          struct fm_buf *out, struct fm_err *err)
{
    struct eng_detok detok = {0};
    bool is_good = true;
    for (uint32_t i = 0; i < count; i++) {
        struct eng_slice bytes = eng_text_token(text, ids[i]);
        if (bytes.length == 0)
            return FM_FAIL(err, FM_INVALID, "no token has the id %u", ids[i]);
        is_good = eng_detok_feed(&detok, bytes.data, bytes.length, out) && is_good;
    }
    if (!eng_detok_flush(&detok, out) || !is_good)
        return FM_FAIL(err, FM_LIMIT, "the text is longer than %zu bytes", out->bytes_max);
    return FM_OK;
}
