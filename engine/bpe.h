/* bpe.h - the tokens of one piece of text. */
#ifndef ENG_BPE_H
#define ENG_BPE_H

#include "engine/vocab.h"

/* Write the tokens of piece[0 .. length) to ids, which has room for `length` of them; returns how
 * many there are.  `dead` is scratch for (length + 63) / 64 + 1 words.  length > 0.  Linear in length
 * (times the length of a token), whatever the bytes.  Pure. */
size_t eng_bpe_encode(const struct eng_vocab *vocab, const unsigned char *piece, size_t length,
                      uint32_t *ids, uint64_t *dead);

#endif
