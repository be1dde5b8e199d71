/* vocab.c - building a vocabulary and checking what the encoder relies on; see vocab.h. */
#include "engine/vocab.h"

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"

_Static_assert(ENG_VOCAB_IDS_MAX == 1 << 20, "pairs pack ids of 20 bits");
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "eng_vocab_find masks the first bytes of a word as its low ones"
#endif

void eng_vocab_init(struct eng_vocab *vocab)
{
    *vocab = (struct eng_vocab){.merge_last = 0};
    for (int byte = 0; byte < 256; byte++)
        vocab->byte_ids[byte] = ENG_VOCAB_NONE;
}

void eng_vocab_done(struct eng_vocab *vocab)
{
    fm_free(vocab->tokens);
    fm_free(vocab->bytes);
    fm_free(vocab->pieces);
    fm_free(vocab->pairs);
    fm_free(vocab->pair_bits);
    eng_trie_done(&vocab->trie);
    eng_vocab_init(vocab);
}

static bool ids_reserve(struct eng_vocab *vocab, uint32_t id)
{
    if (id < vocab->id_capacity)
        return true;
    uint32_t capacity = vocab->id_capacity < 512 ? 512 : vocab->id_capacity;
    while (capacity <= id)
        capacity *= 2;
    struct eng_vocab_token *tokens = fm_realloc_array(vocab->tokens, capacity, sizeof tokens[0]);
    if (tokens == NULL)
        return false;
    memset(tokens + vocab->id_capacity, 0, (capacity - vocab->id_capacity) * sizeof tokens[0]);
    vocab->tokens = tokens;
    vocab->id_capacity = capacity;
    return true;
}

static bool bytes_reserve(struct eng_vocab *vocab, size_t length)
{
    if (length <= vocab->byte_capacity - vocab->byte_count)
        return true;
    size_t capacity = vocab->byte_capacity < 4096 ? 8192 : vocab->byte_capacity * 2;
    unsigned char *bytes = fm_realloc(vocab->bytes, capacity);
    if (bytes == NULL)
        return false;
    vocab->bytes = bytes;
    vocab->byte_capacity = capacity;
    return true;
}

enum fm_status eng_vocab_add(struct eng_vocab *vocab, uint32_t id, const unsigned char *bytes,
                             size_t length, struct fm_err *err)
{
    if (id >= ENG_VOCAB_IDS_MAX)
        return FM_FAIL(err, FM_INVALID, "token id %u is too large, at most %d", id,
                       ENG_VOCAB_IDS_MAX - 1);
    if (length == 0 || length > ENG_VOCAB_TOKEN_BYTES_MAX)
        return FM_FAIL(err, FM_INVALID, "token %u has %zu bytes, 1 to %d are possible", id, length,
                       ENG_VOCAB_TOKEN_BYTES_MAX);
    if (!ids_reserve(vocab, id) || !bytes_reserve(vocab, length))
        return FM_FAIL(err, FM_NOMEM, "no memory for the vocabulary");

    struct eng_vocab_token *token = &vocab->tokens[id];
    if (token->length != 0)
        return FM_FAIL(err, FM_INVALID, "two tokens have the id %u", id);
    token->offset = fm_u32(vocab->byte_count);
    token->length = fm_u32(length);
    token->left = token->right = token->prefix = ENG_VOCAB_NONE;
    memcpy(vocab->bytes + vocab->byte_count, bytes, length);
    vocab->byte_count += length;
    vocab->token_count++;
    vocab->id_count = fm_max_u32(vocab->id_count, id + 1);
    return FM_OK;
}

/* 32 minus the bits of a table that stays at most half full. */
static uint32_t table_shift(uint32_t count)
{
    uint32_t bits = 4;
    while (UINT32_C(1) << bits < 2 * count)
        bits++;
    return 32 - bits;
}

enum fm_status eng_vocab_index(struct eng_vocab *vocab, uint32_t merge_count, struct fm_err *err)
{
    vocab->piece_shift = table_shift(vocab->token_count);
    vocab->pair_shift = table_shift(merge_count);
    vocab->pieces = fm_alloc_array((size_t)1 << (32 - vocab->piece_shift), sizeof vocab->pieces[0]);
    vocab->pairs = fm_alloc_array((size_t)1 << (32 - vocab->pair_shift), sizeof vocab->pairs[0]);
    vocab->pair_bits = fm_alloc_array((size_t)1 << (ENG_VOCAB_PAIR_BITS - 6), sizeof(uint64_t));
    if (vocab->pieces == NULL || vocab->pairs == NULL || vocab->pair_bits == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the vocabulary");

    uint32_t mask = (UINT32_C(1) << (32 - vocab->piece_shift)) - 1;
    for (uint32_t id = 0; id < vocab->id_count; id++) {
        const struct eng_vocab_token *token = &vocab->tokens[id];
        if (token->length == 0)
            continue;
        const unsigned char *bytes = vocab->bytes + token->offset;
        uint32_t other = eng_vocab_find(vocab, bytes, token->length, 0);
        if (other != ENG_VOCAB_NONE)
            return FM_FAIL(err, FM_INVALID, "tokens %u and %u have the same bytes", other, id);
        uint64_t key = eng_vocab_piece_key(bytes, token->length, 0);
        uint32_t slot = eng_vocab_piece_slot(vocab, key, token->length);
        while (vocab->pieces[slot].length != 0)
            slot = (slot + 1) & mask;
        vocab->pieces[slot] = (struct eng_vocab_piece){key, id, token->length};
        if (token->length == 1)
            vocab->byte_ids[bytes[0]] = id;
    }
    for (int byte = 0; byte < 256; byte++) {
        uint32_t id = vocab->byte_ids[byte];
        if (id == ENG_VOCAB_NONE)
            return FM_FAIL(err, FM_INVALID, "no token stands for the byte 0x%02x", byte);
        vocab->tokens[id].left = vocab->tokens[id].right = id;
        vocab->merge_last = fm_max_u32(vocab->merge_last, id);
    }
    return FM_OK;
}

enum fm_status eng_vocab_merge(struct eng_vocab *vocab, const unsigned char *left,
                               size_t left_length, const unsigned char *right, size_t right_length,
                               struct fm_err *err)
{
    unsigned char bytes[ENG_VOCAB_TOKEN_BYTES_MAX];
    uint32_t rank = vocab->merge_count;
    if (left_length == 0 || right_length == 0 ||
        left_length + right_length > ENG_VOCAB_TOKEN_BYTES_MAX)
        return FM_FAIL(err, FM_INVALID, "merge %u: parts of %zu and %zu bytes", rank, left_length,
                       right_length);
    memcpy(bytes, left, left_length);
    memcpy(bytes + left_length, right, right_length);
    uint32_t left_id = eng_vocab_find(vocab, left, left_length, 0);
    uint32_t right_id = eng_vocab_find(vocab, right, right_length, 0);
    uint32_t id = eng_vocab_find(vocab, bytes, left_length + right_length, 0);
    if (left_id == ENG_VOCAB_NONE || right_id == ENG_VOCAB_NONE || id == ENG_VOCAB_NONE)
        return FM_FAIL(err, FM_INVALID, "merge %u: a part or the result is not in the vocabulary",
                       rank);
    if (id <= vocab->merge_last)
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "merge %u gives id %u after id %u: ids do not follow the ranks", rank, id,
                       vocab->merge_last);
    if (left_id > vocab->merge_last || right_id > vocab->merge_last)
        return FM_FAIL(err, FM_UNSUPPORTED, "merge %u uses a token of a later merge", rank);
    if (UINT32_C(1) << (31 - vocab->pair_shift) < vocab->merge_count + 1)
        return FM_FAIL(err, FM_LIMIT, "more than %u merges", vocab->merge_count);

    vocab->tokens[id].left = left_id;
    vocab->tokens[id].right = right_id;
    uint64_t key = (uint64_t)left_id << 20 | right_id;
    uint32_t mask = (UINT32_C(1) << (32 - vocab->pair_shift)) - 1;
    uint32_t hash = (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    uint32_t bit = hash >> (32 - ENG_VOCAB_PAIR_BITS), slot = hash >> vocab->pair_shift;
    vocab->pair_bits[bit / 64] |= UINT64_C(1) << (bit % 64);
    while (vocab->pairs[slot] != 0)
        slot = (slot + 1) & mask;
    vocab->pairs[slot] = key << 20 | id;
    vocab->merge_last = id;
    vocab->merge_count++;
    return FM_OK;
}

/* Merges happen in the order of their ids and, for one id, from left to right.  Walk back in time
 * over the border between the two tokens, undoing the newer one first: whatever stands at the border
 * must not have had a merge before it was used up.  `limit` is that time. */
bool eng_vocab_pair_stays(const struct eng_vocab *vocab, uint32_t left, uint32_t right,
                          uint32_t limit)
{
    for (;;) {
        if (eng_vocab_merged(vocab, left, right) < limit)
            return false;
        if (left > right) {
            uint32_t part = vocab->tokens[left].right;
            if (part == left)
                return true; /* a byte, and right is a lower one */
            limit = left; /* a merge of the same id at the border would have been further right */
            left = part;
        } else {
            uint32_t part = vocab->tokens[right].left;
            if (part == right)
                return true;
            limit = right + 1; /* ... and here further left, so earlier */
            right = part;
        }
    }
}

/* A trie of all tokens.  A merged token starts at the node of its left part, whose id is lower. */
static enum fm_status trie_fill(struct eng_vocab *vocab, struct fm_err *err)
{
    uint32_t *nodes = fm_alloc_array(vocab->id_count, sizeof nodes[0]);
    size_t node_max = fm_min_u64(vocab->byte_count + 1, ENG_TRIE_NODES_MAX);
    enum fm_status status = FM_OK;
    if (nodes == NULL || !eng_trie_init(&vocab->trie, (uint32_t)node_max)) {
        status = FM_FAIL(err, FM_NOMEM, "no memory for the vocabulary");
        goto out_free;
    }
    for (uint32_t id = 0; id < vocab->id_count; id++) {
        const struct eng_vocab_token *token = &vocab->tokens[id];
        if (token->length == 0)
            continue;
        bool is_byte = token->left == id;
        uint32_t skip = is_byte ? 0 : vocab->tokens[token->left].length;
        nodes[id] = eng_trie_add(&vocab->trie, is_byte ? ENG_TRIE_ROOT : nodes[token->left],
                                 vocab->bytes + token->offset + skip, token->length - skip, id);
        if (nodes[id] == ENG_TRIE_NONE) {
            status = FM_FAIL(err, FM_LIMIT, "the vocabulary has more than %zu prefixes", node_max);
            goto out_free;
        }
    }
    for (uint32_t id = 0; id < vocab->id_count; id++) {
        if (vocab->tokens[id].length != 0)
            vocab->tokens[id].prefix = eng_trie_above(&vocab->trie, nodes[id]);
    }
    if (!eng_trie_seal(&vocab->trie, true))
        status = FM_FAIL(err, FM_NOMEM, "no memory for the vocabulary");
out_free:
    fm_free(nodes);
    return status;
}

enum fm_status eng_vocab_seal(struct eng_vocab *vocab, struct fm_err *err)
{
    for (uint32_t id = 0; id < vocab->id_count; id++) {
        const struct eng_vocab_token *token = &vocab->tokens[id];
        if (token->length == 0 || token->left == id)
            continue;
        if (token->left == ENG_VOCAB_NONE)
            return FM_FAIL(err, FM_UNSUPPORTED, "token %u has no merge", id);
        if (!eng_vocab_pair_stays(vocab, token->left, token->right, id))
            return FM_FAIL(err, FM_UNSUPPORTED, "the bytes of token %u are not encoded as it", id);
    }
    return trie_fill(vocab, err);
}
