/* sample.c - the next token of a sequence from its logits.
 *
 * A draw is a pure function of logits, settings and (seed, choice, position): nothing of it depends
 * on the batch, the machine or the time.  Probabilities are float32 through fm_exp, their sums
 * double in one fixed order; candidates are ordered by probability, ties by id.
 *
 * Only the head of the distribution is ever sorted: a heap over all candidates is built in O(V),
 * and as many are popped as top_k and top_p ask for. */
#include <math.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/engine.h"

static const float GREEDY_TEMPERATURE = 1e-5f; /* below it the division would only overflow */

static bool mask_allows(const uint64_t *mask, uint32_t token)
{
    return mask == NULL || (mask[token / 64] >> (token % 64) & 1) != 0;
}

/* ---- log probabilities --------------------------------------------------------------------- */

static float logits_max(const float *logits, uint32_t vocab)
{
    float max = -INFINITY;
    for (uint32_t t = 0; t < vocab; t++)
        max = logits[t] > max ? logits[t] : max;
    return max;
}

/* log sum over t of exp(logits[t]). */
static double log_total(const float *logits, uint32_t vocab)
{
    float max = logits_max(logits, vocab);
    double total = (double)fm_exp(logits[0] - max);
    for (uint32_t t = 1; t < vocab; t++)
        total += (double)fm_exp(logits[t] - max);
    FM_ASSERT(total >= 1); /* the largest logit adds exp(0) */
    return (double)max + log(total);
}

/* The k largest logits, largest first, ties to the lower id; k is small. */
static uint32_t candidates_find(const float *logits, uint32_t vocab, uint32_t k, double total,
                                struct eng_candidate *ret_candidates)
{
    uint32_t count = 0;
    for (uint32_t t = 0; t < vocab && k != 0; t++) {
        if (count == k && !(logits[t] > ret_candidates[k - 1].logprob))
            continue;
        uint32_t at = count < k ? count++ : k - 1;
        for (; at > 0 && logits[t] > ret_candidates[at - 1].logprob; at--)
            ret_candidates[at] = ret_candidates[at - 1];
        ret_candidates[at] = (struct eng_candidate){.token = t, .logprob = logits[t]};
    }
    for (uint32_t i = 0; i < count; i++)
        ret_candidates[i].logprob = (float)((double)ret_candidates[i].logprob - total);
    return count;
}

/* ---- what the settings make of the logits -------------------------------------------------- */

/* Penalties by how often a token was generated, and whether the prompt or the answer has it. */
static void penalties_apply(float *logits, uint32_t vocab, const struct eng_draw *draw,
                            uint32_t *counts)
{
    const struct eng_sampling *how = draw->sampling;
    const uint32_t in_prompt = UINT32_C(1) << 31;
    memset(counts, 0, vocab * sizeof *counts);
    for (uint32_t i = 0; i < draw->generated_count; i++)
        if (draw->generated[i] < vocab)
            counts[draw->generated[i]]++;
    for (uint32_t i = 0; i < draw->prompt_count; i++)
        if (draw->prompt[i] < vocab)
            counts[draw->prompt[i]] |= in_prompt;

    for (uint32_t t = 0; t < vocab; t++) {
        if (counts[t] == 0)
            continue;
        uint32_t generated = counts[t] & ~in_prompt;
        logits[t] = logits[t] > 0 ? logits[t] / how->repetition_penalty
                                  : logits[t] * how->repetition_penalty;
        if (generated != 0)
            logits[t] -= how->frequency_penalty * (float)generated + how->presence_penalty;
    }
}

/* Logits under masks, bias and penalties into `out`.  ids is scratch [vocab]. */
static void logits_prepare(const float *logits, uint32_t vocab, const struct eng_draw *draw,
                           bool with_masks, float *out, uint32_t *ids)
{
    const struct eng_sampling *how = draw->sampling;
    for (uint32_t t = 0; t < vocab; t++) {
        bool is_allowed =
            !with_masks || (mask_allows(draw->mask, t) && mask_allows(how->allowed, t));
        out[t] = is_allowed ? logits[t] : -INFINITY;
    }
    for (uint32_t i = 0; with_masks && i < draw->banned_count; i++)
        if (draw->banned[i] < vocab)
            out[draw->banned[i]] = -INFINITY;
    for (uint32_t i = 0; i < how->bias_count; i++) {
        FM_ASSERT(how->bias[i].token < vocab);
        out[how->bias[i].token] += how->bias[i].bias;
    }

    if (how->repetition_penalty != 1.0f || how->frequency_penalty != 0 ||
        how->presence_penalty != 0)
        penalties_apply(out, vocab, draw, ids);
}

static uint32_t argmax(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t t = 1; t < vocab; t++)
        if (logits[t] > logits[best])
            best = t;
    return best;
}

/* ---- a heap of ids, most probable first ---------------------------------------------------- */

static bool comes_before(const float *p, uint32_t a, uint32_t b)
{
    return p[a] > p[b] || (p[a] == p[b] && a < b);
}

static void heap_sink(uint32_t *heap, uint32_t count, uint32_t at, const float *p)
{
    uint32_t id = heap[at];
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && comes_before(p, heap[child + 1], heap[child]))
            child++;
        if (!comes_before(p, heap[child], id))
            break;
        heap[at] = heap[child];
    }
    heap[at] = id;
}

/* Move the first of heap[0 .. count) to heap[count - 1]. */
static uint32_t heap_pop(uint32_t *heap, uint32_t count, const float *p)
{
    uint32_t first = heap[0];
    heap[0] = heap[count - 1];
    heap[count - 1] = first;
    heap_sink(heap, count - 1, 0, p);
    return first;
}

/* Pop from the heap while top_k, top_p and min_p want more; the popped ids stand at the heap's end
 * in reverse order.  Returns how many. */
static uint32_t head_take(uint32_t *heap, uint32_t count, const float *p,
                          const struct eng_sampling *how)
{
    uint32_t k = how->top_k != 0 && how->top_k < count ? how->top_k : count;
    double total = 0;
    if (k < count) {
        /* top_p is a share of what top_k leaves, so the k are popped first. */
        for (uint32_t i = 0; i < k; i++)
            total += (double)p[heap_pop(heap, count - i, p)];
    } else {
        for (uint32_t i = 0; i < count; i++)
            total += (double)p[heap[i]];
    }

    double sum = 0, wanted = (double)how->top_p * total;
    float largest = 0;
    for (uint32_t i = 0; i < k; i++) {
        uint32_t id = k < count ? heap[count - 1 - i] : heap_pop(heap, count - i, p);
        if (i == 0)
            largest = p[id];
        if (i != 0 && (sum >= wanted || p[id] < how->min_p * largest))
            return i;
        sum += (double)p[id];
    }
    return k;
}

/* Draw from the scaled logits p [vocab], which become probabilities (not normalised). */
static uint32_t draw_one(float *p, uint32_t vocab, const struct eng_sampling *how, double unit,
                         uint32_t *ids)
{
    float max = logits_max(p, vocab);
    float scale = 1.0f / how->temperature;
    uint32_t count = 0;
    for (uint32_t t = 0; t < vocab; t++) {
        p[t] = fm_exp((p[t] - max) * scale);
        if (p[t] > 0)
            ids[count++] = t;
    }
    FM_ASSERT(count > 0);

    uint32_t first = 0; /* the choice is among ids[first .. count) */
    if (how->top_k != 0 || how->top_p < 1.0f || how->min_p > 0) {
        for (uint32_t i = count / 2; i > 0; i--)
            heap_sink(ids, count, i - 1, p);
        first = count - head_take(ids, count, p, how);
    }
    double total = 0, sum = 0;
    for (uint32_t i = count; i > first; i--)
        total += (double)p[ids[i - 1]];
    for (uint32_t i = count; i > first; i--) {
        sum += (double)p[ids[i - 1]];
        if (sum > unit * total)
            return ids[i - 1];
    }
    return ids[first]; /* unit * total rounded up to the whole sum: the last one */
}

void eng_sample(const float *logits, uint32_t vocab, const struct eng_draw *draw, float *scratch,
                uint32_t *scratch_ids, struct eng_drawn *ret_drawn)
{
    FM_ASSERT(vocab > 0);
    FM_ASSERT(draw->forced < (int64_t)vocab);
    const struct eng_sampling *how = draw->sampling;
    uint32_t token;

    if (draw->forced >= 0) {
        token = (uint32_t)draw->forced;
    } else {
        logits_prepare(logits, vocab, draw, true, scratch, scratch_ids);
        token = argmax(scratch, vocab);
        if (!(scratch[token] > -INFINITY)) {
            logits_prepare(logits, vocab, draw, false, scratch, scratch_ids);
            token = argmax(scratch, vocab);
        }
        if (how->temperature >= GREEDY_TEMPERATURE && how->top_p > 0) {
            double unit = fm_prng_unit(how->seed, draw->choice, draw->position);
            token = draw_one(scratch, vocab, how, unit, scratch_ids);
        }
    }

    ret_drawn->token = token;
    ret_drawn->logprob = 0;
    ret_drawn->candidate_count = 0;
    if (how->wants_logprob || how->logprob_count != 0) {
        FM_ASSERT(how->logprob_count <= ENG_LOGPROBS_MAX);
        double total = log_total(logits, vocab);
        ret_drawn->logprob = (float)((double)logits[token] - total);
        ret_drawn->candidate_count =
            candidates_find(logits, vocab, how->logprob_count, total, ret_drawn->candidates);
    }
}
