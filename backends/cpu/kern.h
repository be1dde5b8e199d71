/* kern.h - the arithmetic of the CPU backend behind one table per instruction level.
 *
 * Every level computes the same bits: the chains, orders and roundings are those that the headers
 * of engine/ref state (class E).  A lane is an output (a row of a weight, a head, a channel, a
 * key), so that nothing is summed across lanes and the width of a register does not matter.
 *
 * All functions are pure over the caller's memory; the calling thread has called
 * fm_numeric_enter.  Unless something else is said, pointers need no alignment beyond that of
 * their type and outputs do not overlap inputs. */
#ifndef CPU_KERN_H
#define CPU_KERN_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/cpu/features.h"
#include "backends/program.h"

enum {
    KERN_LANES = 16,                    /* rows of a group, keys and heads of a tile */
    KERN_GROUPS = 4,                    /* groups of a full panel */
    KERN_PANEL_ROWS = 64,               /* = KERN_LANES * KERN_GROUPS */
    KERN_BLOCK = 128,                   /* columns of a block of inputs */
    KERN_TILE_ROWS = 64,                /* rows of an attention tile */
    KERN_HEADS_MAX = 64,                /* lanes of an attention tile */
    KERN_TOKENS = 64,                   /* tokens that one linear tile takes at most */
    KERN_FP4_BLOCK_BYTES = 4 * 64 + 16, /* one group, 32 columns: codes and scales */
    KERN_MIXES_MAX = (2 + 8) * 8,       /* rows of a hyper-connection weight */
    KERN_STREAMS_MAX = 8,
    KERN_PAIRS_MAX = 128, /* rotated pairs of a head */
};

/* One panel times `count` tokens.  Layout of a panel of g groups of 16 rows (pack.h writes it):
 *   FP4   for each 32 columns: four times g vectors of 64 bytes, 16 rows x 8 columns of nibbles
 *         (column e of the eight in bits 4e .. 4e+3 of the row's 32-bit word), then g x 16 ue8m0
 *   FP8   for each column: g x 16 bytes
 *   BF16  for each column pair: g x 16 words, the even column in the low half */
struct kern_linear {
    enum be_format format;
    bool scale_is_f32; /* FP8 */
    const void *panel;
    const void *scales; /* FP8: of this panel, one ue8m0 or float per 128 columns */
    uint32_t groups, cols;
    uint32_t count;          /* tokens, at most KERN_TOKENS */
    const float *x;          /* [blocks of 128 columns, count, 128], unscaled */
    const uint8_t *x_scales; /* [count, x_scale_stride] ue8m0, one per 128 columns; NULL: none */
    uint32_t x_scale_stride;
    float *y; /* out [count, 64]: the first 16 * groups of each are written */
};

/* A tile of at most KERN_TILE_ROWS rows against `lanes` heads (a multiple of 16; those beyond
 * `heads` hold zero queries).  m, l and o go from tile to tile. */
struct kern_attend {
    uint32_t heads, lanes, dim, row_count;
    float scale;
    const float *q; /* [dim, lanes] */
    float *rows;    /* [row_count + 1, dim]: the last one is overwritten with zeros if row_count is
                     * odd */
    float *p;       /* scratch [KERN_TILE_ROWS + 1, lanes] */
    float *m, *l;   /* [lanes] */
    float *o;       /* [heads, dim] */
};

/* What the split of mixes needs of a hyper-connection. */
struct kern_split {
    uint32_t streams, iterations;
    float eps;
    const float *base, *scale;
};

struct kern_pool {
    uint32_t slots, ratio, width; /* slots from `ratio` on take column width + c */
    const float *const *k;        /* [slots] rows */
    const float *const *g;
};

struct cpu_kern {
    enum cpu_level level;

    /* linear.h */
    void (*linear)(const struct kern_linear *job);
    /* bf16 x [cols] of one token to y[block * block_stride + column mod 128], widened. */
    void (*spread)(const uint16_t *x, uint32_t cols, uint32_t block_stride, float *y);
    /* act_quant: the unscaled e4m3 values as bf16 (exact) and a scale byte per 128. */
    void (*act_quant)(const uint16_t *x, uint32_t cols, uint16_t *ret_values, uint8_t *ret_scales);
    void (*round)(const float *x, uint32_t count, uint16_t *ret_y);
    /* y = x + a, in fp32. */
    void (*add)(const float *x, const float *a, uint32_t count, float *ret_y);

    /* One row of a BF16 weight as the checkpoint has it, with x [cols] widened. */
    float (*dot)(const uint16_t *w, const float *x, uint32_t cols);

    /* norm.h, rope.h; weight may be NULL, ret_y may be x */
    void (*rmsnorm)(const uint16_t *x, const uint16_t *weight, uint32_t dim, float eps,
                    uint16_t *ret_y);
    void (*rope_angles)(uint32_t position, const float *inverse, uint32_t pairs, float *ret_sines,
                        float *ret_cosines);
    /* the last 2 * pairs of dim, in place */
    void (*rope)(uint16_t *x, uint32_t dim, uint32_t pairs, const float *sines,
                 const float *cosines, bool is_inverse);

    /* hyper.h.  parts: chunk `chunk` of 16 of x [all]: ret[o] = part(o, chunk), then that of x^2. */
    void (*hyper_parts)(const float *fn, uint32_t rows, uint32_t all, const uint16_t *x,
                        uint32_t chunk, float *ret_parts);
    /* pre, post and comb of the summed and scaled mixes [(2 + N) N] */
    void (*hyper_split)(const struct kern_split *split, const float *mixes, float *ret_pre,
                        float *ret_post, float *ret_comb);
    /* p[j] = sigmoid( F(m[j], scale, base[j]) ) + eps */
    void (*head_weights)(const float *mixes, const float *base, float scale, float eps,
                         uint32_t streams, float *ret_p);
    void (*collapse)(const float *weight, const uint16_t *x, uint32_t streams, uint32_t dim,
                     uint16_t *ret_y);
    /* columns [first, end) of all streams */
    void (*expand)(const uint16_t *x, const uint16_t *f, const float *post, const float *comb,
                   uint32_t streams, uint32_t dim, uint32_t first, uint32_t end, uint16_t *ret_x);
    void (*tap)(const uint16_t *x, uint32_t streams, uint32_t dim, uint16_t *ret_tap);
    /* ret_x[s] = e + h[s] */
    void (*join)(const uint16_t *e, const uint16_t *h, uint32_t streams, uint32_t dim,
                 uint16_t *ret_x);

    /* Rows of the window and of compressed entries in the canonical form.  pack quantises dims
     * [0, dim - rope_dim) of kv, in place, and writes the row if it is not NULL. */
    void (*row_pack)(uint16_t *kv, uint32_t dim, uint32_t rope_dim, uint8_t *row);
    void (*row_unpack)(const uint8_t *row, uint32_t dim, uint32_t rope_dim, float *ret_kv);
    void (*widen)(const uint16_t *x, uint32_t count, float *ret_y);

    /* attn.h */
    void (*attend)(const struct kern_attend *tile);
    /* sum = F(o, factor, sum) */
    void (*merge)(const float *o, float factor, uint32_t count, float *sum);
    /* bf( o / l ) */
    void (*divide)(const float *o, float l, uint32_t count, uint16_t *ret_o);

    /* compress.h: the pooled entry, rounded, before its norm */
    void (*pool)(const struct kern_pool *pool, uint16_t *ret_entry);

    /* indexer.h.  Hadamard and fp4 of x [dim] in place; nibbles and scales too if row is not NULL.
     * scratch [dim]. */
    void (*index_finish)(uint16_t *x, uint32_t dim, float *scratch, uint8_t *row);
    /* Scores of 16 canonical index keys.  q [heads, dim] widened; scratch [dim, 16]. */
    void (*index_scores)(const float *q, const float *iw, uint32_t heads, uint32_t dim,
                         const uint8_t *const *keys, float *scratch, uint16_t *ret_scores);

    /* moe.h */
    void (*route_scores)(const float *logits, uint32_t count, float *ret_s);
    void (*swiglu)(const uint16_t *g, const uint16_t *u, uint32_t count, float limit,
                   const float *weight, uint16_t *ret_a);
    /* sum = sum + bf(y) */
    void (*accumulate)(const float *y, uint32_t count, float *sum);
    /* bf( sum + ys ) */
    void (*finish_sum)(const float *sum, const uint16_t *ys, uint32_t count, uint16_t *ret_f);
};

/* The table of a level, or NULL where this build has none. */
const struct cpu_kern *cpu_kern_get(enum cpu_level level);

#endif
