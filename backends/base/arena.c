/* arena.c - chunks that grow from 4 KiB, doubled; see arena.h. */
#include "backends/base/arena.h"

#include <stdalign.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"

enum { CHUNK_BYTES_MIN = 4096, CHUNK_BYTES_MAX = 1 << 20 };

struct fm_arena_chunk {
    struct fm_arena_chunk *next;
    size_t bytes, used;
    alignas(max_align_t) unsigned char data[];
};

void fm_arena_init(struct fm_arena *arena, size_t bytes_max)
{
    *arena = (struct fm_arena){.bytes_max = bytes_max};
}

static struct fm_arena_chunk *chunk_new(struct fm_arena *arena, size_t bytes_min)
{
    size_t bytes = arena->chunks == NULL ? CHUNK_BYTES_MIN : arena->chunks->bytes * 2;
    if (bytes > CHUNK_BYTES_MAX)
        bytes = CHUNK_BYTES_MAX;
    if (bytes < bytes_min)
        bytes = bytes_min;

    size_t left = arena->bytes_max - arena->bytes_taken;
    if (bytes > left)
        bytes = left;
    size_t total;
    if (bytes < bytes_min || !fm_add_size(bytes, sizeof(struct fm_arena_chunk), &total))
        return NULL;

    struct fm_arena_chunk *chunk = fm_alloc(total);
    if (chunk == NULL)
        return NULL;
    chunk->bytes = bytes;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    arena->bytes_taken += bytes;
    FM_ASSERT(arena->bytes_taken <= arena->bytes_max);
    return chunk;
}

void *fm_arena_take(struct fm_arena *arena, size_t bytes)
{
    if (bytes > arena->bytes_max)
        return NULL;
    bytes = fm_align_up(bytes != 0 ? bytes : 1, alignof(max_align_t));

    struct fm_arena_chunk *chunk = arena->chunks;
    if (chunk == NULL || chunk->bytes - chunk->used < bytes) {
        chunk = chunk_new(arena, bytes);
        if (chunk == NULL)
            return NULL;
    }
    void *block = chunk->data + chunk->used;
    chunk->used += bytes;
    FM_ASSERT(chunk->used <= chunk->bytes);
    return block;
}

void *fm_arena_take_array(struct fm_arena *arena, size_t count, size_t bytes)
{
    size_t total;
    if (!fm_mul_size(count, bytes, &total))
        return NULL;
    return fm_arena_take(arena, total);
}

char *fm_arena_copy(struct fm_arena *arena, const char *text, size_t bytes)
{
    FM_ASSERT(text != NULL || bytes == 0);
    if (bytes == SIZE_MAX)
        return NULL;
    char *copy = fm_arena_take(arena, bytes + 1);
    if (copy != NULL && bytes != 0)
        memcpy(copy, text, bytes);
    return copy;
}

void fm_arena_done(struct fm_arena *arena)
{
    while (arena->chunks != NULL) {
        struct fm_arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        fm_wipe(chunk->data, chunk->used);
        fm_free(chunk);
    }
    arena->bytes_taken = 0;
}
