/* kern_tables.h - the tables of the levels, NULL where the compiler's target has no such level.
 * For kern.c, which chooses. */
#ifndef CPU_KERN_TABLES_H
#define CPU_KERN_TABLES_H

#include "backends/cpu/kern.h"

const struct cpu_kern *cpu_kern_scalar(void);
const struct cpu_kern *cpu_kern_neon(void);
const struct cpu_kern *cpu_kern_avx2(void);
const struct cpu_kern *cpu_kern_avx512(void);

#endif
