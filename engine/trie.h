/* trie.h - the longest word of a set that a text begins with.
 *
 * Words are byte strings with a number each.  Nodes are numbers; the edges of all nodes lie in one
 * open-addressing table, so that a step costs one probe and building costs no sorting.  Built once,
 * then never written: any thread may look. */
#ifndef ENG_TRIE_H
#define ENG_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct eng_trie {
    uint64_t *slots;     /* parent << 40 | byte << 32 | child, ENG_TRIE_HAS_VALUE; 0: free */
    uint32_t *values;    /* [node_count] the word that ends here, or ENG_TRIE_NONE */
    uint32_t *parents;   /* [node_count] until eng_trie_seal */
    uint32_t *seconds;   /* [1 << 16] the lower half of a slot for two bytes, little endian; 0 */
    uint32_t slot_shift; /* a hash's top bits are the slot */
    uint32_t node_count, node_max;
};

#define ENG_TRIE_NONE UINT32_MAX
enum { ENG_TRIE_ROOT = 0, ENG_TRIE_NODES_MAX = 1 << 24 };
enum { ENG_TRIE_HAS_VALUE = 1 << 24 }; /* set by eng_trie_seal: values need no look on the way */

/* An empty trie for at most node_max nodes, the root included; false: no memory, or too many. */
bool eng_trie_init(struct eng_trie *trie, uint32_t node_max);
void eng_trie_done(struct eng_trie *trie);

/* Add bytes below a node (that of a word's beginning, or the root); the node where they end, which
 * gets the value.  ENG_TRIE_NONE: node_max is reached. */
uint32_t eng_trie_add(struct eng_trie *trie, uint32_t node, const unsigned char *bytes,
                      size_t length, uint32_t value);

/* The value of the nearest node above `node` that has one, or ENG_TRIE_NONE. */
uint32_t eng_trie_above(const struct eng_trie *trie, uint32_t node);

/* No more additions and no more eng_trie_above: gives back the memory that these need.  is_busy takes
 * 256 KiB instead, so that a look-up begins two steps down.  false: no memory. */
bool eng_trie_seal(struct eng_trie *trie, bool is_busy);

/* The lower half of the edge's slot, or 0 if there is no such edge. */
static inline uint32_t eng_trie_edge(const struct eng_trie *trie, uint32_t node, unsigned char byte)
{
    uint32_t key = node << 8 | byte;
    uint32_t mask = (UINT32_C(1) << (32 - trie->slot_shift)) - 1;
    uint32_t slot = key * UINT32_C(0x9e3779b1) >> trie->slot_shift;
    for (;; slot = (slot + 1) & mask) {
        uint64_t entry = trie->slots[slot];
        if (entry >> 32 == key || entry == 0)
            return (uint32_t)entry;
    }
}

/* The value of the longest word that text[0 .. length) begins with; ENG_TRIE_NONE: of none.  Only
 * of a sealed trie. */
static inline uint32_t eng_trie_longest(const struct eng_trie *trie, const unsigned char *text,
                                        size_t length)
{
    uint32_t edge = 0, word = 0;
    size_t i = 0;
    if (trie->seconds != NULL && length >= 2) {
        edge = trie->seconds[text[0] | (uint32_t)text[1] << 8];
        if ((edge & ENG_TRIE_HAS_VALUE) == 0) {
            word = eng_trie_edge(trie, ENG_TRIE_ROOT, text[0]);
            word = (word & ENG_TRIE_HAS_VALUE) != 0 ? word : 0;
        } else {
            word = edge;
        }
        i = edge != 0 ? 2 : length;
    }
    for (; i < length; i++) {
        edge = eng_trie_edge(trie, edge & (ENG_TRIE_NODES_MAX - 1), text[i]);
        if (edge == 0)
            break;
        if ((edge & ENG_TRIE_HAS_VALUE) != 0)
            word = edge;
    }
    return word != 0 ? trie->values[word & (ENG_TRIE_NODES_MAX - 1)] : ENG_TRIE_NONE;
}

#endif
