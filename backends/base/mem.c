/* mem.c - the allocator over malloc; see mem.h. */
#include "backends/base/mem.h"

#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/fault.h"

void *fm_alloc(size_t bytes)
{
    if (fm_fault_hit("alloc"))
        return NULL;
    return calloc(1, bytes != 0 ? bytes : 1);
}

void *fm_alloc_array(size_t count, size_t bytes)
{
    size_t total;
    if (!fm_mul_size(count, bytes, &total))
        return NULL;
    return fm_alloc(total);
}

void *fm_alloc_aligned(size_t alignment, size_t bytes)
{
    FM_ASSERT((alignment & (alignment - 1)) == 0);
    if (fm_fault_hit("alloc"))
        return NULL;

    void *block = NULL;
    if (alignment < sizeof(void *))
        alignment = sizeof(void *);
    if (posix_memalign(&block, alignment, bytes != 0 ? bytes : 1) != 0)
        return NULL;
    memset(block, 0, bytes);
    return block;
}

void *fm_realloc(void *block, size_t bytes)
{
    if (fm_fault_hit("alloc"))
        return NULL;
    return realloc(block, bytes != 0 ? bytes : 1);
}

void *fm_realloc_array(void *block, size_t count, size_t bytes)
{
    size_t total;
    if (!fm_mul_size(count, bytes, &total))
        return NULL;
    return fm_realloc(block, total);
}

char *fm_strdup(const char *text)
{
    FM_ASSERT(text != NULL);
    return fm_strndup(text, strlen(text));
}

char *fm_strndup(const char *text, size_t bytes)
{
    FM_ASSERT(text != NULL);
    FM_ASSERT(bytes < SIZE_MAX);
    char *copy = fm_alloc(bytes + 1);
    if (copy != NULL)
        memcpy(copy, text, bytes);
    return copy;
}

void fm_free(void *block)
{
    free(block);
}

void fm_wipe(void *block, size_t bytes)
{
    if (bytes != 0)
        explicit_bzero(block, bytes);
}
