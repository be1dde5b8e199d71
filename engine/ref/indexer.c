/* indexer.c - which compressed entries a query of a CSA layer attends to. */
#include "engine/ref/indexer.h"

#include <math.h>
#include <stddef.h>

#include "backends/base/numeric.h"
#include "engine/ref/rope.h"

void eng_ref_index_query(const struct eng_ref_indexer *indexer, uint32_t position, float *scratch,
                         uint16_t *qi)
{
    eng_ref_rope(qi, indexer->heads, indexer->dim, indexer->rope_dim, position, indexer->inverse,
                 false);
    for (uint32_t h = 0; h < indexer->heads; h++) {
        fm_hadamard(qi + (uint64_t)h * indexer->dim, indexer->dim, scratch);
        fm_fp4_sim(qi + (uint64_t)h * indexer->dim, indexer->dim);
    }
}

void eng_ref_index_weights(const struct eng_ref_indexer *indexer, const float *weights,
                           float *ret_iw)
{
    float scale = (float)(1.0 / sqrt((double)indexer->dim * (double)indexer->heads));
    for (uint32_t h = 0; h < indexer->heads; h++)
        ret_iw[h] = fm_bf16_round(weights[h]) * scale;
}

static float dot(const uint16_t *a, const uint16_t *b, uint32_t dim)
{
    float acc = 0.0f;
    for (uint32_t at = 0; at < dim; at += FM_FP4_BLOCK) {
        float t = 0.0f;
        for (uint32_t i = at; i < at + FM_FP4_BLOCK; i++)
            t = fm_fma(fm_bf16_value(a[i]), fm_bf16_value(b[i]), t);
        acc = acc + t;
    }
    return acc;
}

void eng_ref_index_scores(const struct eng_ref_indexer *indexer, const uint16_t *qi,
                          const float *iw, const uint16_t *keys, uint32_t count,
                          uint16_t *ret_scores)
{
    for (uint32_t s = 0; s < count; s++) {
        const uint16_t *key = keys + (uint64_t)s * indexer->dim;
        float score = 0.0f;
        for (uint32_t h = 0; h < indexer->heads; h++) {
            float d = dot(qi + (uint64_t)h * indexer->dim, key, indexer->dim);
            score = fm_fma(iw[h], d > 0.0f ? d : 0.0f, score);
        }
        ret_scores[s] = fm_bf16(score);
    }
}

uint32_t eng_ref_index_select(const struct eng_ref_indexer *indexer, const uint16_t *scores,
                              uint32_t count, uint32_t *ret_selected)
{
    if (count <= indexer->topk) {
        for (uint32_t s = 0; s < count; s++)
            ret_selected[s] = s;
        return count;
    }
    /* the smallest key that is still chosen, from a count of the larger ones */
    uint32_t lowest = 0, highest = 0xffff;
    while (lowest < highest) {
        uint32_t middle = (lowest + highest) / 2, above = 0;
        for (uint32_t s = 0; s < count; s++)
            above += fm_bf16_key(scores[s]) > middle;
        if (above >= indexer->topk)
            lowest = middle + 1;
        else
            highest = middle;
    }
    uint32_t ties = indexer->topk, chosen = 0;
    for (uint32_t s = 0; s < count; s++)
        ties -= fm_bf16_key(scores[s]) > lowest;
    for (uint32_t s = 0; s < count; s++) {
        uint16_t key = fm_bf16_key(scores[s]);
        if (key > lowest || (key == lowest && ties > 0)) {
            ties -= key == lowest;
            ret_selected[chosen++] = s;
        }
    }
    return chosen;
}
