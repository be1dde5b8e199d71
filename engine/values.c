/* values.c - one loop per format, in blocks: the loop over a block only ORs, so that it vectorises;
 * a block that holds something bad is walked again for the place. */
#include "engine/values.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/checked.h"

enum { BLOCK_ELEMENTS = 4096 };

static bool e4m3_is_bad(uint8_t code)
{
    return (code & 0x7f) == 0x7f;
}

static bool e8m0_is_bad(uint8_t code)
{
    return code == 0 || code == 255;
}

static bool bf16_is_bad(uint16_t bits)
{
    return (bits & 0x7f80) == 0x7f80;
}

static bool f32_is_bad(uint32_t bits)
{
    return (bits & 0x7f800000) == 0x7f800000;
}

/* Sign, exponent 0 (zero, subnormal) or exponent 255. */
static bool f32_scale_is_bad(uint32_t bits)
{
    return bits < 0x00800000 || bits >= 0x7f800000;
}

static bool i64_is_bad(int64_t value, uint64_t limit)
{
    return (uint64_t)value >= limit;
}

/* The first bad element of count elements of one type at `bytes`, or count. */
#define BAD_FIND(type, is_bad)                                                                     \
    for (uint64_t first = 0; first < count; first += BLOCK_ELEMENTS) {                             \
        const uint64_t last = fm_min_u64(first + BLOCK_ELEMENTS, count);                           \
        unsigned any = 0;                                                                          \
        for (uint64_t i = first; i < last; i++) {                                                  \
            type element;                                                                          \
            memcpy(&element, bytes + i * sizeof element, sizeof element);                          \
            any |= (unsigned)(is_bad);                                                             \
        }                                                                                          \
        for (uint64_t i = first; any != 0 && i < last; i++) {                                      \
            type element;                                                                          \
            memcpy(&element, bytes + i * sizeof element, sizeof element);                          \
            if (is_bad)                                                                            \
                return i;                                                                          \
        }                                                                                          \
    }                                                                                              \
    return count

static uint64_t e4m3_find(const unsigned char *bytes, uint64_t count)
{
    BAD_FIND(uint8_t, e4m3_is_bad(element));
}

static uint64_t e8m0_find(const unsigned char *bytes, uint64_t count)
{
    BAD_FIND(uint8_t, e8m0_is_bad(element));
}

static uint64_t bf16_find(const unsigned char *bytes, uint64_t count)
{
    BAD_FIND(uint16_t, bf16_is_bad(element));
}

static uint64_t f32_find(const unsigned char *bytes, uint64_t count)
{
    BAD_FIND(uint32_t, f32_is_bad(element));
}

static uint64_t f32_scale_find(const unsigned char *bytes, uint64_t count)
{
    BAD_FIND(uint32_t, f32_scale_is_bad(element));
}

static uint64_t i64_find(const unsigned char *bytes, uint64_t count, uint64_t limit)
{
    BAD_FIND(int64_t, i64_is_bad(element, limit));
}

bool eng_values_bad(enum eng_dtype dtype, bool is_scale, uint64_t limit, const void *data,
                    size_t bytes, uint64_t *ret_index, char ret_text[ENG_VALUE_TEXT_BYTES])
{
    const unsigned char *at = data;
    uint64_t count, index;
    uint32_t bits;
    float real;
    int64_t whole;

    switch (dtype) {
    case ENG_DTYPE_F8_E4M3:
    case ENG_DTYPE_F8_E8M0:
        index = dtype == ENG_DTYPE_F8_E4M3 ? e4m3_find(at, bytes) : e8m0_find(at, bytes);
        if (index == bytes)
            return false;
        (void)snprintf(ret_text, ENG_VALUE_TEXT_BYTES, "code 0x%02x, %s", at[index],
                       at[index] == 0 ? "a scale below 2^-126" : "not a number");
        break;
    case ENG_DTYPE_BF16:
        count = bytes / 2;
        index = bf16_find(at, count);
        if (index == count)
            return false;
        bits = (uint32_t)(at[2 * index] | at[2 * index + 1] << 8) << 16;
        memcpy(&real, &bits, sizeof real);
        (void)snprintf(ret_text, ENG_VALUE_TEXT_BYTES, "%g", (double)real);
        break;
    case ENG_DTYPE_F32:
        count = bytes / 4;
        index = is_scale ? f32_scale_find(at, count) : f32_find(at, count);
        if (index == count)
            return false;
        memcpy(&real, at + 4 * index, sizeof real);
        (void)snprintf(ret_text, ENG_VALUE_TEXT_BYTES, "%g", (double)real);
        break;
    case ENG_DTYPE_I64:
        count = bytes / 8;
        index = i64_find(at, count, limit);
        if (index == count)
            return false;
        memcpy(&whole, at + 8 * index, sizeof whole);
        (void)snprintf(ret_text, ENG_VALUE_TEXT_BYTES, "%" PRId64, whole);
        break;
    default: return false;
    }
    *ret_index = index;
    return true;
}
