/* fathom_probe.c - token ids through the engine, and everything it computes into a file.
 *
 * Two implementations of the model can be compared by comparing two such files: the names and
 * shapes are those of eng_ref_forward (engine/ref/ref.h).  Everything is float32 or int64. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/file.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/hparams.h"
#include "engine/safetensors.h"
#include "engine/text.h"
#include "engine/tools/probe.h"
#include "engine/weights.h"

static const char usage[] =
    "usage: fathom-probe --model DIR (--ids FILE | --random N [--seed S] | --text FILE)\n"
    "                    [--out FILE.safetensors] [--all] [--draft] [--perplexity]\n"
    "                    [--ref | --backend NAME [--variant NAME] [--threads N] [--check]]\n"
    "                    [--chunks 3,5,128] [--context N] [--inject layer.I.streams=FILE]...\n"
    "\n"
    "  --ids FILE      decimal ids, separated by blanks or line ends; or the tensor 'ids' of a\n"
    "                  safetensors file\n"
    "  --random N      N ids drawn from the seed\n"
    "  --text FILE     the tokens of a text, BOS in front\n"
    "  --out FILE      write ids, logits and, with --all, every intermediate value\n"
    "  --ref           run the scalar reference instead of a backend\n"
    "  --check         run the backend through the checker\n"
    "  --draft         also run the draft module: mtp.logits, or dspark.tokens and .confidence\n"
    "  --perplexity    print the mean negative log-likelihood per token\n"
    "  --chunks LIST   tokens of each step in turn, the last one repeated; default 128\n"
    "  --context N     cut longer inputs into segments of N tokens, each on its own\n"
    "  --inject ...    take layer I's output, which is layer I+1's input, from the tensor of that\n"
    "                  name in FILE\n";

enum { TEXT_BYTES_MAX = 64 << 20, IDS_MAX = 16 << 20 };

uint32_t probe_chunk(const struct probe *probe, uint32_t index, uint32_t left)
{
    uint32_t last = probe->chunk_count - 1;
    return fm_min_u32(probe->chunks[fm_min_u32(index, last)], left);
}

void probe_score(struct probe *probe, const float *logits, uint32_t vocab, uint32_t token)
{
    double max = (double)logits[0];
    for (uint32_t t = 1; t < vocab; t++)
        max = fmax(max, (double)logits[t]);
    double total = exp((double)logits[0] - max);
    for (uint32_t t = 1; t < vocab; t++)
        total += exp((double)logits[t] - max);
    probe->nll_sum += max + log(total) - (double)logits[token];
    probe->nll_count++;
}

/* ---- ids ----------------------------------------------------------------------------------- */

static enum fm_status file_map(const char *path, struct fm_file *ret_file, struct fm_err *err)
{
    enum fm_status status = fm_file_map(path, UINT64_MAX, ret_file, err);
    if (status == FM_MISS)
        status = FM_FAIL_OS(err, FM_IO, ENOENT, "cannot open '%s'", path);
    return status;
}

/* The tensor of that name, of file `path`, as entry and data; the file stays mapped. */
static enum fm_status tensor_find(const char *path, const char *name, struct fm_file *file,
                                  struct eng_safetensors_entry *ret_entry, struct fm_err *err)
{
    struct eng_safetensors header = {0};
    enum fm_status status = file_map(path, file, err);
    if (status == FM_OK)
        status = eng_safetensors_parse(file->data, file->bytes, &header, err);
    if (status != FM_OK)
        return status;
    const struct eng_safetensors_entry *entry = eng_safetensors_find(&header, name);
    if (entry == NULL)
        status = FM_FAIL(err, FM_CORRUPT, "'%s' has no tensor '%s'", path, name);
    else
        *ret_entry = *entry;
    eng_safetensors_done(&header);
    return status;
}

static enum fm_status ids_take(struct probe *probe, uint64_t count, struct fm_err *err)
{
    if (count == 0 || count > IDS_MAX)
        return FM_FAIL(err, FM_LIMIT, "%" PRIu64 " ids, at least 1 and at most %d", count,
                       (int)IDS_MAX);
    probe->ids = fm_alloc_array(count, sizeof *probe->ids);
    probe->count = (uint32_t)count;
    return probe->ids != NULL ? FM_OK
                              : FM_FAIL(err, FM_NOMEM, "no memory for %" PRIu64 " ids", count);
}

static enum fm_status ids_of_tensor(struct probe *probe, const char *path, struct fm_err *err)
{
    struct fm_file file = {0};
    struct eng_safetensors_entry entry;
    enum fm_status status = tensor_find(path, "ids", &file, &entry, err);
    if (status == FM_OK && (entry.dtype != ENG_DTYPE_I64 || entry.rank != 1))
        status = FM_FAIL(err, FM_CORRUPT, "'ids' of '%s' is not I64 of one dimension", path);
    if (status == FM_OK)
        status = ids_take(probe, entry.dims[0], err);
    for (uint32_t i = 0; status == FM_OK && i < probe->count; i++) {
        int64_t id;
        memcpy(&id, (const char *)file.data + entry.offset + i * sizeof id, sizeof id);
        probe->ids[i] = id >= 0 && id <= UINT32_MAX ? (uint32_t)id : UINT32_MAX;
    }
    fm_file_unmap(&file);
    return status;
}

static enum fm_status ids_of_text(struct probe *probe, const char *path, struct fm_err *err)
{
    struct fm_file file = {0};
    enum fm_status status = file_map(path, &file, err);
    if (status == FM_OK)
        status = ids_take(probe, fm_min_u64(file.bytes / 2 + 1, IDS_MAX), err);
    if (status != FM_OK)
        return status;
    const char *text = file.data;
    uint32_t count = 0;
    for (uint64_t at = 0; at < file.bytes && status == FM_OK;) {
        if (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t') {
            at++;
            continue;
        }
        char number[16] = "";
        uint64_t length = 0, id;
        while (at + length < file.bytes && length + 1 < sizeof number && text[at + length] >= '0' &&
               text[at + length] <= '9') {
            number[length] = text[at + length];
            length++;
        }
        if (count == probe->count || !fm_parse_u64(number, 0, UINT32_MAX - 1, &id))
            status =
                FM_FAIL(err, FM_CORRUPT, "byte %" PRIu64 " of '%s' is not a token id", at, path);
        else
            probe->ids[count++] = (uint32_t)id;
        at += length;
    }
    probe->count = count;
    if (status == FM_OK && count == 0)
        status = FM_FAIL(err, FM_CORRUPT, "'%s' has no token ids", path);
    fm_file_unmap(&file);
    return status;
}

static enum fm_status ids_of_prose(struct probe *probe, const char *path, struct fm_err *err)
{
    struct fm_file file = {0};
    struct eng_text *text = NULL;
    struct eng_tokens tokens;
    eng_tokens_init(&tokens, IDS_MAX);
    enum fm_status status = file_map(path, &file, err);
    if (status == FM_OK)
        status = eng_text_open(probe->model_dir, NULL, &text, err);
    if (status == FM_OK)
        status = eng_tokens_put(&tokens, eng_text_info(text)->bos, err);
    if (status == FM_OK)
        status = eng_encode(text, file.data, file.bytes, ENG_ENCODE_TEXT, &tokens, err);
    if (status == FM_OK)
        status = ids_take(probe, tokens.count, err);
    if (status == FM_OK)
        memcpy(probe->ids, tokens.ids, tokens.count * sizeof *tokens.ids);
    eng_tokens_done(&tokens);
    eng_text_free(text);
    fm_file_unmap(&file);
    return status;
}

static enum fm_status ids_draw(struct probe *probe, uint32_t vocab, uint64_t count, uint64_t seed,
                               struct fm_err *err)
{
    enum fm_status status = ids_take(probe, count, err);
    for (uint32_t i = 0; status == FM_OK && i < probe->count; i++)
        probe->ids[i] = (uint32_t)(fm_prng_u64(seed, 0, i) % vocab);
    return status;
}

static enum fm_status ids_check(const struct probe *probe, uint32_t vocab, struct fm_err *err)
{
    for (uint32_t i = 0; i < probe->count; i++)
        if (probe->ids[i] >= vocab)
            return FM_FAIL(err, FM_INVALID, "id %u at %u, the vocabulary has %u", probe->ids[i], i,
                           vocab);
    return FM_OK;
}

/* ---- injections ---------------------------------------------------------------------------- */

/* "layer.3.streams=FILE": the input of layer 4. */
static enum fm_status injection_load(struct probe *probe, const struct eng_hparams *hparams,
                                     const char *spec, struct fm_err *err)
{
    const char *equals = strchr(spec, '=');
    char name[64], number[16] = "";
    uint64_t layer;
    if (equals == NULL || equals - spec >= (ptrdiff_t)sizeof name)
        return FM_FAIL(err, FM_INVALID, "--inject %s is not NAME=FILE", spec);
    (void)snprintf(name, sizeof name, "%.*s", (int)(equals - spec), spec);
    const char *digits = name + strlen("layer.");
    const char *dot = strncmp(name, "layer.", strlen("layer.")) == 0 ? strchr(digits, '.') : NULL;
    if (dot == NULL || strcmp(dot, ".streams") != 0 || dot - digits >= (ptrdiff_t)sizeof number)
        return FM_FAIL(err, FM_INVALID, "'%s' cannot be injected: layer.I.streams can", name);
    memcpy(number, digits, (size_t)(dot - digits));
    if (!fm_parse_u64(number, 0, hparams->layer_count - 2, &layer))
        return FM_FAIL(err, FM_INVALID, "layer %s cannot be injected: 0 to %u can", number,
                       hparams->layer_count - 2);

    struct fm_file file = {0};
    struct eng_safetensors_entry entry;
    enum fm_status status = tensor_find(equals + 1, name, &file, &entry, err);
    if (status == FM_OK &&
        (entry.dtype != ENG_DTYPE_F32 || entry.rank != 3 || entry.dims[0] < probe->count ||
         entry.dims[1] != hparams->hc_streams || entry.dims[2] != hparams->dim))
        status = FM_FAIL(err, FM_CORRUPT, "'%s' is not F32 [%u or more, %u, %u]", name,
                         probe->count, hparams->hc_streams, hparams->dim);
    struct probe_injection *injection = &probe->injections[probe->injection_count];
    size_t count = status == FM_OK ? (size_t)probe->count * hparams->hc_streams * hparams->dim : 0;
    if (status == FM_OK) {
        injection->layer = (uint32_t)layer + 1;
        injection->row_count = probe->count;
        injection->rows = fm_alloc_array(count, sizeof *injection->rows);
        if (injection->rows == NULL)
            status = FM_FAIL(err, FM_NOMEM, "no memory for '%s'", name);
    }
    for (size_t i = 0; status == FM_OK && i < count; i++) {
        float value;
        memcpy(&value, (const char *)file.data + entry.offset + i * sizeof value, sizeof value);
        injection->rows[i] = fm_bf16(value);
    }
    if (status == FM_OK)
        probe->injection_count++;
    fm_file_unmap(&file);
    return status;
}

/* ---- command line -------------------------------------------------------------------------- */

struct arguments {
    const char *ids, *text;
    uint64_t random, seed, context;
    const char *injections[PROBE_INJECTIONS_MAX];
    uint32_t injection_count;
};

static bool chunks_parse(struct probe *probe, const char *list)
{
    probe->chunk_count = 0;
    while (probe->chunk_count < PROBE_CHUNKS_MAX) {
        char number[16];
        size_t length = strcspn(list, ",");
        uint64_t tokens;
        if (length >= sizeof number)
            return false;
        (void)snprintf(number, sizeof number, "%.*s", (int)length, list);
        if (!fm_parse_u64(number, 1, PROBE_CHUNK_TOKENS_MAX, &tokens))
            return false;
        probe->chunks[probe->chunk_count++] = (uint32_t)tokens;
        if (list[length] == '\0')
            return true;
        list += length + 1;
    }
    return false;
}

static bool flag_take(struct probe *probe, const char *name)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"--all", &probe->wants_all},
                 {"--ref", &probe->wants_ref},
                 {"--draft", &probe->wants_draft},
                 {"--perplexity", &probe->wants_perplexity},
                 {"--check", &probe->wants_check}};
    for (uint32_t i = 0; i < FM_COUNT(flags); i++) {
        if (strcmp(name, flags[i].name) == 0) {
            *flags[i].flag = true;
            return true;
        }
    }
    return false;
}

static bool value_take(struct probe *probe, struct arguments *arguments, const char *name,
                       const char *value)
{
    const struct {
        const char *name;
        const char **text;
    } texts[] = {{"--model", &probe->model_dir}, {"--out", &probe->out_path},
                 {"--backend", &probe->backend}, {"--variant", &probe->variant},
                 {"--ids", &arguments->ids},     {"--text", &arguments->text}};
    for (uint32_t i = 0; i < FM_COUNT(texts); i++) {
        if (strcmp(name, texts[i].name) == 0) {
            *texts[i].text = value;
            return true;
        }
    }
    if (strcmp(name, "--inject") == 0 && arguments->injection_count < PROBE_INJECTIONS_MAX) {
        arguments->injections[arguments->injection_count++] = value;
        return true;
    }
    uint64_t threads;
    if (strcmp(name, "--threads") == 0 && fm_parse_u64(value, 1, 4096, &threads)) {
        probe->threads = (uint32_t)threads;
        return true;
    }
    return (strcmp(name, "--random") == 0 && fm_parse_u64(value, 1, IDS_MAX, &arguments->random)) ||
           (strcmp(name, "--seed") == 0 && fm_parse_u64(value, 0, UINT64_MAX, &arguments->seed)) ||
           (strcmp(name, "--context") == 0 &&
            fm_parse_u64(value, 2, UINT32_MAX, &arguments->context)) ||
           (strcmp(name, "--chunks") == 0 && chunks_parse(probe, value));
}

static bool arguments_parse(int argc, char **argv, struct probe *probe, struct arguments *arguments)
{
    for (int i = 1; i < argc; i++) {
        if (flag_take(probe, argv[i]))
            continue;
        if (i + 1 == argc || !value_take(probe, arguments, argv[i], argv[i + 1])) {
            (void)fprintf(stderr, "fathom-probe: wrong argument '%s %s'\n", argv[i],
                          i + 1 < argc ? argv[i + 1] : "");
            return false;
        }
        i++;
    }
    int sources = (arguments->ids != NULL) + (arguments->text != NULL) + (arguments->random != 0);
    return probe->model_dir != NULL && sources == 1;
}

static bool has_suffix(const char *text, const char *suffix)
{
    size_t length = strlen(text), end = strlen(suffix);
    return length >= end && strcmp(text + length - end, suffix) == 0;
}

static enum fm_status inputs_load(struct probe *probe, const struct arguments *arguments,
                                  struct fm_err *err)
{
    struct eng_hparams hparams;
    struct eng_weights *weights;
    enum fm_status status = eng_weights_load(probe->model_dir, &hparams, &weights, err);
    if (status != FM_OK)
        return status;
    eng_weights_close(weights);
    if (arguments->text != NULL)
        status = ids_of_prose(probe, arguments->text, err);
    else if (arguments->random != 0)
        status = ids_draw(probe, hparams.vocab_size, arguments->random, arguments->seed, err);
    else if (has_suffix(arguments->ids, ".safetensors"))
        status = ids_of_tensor(probe, arguments->ids, err);
    else
        status = ids_of_text(probe, arguments->ids, err);
    if (status == FM_OK)
        status = ids_check(probe, hparams.vocab_size, err);

    probe->context = (uint32_t)fm_min_u64(arguments->context != 0 ? arguments->context : UINT32_MAX,
                                          hparams.context_max);
    if (status == FM_OK && probe->out_path != NULL && probe->count > probe->context)
        status = FM_FAIL(err, FM_LIMIT, "%u tokens, at most %u can be written to one file",
                         probe->count, probe->context);
    for (uint32_t i = 0; status == FM_OK && i < arguments->injection_count; i++)
        status = injection_load(probe, &hparams, arguments->injections[i], err);
    return status;
}

static enum fm_status run(struct probe *probe, struct fm_err *err)
{
    enum fm_status status = FM_OK;
    if (probe->out_path != NULL) {
        for (uint32_t i = 0; status == FM_OK && i < probe->count; i++) {
            int64_t id = probe->ids[i];
            status = tool_tensors_put(&probe->tensors, "ids", TOOL_FROM_I64, 1, 0, 0, &id, err);
        }
    }
    if (status == FM_OK)
        status = probe->wants_ref ? probe_ref_open(probe, err) : probe_backend_open(probe, err);
    for (uint32_t first = 0; status == FM_OK && first < probe->count; first += probe->context) {
        uint32_t count = fm_min_u32(probe->context, probe->count - first);
        status = probe->wants_ref ? probe_ref_run(probe, first, count, err)
                                  : probe_backend_run(probe, first, count, err);
    }
    if (status == FM_OK && probe->out_path != NULL)
        status = tool_tensors_write(&probe->tensors, probe->out_path, err);
    if (probe->wants_ref)
        probe_ref_close();
    else
        probe_backend_close();
    return status;
}

int main(int argc, char **argv)
{
    struct probe probe = {.chunks = {128}, .chunk_count = 1};
    struct arguments arguments = {.seed = 1};
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        printf("%s", usage);
        return EXIT_SUCCESS;
    }
    if (!arguments_parse(argc, argv, &probe, &arguments)) {
        (void)fprintf(stderr, "%s", usage);
        return EXIT_FAILURE;
    }
    struct fm_err err = {0};
    enum fm_status status = inputs_load(&probe, &arguments, &err);
    if (status == FM_OK)
        status = run(&probe, &err);
    if (status != FM_OK)
        (void)fprintf(stderr, "fathom-probe: %s\n", err.text);
    else if (probe.wants_perplexity && probe.nll_count != 0)
        printf("tokens %u  scored %" PRIu64
               "  mean negative log-likelihood %.6f  perplexity %.6f\n",
               probe.count, probe.nll_count, probe.nll_sum / (double)probe.nll_count,
               exp(probe.nll_sum / (double)probe.nll_count));

    tool_tensors_done(&probe.tensors);
    for (uint32_t i = 0; i < probe.injection_count; i++)
        fm_free(probe.injections[i].rows);
    fm_free(probe.ids);
    return status == FM_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
