/* bench_decode.c - tokens per second of a model on the CPU backend: prefill, then decode.
 *
 *   bench_decode [MODEL_DIR [PROMPT [DECODE [BATCH [THREADS]]]]]
 *
 * The prompt is random tokens, in one step where it fits; then BATCH sequences that share nothing
 * decode greedily.  One line per instruction level of this host, or only FATHOM_ISA's.  Run on an idle machine: two
 * threads on one processor halve the figures. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "backends/cpu/features.h"
#include "engine/engine.h"

enum { BATCH_MAX = 64, PAGES_MAX = 256, S_UNITS = 4 };

struct bench {
    struct eng_engine *engine;
    const struct eng_info *info;
    uint32_t batch, next_unit;
    struct eng_span spans[BATCH_MAX];
    uint32_t tokens[BATCH_MAX];
    uint32_t g_pages[BATCH_MAX][PAGES_MAX], s_pages[BATCH_MAX][PAGES_MAX];
};

static _Noreturn void die(const struct fm_err *err)
{
    (void)fprintf(stderr, "bench_decode: %s\n", err->text);
    exit(1);
}

static void span_set(struct bench *bench, uint32_t s, const uint32_t *tokens, uint32_t length,
                     uint32_t count, const struct eng_draw *draw)
{
    uint32_t page_tokens = bench->info->layout.page_tokens;
    uint32_t last = (length + count - 1) / page_tokens;
    uint32_t s_first = be_step_s_page_first(length, page_tokens);
    uint32_t end = length + count, window = bench->info->layout.window;
    uint32_t kept = (end - fm_min_u32(end, window)) / page_tokens;
    for (uint32_t p = 0; p <= last; p++)
        if (bench->g_pages[s][p] == 0)
            bench->g_pages[s][p] = bench->next_unit++;
    /* window pages in turn: two that are read and two that are written at most */
    for (uint32_t p = length / page_tokens; p <= last; p++)
        bench->s_pages[s][p] = p >= kept ? 1 + s * S_UNITS + p % S_UNITS : 0;
    bench->spans[s] = (struct eng_span){
        .view = {.length = length,
                 .reserved = count,
                 .tail_slot = s + 1,
                 .g_pages = bench->g_pages[s],
                 .g_count = last + 1,
                 .s_pages = bench->s_pages[s] + s_first,
                 .s_count = last + 1 - s_first},
        .tokens = tokens,
        .token_count = count,
        .is_decode = count == 1,
        .logit_first = count - 1,
        .draws = draw,
        .draws_per_row = 1,
    };
}

static void step(struct bench *bench, uint32_t first, uint32_t count, struct eng_drawn *drawn)
{
    struct fm_err err;
    struct eng_plan plan = {.spans = bench->spans + first, .span_count = count};
    if (eng_run(bench->engine, &plan, drawn, &err) != FM_OK)
        die(&err);
}

static double seconds(uint64_t from_ns)
{
    return (double)(fm_clock_ns() - from_ns) / (double)FM_NS_PER_S;
}

/* Processor time of all threads so far: what is left of a figure on a machine that is shared. */
static double cpu_seconds(void)
{
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void run(struct bench *bench, uint32_t prompt, uint32_t decode)
{
    static const struct eng_sampling greedy = {.top_p = 1, .repetition_penalty = 1};
    struct eng_draw draw = {.sampling = &greedy, .forced = -1};
    struct eng_drawn *drawn = fm_alloc_array(BATCH_MAX, sizeof *drawn);
    uint32_t *tokens = fm_alloc_array(prompt, sizeof *tokens);
    uint32_t slots[BATCH_MAX];
    struct fm_err err;
    for (uint32_t i = 0; i < prompt; i++)
        tokens[i] = (uint32_t)(fm_prng_u64(1, 2, i) % bench->info->vocab);
    for (uint32_t s = 0; s < bench->batch; s++)
        slots[s] = s + 1;
    struct eng_plan reset = {.tail_resets = slots, .tail_reset_count = bench->batch};
    if (eng_run(bench->engine, &reset, drawn, &err) != FM_OK)
        die(&err);

    double cpu = cpu_seconds();
    uint64_t start = fm_clock_ns();
    for (uint32_t s = 0; s < bench->batch; s++)
        for (uint32_t at = 0; at < prompt;) {
            uint32_t count = fm_min_u32(prompt - at, bench->info->step_rows_max);
            span_set(bench, s, tokens + at, at, count, &draw);
            step(bench, s, 1, &drawn[s]);
            at += count;
        }
    double prefill_s = seconds(start), prefill_cpu_s = cpu_seconds() - cpu;
    cpu = cpu_seconds();

    start = fm_clock_ns();
    for (uint32_t i = 0; i < decode; i++) {
        for (uint32_t s = 0; s < bench->batch; s++) {
            bench->tokens[s] = drawn[s].token;
            span_set(bench, s, &bench->tokens[s], prompt + i, 1, &draw);
        }
        step(bench, 0, bench->batch, drawn);
    }
    double decode_s = seconds(start), decode_cpu_s = cpu_seconds() - cpu;
    double prefilled = (double)prompt * bench->batch, decoded = (double)decode * bench->batch;
    printf("%-24s batch %-3u prefill %7.1f tok/s %7.1f tok/cpu-s   decode %7.1f tok/s %7.1f "
           "tok/cpu-s\n",
           bench->info->backend, bench->batch, prefilled / prefill_s, prefilled / prefill_cpu_s,
           decoded / decode_s, decoded / decode_cpu_s);
    (void)fflush(stdout);
    fm_free(tokens);
    fm_free(drawn);
}

static uint32_t argument(int argc, char **argv, int index, uint32_t otherwise)
{
    uint64_t value;
    if (argc > index && fm_parse_u64(argv[index], 0, 1u << 20, &value))
        return (uint32_t)value;
    return otherwise;
}

int main(int argc, char **argv)
{
    uint32_t prompt = argument(argc, argv, 2, 512), decode = argument(argc, argv, 3, 256);
    uint32_t batch = argument(argc, argv, 4, 1), threads = argument(argc, argv, 5, 0);
    if (batch == 0 || batch > BATCH_MAX || prompt == 0) {
        (void)fprintf(stderr, "bench_decode: a batch of 1 to %d, a prompt of 1 at least\n",
                      BATCH_MAX);
        return 1;
    }
    for (uint32_t level = CPU_LEVEL_COUNT; level-- > 0;) {
        const char *only = getenv("FATHOM_ISA"), *name = cpu_level_name((enum cpu_level)level);
        if (!cpu_level_is_offered((enum cpu_level)level) ||
            (only != NULL && strcmp(only, name) != 0))
            continue;
        struct fm_err err;
        struct bench bench = {.batch = batch, .next_unit = 1};
        struct eng_options options = {
            .model_dir = argc > 1 ? argv[1] : "conf/model",
            .backend = "cpu",
            .variant = name,
            .threads = threads,
            .context_max = prompt + decode + 1,
            .step_rows_max = 512,
            .seqs_max = batch,
            .logit_rows_max = batch,
        };
        if (eng_open(&options, &bench.engine, &err) != FM_OK)
            die(&err);
        bench.info = eng_info(bench.engine);
        if (level == CPU_LEVEL_SCALAR) /* for correctness, not for speed */
            run(&bench, fm_min_u32(prompt, 32), fm_min_u32(decode, 8));
        else
            run(&bench, prompt, decode);
        eng_free(bench.engine);
    }
    return 0;
}
