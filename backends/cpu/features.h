/* features.h - what this host offers: instruction levels, and how many threads may compute.
 *
 * Found at run time; nothing outside the kern_*.c files is compiled for more than the baseline.
 * Any thread. */
#ifndef CPU_FEATURES_H
#define CPU_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

/* Ascending: a host that has one has those of its architecture below it. */
enum cpu_level {
    CPU_LEVEL_SCALAR, /* x86-64 or armv8-a as it is */
    CPU_LEVEL_NEON,   /* aarch64 */
    CPU_LEVEL_AVX2,   /* AVX2, FMA, F16C */
    CPU_LEVEL_AVX512, /* F, BW, DQ, VL above AVX2 */
    CPU_LEVEL_COUNT,
};

/* "scalar", "neon", "avx2", "avx512". */
const char *cpu_level_name(enum cpu_level level);

/* Do processor and operating system (the state that XSAVE keeps) both offer the level? */
bool cpu_level_is_offered(enum cpu_level level);

/* The level to use: `variant`, or with NULL the environment's FATHOM_ISA, or else the highest that
 * is offered.  FM_UNSUPPORTED for a name that is unknown or a level that is not offered. */
enum fm_status cpu_level_choose(const char *variant, enum cpu_level *ret_level,
                                struct fm_err *err) FM_MUST_CHECK;

/* Threads that may compute at a time: one for each physical core among the processors that the
 * process may use, at most the quota of its control groups (rounded up), at least 1. */
uint32_t cpu_threads_allowed(void);

/* The part of it that reads control groups, below `root` ("/sys/fs/cgroup"), for a process whose
 * group is `group` ("/a/b"): the smallest quota of the group and those above it in whole
 * processors, rounded up; UINT32_MAX without one.  Reads version 2, else version 1. */
uint32_t cpu_cgroup_threads(const char *root, const char *group);

#endif
