/* team.h - threads that compute one body together, with barriers inside.
 *
 * The thread that calls cpu_team_run is member 0; the others wait between runs.  A wait spins for
 * a while and then parks in the kernel: inside a step the next phase is less than a microsecond
 * away, between steps it may be minutes.  How long a wait spins follows from how often spinning
 * was in vain, so that a machine with more threads than processors does not lose its time here.
 *
 * Invariants:
 *   1. `turn` moves by one when all members have arrived, and only then.
 *   2. What a member wrote before it arrived is seen by all members that left after it.
 * Owner: who made it; cpu_team_run is called by one thread at a time. */
#ifndef CPU_TEAM_H
#define CPU_TEAM_H

#include <stdint.h>

#include "backends/base/status.h"

enum { CPU_TEAM_MAX = 256 };

struct cpu_team; /* opaque: team.c */

typedef void (*cpu_team_body)(void *context, uint32_t member);

/* A team of member_count in [1, CPU_TEAM_MAX], which starts one thread less than that.
 * FM_NOMEM, FM_IO, FM_LIMIT (fm_thread_start). */
enum fm_status cpu_team_new(uint32_t member_count, struct cpu_team **ret_team,
                            struct fm_err *err) FM_MUST_CHECK;

/* Ends the threads.  Not during a run.  NULL is allowed. */
void cpu_team_free(struct cpu_team *team);

/* body(context, i) on every member i at once; returns when all have returned. */
void cpu_team_run(struct cpu_team *team, cpu_team_body body, void *context);

/* Inside a body, called by every member equally often: nobody goes on before all have come. */
void cpu_team_barrier(struct cpu_team *team);

uint32_t cpu_team_member_count(const struct cpu_team *team);

#endif
