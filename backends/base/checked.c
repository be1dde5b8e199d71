/* checked.c - numbers in text. */
#include "backends/base/checked.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

bool fm_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value)
{
    FM_ASSERT(text != NULL);
    FM_ASSERT(min <= max);
    uint64_t value = 0;

    if (*text == '\0')
        return false;
    for (const char *at = text; *at != '\0'; at++) {
        if (*at < '0' || *at > '9')
            return false;
        if (!fm_mul_u64(value, 10, &value) || !fm_add_u64(value, (uint64_t)(*at - '0'), &value))
            return false;
    }
    if (value < min || value > max)
        return false;
    *ret_value = value;
    return true;
}

bool fm_parse_f64(const char *text, double min, double max, double *ret_value)
{
    FM_ASSERT(text != NULL);
    FM_ASSERT(min <= max);

    /* strtod also takes leading blanks, "nan", "inf" and hexadecimal: none of them is meant. */
    for (const char *at = text; *at != '\0'; at++) {
        bool is_digit = *at >= '0' && *at <= '9';
        if (!is_digit && *at != '-' && *at != '+' && *at != '.' && *at != 'e' && *at != 'E')
            return false;
    }
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || errno == ERANGE || !isfinite(value))
        return false;
    if (value < min || value > max)
        return false;
    *ret_value = value;
    return true;
}
