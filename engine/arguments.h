/* arguments.h - the JSON text of one call's arguments, put together from parameters.
 *
 * Parameters come one after the other, each as a string that streams or as a JSON value that is
 * looked at whole.  What leaves is never closed for a call that was cut.
 *
 *     begin   parameter (open, byte ..., close) ...   end
 *
 * Owner: the parser; pieces go to its outlet. */
#ifndef ENG_ARGUMENTS_H
#define ENG_ARGUMENTS_H

#include "engine/markup.h"
#include "engine/outlet.h"
#include "engine/tools.h"

enum {
    ENG_VALUE_BYTES_MAX = 1 << 20, /* of a value that is buffered */
    ENG_NAMES_BYTES_MAX = 1 << 18, /* of the names of one call's parameters */
};

enum eng_value_mode {
    ENG_VALUE_NONE,   /* between parameters */
    ENG_VALUE_STRING, /* streams */
    ENG_VALUE_JSON,   /* buffered, checked, then written */
    ENG_VALUE_WRAP,   /* buffered: may be the arguments as a whole */
    ENG_VALUE_SKIP,   /* given before */
};

struct eng_arguments {
    struct eng_outlet *outlet;
    uint32_t *repairs;           /* of the parser's statistics */
    const struct eng_tool *tool; /* NULL: not declared */
    uint32_t call_index;
    uint32_t written_count; /* parameters whose key was written */

    enum eng_value_mode mode;
    bool is_string;      /* of a value that is buffered */
    unsigned types;      /* what the schema allows for it */
    bool has_wrapped;    /* a complete value that may be all arguments is in `text` */
    struct fm_buf text;  /* buffered value, or a whole object instead of parameters */
    struct fm_buf key;   /* of the buffered value */
    struct fm_buf names; /* given in this call: length and bytes of each */
    struct eng_detok detok;
    struct fm_buf scratch, escaped;
    enum fm_status status; /* FM_LIMIT or FM_NOMEM; sticks */
};

void eng_arguments_init(struct eng_arguments *args, struct eng_outlet *outlet, uint32_t *repairs);
void eng_arguments_done(struct eng_arguments *args);

/* A call begins.  tool: what was declared of that name, or NULL. */
void eng_arguments_begin(struct eng_arguments *args, const struct eng_tool *tool,
                         uint32_t call_index);

/* A parameter: its name (raw bytes) and whether its tag says that it is a string. */
void eng_arguments_open(struct eng_arguments *args, const char *name, size_t length,
                        enum eng_flag string, uint32_t token);
void eng_arguments_byte(struct eng_arguments *args, uint8_t byte, uint32_t token);
void eng_arguments_close(struct eng_arguments *args, uint32_t token);

/* Text instead of parameters, which may be a JSON object: collected by the first, taken or thrown
 * away by eng_arguments_end. */
void eng_arguments_body(struct eng_arguments *args, uint8_t byte);

/* The call is complete: its last fragment and its end go out. */
void eng_arguments_end(struct eng_arguments *args, uint32_t token);

/* The stream was cut within the call: what is buffered goes out as far as it is certain. */
void eng_arguments_cut(struct eng_arguments *args, uint32_t token);

#endif
