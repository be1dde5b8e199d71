/* pretok.h - where the pre-tokenizer cuts a text into pieces that never merge with each other.
 *
 * The tokenizer states three regular expressions, applied one inside the other; this is one scanner
 * that gives the same pieces in one pass, without a regular expression engine. */
#ifndef ENG_PRETOK_H
#define ENG_PRETOK_H

#include <stddef.h>

/* The three patterns this scanner stands for, as they read after JSON decoding. */
extern const char *const eng_pretok_patterns[3];

/* The end of the piece that begins at `at`; at < the result <= length.  text[0 .. length) is valid
 * UTF-8, and `at` is 0 or the end of the piece before.  Pure; any thread.  Cost: the piece, and a
 * look at one run of white space or at one character behind it. */
size_t eng_pretok_next(const unsigned char *text, size_t length, size_t at);

#endif
