/* mem.h - the allocator: can be made to fail, counts, and wipes on request.
 *
 * The only file that calls malloc.  Every allocation may fail; the caller answers with FM_NOMEM.
 * fm_fault_arm("alloc", n) makes the nth one fail (fault.h).  Any thread. */
#ifndef FM_MEM_H
#define FM_MEM_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory of `bytes` (0 gives a unique pointer), or NULL.  Free with fm_free. */
void *fm_alloc(size_t bytes) __attribute__((malloc));

/* Zeroed memory for `count` elements of `bytes` each; NULL also when the product overflows. */
void *fm_alloc_array(size_t count, size_t bytes) __attribute__((malloc));

/* As fm_alloc with the address a multiple of `alignment` (a power of two). */
void *fm_alloc_aligned(size_t alignment, size_t bytes) __attribute__((malloc));

/* Resize; the part beyond the old size is not zeroed.  NULL leaves the old block as it was. */
void *fm_realloc(void *block, size_t bytes);
void *fm_realloc_array(void *block, size_t count, size_t bytes);

/* A copy of the string, or of its first `bytes` with a NUL behind; NULL when memory is short. */
char *fm_strdup(const char *text);
char *fm_strndup(const char *text, size_t bytes);

/* NULL is allowed. */
void fm_free(void *block);

/* Overwrite with zeros in a way that the compiler keeps: prompts, completions, keys. */
void fm_wipe(void *block, size_t bytes);

#endif
