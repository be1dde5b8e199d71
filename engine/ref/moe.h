/* moe.h - router, experts, and their sum. */
#ifndef ENG_REF_MOE_H
#define ENG_REF_MOE_H

#include <stdint.h>

#include "engine/ref/linear.h"

struct eng_ref_route {
    uint32_t expert_count; /* E */
    uint32_t used;         /* K */
    float route_scale;
    const float *bias;      /* [E], or NULL in a hash layer */
    const int64_t *tid2eid; /* [V, K], or NULL */
};

/* ROUTE, one token.
 *
 *   s[e]   = sqrt( softplus(logits[e]) )                                (exact sqrt, fm_softplus)
 *   hash layer:  experts = tid2eid[id], in the table's order
 *   others:      the K largest of s[e] + bias[e] (one fp32 addition), in descending order, equal
 *                ones by ascending id
 *   sum    = s[experts[0]] + s[experts[1]] + ... ascending by slot from s[experts[0]]; 1 if it is 0
 *   weights[i] = (s[experts[i]] / sum) * route_scale
 *
 *   logits   [E] fp32: gate.weight x, unrounded
 *   scratch  [E] floats
 *   id       token id of the row, read in hash layers only */
void eng_ref_route(const struct eng_ref_route *route, const float *logits, uint32_t id,
                   float *scratch, uint32_t *ret_experts, float *ret_weights);

/* The middle of an expert, per element: g and u are bf(w1 xq) and bf(w3 xq).
 *
 *   u = min(max(u, -limit), limit);  g = min(g, limit)
 *   a = silu(g) * u                     silu(v) = v / (1 + exp(-v)); the product rounded to fp32
 *   a = a * weight                      routed experts only (has_weight)
 *   ret_a = bf(a)
 *
 * y_e = bf( w2 act_quant(a) ) follows as a linear.  ret_a may be g. */
void eng_ref_swiglu(const uint16_t *g, const uint16_t *u, uint32_t count, float limit,
                    const float *weight, uint16_t *ret_a);

/* The sum of EXPERTS, one token: f[c] = bf( ((+0 + y_0[c]) + y_1[c]) ... + ys[c] ) in fp32 over the
 * chosen experts by ascending expert id (equal ids, which a sound table has not, by slot), the
 * shared expert last.
 *   experts   [K] in slot order;  y [K, D] bf16 in slot order;  ys [D] bf16 */
void eng_ref_expert_sum(const uint32_t *experts, uint32_t used, const uint16_t *y,
                        const uint16_t *ys, uint32_t dim, uint16_t *ret_f);

/* Slots in the order of the sum: ret_order[0 .. used), a permutation. */
void eng_ref_expert_order(const uint32_t *experts, uint32_t used, uint32_t *ret_order);

#endif
