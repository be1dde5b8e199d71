/* tokenizer.h - what struct eng_text is made of, for the files of the text side. */
#ifndef ENG_TOKENIZER_H
#define ENG_TOKENIZER_H

#include "engine/text.h"
#include "engine/trie.h"
#include "engine/vocab.h"

struct eng_control {
    uint32_t id;
    uint32_t offset, length; /* of its name, in eng_text.names */
};

struct eng_text {
    struct eng_vocab vocab;       /* tokens of text */
    struct eng_control *controls; /* [control_count], ascending by id */
    uint32_t control_count;
    char *names;
    size_t name_bytes;
    struct eng_trie control_trie; /* names to ids */
    struct eng_text_info info;
    uint64_t *masks; /* [ENG_MASK_CLASSES][info.mask_words] */
};

/* The control token with this id, or NULL. */
const struct eng_control *eng_text_control(const struct eng_text *text, uint32_t id);

/* The id of the control token of this name, or ENG_ID_NONE. */
uint32_t eng_text_control_id(const struct eng_text *text, const char *name);

/* Fill vocab, controls, names and control_trie of an empty eng_text from the text of a
 * tokenizer.json.  On failure what was filled is freed by the caller with eng_text_free. */
enum fm_status eng_tokenizer_parse(struct eng_text *text, const char *json, size_t length,
                                   struct fm_err *err) FM_MUST_CHECK;

#endif
