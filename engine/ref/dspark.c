/* dspark.c - the block drafter's proposal. */
#include "engine/ref/dspark.h"

#include "backends/base/assert.h"

void eng_ref_propose(const struct eng_ref_propose *propose, uint32_t next_id, float *scratch,
                     uint32_t *ret_tokens, float *ret_confidence, float *ret_logits)
{
    uint32_t dim = propose->dim, rank = propose->markov_w1.cols, vocab = propose->markov_w2.rows;
    float *joined = scratch, *emb = scratch + dim, *bias = emb + rank;
    struct eng_ref_input joined_input = {.values = joined, .stride = dim + rank};
    struct eng_ref_input emb_input = {.values = emb, .stride = rank};
    FM_ASSERT(propose->confidence.cols == dim + rank);

    uint32_t previous = next_id;
    for (uint32_t i = 0; i < propose->block; i++) {
        const float *base = propose->base + (uint64_t)i * vocab;
        float *logits = ret_logits + (uint64_t)i * vocab;
        eng_ref_widen(propose->hidden + (uint64_t)i * dim, dim, joined);
        for (uint32_t c = 0; c < rank; c++)
            emb[c] = eng_ref_weight_value(&propose->markov_w1, previous, c);
        eng_ref_linear(&propose->confidence, &joined_input, 1, &ret_confidence[i]);
        eng_ref_linear(&propose->markov_w2, &emb_input, 1, bias);
        previous = 0;
        for (uint32_t v = 0; v < vocab; v++) {
            logits[v] = base[v] + bias[v];
            previous = logits[v] > logits[previous] ? v : previous;
        }
        ret_tokens[i] = previous;
    }
}
