/* pretok.c - the pre-tokenizer as a hand-written scanner; see pretok.h.
 *
 * The first pattern isolates runs of up to three digits, the second runs of CJK characters; what the
 * third one sees is therefore a *segment*: a longest run of characters that are no digits and that
 * are all CJK or all not.  A segment's end acts as the end of the text.  It is never computed: a
 * character of another segment just belongs to no run.  Within a segment the first rule that applies
 * decides (the names are those of the comments below):
 *
 *   A   an ASCII punctuation character and ASCII letters behind it
 *   B1  a run of letters and marks
 *   B2  one character that is no punctuation, symbol or newline, and such a run behind it
 *   C   a run of punctuation and symbols, with one blank before and newlines behind
 *   D   white space that holds a newline: up to its last newline
 *   E   white space: all of it at the end of a segment, else without its last character
 *   F   a single white space character
 *   gap consecutive characters where nothing else applies, as one piece */
#include "engine/pretok.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    LETTER = 1, /* letter or mark */
    PUNCT = 2,  /* punctuation or symbol */
    DIGIT = 4,
    SPACE = 8,
    NEWLINE = 16,
    CJK = 32, /* of the second pattern */
    ASCII_PUNCT = 64,
    ASCII_LETTER = 128,
};

#include "engine/pretok_table.inc"

const char *const eng_pretok_patterns[3] = {
    "\\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
};

/* One character: its class bits and its bytes.  At the end of the text: no bits, no bytes. */
struct mark {
    uint8_t bits;
    uint8_t bytes;
};

static inline struct mark mark_at(const unsigned char *text, size_t length, size_t at)
{
    if (at >= length)
        return (struct mark){0, 0};
    uint32_t lead = text[at];
    if (lead < 0x80)
        return (struct mark){class_bits[0][lead], 1};

    uint32_t code;
    uint8_t bytes;
    if (lead < 0xe0) {
        code = (lead & 0x1f) << 6 | (text[at + 1] & 0x3f);
        bytes = 2;
    } else if (lead < 0xf0) {
        code = (lead & 0x0f) << 12 | (uint32_t)(text[at + 1] & 0x3f) << 6 | (text[at + 2] & 0x3f);
        bytes = 3;
    } else {
        code = (lead & 0x07) << 18 | (uint32_t)(text[at + 1] & 0x3f) << 12 |
               (uint32_t)(text[at + 2] & 0x3f) << 6 | (text[at + 3] & 0x3f);
        bytes = 4;
    }
    return (struct mark){class_bits[class_block[code >> 8]][code & 0xff], bytes};
}

/* The end of the run of characters that have one of the bits in `wanted` and CJK or not as `cjk`. */
static inline size_t run_end(const unsigned char *text, size_t length, size_t at, uint8_t wanted,
                             uint8_t cjk)
{
    if (cjk == 0) {
        while (at < length && text[at] < 0x80 && (class_bits[0][text[at]] & wanted) != 0)
            at++;
        if (at >= length || text[at] < 0x80)
            return at;
    }
    for (;;) {
        struct mark mark = mark_at(text, length, at);
        if ((mark.bits & wanted) == 0 || (mark.bits & CJK) != cjk)
            return at;
        at += mark.bytes;
    }
}

static size_t digits_end(const unsigned char *text, size_t length, size_t at)
{
    for (int count = 0; count < 3; count++) {
        struct mark mark = mark_at(text, length, at);
        if ((mark.bits & DIGIT) == 0)
            break;
        at += mark.bytes;
    }
    return at;
}

/* Rules D, E and F; no white space is CJK. */
static size_t space_end(const unsigned char *text, size_t length, size_t at)
{
    size_t newline_end = 0, last_at = at, first_at = at;
    struct mark mark;
    while (((mark = mark_at(text, length, at)).bits & SPACE) != 0) {
        last_at = at;
        at += mark.bytes;
        if ((mark.bits & NEWLINE) != 0)
            newline_end = at;
    }
    if (newline_end != 0)
        return newline_end;
    bool at_segment_end = mark.bytes == 0 || (mark.bits & (DIGIT | CJK)) != 0;
    return at_segment_end || last_at == first_at ? at : last_at;
}

/* A character at `at` that starts no other piece, and those behind it of which the same is true. */
static size_t gap_end(const unsigned char *text, size_t length, size_t at, struct mark mark)
{
    uint8_t bits = mark.bits;
    for (;;) {
        at += mark.bytes;
        mark = mark_at(text, length, at);
        if (mark.bytes == 0 || mark.bits != bits)
            return at;
        struct mark behind = mark_at(text, length, at + mark.bytes);
        if ((behind.bits & LETTER) != 0 && (behind.bits & CJK) == (bits & CJK))
            return at; /* rule B2 */
    }
}

size_t eng_pretok_next(const unsigned char *text, size_t length, size_t at)
{
    struct mark mark = mark_at(text, length, at);
    uint8_t cjk = mark.bits & CJK;
    if ((mark.bits & LETTER) != 0) /* B1 */
        return run_end(text, length, at + mark.bytes, LETTER, cjk);
    if ((mark.bits & DIGIT) != 0)
        return digits_end(text, length, at);

    size_t behind_at = at + mark.bytes;
    struct mark behind = mark_at(text, length, behind_at);
    if ((mark.bits & PUNCT) != 0) {
        if ((mark.bits & ASCII_PUNCT) != 0 && (behind.bits & ASCII_LETTER) != 0) /* A */
            return run_end(text, length, behind_at + 1, ASCII_LETTER, 0);
        at = run_end(text, length, behind_at, PUNCT, cjk); /* C */
        return cjk != 0 ? at : run_end(text, length, at, NEWLINE, 0);
    }
    if ((behind.bits & CJK) == cjk) {
        if ((mark.bits & NEWLINE) == 0 && (behind.bits & LETTER) != 0) /* B2 */
            return run_end(text, length, behind_at + behind.bytes, LETTER, cjk);
        if (text[at] == ' ' && (behind.bits & PUNCT) != 0) { /* C */
            at = run_end(text, length, behind_at + behind.bytes, PUNCT, 0);
            return run_end(text, length, at, NEWLINE, 0);
        }
    }
    if ((mark.bits & SPACE) != 0)
        return space_end(text, length, at);
    return gap_end(text, length, at, mark);
}
