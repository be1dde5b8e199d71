/* checked.h - sizes and numbers that come from outside: products, sums, narrowing, text. */
#ifndef FM_CHECKED_H
#define FM_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/assert.h"

/* true and *ret_value = a * b (or a + b) when that fits; false, *ret_value untouched, when not. */
static inline bool fm_mul_size(size_t a, size_t b, size_t *ret_value)
{
    size_t value;
    if (__builtin_mul_overflow(a, b, &value))
        return false;
    *ret_value = value;
    return true;
}

static inline bool fm_add_size(size_t a, size_t b, size_t *ret_value)
{
    size_t value;
    if (__builtin_add_overflow(a, b, &value))
        return false;
    *ret_value = value;
    return true;
}

static inline bool fm_mul_u64(uint64_t a, uint64_t b, uint64_t *ret_value)
{
    uint64_t value;
    if (__builtin_mul_overflow(a, b, &value))
        return false;
    *ret_value = value;
    return true;
}

static inline bool fm_add_u64(uint64_t a, uint64_t b, uint64_t *ret_value)
{
    uint64_t value;
    if (__builtin_add_overflow(a, b, &value))
        return false;
    *ret_value = value;
    return true;
}

/* a / b, rounded up. */
static inline uint64_t fm_div_ceil(uint64_t a, uint64_t b)
{
    FM_ASSERT(b != 0);
    return a / b + (a % b != 0);
}

/* The smallest multiple of `unit` that is at least `value`; unit is a power of two. */
static inline size_t fm_align_up(size_t value, size_t unit)
{
    FM_ASSERT(unit != 0 && (unit & (unit - 1)) == 0);
    FM_ASSERT(value <= SIZE_MAX - (unit - 1));
    return (value + unit - 1) & ~(unit - 1);
}

/* Narrowing that our reasoning says is safe, and that aborts where the reasoning is wrong. */
static inline uint32_t fm_u32(uint64_t value)
{
    FM_ASSERT(value <= UINT32_MAX);
    return (uint32_t)value;
}

static inline uint64_t fm_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t fm_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline uint32_t fm_min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t fm_max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The whole of `text` as a number within [min, max]: decimal digits only (a leading '-' too for
 * f64, which also takes a fraction and an exponent).  false leaves *ret_value alone. */
bool fm_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value);
bool fm_parse_f64(const char *text, double min, double max, double *ret_value);

#endif
