/* memory.c - anonymous mappings; see memory.h. */
#include "backends/cpu/memory.h"

#include <sys/mman.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/fault.h"

enum { PAGE_BYTES = 4096, HUGE_BYTES = 2 << 20 };

enum fm_status cpu_memory_take(size_t bytes, const char *what, struct cpu_memory *ret_memory,
                               struct fm_err *err)
{
    FM_ASSERT(ret_memory != NULL && ret_memory->data == NULL);
    size_t unit = bytes >= HUGE_BYTES ? HUGE_BYTES : PAGE_BYTES;
    void *data = MAP_FAILED;
    if (bytes < SIZE_MAX - unit && !fm_fault_hit("alloc")) {
        bytes = fm_align_up(bytes != 0 ? bytes : 1, unit);
        data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (data == MAP_FAILED)
        return FM_FAIL(err, FM_NOMEM, "no memory for %s: %zu bytes", what, bytes);
    if (unit == HUGE_BYTES)
        (void)madvise(data, bytes, MADV_HUGEPAGE); /* without it: slower, not wrong */
    ret_memory->data = data;
    ret_memory->bytes = bytes;
    return FM_OK;
}

void cpu_memory_give(struct cpu_memory *memory)
{
    if (memory->data == NULL)
        return;
    int failed = munmap(memory->data, memory->bytes);
    FM_ASSERT(failed == 0);
    *memory = (struct cpu_memory){0};
}
