/* served.c - the model as the API shows it; see served.h. */
#include "daemon/served.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/base/checked.h"
#include "backends/base/hash.h"
#include "backends/base/json.h"
#include "backends/base/mem.h"
#include "daemon/api_request.h"
#include "daemon/config.h"

enum { PATH_BYTES = 4200 };

/* The last part of the path, whatever slashes are behind it. */
static void base_name(const char *path, char ret_name[API_NAME_BYTES])
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    (void)snprintf(ret_name, API_NAME_BYTES, "%.*s", (int)fm_min_u64(end - begin, 127),
                   path + begin);
}

static enum fm_status add_alias(struct api_model *model, const char *text, size_t bytes,
                                struct fm_err *err)
{
    struct api_alias *alias = &model->aliases[model->alias_count];
    if (model->alias_count == API_ALIASES_MAX)
        return FM_FAIL(err, FM_LIMIT, "model.aliases has more than %d names", API_ALIASES_MAX);
    const char *equals = memchr(text, '=', bytes);
    size_t name_bytes = equals == NULL ? bytes : (size_t)(equals - text);
    if (name_bytes == 0 || name_bytes >= sizeof alias->name)
        return FM_FAIL(err, FM_INVALID, "model.aliases has a name of %zu bytes, expected 1 to %zu",
                       name_bytes, sizeof alias->name - 1);
    memcpy(alias->name, text, name_bytes);
    alias->name[name_bytes] = '\0';
    alias->thinking = API_THINKING_UNSET;
    size_t rest = bytes - name_bytes;
    if (rest == 3 && memcmp(equals, "=on", 3) == 0)
        alias->thinking = API_THINKING_ON;
    else if (rest == 4 && memcmp(equals, "=off", 4) == 0)
        alias->thinking = API_THINKING_OFF;
    else if (rest > 0)
        return FM_FAIL(err, FM_INVALID, "model.aliases: expected =on or =off behind '%s'",
                       alias->name);
    model->alias_count++;
    return FM_OK;
}

static enum fm_status add_aliases(struct api_model *model, const char *list, struct fm_err *err)
{
    while (*list != '\0') {
        list += strspn(list, ", ");
        size_t bytes = strcspn(list, ", ");
        enum fm_status status = bytes == 0 ? FM_OK : add_alias(model, list, bytes, err);
        if (status != FM_OK)
            return status;
        list += bytes;
    }
    return FM_OK;
}

/* max_position_embeddings; 0 where the text does not say: the loader will complain. */
static uint32_t context_of(const char *text)
{
    struct fm_json json;
    struct fm_json_text key;
    uint64_t value = 0;
    fm_json_init(&json, text, strlen(text));
    if (!fm_json_object_open(&json))
        return 0;
    while (fm_json_member(&json, &key)) {
        if (fm_json_text_is(key, "max_position_embeddings"))
            (void)fm_json_u64(&json, UINT32_MAX, &value);
        else
            (void)fm_json_skip(&json);
    }
    return (uint32_t)value;
}

enum fm_status srv_served_init(struct api_model *model, const struct srv_config *config,
                               struct fm_err *err)
{
    char path[PATH_BYTES];
    char *text = NULL;
    struct stat facts;
    (void)snprintf(path, sizeof path, "%s/config.json", config->model_path);
    enum fm_status status = srv_config_text(path, &text, err);
    if (status != FM_OK)
        return status;
    if (stat(path, &facts) == 0 && facts.st_mtime > 0)
        model->created_s = (uint64_t)facts.st_mtime;
    uint64_t hash = fm_hash64(text, strlen(text), 0);
    (void)snprintf(model->fingerprint, sizeof model->fingerprint, "fp_%010llx",
                   (unsigned long long)(hash & 0xffffffffff));
    uint32_t most = context_of(text);
    uint64_t wanted = config->engine_context_max;
    model->context_max = wanted == 0 ? most : (uint32_t)fm_min_u64(wanted, most);
    fm_free(text);
    if (config->model_name[0] != '\0')
        (void)snprintf(model->id, sizeof model->id, "%s", config->model_name);
    else
        base_name(config->model_path, model->id);
    return add_aliases(model, config->model_aliases, err);
}
