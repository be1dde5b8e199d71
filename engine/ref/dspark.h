/* dspark.h - the block drafter's own operations (the rest of a stage is an ordinary block).
 *
 * SPARK_CONTEXT, per position p: hidden = the taps of the target layers side by side, in the order
 * of dspark_target_layer, [targets * D] bf16;  m = eng_ref_rmsnorm(bf(main_proj act_quant(hidden)),
 * main_norm);  for every stage: kv = bf(wkv act_quant(m)), then eng_ref_kv_finish at p into the
 * stage's window.  m goes into wkv without attn_norm.
 *
 * SPARK_ATTEND after position p, block of B tokens at p+1 .. p+B: eng_ref_attend over the stage's
 * rows of positions [max(0, p-W+1), p] ascending, then ALL B block rows ascending (bidirectional);
 * block rows are not stored. */
#ifndef ENG_REF_DSPARK_H
#define ENG_REF_DSPARK_H

#include <stdint.h>

#include "engine/ref/linear.h"

/* SPARK_PROPOSE, greedy, over the block:
 *
 *   prev = next_id
 *   i ascending:  emb    = row prev of markov_w1
 *                 conf_i = eng_ref_linear of confidence [1, D + rho] over (h_i, emb), unquantised
 *                 logits = base_i[v] + (markov_w2 emb)[v]       one fp32 addition per v
 *                 prev = token_i = the v with the largest logit, the smallest among equal ones
 *
 *   base       [B, V] fp32: head . rmsnorm(h_i, norm)
 *   hidden     [B, D] bf16: h_i = hc_head(X_i), before the norm
 *   ret_logits [B, V] fp32: base plus the Markov bias (the proposal's distribution); may be base
 *   scratch    [D + rho + V] floats */
struct eng_ref_propose {
    struct eng_ref_weight markov_w1, markov_w2,
        confidence;      /* BF16 [V, rho], [V, rho], [1, D + rho] */
    uint32_t block, dim; /* B, D */
    const float *base;
    const uint16_t *hidden;
};
void eng_ref_propose(const struct eng_ref_propose *propose, uint32_t next_id, float *scratch,
                     uint32_t *ret_tokens, float *ret_confidence, float *ret_logits);

#endif
