/* probe.h - what the parts of fathom-probe share. */
#ifndef TOOL_PROBE_H
#define TOOL_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"
#include "engine/tools/tensors.h"

enum { PROBE_CHUNKS_MAX = 64, PROBE_CHUNK_TOKENS_MAX = 1024, PROBE_INJECTIONS_MAX = 128 };

struct probe_injection {
    uint32_t layer; /* whose input is replaced */
    uint16_t *rows; /* bf16 [row_count, N, D] */
    uint32_t row_count;
};

struct probe {
    const char *model_dir, *out_path, *backend, *variant;
    uint32_t threads;
    bool wants_all, wants_ref, wants_draft, wants_check, wants_perplexity;
    uint32_t chunks[PROBE_CHUNKS_MAX]; /* used in order; the last one is repeated */
    uint32_t chunk_count;
    struct probe_injection injections[PROBE_INJECTIONS_MAX];
    uint32_t injection_count;

    uint32_t *ids; /* [count] */
    uint32_t count;
    uint32_t context; /* tokens of a segment: longer inputs are cut, each segment on its own */

    struct tool_tensors tensors; /* what is written to out_path */
    double nll_sum;              /* of tokens 1 .. of each segment */
    uint64_t nll_count;
};

/* Tokens of chunk `index`, at most `left`. */
uint32_t probe_chunk(const struct probe *probe, uint32_t index, uint32_t left);

/* Add -log softmax(logits)[token] to the sums. */
void probe_score(struct probe *probe, const float *logits, uint32_t vocab, uint32_t token);

/* Run ids[first .. first + count) as one sequence through a backend, or through engine/ref. */
enum fm_status probe_backend_open(struct probe *probe, struct fm_err *err) FM_MUST_CHECK;
enum fm_status probe_backend_run(struct probe *probe, uint32_t first, uint32_t count,
                                 struct fm_err *err) FM_MUST_CHECK;
void probe_backend_close(void);
enum fm_status probe_ref_open(struct probe *probe, struct fm_err *err) FM_MUST_CHECK;
enum fm_status probe_ref_run(struct probe *probe, uint32_t first, uint32_t count,
                             struct fm_err *err) FM_MUST_CHECK;
void probe_ref_close(void);

#endif
