/* program.h - the model as a backend sees it: values, weights, state, operations, step blocks.
 *
 * The engine states the model once as a list of fused operations with their data flow; a backend
 * compiles the list once per load and then runs it for every step.  Nothing here is an address:
 * a value is an id, a weight is a checkpoint name, state is a page or slot number.  A step block
 * is flat, relocatable and carries its own length and CRC, so that it can be copied to a device,
 * to another process or to a follower as it is.
 *
 * What an operation means is its function in engine/ref; on the CPU its arithmetic is class E
 * (the fixed orders that engine/ref/README.md lists), elsewhere within a stated tolerance.
 *
 * Owner: whoever built it.  Immutable once built; any thread may read. */
#ifndef BE_PROGRAM_H
#define BE_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/status.h"

/* ---- numbers of the model ------------------------------------------------------------------ */

/* What the operations need of the configuration.  Counts are in elements, scales are factors. */
struct be_shape {
    uint32_t dim;         /* D, hidden size */
    uint32_t streams;     /* N, hyper-connection streams */
    uint32_t head_count;  /* H */
    uint32_t head_dim;    /* d, rope dims included */
    uint32_t rope_dim;    /* R, the last R of a head */
    uint32_t q_rank;      /* Q */
    uint32_t out_groups;  /* G */
    uint32_t out_rank;    /* O, per group */
    uint32_t window;      /* W, counts the query itself */
    uint32_t page_tokens; /* P, lcm of the window and all compress ratios */
    uint32_t index_heads; /* Hi */
    uint32_t index_dim;   /* di */
    uint32_t index_topk;
    uint32_t expert_count;      /* E */
    uint32_t experts_per_token; /* K */
    uint32_t expert_dim;        /* I */
    uint32_t vocab;             /* V */
    uint32_t hc_iterations;     /* column steps of the Sinkhorn normalisation */
    uint32_t layer_count;       /* L; draft stages are layers L, L+1, ... */
    uint32_t stage_count;       /* draft stages */
    uint32_t spark_block;       /* B, 0 without DSpark */
    uint32_t spark_rank;        /* rank of the Markov head */
    float norm_eps, hc_eps;
    float swiglu_limit, route_scale;
    float softmax_scale;         /* d^-1/2, rounded to float32 */
    float index_scale;           /* (di * Hi)^-1/2, rounded to float32 */
    const float *inv_freq_plain; /* [R/2], layers of ratio 0 and draft stages; outlives the model */
    const float *inv_freq_yarn;  /* [R/2], layers of any other ratio */
};

/* ---- values -------------------------------------------------------------------------------- */

enum be_elem {
    BE_ELEM_BF16,
    BE_ELEM_F32,
    BE_ELEM_I32,
    /* The quantised form of a bf16 value in blocks of 128 along the last dims: e4m3 codes and one
     * power-of-two exponent a block.  Its physical form is the backend's; value_read and
     * value_write use the canonical form: per row all codes, then one ue8m0 byte a block. */
    BE_ELEM_ACT,
};

/* What the first dimension of a value counts. */
enum be_lead { BE_LEAD_ROWS, BE_LEAD_LOGIT_ROWS, BE_LEAD_SEQS };

enum be_value_flags {
    BE_VALUE_INPUT = 1,  /* no operation writes it: the caller does, with value_write */
    BE_VALUE_OUTPUT = 2, /* kept until the next submit of this exec: value_read, value_copy */
};

typedef uint16_t be_value_id; /* index in be_program.values; 0 is "none" */

/* An array [lead, outer, inner], row-major, written by one operation of the program. */
struct be_value {
    enum be_elem elem;
    enum be_lead lead;
    uint32_t outer, inner;
    uint32_t flags;
};

/* ---- weights ------------------------------------------------------------------------------- */

enum be_format { BE_FORMAT_FP4, BE_FORMAT_FP8, BE_FORMAT_BF16, BE_FORMAT_F32, BE_FORMAT_I64 };
enum be_scale_format { BE_SCALE_NONE, BE_SCALE_UE8M0, BE_SCALE_F32 };

typedef uint32_t be_weight_id; /* index in be_model.weights; 0 is "none" */

/* A tensor of the checkpoint, [rows, cols] (a vector is [1, cols]).
 *   FP4   [rows, cols/2] bytes, low nibble = even element; scale [rows, cols/32]
 *   FP8   [rows, cols] e4m3; scale [ceil(rows/128), ceil(cols/128)] */
struct be_weight {
    const char *name; /* official name of the data tensor; outlives the model */
    enum be_format format;
    enum be_scale_format scale_format;
    uint32_t rows, cols;
};

enum be_part { BE_PART_DATA, BE_PART_SCALE };

/* How a backend gets at the bytes of weights: a function, not a pointer. */
struct be_reader {
    void *context;
    /* Copy rows [row_first, row_first + row_count) of the part, as the checkpoint stores them,
     * densely into target.  Called on the thread that called weights_load, one call at a time.
     * FM_CORRUPT when the tensor holds a value that its format forbids. */
    enum fm_status (*read)(void *context, be_weight_id weight, enum be_part part,
                           uint32_t row_first, uint32_t row_count, void *target,
                           struct fm_err *err);
    /* May be NULL.  bytes_done of bytes_total of the checkpoint were taken. */
    void (*progress)(void *context, uint64_t bytes_done, uint64_t bytes_total);
};

/* ---- state --------------------------------------------------------------------------------- */

/* Three pools, each of equal units that are addressed by number; number 0 is the null page: it
 * reads as zeros and is never written.
 *   G  one page of P tokens: compressed entries and index keys of every layer; immutable when full
 *   S  one page of P tokens: the window rows of every layer and draft stage
 *   T  one slot for each running sequence: the raw rows that compressors still need, float32 */
enum be_pool { BE_POOL_G, BE_POOL_S, BE_POOL_T, BE_POOL_COUNT };

enum be_class {
    BE_CLASS_WINDOW,     /* S: row t mod P of page t / P */
    BE_CLASS_COMP,       /* G: entry j, at row j mod (P / ratio) of page j / (P / ratio) */
    BE_CLASS_INDEX,      /* G: index key j, placed as COMP */
    BE_CLASS_TAIL,       /* T: ring row t mod rows: k [cf*width], then g [cf*width], float32 */
    BE_CLASS_INDEX_TAIL, /* T: the same of the indexer's compressor */
};

/* Canonical rows (page_out, page_in, disk, wire):
 *   WINDOW, COMP   e4m3 [d - R], bf16 [R], ue8m0 [(d - R) / 64], zeros up to a multiple of 8
 *   INDEX          nibbles [di / 2] (low = even element), ue8m0 [di / 32]
 *   tails          float32, k then g
 * A canonical page is its states' rows in the order of be_model.states. */
struct be_state {
    enum be_class class;
    uint16_t layer;
    uint16_t ratio;     /* of the layer; 0 in WINDOW */
    uint32_t rows;      /* in one page or slot */
    uint32_t row_bytes; /* canonical */
};

typedef uint16_t be_state_id; /* index in be_model.states; 0 is "none" */

static inline enum be_pool be_class_pool(enum be_class class)
{
    if (class == BE_CLASS_WINDOW)
        return BE_POOL_S;
    return class == BE_CLASS_COMP || class == BE_CLASS_INDEX ? BE_POOL_G : BE_POOL_T;
}

/* Weights and state that the programs of one model share.  Entry 0 of both tables is unused. */
struct be_model {
    struct be_shape shape;
    const struct be_weight *weights;
    uint32_t weight_count;
    const struct be_state *states;
    uint32_t state_count;
};

/* Canonical bytes of one page or slot of the pool. */
uint64_t be_pool_unit_bytes(const struct be_model *model, enum be_pool pool);

/* Byte offset of the state's first row in a canonical page or slot. */
uint64_t be_state_offset(const struct be_model *model, be_state_id state);

/* Bytes of the data (or of the scales) of one row of the part, and its number of rows. */
uint64_t be_weight_row_bytes(const struct be_weight *weight, enum be_part part);
uint32_t be_weight_part_rows(const struct be_weight *weight, enum be_part part);

/* ---- operations ---------------------------------------------------------------------------- */

/* Inputs, outputs, weights and state by slot.  "x|xq" are two slots: the bf16 value and its act
 * form; a weight in FP4 or FP8 takes the act form, a BF16 weight takes the bf16 value, and the
 * slot that no weight takes may be 0.  [..] are the dims behind the lead.
 *
 *   kind            in                      out                        weights               state
 *   EMBED           -                       X [N,D]                    embed                 -
 *   HC_COLLAPSE     X                       x [D], xq, post f32 [N],   fn, base, scale,      -
 *                                           comb f32 [N,N]             norm
 *   Q_DOWN          x|xq                    qr [Q], qrq                wq_a, q_norm          -
 *   KV_STORE        x|xq                    kv [d]                     wkv, kv_norm          window w, or none
 *   COMPRESS        x                       -                          wkv, wgate, ape, norm comp w, tail rw
 *   COMPRESS_INDEX  x                       -                          wkv, wgate, ape, norm index w, index tail rw
 *   INDEX_QUERY     x, qr|qrq               qi [Hi,di], iw f32 [Hi]    indexer.wq_b,         -
 *                                                                      weights_proj
 *   INDEX_SELECT    qi, iw                  sel i32 [topk],            -                     index r
 *                                           count i32 [1]
 *   Q_UP            qr|qrq                  q [H,d]                    wq_b                  -
 *   ATTEND          q, kv, sel, count       o [H,d]                    sink                  window r, comp r
 *                   (sel, count 0: all visible entries, or none where there is no comp state)
 *   OUT_GROUPED     o                       u [G*O], uq                wo_a                  -
 *   OUT_PROJECT     u|uq                    a [D]                      wo_b                  -
 *   HC_EXPAND       X, f, post, comb        X [N,D]                    -                     -
 *   ROUTE           x                       experts i32 [K],           gate, bias, tid2eid   -
 *                                           weights f32 [K]            (bias or tid2eid is 0)
 *   SHARED_EXPERT   x|xq                    ys [D]                     w1, w3, w2            -
 *   EXPERTS         x|xq, experts,          f [D]                      first w1; expert e's  -
 *                   weights, ys                                        w1, w3, w2 are first
 *                                                                      + 3e, + 3e+1, + 3e+2
 *   TAP             X                       tap [D]                    -                     -
 *   HEAD            X                       logits f32 [V], h [D]      hc fn, base, scale,   -
 *                                           (lead: logit rows; h may   norm, head
 *                                           be 0; it is before norm)
 *   MTP_JOIN        X                       X [N,D]                    embed, enorm, e_proj, -
 *                                                                      hnorm, h_proj
 *   SPARK_CONTEXT   tap (one per target)    -                          main_proj, main_norm, window w of
 *                                                                      then wkv, kv_norm of  each stage
 *                                                                      each stage
 *   SPARK_ATTEND    q, kv                   o [H,d]                    sink                  window r
 *   SPARK_PROPOSE   logits, h               tokens i32 [B],            markov_w1, markov_w2, -
 *                                           confidence f32 [B],        confidence
 *                                           (lead: seqs), biased
 *                                           logits f32 [V]
 *
 * sel holds entry numbers in ascending order, count of them; the rest is -1.
 * MTP_JOIN's rows: token t[p+1], position p, X of position p.  SPARK_*: rows are the block, B
 * for each sequence, positions length_before .. length_before + B - 1, all of them logit rows. */
enum be_op_kind {
    BE_OP_EMBED,
    BE_OP_HC_COLLAPSE,
    BE_OP_Q_DOWN,
    BE_OP_KV_STORE,
    BE_OP_COMPRESS,
    BE_OP_COMPRESS_INDEX,
    BE_OP_INDEX_QUERY,
    BE_OP_INDEX_SELECT,
    BE_OP_Q_UP,
    BE_OP_ATTEND,
    BE_OP_OUT_GROUPED,
    BE_OP_OUT_PROJECT,
    BE_OP_HC_EXPAND,
    BE_OP_ROUTE,
    BE_OP_SHARED_EXPERT,
    BE_OP_EXPERTS,
    BE_OP_TAP,
    BE_OP_HEAD,
    BE_OP_MTP_JOIN,
    BE_OP_SPARK_CONTEXT,
    BE_OP_SPARK_ATTEND,
    BE_OP_SPARK_PROPOSE,
    BE_OP_KIND_COUNT,
};

enum { BE_OP_IN_MAX = 6, BE_OP_OUT_MAX = 4, BE_OP_WEIGHTS_MAX = 12, BE_OP_STATES_MAX = 4 };

enum be_access { BE_ACCESS_NONE = 0, BE_ACCESS_READ = 1, BE_ACCESS_WRITE = 2 };

struct be_op {
    enum be_op_kind kind;
    uint16_t layer;
    uint16_t ratio; /* of the layer: 0, 4, or another; chooses the rope table, too */
    be_value_id in[BE_OP_IN_MAX];
    be_value_id out[BE_OP_OUT_MAX];
    be_weight_id weight[BE_OP_WEIGHTS_MAX];
    be_state_id state[BE_OP_STATES_MAX];
    uint8_t access[BE_OP_STATES_MAX]; /* enum be_access bits for each state */
    uint32_t edge_first, edge_count;  /* in be_program.edges: operations this one comes after */
};

enum be_program_kind { BE_PROGRAM_FORWARD, BE_PROGRAM_DRAFT };

struct be_program {
    const struct be_model *model; /* outlives the program */
    enum be_program_kind kind;
    const struct be_value *values; /* entry 0 is unused */
    uint32_t value_count;
    const struct be_op *ops; /* in an order that satisfies every edge */
    uint32_t op_count;
    const uint32_t *edges; /* op numbers, each below the op that has it */
    uint32_t edge_count;
};

/* "HC_COLLAPSE" and so on; NULL past the last kind. */
const char *be_op_name(enum be_op_kind kind);

/* Bytes of one row of the value in its canonical form. */
uint64_t be_value_row_bytes(const struct be_value *value);

/* Verify a program: ids in range, every value written once and before it is read, element, lead
 * and dims of every slot as the table says, weights of the right shape and format, states of the
 * right class and layer, and every edge that values and effects ask for present (directly or
 * through other edges).  FM_INVALID names the operation and the rule. */
enum fm_status be_program_check(const struct be_program *program, struct fm_err *err) FM_MUST_CHECK;

/* ---- step block ---------------------------------------------------------------------------- */

enum { BE_STEP_VERSION = 1, BE_NO_LOGIT = 0xffff };

enum be_row_kind { BE_ROW_PREFILL, BE_ROW_DECODE, BE_ROW_VERIFY, BE_ROW_REPLAY };

struct be_row {
    int32_t token; /* id; ~k, the token sampled for logit row k of the step before, is kept for
                    * caps.future_tokens and refused in blocks of version 1 */
    uint32_t position;
    uint32_t seq;   /* index in the step */
    uint16_t logit; /* index among the logit rows, or BE_NO_LOGIT */
    uint16_t kind;  /* enum be_row_kind */
};
_Static_assert(sizeof(struct be_row) == 16, "rows are copied to devices as they are");

/* Rows [row_first, row_first + row_count) hold positions length_before, length_before + 1, ...
 * Page numbers stand in the step's page array; a pool of which the program touches no state needs
 * no list (count 0), and no tail slot:
 *   G: pages 0, 1, ... at least up to the page of the last row; none of these may be 0
 *   S: from the page before length_before's (or page 0) at least up to the page of the last row; 0
 *      where rows are not kept.  Pages that hold one of the window - 1 rows before length_before
 *      are not 0; a DSpark block sees all window rows before it.  Its own rows are never stored:
 *      its list may end with the page of row length_before - 1. */
struct be_seq {
    uint32_t row_first, row_count;
    uint32_t length_before;
    uint32_t tail_slot;
    uint32_t g_first, g_count;
    uint32_t s_first, s_count;
};
_Static_assert(sizeof(struct be_seq) == 32, "sequences are copied to devices as they are");

/* What a device that samples (caps.device_sampling) needs of one logit row. */
struct be_logit {
    float temperature, top_p, min_p;
    uint32_t top_k, flags;
    uint32_t mask_offset; /* in bytes from the block's start; 0: every token is allowed.  Blocks of
                           * version 1 have no masks and no flags: both are 0 */
    uint64_t seed;
};
_Static_assert(sizeof(struct be_logit) == 32, "sampling is copied to devices as it is");

/* Followed without gaps by be_row[row_count], be_seq[seq_count], be_logit[logit_count] and
 * uint32_t[page_count].  Little endian; the block starts at an address that is a multiple of 8. */
struct be_step {
    uint32_t bytes; /* of the whole block */
    uint32_t version;
    uint64_t number; /* ascending on one device */
    uint32_t row_count, seq_count, logit_count, page_count;
    uint32_t reserved; /* 0 */
    uint32_t crc;      /* CRC32C of the block with this field 0 */
};
_Static_assert(sizeof(struct be_step) == 40, "the header is copied to devices as it is");

/* Sizes that a backend prepares for; what compile accepted, submit cannot refuse for size. */
struct be_limits {
    uint32_t rows_max;
    uint32_t seqs_max;
    uint32_t logit_rows_max;
    uint32_t pages_max;            /* page numbers in one step */
    uint32_t units[BE_POOL_COUNT]; /* pages and slots of each pool, the null one included */
};

static inline const struct be_row *be_step_rows(const struct be_step *step)
{
    return (const struct be_row *)(const void *)(step + 1);
}

static inline const struct be_seq *be_step_seqs(const struct be_step *step)
{
    return (const struct be_seq *)(const void *)(be_step_rows(step) + step->row_count);
}

static inline const struct be_logit *be_step_logits(const struct be_step *step)
{
    return (const struct be_logit *)(const void *)(be_step_seqs(step) + step->seq_count);
}

static inline const uint32_t *be_step_pages(const struct be_step *step)
{
    return (const uint32_t *)(const void *)(be_step_logits(step) + step->logit_count);
}

/* Bytes of a block with these counts. */
size_t be_step_bytes(uint32_t row_count, uint32_t seq_count, uint32_t logit_count,
                     uint32_t page_count);

/* Index of the first S page that a sequence's list holds. */
static inline uint32_t be_step_s_page_first(uint32_t length_before, uint32_t page_tokens)
{
    uint32_t page = length_before / page_tokens;
    return page == 0 ? 0 : page - 1;
}

/* Set version, bytes and crc once everything else is in place. */
void be_step_seal(struct be_step *step);

/* Verify a block that may come from anywhere, of which `bytes` are readable: length, version, crc,
 * counts against the limits, and every row, sequence and page number (R7).  The last backend entry
 * that trusts nothing; FM_INVALID names the field, the value and the bound. */
enum fm_status be_step_check(const struct be_step *step, size_t bytes,
                             const struct be_program *program, const struct be_limits *limits,
                             struct fm_err *err) FM_MUST_CHECK;

#endif
