/* permute.h - the same program in another legal order. */
#ifndef BE_CHECK_PERMUTE_H
#define BE_CHECK_PERMUTE_H

#include "backends/program.h"

/* A copy of the program whose operations stand in an order drawn from the seed among those that
 * its edges allow; seed 0 keeps the order.  Values and edges keep their meaning, so the copy passes
 * be_program_check when the program does.  Free with be_check_permute_free. */
enum fm_status be_check_permute(const struct be_program *program, uint64_t seed,
                                struct be_program **ret_copy, struct fm_err *err) FM_MUST_CHECK;

void be_check_permute_free(struct be_program *copy); /* NULL is allowed */

#endif
