/* bpe.c - byte pair encoding without merging.
 *
 * Merging takes the lowest rank again and again, which needs a heap for long pieces.  But a sequence
 * of tokens is the encoding of its bytes exactly if every two neighbours stay as they are when
 * encoded together (eng_vocab_pair_stays), and the encoding of each prefix of a piece ends in one
 * certain token.  So: take the longest token at the cursor; if it cannot stand behind the one
 * before, take the next shorter; if none is left, no encoding has a border here (the place is dead)
 * and the token before was wrong too.  A place dies at most once, hence linear time. */
#include "engine/bpe.h"

#include "backends/base/assert.h"

size_t eng_bpe_encode(const struct eng_vocab *vocab, const unsigned char *piece, size_t length,
                      uint32_t *ids, uint64_t *dead)
{
    FM_ASSERT(length > 0);
    memset(dead, 0, ((length + 63) / 64 + 1) * sizeof dead[0]);
    size_t at = 0, count = 0;
    uint32_t id = eng_trie_longest(&vocab->trie, piece, length);
    for (;;) {
        size_t end = at + vocab->tokens[id].length;
        bool is_dead = (dead[end / 64] >> (end % 64) & 1) != 0;
        if (!is_dead &&
            (count == 0 || eng_vocab_pair_stays(vocab, ids[count - 1], id, ENG_VOCAB_NONE))) {
            ids[count++] = id;
            if (end == length)
                return count;
            at = end;
            id = eng_trie_longest(&vocab->trie, piece + at, length - at);
            continue;
        }
        id = vocab->tokens[id].prefix;
        while (id == ENG_VOCAB_NONE) {
            FM_ASSERT(count > 0); /* single bytes are always an encoding of the first byte */
            dead[at / 64] |= UINT64_C(1) << (at % 64);
            uint32_t before = ids[--count];
            at -= vocab->tokens[before].length;
            id = vocab->tokens[before].prefix;
        }
    }
}
