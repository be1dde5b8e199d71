/* cpu.h - the table of the CPU backend, for the registry. */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "backends/backend.h"

extern const struct be_ops be_cpu_ops;

#endif
