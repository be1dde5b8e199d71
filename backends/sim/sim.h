/* sim.h - what a test may know of the simulated device: how histories become logits.
 *
 * The device computes no model.  The state of a token is a digest of all tokens up to it, and
 * logits are drawn from that digest: so a test can tell what a sequence must answer without any
 * cache, batch or chunk. */
#ifndef BE_SIM_H
#define BE_SIM_H

#include "backends/backend.h"

/* Digest before the first token. */
#define BE_SIM_ROOT UINT64_C(0x46617468)

/* Digest of the history that ends with `token` at `position`, from the digest before it. */
uint64_t be_sim_digest(uint64_t before, uint32_t token, uint32_t position);

/* ret_logits [vocab] behind the history with this digest: in [-4, 4).  Pure. */
void be_sim_logits(uint64_t digest, uint32_t vocab, float *ret_logits);

extern const struct be_ops be_sim_ops;

#endif
