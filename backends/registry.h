/* registry.h - the tables of the backends that are compiled in; each backend defines its own. */
#ifndef BE_REGISTRY_H
#define BE_REGISTRY_H

#include "backends/backend.h"

extern const struct be_ops be_cpu_ops; /* backends/cpu/cpu.c */

#endif
