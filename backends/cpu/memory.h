/* memory.h - large blocks that live as long as a device or a program.
 *
 * Zeroed, aligned to a page at least, and on huge pages where the kernel gives them: weights and
 * caches are read in long streams.  fm_fault_arm("alloc", n) fails these, too.  Any thread. */
#ifndef CPU_MEMORY_H
#define CPU_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "backends/base/status.h"

struct cpu_memory {
    uint8_t *data; /* NULL: nothing taken */
    size_t bytes;
};

/* FM_NOMEM.  `what` is for the message.  0 bytes are taken as one. */
enum fm_status cpu_memory_take(size_t bytes, const char *what, struct cpu_memory *ret_memory,
                               struct fm_err *err) FM_MUST_CHECK;

/* A block that was never taken is allowed. */
void cpu_memory_give(struct cpu_memory *memory);

#endif
