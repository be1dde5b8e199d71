/* moe.c - router, experts, and their sum. */
#include "engine/ref/moe.h"

#include "backends/base/assert.h"
#include "backends/base/numeric.h"

void eng_ref_route(const struct eng_ref_route *route, const float *logits, uint32_t id,
                   float *scratch, uint32_t *ret_experts, float *ret_weights)
{
    float *s = scratch;
    FM_ASSERT(route->used > 0 && route->used <= route->expert_count);
    FM_ASSERT((route->bias == NULL) != (route->tid2eid == NULL));
    for (uint32_t e = 0; e < route->expert_count; e++)
        s[e] = __builtin_sqrtf(fm_softplus(logits[e]));

    for (uint32_t i = 0; i < route->used; i++) {
        if (route->tid2eid != NULL) {
            int64_t expert = route->tid2eid[(uint64_t)id * route->used + i];
            FM_ASSERT(expert >= 0 && expert < (int64_t)route->expert_count);
            ret_experts[i] = (uint32_t)expert;
            continue;
        }
        uint32_t best = route->expert_count;
        for (uint32_t e = 0; e < route->expert_count; e++) {
            bool is_taken = false;
            for (uint32_t j = 0; j < i; j++)
                is_taken = is_taken || ret_experts[j] == e;
            if (!is_taken && (best == route->expert_count ||
                              s[e] + route->bias[e] > s[best] + route->bias[best]))
                best = e;
        }
        ret_experts[i] = best;
    }

    float sum = s[ret_experts[0]];
    for (uint32_t i = 1; i < route->used; i++)
        sum = sum + s[ret_experts[i]];
    sum = sum == 0.0f ? 1.0f : sum;
    for (uint32_t i = 0; i < route->used; i++)
        ret_weights[i] = s[ret_experts[i]] / sum * route->route_scale;
}

void eng_ref_swiglu(const uint16_t *g, const uint16_t *u, uint32_t count, float limit,
                    const float *weight, uint16_t *ret_a)
{
    for (uint32_t i = 0; i < count; i++) {
        float up = fm_min_f32(fm_max_f32(fm_bf16_value(u[i]), -limit), limit);
        float gate = fm_min_f32(fm_bf16_value(g[i]), limit);
        float a = fm_silu(gate) * up;
        ret_a[i] = fm_bf16(weight != NULL ? a * *weight : a);
    }
}

void eng_ref_expert_order(const uint32_t *experts, uint32_t used, uint32_t *ret_order)
{
    for (uint32_t i = 0; i < used; i++) {
        uint32_t at = i;
        for (; at > 0 && experts[ret_order[at - 1]] > experts[i]; at--)
            ret_order[at] = ret_order[at - 1];
        ret_order[at] = i;
    }
}

void eng_ref_expert_sum(const uint32_t *experts, uint32_t used, const uint16_t *y,
                        const uint16_t *ys, uint32_t dim, uint16_t *ret_f)
{
    uint32_t order[ENG_EXPERTS_USED_MAX];
    FM_ASSERT(used <= ENG_EXPERTS_USED_MAX);
    eng_ref_expert_order(experts, used, order);
    for (uint32_t c = 0; c < dim; c++) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < used; i++)
            sum = sum + fm_bf16_value(y[(uint64_t)order[i] * dim + c]);
        ret_f[c] = fm_bf16(sum + fm_bf16_value(ys[c]));
    }
}
