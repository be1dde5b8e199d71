/* trie.c - building; see trie.h. */
#include "engine/trie.h"

#include "backends/base/assert.h"
#include "backends/base/mem.h"

static uint32_t node_new(struct eng_trie *trie, uint32_t parent)
{
    FM_ASSERT(trie->node_count < trie->node_max);
    uint32_t node = trie->node_count++;
    trie->values[node] = ENG_TRIE_NONE;
    trie->parents[node] = parent;
    return node;
}

bool eng_trie_init(struct eng_trie *trie, uint32_t node_max)
{
    *trie = (struct eng_trie){.node_max = node_max};
    if (node_max == 0 || node_max > ENG_TRIE_NODES_MAX)
        return false;
    uint32_t bits = 4;
    while (UINT32_C(1) << bits < node_max + node_max / 2)
        bits++;
    trie->slot_shift = 32 - bits;
    trie->slots = fm_alloc_array((size_t)1 << bits, sizeof trie->slots[0]);
    trie->values = fm_alloc_array(node_max, sizeof trie->values[0]);
    trie->parents = fm_alloc_array(node_max, sizeof trie->parents[0]);
    if (trie->slots == NULL || trie->values == NULL || trie->parents == NULL) {
        eng_trie_done(trie);
        return false;
    }
    (void)node_new(trie, ENG_TRIE_NONE);
    return true;
}

void eng_trie_done(struct eng_trie *trie)
{
    fm_free(trie->slots);
    fm_free(trie->values);
    fm_free(trie->parents);
    fm_free(trie->seconds);
    *trie = (struct eng_trie){0};
}

static void edge_put(struct eng_trie *trie, uint32_t node, unsigned char byte, uint32_t child)
{
    uint32_t key = node << 8 | byte;
    uint32_t mask = (UINT32_C(1) << (32 - trie->slot_shift)) - 1;
    uint32_t slot = key * UINT32_C(0x9e3779b1) >> trie->slot_shift;
    while (trie->slots[slot] != 0)
        slot = (slot + 1) & mask;
    trie->slots[slot] = (uint64_t)key << 32 | child;
}

uint32_t eng_trie_add(struct eng_trie *trie, uint32_t node, const unsigned char *bytes,
                      size_t length, uint32_t value)
{
    FM_ASSERT(node < trie->node_count && trie->parents != NULL);
    for (size_t i = 0; i < length; i++) {
        uint32_t child = eng_trie_edge(trie, node, bytes[i]); /* no flags before the seal */
        if (child == 0) {
            if (trie->node_count == trie->node_max)
                return ENG_TRIE_NONE;
            child = node_new(trie, node);
            edge_put(trie, node, bytes[i], child);
        }
        node = child;
    }
    trie->values[node] = value;
    return node;
}

uint32_t eng_trie_above(const struct eng_trie *trie, uint32_t node)
{
    FM_ASSERT(node < trie->node_count && trie->parents != NULL);
    while (node != ENG_TRIE_ROOT) {
        node = trie->parents[node];
        if (trie->values[node] != ENG_TRIE_NONE)
            return trie->values[node];
    }
    return ENG_TRIE_NONE;
}

bool eng_trie_seal(struct eng_trie *trie, bool is_busy)
{
    size_t slot_count = (size_t)1 << (32 - trie->slot_shift);
    fm_free(trie->parents);
    trie->parents = NULL;
    for (size_t i = 0; i < slot_count; i++) {
        if (trie->slots[i] != 0 && trie->values[(uint32_t)trie->slots[i]] != ENG_TRIE_NONE)
            trie->slots[i] |= ENG_TRIE_HAS_VALUE;
    }
    if (!is_busy)
        return true;
    trie->seconds = fm_alloc_array(1 << 16, sizeof trie->seconds[0]);
    for (uint32_t pair = 0; trie->seconds != NULL && pair < 1 << 16; pair++) {
        uint32_t edge = eng_trie_edge(trie, ENG_TRIE_ROOT, (unsigned char)pair);
        if (edge != 0)
            trie->seconds[pair] =
                eng_trie_edge(trie, edge & (ENG_TRIE_NODES_MAX - 1), (unsigned char)(pair >> 8));
    }
    return trie->seconds != NULL;
}
