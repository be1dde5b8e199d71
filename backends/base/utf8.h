/* utf8.h - UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing above 10FFFF. */
#ifndef FM_UTF8_H
#define FM_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The length of the longest prefix of data[0 .. length) that is valid; length when all of it is.
 * Any thread. */
size_t fm_utf8_valid(const void *data, size_t length);

/* Write the UTF-8 form of a code point (not a surrogate, at most 0x10ffff); returns its length. */
size_t fm_utf8_put(uint32_t code, char ret_bytes[4]);

#endif
