/* route.c - the table of method, path, handler; see route.h.
 *
 * The aliases are those that clients of this API are known to use: base URLs without /v1, /beta
 * for prefix completion, /anthropic for that surface. */
#include "daemon/route.h"

#include <string.h>

#include "backends/base/assert.h"
#include "daemon/call.h"

static const struct srv_route table[SRV_ROUTE_COUNT] = {
    [SRV_ROUTE_ROOT] = {"/", SRV_GET, SRV_ROUTE_OPEN | SRV_ROUTE_QUIET, NULL, NULL},
    [SRV_ROUTE_CHAT] = {"/v1/chat/completions", SRV_POST, SRV_ROUTE_GENERATES, NULL, NULL},
    [SRV_ROUTE_COMPLETIONS] = {"/v1/completions", SRV_POST, SRV_ROUTE_GENERATES, NULL, NULL},
    [SRV_ROUTE_MODELS] = {"/v1/models", SRV_GET, 0, NULL, NULL},
    [SRV_ROUTE_MODEL] = {"/v1/models/{id}", SRV_GET, 0, NULL, NULL},
    [SRV_ROUTE_TOKENIZE] = {"/tokenize", SRV_POST, SRV_ROUTE_NEEDS_TEXT, NULL, NULL},
    [SRV_ROUTE_DETOKENIZE] = {"/detokenize", SRV_POST, SRV_ROUTE_NEEDS_TEXT, NULL, NULL},
    [SRV_ROUTE_HEALTH] = {"/health", SRV_GET, SRV_ROUTE_OPEN | SRV_ROUTE_QUIET, NULL, NULL},
    [SRV_ROUTE_READY] = {"/ready", SRV_GET, SRV_ROUTE_OPEN | SRV_ROUTE_QUIET, NULL, NULL},
    [SRV_ROUTE_LIVE] = {"/livez", SRV_GET, SRV_ROUTE_OPEN | SRV_ROUTE_QUIET, NULL, NULL},
    [SRV_ROUTE_METRICS] = {"/metrics", SRV_GET, SRV_ROUTE_METRIC | SRV_ROUTE_QUIET, NULL, NULL},
    [SRV_ROUTE_VERSION] = {"/version", SRV_GET, SRV_ROUTE_OPEN | SRV_ROUTE_QUIET, NULL, NULL},
};

/* A path that ends in '/' is the prefix of a template with {id}. */
static const struct {
    const char *path;
    enum srv_route_id id;
} paths[] = {
    {"/", SRV_ROUTE_ROOT},
    {"/v1/chat/completions", SRV_ROUTE_CHAT},
    {"/chat/completions", SRV_ROUTE_CHAT},
    {"/beta/chat/completions", SRV_ROUTE_CHAT},
    {"/beta/v1/chat/completions", SRV_ROUTE_CHAT},
    {"/v1/completions", SRV_ROUTE_COMPLETIONS},
    {"/completions", SRV_ROUTE_COMPLETIONS},
    {"/beta/completions", SRV_ROUTE_COMPLETIONS},
    {"/beta/v1/completions", SRV_ROUTE_COMPLETIONS},
    {"/v1/models", SRV_ROUTE_MODELS},
    {"/models", SRV_ROUTE_MODELS},
    {"/beta/models", SRV_ROUTE_MODELS},
    {"/anthropic/v1/models", SRV_ROUTE_MODELS},
    {"/v1/models/", SRV_ROUTE_MODEL},
    {"/models/", SRV_ROUTE_MODEL},
    {"/beta/models/", SRV_ROUTE_MODEL},
    {"/anthropic/v1/models/", SRV_ROUTE_MODEL},
    {"/tokenize", SRV_ROUTE_TOKENIZE},
    {"/v1/tokenize", SRV_ROUTE_TOKENIZE},
    {"/detokenize", SRV_ROUTE_DETOKENIZE},
    {"/v1/detokenize", SRV_ROUTE_DETOKENIZE},
    {"/health", SRV_ROUTE_HEALTH},
    {"/v1/health", SRV_ROUTE_HEALTH},
    {"/ping", SRV_ROUTE_HEALTH},
    {"/ready", SRV_ROUTE_READY},
    {"/readyz", SRV_ROUTE_READY},
    {"/livez", SRV_ROUTE_LIVE},
    {"/live", SRV_ROUTE_LIVE},
    {"/metrics", SRV_ROUTE_METRICS},
    {"/version", SRV_ROUTE_VERSION},
};

void srv_routes_init(struct srv_routes *routes)
{
    memcpy(routes->entries, table, sizeof routes->entries);
}

void srv_routes_bind(struct srv_routes *routes, enum srv_route_id id,
                     const struct srv_handler *handler, void *context)
{
    FM_ASSERT(id < SRV_ROUTE_COUNT);
    FM_ASSERT(handler != NULL);
    routes->entries[id].handler = handler;
    routes->entries[id].context = context;
}

/* Is it `word` or below it? */
static bool is_under(const char *path, const char *word)
{
    size_t length = strlen(word);
    return strncmp(path, word, length) == 0 && (path[length] == '\0' || path[length] == '/');
}

const struct srv_route *srv_route_find(const struct srv_routes *routes, const char *path,
                                       const char **ret_parameter, uint32_t *ret_bytes,
                                       bool *ret_anthropic)
{
    size_t length = strlen(path);
    if (length > 1 && path[length - 1] == '/')
        length--;
    *ret_parameter = path + length;
    *ret_bytes = 0;
    *ret_anthropic = is_under(path, "/v1/messages") || is_under(path, "/anthropic");
    for (size_t i = 0; i < FM_COUNT(paths); i++) {
        size_t own = strlen(paths[i].path);
        bool is_prefix = own > 1 && paths[i].path[own - 1] == '/';
        if (is_prefix ? length <= own : length != own)
            continue;
        const struct srv_route *route = &routes->entries[paths[i].id];
        if (memcmp(path, paths[i].path, own) != 0 || route->handler == NULL)
            continue;
        if (is_prefix) {
            *ret_parameter = path + own;
            *ret_bytes = (uint32_t)(length - own);
        }
        return route;
    }
    return NULL;
}

void srv_route_allow(const struct srv_route *route, char ret_text[SRV_ALLOW_BYTES])
{
    static const struct {
        uint32_t method;
        const char *text;
    } names[] = {{SRV_GET, "GET, HEAD, "}, {SRV_POST, "POST, "}, {SRV_DELETE, "DELETE, "}};
    size_t at = 0;
    for (size_t i = 0; i < FM_COUNT(names); i++) {
        size_t bytes = strlen(names[i].text);
        if ((route->methods & names[i].method) == 0)
            continue;
        FM_ASSERT(at + bytes + sizeof "OPTIONS" <= SRV_ALLOW_BYTES);
        memcpy(ret_text + at, names[i].text, bytes);
        at += bytes;
    }
    memcpy(ret_text + at, "OPTIONS", sizeof "OPTIONS");
}

size_t srv_path_decode(char *text)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    char *to = text;
    for (const char *at = text; *at != '\0'; at++) {
        const char *high = at[0] == '%' && at[1] != '\0' ? strchr(digits, at[1]) : NULL;
        const char *low = high != NULL && at[2] != '\0' ? strchr(digits, at[2]) : NULL;
        unsigned value = 0;
        if (low != NULL)
            value = ((unsigned)(high - digits) % 16) << 4 | (unsigned)(low - digits) % 16;
        if (value == 0) {
            *to++ = *at;
            continue;
        }
        *to++ = (char)value;
        at += 2;
    }
    *to = '\0';
    return (size_t)(to - text);
}
