/* fuzz_tools.c - any bytes as a request's tools, and as JSON text: printing twice changes nothing. */
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/utf8.h"
#include "engine/json.h"
#include "engine/tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct eng_slice json = {bytes != 0 ? (const char *)data : "", bytes};
    struct eng_tools *tools;
    struct fm_buf once, twice;
    fm_buf_init(&once, 1 << 26);
    fm_buf_init(&twice, 1 << 26);
    if (eng_json_print(json, &once, NULL) == FM_OK) {
        struct eng_slice printed = {once.data, once.length};
        FM_ASSERT(eng_json_type(json) == eng_json_type(printed));
        FM_ASSERT(eng_json_print(printed, &twice, NULL) == FM_OK);
        FM_ASSERT(once.length == twice.length && memcmp(once.data, twice.data, once.length) == 0);
    }
    if (eng_tools_new(json, 64, &tools, NULL) == FM_OK) {
        struct eng_slice schemas = eng_tools_schemas(tools);
        FM_ASSERT(fm_utf8_valid(schemas.data, schemas.length) == schemas.length);
        FM_ASSERT(!eng_tools_has(tools, (struct eng_slice){"no such name", 12}));
        eng_tools_unref(tools);
    }
    fm_buf_done(&once);
    fm_buf_done(&twice);
    return 0;
}
