/* golden.c - reading the committed vectors; see golden.h. */
#include "tests/support/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/json.h"
#include "tests/support/support.h"

enum { FILES_MAX = 32 };

static struct {
    const char *name;
    char *data;
    size_t length;
} files[FILES_MAX];
static size_t file_count;

static void files_free(void)
{
    while (file_count > 0)
        free(files[--file_count].data);
}

static char *stream_read(FILE *stream, size_t *ret_length)
{
    size_t capacity = 1 << 16, length = 0, got;
    char *data = malloc(capacity);
    while (data != NULL && (got = fread(data + length, 1, capacity - length, stream)) != 0) {
        length += got;
        if (length == capacity)
            data = realloc(data, capacity *= 2);
    }
    ck_assert_ptr_nonnull(data);
    *ret_length = length;
    return data;
}

struct eng_slice golden_file(const char *name)
{
    char path[512];
    for (size_t i = 0; i < file_count; i++) {
        if (strcmp(files[i].name, name) == 0)
            return (struct eng_slice){files[i].data, files[i].length};
    }
    ck_assert_uint_lt(file_count, FILES_MAX);
    if (file_count == 0)
        (void)atexit(files_free);
    (void)snprintf(path, sizeof path, "tests/golden/%s", name);
    FILE *stream = fopen(path, "rb");
    ck_assert_msg(stream != NULL, "cannot open %s: run tests from the root of the tree", path);
    files[file_count].name = name;
    files[file_count].data = stream_read(stream, &files[file_count].length);
    (void)fclose(stream);
    file_count++;
    return (struct eng_slice){files[file_count - 1].data, files[file_count - 1].length};
}

struct eng_slice golden_member(struct eng_slice json, const char *key)
{
    struct eng_slice value = eng_json_member(json, key);
    ck_assert_msg(value.data != NULL, "a vector lacks '%s'", key);
    return value;
}

void golden_string(struct eng_slice json, struct fm_buf *out)
{
    ck_assert_uint_ge(json.length, 2);
    fm_buf_clear(out);
    ck_assert(fm_buf_reserve(out, json.length));
    ck_assert(eng_json_unescape((struct eng_slice){json.data + 1, json.length - 2}, out));
}

void golden_ids(struct eng_slice json, struct eng_tokens *out)
{
    struct fm_json reader;
    uint64_t id;
    out->count = 0;
    fm_json_init(&reader, json.data, json.length);
    ck_assert(fm_json_array_open(&reader));
    while (fm_json_element(&reader)) {
        ck_assert(fm_json_u64(&reader, UINT32_MAX, &id));
        ck_assert_int_eq(eng_tokens_put(out, (uint32_t)id, NULL), FM_OK);
    }
    ck_assert_int_eq(fm_json_end(&reader, NULL), FM_OK);
}

bool golden_next(struct golden_list *list, struct eng_slice array, struct eng_slice *ret_item)
{
    struct fm_json_text text;
    if (list->index == 0) {
        fm_json_init(&list->reader, array.data, array.length);
        ck_assert(fm_json_array_open(&list->reader));
    }
    if (!fm_json_element(&list->reader)) {
        ck_assert_int_eq(fm_json_end(&list->reader, NULL), FM_OK);
        return false;
    }
    ck_assert(fm_json_raw(&list->reader, &text));
    *ret_item = (struct eng_slice){text.data, text.bytes};
    list->index++;
    return true;
}

static struct eng_text *real_text, *small_text;

static void texts_free(void)
{
    eng_text_free(real_text);
    eng_text_free(small_text);
}

static void text_open(const char *dir, struct eng_text **ret_text)
{
    struct fm_err err = {0};
    if (real_text == NULL && small_text == NULL)
        (void)atexit(texts_free);
    ck_assert_msg(eng_text_open(dir, NULL, ret_text, &err) == FM_OK, "%s", err.text);
}

const struct eng_text *golden_text(void)
{
    if (real_text == NULL) {
        char command[1024];
        (void)snprintf(command, sizeof command,
                       "gzip -dc tests/golden/tokenizer/tokenizer.json.gz > '%s/tokenizer.json'",
                       test_dir());
        ck_assert_int_eq(system(command), 0);
        text_open(test_dir(), &real_text);
    }
    return real_text;
}

const struct eng_text *golden_small_text(void)
{
    if (small_text == NULL)
        text_open("conf/model", &small_text);
    return small_text;
}
