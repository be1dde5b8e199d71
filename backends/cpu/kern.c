/* kern.c - the table of a level. */
#include "backends/cpu/kern_tables.h"

#include "backends/base/assert.h"

const struct cpu_kern *cpu_kern_get(enum cpu_level level)
{
    switch (level) {
    case CPU_LEVEL_SCALAR: return cpu_kern_scalar();
    case CPU_LEVEL_NEON: return cpu_kern_neon();
    case CPU_LEVEL_AVX2: return cpu_kern_avx2();
    case CPU_LEVEL_AVX512: return cpu_kern_avx512();
    case CPU_LEVEL_COUNT: break;
    }
    FM_UNREACHABLE();
}
