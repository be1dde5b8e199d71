/* values.h - does a run of stored elements hold a value that its format forbids?
 *
 * Serves weights.c.  Kernels decode by table and by exponent arithmetic and look at nothing: a NaN
 * code or a scale of 0 would go through them unseen, so it must not get in. */
#ifndef ENG_VALUES_H
#define ENG_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/safetensors.h"

enum { ENG_VALUE_TEXT_BYTES = 48 };

/* The first forbidden element of data[0 .. bytes), at any alignment:
 *   F32, BF16   infinity or NaN
 *   F8_E4M3     0x7f or 0xff, NaN
 *   F8_E8M0     0 (a subnormal) or 255 (NaN)
 *   F32 scale   also what is not above 0 or is subnormal
 *   I64         outside [0, limit)
 *   I8, others  nothing is forbidden
 * true: there is one, *ret_index elements behind `data`, ret_text says what it is.  Cost: a few
 * GB/s. */
bool eng_values_bad(enum eng_dtype dtype, bool is_scale, uint64_t limit, const void *data,
                    size_t bytes, uint64_t *ret_index, char ret_text[ENG_VALUE_TEXT_BYTES]);

#endif
