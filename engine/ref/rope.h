/* rope.h - rotation of the last dimensions of a vector by its position. */
#ifndef ENG_REF_ROPE_H
#define ENG_REF_ROPE_H

#include <stdbool.h>
#include <stdint.h>

/* Rotate, in place, the last rope_dim dims of `count` vectors of `dim` bf16 values, all at one
 * position.  Pair i is (x[dim - rope_dim + 2i], the one behind it):
 *
 *   angle = fl32( (float)position * inverse[i] ) ; sine, cosine of that float   (fm_rope_angle)
 *   a'    = bf( F(a, cosine, -(b * sine)) )
 *   b'    = bf( F(a, sine, b * cosine) )
 *
 * is_inverse negates the sine.  The other dims are not touched.
 *   inverse   [rope_dim / 2] fp32: hparams' inv_plain where the layer's ratio is 0 and in draft
 *             blocks, inv_yarn for everything in another layer.  Pure. */
void eng_ref_rope(uint16_t *x, uint32_t count, uint32_t dim, uint32_t rope_dim, uint32_t position,
                  const float *inverse, bool is_inverse);

#endif
