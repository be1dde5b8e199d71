/* body.h - the JSON text of a request: checked to the last byte, then a tree.
 *
 * cJSON makes the tree, but it takes more than JSON, cuts strings at a NUL and recurses.  So the
 * text is first read once without recursion and held to these rules:
 *   1. UTF-8 throughout: no overlong form, no encoded surrogate.  A leading BOM is skipped.
 *   2. One value of RFC 8259 and blanks around it; that value is an object.
 *   3. At most depth_max containers within each other, at most values_max values.
 *   4. No escape of half a surrogate pair; no escape of U+0000.
 *   5. No key twice in the outermost object.
 * What passes is safe for cJSON: its depth is bounded, and its strings hold no NUL.
 *
 * Where the digits or the order of keys matter, the text of a value is taken from the body itself
 * (srv_raw_).  Preparation threads; a body belongs to one of them. */
#ifndef SRV_BODY_H
#define SRV_BODY_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/text.h"

enum { SRV_BODY_DEPTH_MAX = 512 };

struct srv_body_limits {
    uint32_t depth_max;  /* at most SRV_BODY_DEPTH_MAX */
    uint32_t values_max; /* of any kind; a value costs about 80 bytes */
};

enum srv_body_fault {
    SRV_BODY_SOUND,
    SRV_BODY_UTF8,      /* rule 1 */
    SRV_BODY_SYNTAX,    /* rules 2 and 4 */
    SRV_BODY_DEPTH,     /* rule 3 */
    SRV_BODY_VALUES,    /* rule 3 */
    SRV_BODY_NUL,       /* rule 4 */
    SRV_BODY_NO_OBJECT, /* rule 2 */
    SRV_BODY_DUPLICATE, /* rule 5 */
    SRV_BODY_NOMEM,
};

struct srv_body_problem {
    enum srv_body_fault fault;
    size_t offset;      /* in bytes, from the start of what was received */
    const char *reason; /* a sentence; of SYNTAX and NO_OBJECT (what it is instead) */
    char name[104];     /* of DUPLICATE: the key, cut to 100 bytes */
};

struct srv_body {
    struct eng_slice text; /* the object, from { to } */
    cJSON *root;
};

/* Make cJSON take its memory through fm_alloc.  Once, before threads. */
void srv_body_init(void);

/* Parse bytes[0 .. length), which stay the caller's and must outlive the body.  true: *ret_body is
 * the caller's until srv_body_done.  false: *ret_problem says why. */
bool srv_body_parse(const char *bytes, size_t length, const struct srv_body_limits *limits,
                    struct srv_body *ret_body, struct srv_body_problem *ret_problem);

/* Wipes the strings and frees the tree.  A zeroed body is allowed. */
void srv_body_done(struct srv_body *body);

/* ---- the text of values ---------------------------------------------------------------------- */

/* Walks over the values of an object or an array whose text was checked before.  One pass costs
 * its length; srv_raw_next says false at the end. */
struct srv_raw {
    const char *at, *end;
    bool is_object;
};

void srv_raw_init(struct srv_raw *raw, struct eng_slice container);
bool srv_raw_next(struct srv_raw *raw, struct eng_slice *ret_value);

/* The text of the value of `key` in a checked object; absent when there is none.  The first where
 * the key occurs more than once, as cJSON has it. */
struct eng_slice srv_raw_member(struct eng_slice object, const char *key);

#endif
