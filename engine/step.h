/* step.h - a plan written down as a flat step block. */
#ifndef ENG_STEP_H
#define ENG_STEP_H

#include "engine/engine.h"

/* Bytes of the largest block that the limits allow. */
size_t eng_step_bytes_max(const struct be_limits *limits);

/* Write the plan's spans (at least one) into block [bytes_max], sealed.  Logit rows are numbered in
 * the order of spans and rows; *ret_logit_count of them.
 * FM_LIMIT names what exceeds the limits, FM_INVALID a span whose pages do not cover its rows; the
 * block is then undefined.  Pure. */
enum fm_status eng_step_build(const struct eng_plan *plan, const struct be_limits *limits,
                              uint32_t page_tokens, uint64_t number, struct be_step *block,
                              size_t bytes_max, uint32_t *ret_logit_count,
                              struct fm_err *err) FM_MUST_CHECK;

#endif
