/* toolcall.c - tool calls as clients see them; see toolcall.h. */
#include "daemon/toolcall.h"

#include <stdio.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "daemon/json.h"

void srv_toolcall_id(char ret_id[SRV_TOOLCALL_ID_BYTES])
{
    unsigned char random[12];
    fm_random_bytes(random, sizeof random);
    int at = snprintf(ret_id, SRV_TOOLCALL_ID_BYTES, "call_");
    for (size_t i = 0; i < sizeof random; i++)
        at += snprintf(ret_id + at, SRV_TOOLCALL_ID_BYTES - (size_t)at, "%02x", random[i]);
    FM_ASSERT(at == SRV_TOOLCALL_ID_BYTES - 1);
}

bool srv_toolcalls_add(struct srv_toolcalls *calls, const char *name, size_t name_bytes,
                       size_t bytes_max)
{
    if (calls->count == calls->capacity) {
        uint32_t capacity = calls->capacity == 0 ? 4 : calls->capacity * 2;
        struct srv_toolcall *items = fm_realloc_array(calls->items, capacity, sizeof *calls->items);
        if (items == NULL)
            return false;
        calls->items = items;
        calls->capacity = capacity;
    }
    struct srv_toolcall *call = &calls->items[calls->count];
    srv_toolcall_id(call->id);
    fm_buf_init(&call->name, bytes_max);
    fm_buf_init(&call->arguments, bytes_max);
    if (!fm_buf_put(&call->name, name, name_bytes))
        return false;
    calls->count++;
    return true;
}

void srv_toolcalls_done(struct srv_toolcalls *calls)
{
    for (uint32_t i = 0; i < calls->count; i++) {
        fm_buf_done(&calls->items[i].name);
        fm_buf_done(&calls->items[i].arguments);
    }
    fm_free(calls->items);
    *calls = (struct srv_toolcalls){0};
}

void srv_toolcalls_json(const struct srv_toolcalls *calls, struct fm_buf *out)
{
    fm_buf_putc(out, '[');
    for (uint32_t i = 0; i < calls->count; i++) {
        const struct srv_toolcall *call = &calls->items[i];
        fm_buf_printf(out, "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
                      i == 0 ? "" : ",", call->id);
        srv_json_string(out, call->name.data, call->name.length);
        fm_buf_puts(out, ",\"arguments\":");
        srv_json_string(out, call->arguments.data, call->arguments.length);
        fm_buf_puts(out, "}}");
    }
    fm_buf_putc(out, ']');
}

void srv_toolcall_begin_json(uint32_t index, const char *id, const char *name, size_t name_bytes,
                             struct fm_buf *out)
{
    fm_buf_printf(out,
                  "{\"tool_calls\":[{\"index\":%u,\"id\":\"%s\",\"type\":\"function\","
                  "\"function\":{\"name\":",
                  index, id);
    srv_json_string(out, name, name_bytes);
    fm_buf_puts(out, ",\"arguments\":\"\"}}]}");
}

void srv_toolcall_args_json(uint32_t index, const char *fragment, size_t bytes, struct fm_buf *out)
{
    fm_buf_printf(out, "{\"tool_calls\":[{\"index\":%u,\"function\":{\"arguments\":", index);
    srv_json_string(out, fragment, bytes);
    fm_buf_puts(out, "}}]}");
}
