/* vocab.h - the tokens of a byte-level BPE vocabulary: their bytes, and how they come to be.
 *
 * Filled in this order, then never written: eng_vocab_add for every token, eng_vocab_merge for every
 * merge in the order of its rank, eng_vocab_seal.  Any thread may look afterwards.
 *
 * Invariants once sealed:
 *   1. Every byte is a token; the ids of these 256 lie below those of all merged tokens.
 *   2. A merged token has exactly one merge, and later merges have higher ids: an id is its rank.
 *   3. The encoding of a token's own bytes is that token alone.  So a piece that is a token needs
 *      no merging. */
#ifndef ENG_VOCAB_H
#define ENG_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "backends/base/status.h"
#include "engine/trie.h"

#define ENG_VOCAB_NONE UINT32_MAX /* no token; above every id, so that it ranks last */

enum {
    ENG_VOCAB_IDS_MAX = 1 << 20,
    ENG_VOCAB_TOKEN_BYTES_MAX = 4096,
    ENG_VOCAB_PAIR_BITS = 21, /* 256 KiB: most pairs have no merge, and are told here */
};

struct eng_vocab_token {
    uint32_t offset;      /* into bytes */
    uint32_t length;      /* 0: no such token, or one that is not text */
    uint32_t left, right; /* what it is merged from; a byte: itself */
    uint32_t prefix;      /* the longest token that is a proper prefix of this one */
};

struct eng_vocab_piece {
    uint64_t key; /* the bytes of a token of at most 8, else a hash of them */
    uint32_t id;
    uint32_t length; /* 0: free */
};

struct eng_vocab {
    struct eng_vocab_token *tokens; /* [id_count] */
    uint32_t id_count, token_count, id_capacity;
    unsigned char *bytes;
    size_t byte_count, byte_capacity;
    struct eng_vocab_piece *pieces; /* by their bytes */
    uint64_t *pairs;                /* left << 40 | right << 20 | merged; 0: free */
    uint64_t *pair_bits;            /* a set bit for each pair's hash */
    uint32_t piece_shift, pair_shift;
    uint32_t merge_count, merge_last;
    uint32_t byte_ids[256];
    struct eng_trie trie; /* all tokens */
};

void eng_vocab_init(struct eng_vocab *vocab);
void eng_vocab_done(struct eng_vocab *vocab);

/* FM_OK; FM_INVALID: an id twice or out of range, a token empty or too long; FM_NOMEM. */
enum fm_status eng_vocab_add(struct eng_vocab *vocab, uint32_t id, const unsigned char *bytes,
                             size_t length, struct fm_err *err) FM_MUST_CHECK;

/* All tokens are there; find them by their bytes from here on.  FM_INVALID: two are equal, or a byte
 * has no token. */
enum fm_status eng_vocab_index(struct eng_vocab *vocab, uint32_t merge_count,
                               struct fm_err *err) FM_MUST_CHECK;

/* The next merge.  FM_INVALID: a part or the result is no token; FM_UNSUPPORTED: breaks 1 or 2. */
enum fm_status eng_vocab_merge(struct eng_vocab *vocab, const unsigned char *left,
                               size_t left_length, const unsigned char *right, size_t right_length,
                               struct fm_err *err) FM_MUST_CHECK;

/* Check the invariants and build what encoding needs. */
enum fm_status eng_vocab_seal(struct eng_vocab *vocab, struct fm_err *err) FM_MUST_CHECK;

/* The merge of two neighbours, or ENG_VOCAB_NONE. */
static inline uint32_t eng_vocab_merged(const struct eng_vocab *vocab, uint32_t left,
                                        uint32_t right)
{
    uint64_t key = (uint64_t)left << 20 | right;
    uint32_t mask = (UINT32_C(1) << (32 - vocab->pair_shift)) - 1;
    uint32_t hash = (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    uint32_t bit = hash >> (32 - ENG_VOCAB_PAIR_BITS), slot = hash >> vocab->pair_shift;
    if ((vocab->pair_bits[bit / 64] >> (bit % 64) & 1) == 0)
        return ENG_VOCAB_NONE;
    for (;; slot = (slot + 1) & mask) {
        uint64_t entry = vocab->pairs[slot];
        if (entry >> 20 == key && entry != 0)
            return (uint32_t)entry & (ENG_VOCAB_IDS_MAX - 1);
        if (entry == 0)
            return ENG_VOCAB_NONE;
    }
}

/* What stands for the bytes in the table of pieces.  `room` bytes may be read at `bytes`: 8 of them
 * make a short token quicker.  length > 0. */
static inline uint64_t eng_vocab_piece_key(const unsigned char *bytes, size_t length, size_t room)
{
    uint64_t key = 0, word;
    if (length <= 8) {
        if (room < 8) {
            memcpy(&key, bytes, length);
            return key;
        }
        memcpy(&key, bytes, 8);
        return key & UINT64_MAX >> (64 - 8 * length); /* little endian: the first bytes */
    }
    for (size_t at = 0; at + 8 < length; at += 8) {
        memcpy(&word, bytes + at, 8);
        key = (key ^ word) * UINT64_C(0xd6e8feb86659fd93);
        key ^= key >> 32;
    }
    memcpy(&word, bytes + length - 8, 8);
    return (key ^ word) * UINT64_C(0xd6e8feb86659fd93);
}

static inline uint32_t eng_vocab_piece_slot(const struct eng_vocab *vocab, uint64_t key,
                                            size_t length)
{
    uint64_t hash = (key ^ (uint64_t)length << 59) * UINT64_C(0x9e3779b97f4a7c15);
    hash = (hash ^ hash >> 32) * UINT64_C(0xd6e8feb86659fd93);
    return (uint32_t)(hash >> 32) >> vocab->piece_shift;
}

/* The token with exactly these bytes, or ENG_VOCAB_NONE; length and room as above. */
static inline uint32_t eng_vocab_find(const struct eng_vocab *vocab, const unsigned char *bytes,
                                      size_t length, size_t room)
{
    uint64_t key = eng_vocab_piece_key(bytes, length, room);
    uint32_t mask = (UINT32_C(1) << (32 - vocab->piece_shift)) - 1;
    uint32_t slot = eng_vocab_piece_slot(vocab, key, length);
    for (;; slot = (slot + 1) & mask) {
        const struct eng_vocab_piece *piece = &vocab->pieces[slot];
        if (piece->length == 0)
            return ENG_VOCAB_NONE;
        if (piece->key == key && piece->length == length &&
            (length <= 8 ||
             memcmp(vocab->bytes + vocab->tokens[piece->id].offset, bytes, length) == 0))
            return piece->id;
    }
}

/* Do `left` and `right` stay two tokens when their bytes are encoded together, if merges from the
 * rank `limit` on are left out?  Use ENG_VOCAB_NONE to leave out none. */
bool eng_vocab_pair_stays(const struct eng_vocab *vocab, uint32_t left, uint32_t right,
                          uint32_t limit);

#endif
