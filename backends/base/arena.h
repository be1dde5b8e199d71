/* arena.h - many small things with one life: taken one by one, freed in one call.
 *
 * Born with a maximum; when that is reached, or memory is short, fm_arena_take answers NULL.
 * Owned by one thread at a time. */
#ifndef FM_ARENA_H
#define FM_ARENA_H

#include <stddef.h>

struct fm_arena {
    struct fm_arena_chunk *chunks; /* newest first */
    size_t bytes_taken;            /* chunk bytes, against bytes_max */
    size_t bytes_max;
};

/* An empty arena that will never hold more than bytes_max.  No allocation. */
void fm_arena_init(struct fm_arena *arena, size_t bytes_max);

/* Zeroed memory aligned for any type, or NULL.  Freed by fm_arena_done. */
void *fm_arena_take(struct fm_arena *arena, size_t bytes);
void *fm_arena_take_array(struct fm_arena *arena, size_t count, size_t bytes);

/* A NUL-terminated copy of text[0 .. bytes). */
char *fm_arena_copy(struct fm_arena *arena, const char *text, size_t bytes);

/* Wipe and free everything; the arena is empty afterwards and can be used again. */
void fm_arena_done(struct fm_arena *arena);

#endif
