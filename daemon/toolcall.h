/* toolcall.h - tool calls as clients see them: ids, whole calls, and the deltas of a stream.
 *
 * A call's pieces come from the scheduler in order (begin, arguments, end).  In a stream each
 * becomes one delta; the first has the id, the type and the name, later ones only the index and a
 * fragment of the arguments: clients join equal keys by concatenation. */
#ifndef SRV_TOOLCALL_H
#define SRV_TOOLCALL_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/buf.h"

enum { SRV_TOOLCALL_ID_BYTES = 30 };

struct srv_toolcall {
    char id[SRV_TOOLCALL_ID_BYTES]; /* "call_" and 24 digits that cannot be guessed */
    struct fm_buf name, arguments;  /* arguments: JSON text, cut when the answer was */
};

/* The calls of one choice, in order. */
struct srv_toolcalls {
    struct srv_toolcall *items;
    uint32_t count, capacity;
};

void srv_toolcall_id(char ret_id[SRV_TOOLCALL_ID_BYTES]);

/* One more call; false when memory is short.  bytes_max bounds its name and its arguments. */
bool srv_toolcalls_add(struct srv_toolcalls *calls, const char *name, size_t name_bytes,
                       size_t bytes_max);
void srv_toolcalls_done(struct srv_toolcalls *calls);

/* [{"id":...,"type":"function","function":{"name":...,"arguments":"..."}},...] */
void srv_toolcalls_json(const struct srv_toolcalls *calls, struct fm_buf *out);

/* The delta that opens call `index`, and one that carries on with its arguments. */
void srv_toolcall_begin_json(uint32_t index, const char *id, const char *name, size_t name_bytes,
                             struct fm_buf *out);
void srv_toolcall_args_json(uint32_t index, const char *fragment, size_t bytes, struct fm_buf *out);

#endif
