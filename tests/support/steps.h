/* steps.h - step blocks from a few numbers, for tests that play the engine. */
#ifndef TESTS_STEPS_H
#define TESTS_STEPS_H

#include "backends/program.h"

/* Rows of one sequence in a step. */
struct test_span {
    const uint32_t *tokens; /* [row_count] */
    uint32_t length_before, row_count;
    uint32_t logit_first; /* rows from here on have logits; row_count: none */
    uint32_t tail_slot;
    const uint32_t *g_pages, *s_pages; /* as struct be_seq wants them */
    uint32_t g_count, s_count;
};

/* A sealed block; free with fm_free.  Fails the test when memory is short. */
struct be_step *test_step_new(uint64_t number, const struct test_span *spans, uint32_t span_count);

#endif
