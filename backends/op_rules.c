/* op_rules.c - the table of op_rules.h. */
#include "backends/op_rules.h"

#include "backends/base/assert.h"

#define FROM_STREAMS                                                                               \
    {                                                                                              \
        BE_PORT(BE_OP_EMBED, 0), BE_PORT(BE_OP_HC_EXPAND, 0), BE_PORT(BE_OP_MTP_JOIN, 0)           \
    }
#define FROM(kind, slot)                                                                           \
    {                                                                                              \
        BE_PORT(kind, slot)                                                                        \
    }
#define BF16_ROWS(n, o, i) .need = (n), BE_ELEM_BF16, BE_LEAD_ROWS, (o), (i)
#define F32_ROWS(n, o, i) .need = (n), BE_ELEM_F32, BE_LEAD_ROWS, (o), (i)
#define I32_ROWS(n, i) .need = (n), BE_ELEM_I32, BE_LEAD_ROWS, BE_DIM_1, (i)
#define ACT_ROWS(n, i) .need = (n), BE_ELEM_ACT, BE_LEAD_ROWS, BE_DIM_1, (i)

/* Inputs that several kinds have. */
#define IN_STREAMS                                                                                 \
    {                                                                                              \
        BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_N, BE_DIM_D), .from = FROM_STREAMS                        \
    }
#define IN_X(n, w)                                                                                 \
    {                                                                                              \
        BF16_ROWS(n, BE_DIM_1, BE_DIM_D), .of = (w), .from = FROM(BE_OP_HC_COLLAPSE, 0)            \
    }
#define IN_XQ(w)                                                                                   \
    {                                                                                              \
        ACT_ROWS(BE_NEED_ACT, BE_DIM_D), .of = (w), .from = FROM(BE_OP_HC_COLLAPSE, 1)             \
    }
#define IN_QR(w)                                                                                   \
    {                                                                                              \
        BF16_ROWS(BE_NEED_PLAIN, BE_DIM_1, BE_DIM_Q), .of = (w), .from = FROM(BE_OP_Q_DOWN, 0)     \
    }
#define IN_QRQ(w)                                                                                  \
    {                                                                                              \
        ACT_ROWS(BE_NEED_ACT, BE_DIM_Q), .of = (w), .from = FROM(BE_OP_Q_DOWN, 1)                  \
    }
#define IN_Q                                                                                       \
    {                                                                                              \
        BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_H, BE_DIM_HEAD), .from = FROM(BE_OP_Q_UP, 0)              \
    }
#define IN_KV                                                                                      \
    {                                                                                              \
        BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_HEAD), .from = FROM(BE_OP_KV_STORE, 0)          \
    }
#define IN_TAP(n)                                                                                  \
    {                                                                                              \
        BF16_ROWS(n, BE_DIM_1, BE_DIM_D), .from = FROM(BE_OP_TAP, 0)                               \
    }
#define LINEAR(r, c)                                                                               \
    {                                                                                              \
        BE_NEED_ALWAYS, (r), (c), BE_RULE_LINEAR, 0                                                \
    }
#define DENSE(r, c)                                                                                \
    {                                                                                              \
        BE_NEED_ALWAYS, (r), (c), BE_RULE_BF16, 0                                                  \
    }
#define SINGLE(r, c)                                                                               \
    {                                                                                              \
        BE_NEED_ALWAYS, (r), (c), BE_RULE_F32, 0                                                   \
    }
#define STAGE_WEIGHTS(i)                                                                           \
    {BE_NEED_STAGE, BE_DIM_HEAD, BE_DIM_D, BE_RULE_LINEAR, (i)},                                   \
    {                                                                                              \
        BE_NEED_STAGE, BE_DIM_1, BE_DIM_HEAD, BE_RULE_BF16, (i)                                    \
    }
#define STAGE_WINDOW(i)                                                                            \
    {                                                                                              \
        BE_NEED_STAGE, BE_CLASS_WINDOW, BE_ACCESS_WRITE, (i)                                       \
    }

const struct be_op_rule be_op_rules[BE_OP_KIND_COUNT] = {
    [BE_OP_EMBED] = {.name = "EMBED",
                     .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_N, BE_DIM_D)}},
                     .weight = {DENSE(BE_DIM_V, BE_DIM_D)}},
    [BE_OP_HC_COLLAPSE] = {.name = "HC_COLLAPSE",
                           .in = {IN_STREAMS},
                           .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_D)},
                                   {ACT_ROWS(BE_NEED_MAYBE, BE_DIM_D)},
                                   {F32_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_N)},
                                   {F32_ROWS(BE_NEED_ALWAYS, BE_DIM_N, BE_DIM_N)}},
                           .weight = {SINGLE(BE_DIM_HC, BE_DIM_ND), SINGLE(BE_DIM_1, BE_DIM_HC),
                                      SINGLE(BE_DIM_1, BE_DIM_3), DENSE(BE_DIM_1, BE_DIM_D)}},
    [BE_OP_Q_DOWN] = {.name = "Q_DOWN",
                      .in = {IN_X(BE_NEED_PLAIN, 0), IN_XQ(0)},
                      .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_Q)},
                              {ACT_ROWS(BE_NEED_MAYBE, BE_DIM_Q)}},
                      .weight = {LINEAR(BE_DIM_Q, BE_DIM_D), DENSE(BE_DIM_1, BE_DIM_Q)}},
    [BE_OP_KV_STORE] = {.name = "KV_STORE",
                        .in = {IN_X(BE_NEED_PLAIN, 0), IN_XQ(0)},
                        .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_HEAD)}},
                        .weight = {LINEAR(BE_DIM_HEAD, BE_DIM_D), DENSE(BE_DIM_1, BE_DIM_HEAD)},
                        .state = {{BE_NEED_MAYBE, BE_CLASS_WINDOW, BE_ACCESS_WRITE, 0}}},
    [BE_OP_COMPRESS] = {.name = "COMPRESS",
                        .in = {IN_X(BE_NEED_ALWAYS, 0)},
                        .weight = {DENSE(BE_DIM_COMP, BE_DIM_D), DENSE(BE_DIM_COMP, BE_DIM_D),
                                   SINGLE(BE_DIM_RATIO, BE_DIM_COMP), DENSE(BE_DIM_1, BE_DIM_HEAD)},
                        .state = {{BE_NEED_ALWAYS, BE_CLASS_COMP, BE_ACCESS_WRITE, 0},
                                  {BE_NEED_ALWAYS, BE_CLASS_TAIL, BE_ACCESS_READ | BE_ACCESS_WRITE,
                                   0}}},
    [BE_OP_COMPRESS_INDEX] =
        {.name = "COMPRESS_INDEX",
         .in = {IN_X(BE_NEED_ALWAYS, 0)},
         .weight = {DENSE(BE_DIM_INDEX_COMP, BE_DIM_D), DENSE(BE_DIM_INDEX_COMP, BE_DIM_D),
                    SINGLE(BE_DIM_RATIO, BE_DIM_INDEX_COMP), DENSE(BE_DIM_1, BE_DIM_DI)},
         .state = {{BE_NEED_ALWAYS, BE_CLASS_INDEX, BE_ACCESS_WRITE, 0},
                   {BE_NEED_ALWAYS, BE_CLASS_INDEX_TAIL, BE_ACCESS_READ | BE_ACCESS_WRITE, 0}}},
    [BE_OP_INDEX_QUERY] = {.name = "INDEX_QUERY",
                           .in = {IN_X(BE_NEED_ALWAYS, 0), IN_QR(0), IN_QRQ(0)},
                           .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_HI, BE_DIM_DI)},
                                   {F32_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_HI)}},
                           .weight = {LINEAR(BE_DIM_INDEX_HEADS, BE_DIM_Q),
                                      DENSE(BE_DIM_HI, BE_DIM_D)}},
    [BE_OP_INDEX_SELECT] = {.name = "INDEX_SELECT",
                            .in = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_HI, BE_DIM_DI),
                                    .from = FROM(BE_OP_INDEX_QUERY, 0)},
                                   {F32_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_HI),
                                    .from = FROM(BE_OP_INDEX_QUERY, 1)}},
                            .out = {{I32_ROWS(BE_NEED_ALWAYS, BE_DIM_TOPK)},
                                    {I32_ROWS(BE_NEED_ALWAYS, BE_DIM_1)}},
                            .state = {{BE_NEED_ALWAYS, BE_CLASS_INDEX, BE_ACCESS_READ, 0}}},
    [BE_OP_Q_UP] = {.name = "Q_UP",
                    .in = {IN_QR(0), IN_QRQ(0)},
                    .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_H, BE_DIM_HEAD)}},
                    .weight = {LINEAR(BE_DIM_HEADS, BE_DIM_Q)}},
    [BE_OP_ATTEND] =
        {.name = "ATTEND",
         .in = {IN_Q,
                IN_KV,
                {I32_ROWS(BE_NEED_SELECT, BE_DIM_TOPK), .from = FROM(BE_OP_INDEX_SELECT, 0)},
                {I32_ROWS(BE_NEED_SELECT, BE_DIM_1), .from = FROM(BE_OP_INDEX_SELECT, 1)}},
         .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_H, BE_DIM_HEAD)}},
         .weight = {SINGLE(BE_DIM_1, BE_DIM_H)},
         .state = {{BE_NEED_ALWAYS, BE_CLASS_WINDOW, BE_ACCESS_READ, 0},
                   {BE_NEED_RATIO, BE_CLASS_COMP, BE_ACCESS_READ, 0}}},
    [BE_OP_OUT_GROUPED] = {.name = "OUT_GROUPED",
                           .in = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_H, BE_DIM_HEAD),
                                   .from = {BE_PORT(BE_OP_ATTEND, 0),
                                            BE_PORT(BE_OP_SPARK_ATTEND, 0)}}},
                           .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_GO)},
                                   {ACT_ROWS(BE_NEED_MAYBE, BE_DIM_GO)}},
                           .weight = {LINEAR(BE_DIM_GO, BE_DIM_GROUP_IN)}},
    [BE_OP_OUT_PROJECT] = {.name = "OUT_PROJECT",
                           .in = {{BF16_ROWS(BE_NEED_PLAIN, BE_DIM_1, BE_DIM_GO), .of = 0,
                                   .from = FROM(BE_OP_OUT_GROUPED, 0)},
                                  {ACT_ROWS(BE_NEED_ACT, BE_DIM_GO), .of = 0,
                                   .from = FROM(BE_OP_OUT_GROUPED, 1)}},
                           .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_D)}},
                           .weight = {LINEAR(BE_DIM_D, BE_DIM_GO)}},
    [BE_OP_HC_EXPAND] =
        {.name = "HC_EXPAND",
         .in = {IN_STREAMS,
                {BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_D),
                 .from = {BE_PORT(BE_OP_OUT_PROJECT, 0), BE_PORT(BE_OP_EXPERTS, 0)}},
                {F32_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_N), .from = FROM(BE_OP_HC_COLLAPSE, 2)},
                {F32_ROWS(BE_NEED_ALWAYS, BE_DIM_N, BE_DIM_N), .from = FROM(BE_OP_HC_COLLAPSE, 3)}},
         .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_N, BE_DIM_D)}}},
    [BE_OP_ROUTE] = {.name = "ROUTE",
                     .in = {IN_X(BE_NEED_ALWAYS, 0)},
                     .out = {{I32_ROWS(BE_NEED_ALWAYS, BE_DIM_K)},
                             {F32_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_K)}},
                     .weight = {DENSE(BE_DIM_E, BE_DIM_D),
                                {BE_NEED_MAYBE, BE_DIM_1, BE_DIM_E, BE_RULE_F32, 0},
                                {BE_NEED_MAYBE, BE_DIM_V, BE_DIM_K, BE_RULE_I64, 0}}},
    [BE_OP_SHARED_EXPERT] = {.name = "SHARED_EXPERT",
                             .in = {IN_X(BE_NEED_PLAIN, 0), IN_XQ(0)},
                             .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_D)}},
                             .weight = {LINEAR(BE_DIM_I, BE_DIM_D), LINEAR(BE_DIM_I, BE_DIM_D),
                                        LINEAR(BE_DIM_D, BE_DIM_I)}},
    [BE_OP_EXPERTS] = {.name = "EXPERTS",
                       .in = {IN_X(BE_NEED_PLAIN, 0),
                              IN_XQ(0),
                              {I32_ROWS(BE_NEED_ALWAYS, BE_DIM_K), .from = FROM(BE_OP_ROUTE, 0)},
                              {F32_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_K),
                               .from = FROM(BE_OP_ROUTE, 1)},
                              {BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_D),
                               .from = FROM(BE_OP_SHARED_EXPERT, 0)}},
                       .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_D)}},
                       .weight = {LINEAR(BE_DIM_I, BE_DIM_D)}},
    [BE_OP_TAP] = {.name = "TAP",
                   .in = {IN_STREAMS},
                   .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_1, BE_DIM_D)}}},
    [BE_OP_HEAD] =
        {.name = "HEAD",
         .in = {IN_STREAMS},
         .out = {{BE_NEED_ALWAYS, BE_ELEM_F32, BE_LEAD_LOGIT_ROWS, BE_DIM_1, BE_DIM_V, 0, {0}},
                 {BE_NEED_MAYBE, BE_ELEM_BF16, BE_LEAD_LOGIT_ROWS, BE_DIM_1, BE_DIM_D, 0, {0}}},
         .weight = {SINGLE(BE_DIM_N, BE_DIM_ND), SINGLE(BE_DIM_1, BE_DIM_N),
                    SINGLE(BE_DIM_1, BE_DIM_1), DENSE(BE_DIM_1, BE_DIM_D),
                    DENSE(BE_DIM_V, BE_DIM_D)}},
    [BE_OP_MTP_JOIN] = {.name = "MTP_JOIN",
                        .in = {IN_STREAMS},
                        .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_N, BE_DIM_D)}},
                        .weight = {DENSE(BE_DIM_V, BE_DIM_D), DENSE(BE_DIM_1, BE_DIM_D),
                                   LINEAR(BE_DIM_D, BE_DIM_D), DENSE(BE_DIM_1, BE_DIM_D),
                                   LINEAR(BE_DIM_D, BE_DIM_D)}},
    [BE_OP_SPARK_CONTEXT] =
        {.name = "SPARK_CONTEXT",
         .in = {IN_TAP(BE_NEED_ALWAYS), IN_TAP(BE_NEED_MAYBE), IN_TAP(BE_NEED_MAYBE),
                IN_TAP(BE_NEED_MAYBE), IN_TAP(BE_NEED_MAYBE), IN_TAP(BE_NEED_MAYBE)},
         .weight = {LINEAR(BE_DIM_D, BE_DIM_TAPS), DENSE(BE_DIM_1, BE_DIM_D), STAGE_WEIGHTS(0),
                    STAGE_WEIGHTS(1), STAGE_WEIGHTS(2), STAGE_WEIGHTS(3)},
         .state = {STAGE_WINDOW(0), STAGE_WINDOW(1), STAGE_WINDOW(2), STAGE_WINDOW(3)}},
    [BE_OP_SPARK_ATTEND] = {.name = "SPARK_ATTEND",
                            .in = {IN_Q, IN_KV},
                            .out = {{BF16_ROWS(BE_NEED_ALWAYS, BE_DIM_H, BE_DIM_HEAD)}},
                            .weight = {SINGLE(BE_DIM_1, BE_DIM_H)},
                            .state = {{BE_NEED_ALWAYS, BE_CLASS_WINDOW, BE_ACCESS_READ, 0}}},
    [BE_OP_SPARK_PROPOSE] =
        {.name = "SPARK_PROPOSE",
         .in = {{BE_NEED_ALWAYS, BE_ELEM_F32, BE_LEAD_LOGIT_ROWS, BE_DIM_1, BE_DIM_V, 0,
                 FROM(BE_OP_HEAD, 0)},
                {BE_NEED_ALWAYS, BE_ELEM_BF16, BE_LEAD_LOGIT_ROWS, BE_DIM_1, BE_DIM_D, 0,
                 FROM(BE_OP_HEAD, 1)}},
         .out = {{BE_NEED_ALWAYS, BE_ELEM_I32, BE_LEAD_SEQS, BE_DIM_1, BE_DIM_B, 0, {0}},
                 {BE_NEED_ALWAYS, BE_ELEM_F32, BE_LEAD_SEQS, BE_DIM_1, BE_DIM_B, 0, {0}},
                 {BE_NEED_ALWAYS, BE_ELEM_F32, BE_LEAD_LOGIT_ROWS, BE_DIM_1, BE_DIM_V, 0, {0}}},
         .weight = {DENSE(BE_DIM_V, BE_DIM_RANK), DENSE(BE_DIM_V, BE_DIM_RANK),
                    DENSE(BE_DIM_1, BE_DIM_CONFIDENCE)}},
};

const char *be_op_name(enum be_op_kind kind)
{
    return (unsigned)kind < BE_OP_KIND_COUNT ? be_op_rules[kind].name : NULL;
}

uint64_t be_dim_value(const struct be_shape *shape, const struct be_op *op, enum be_dim dim)
{
    uint64_t lanes = op->ratio == 4 ? 2 : 1; /* overlapping groups have a lane for the next */
    uint32_t taps = 0;

    switch (dim) {
    case BE_DIM_1: return 1;
    case BE_DIM_3: return 3;
    case BE_DIM_D: return shape->dim;
    case BE_DIM_N: return shape->streams;
    case BE_DIM_ND: return (uint64_t)shape->streams * shape->dim;
    case BE_DIM_HC: return (uint64_t)shape->streams * (2 + (uint64_t)shape->streams);
    case BE_DIM_Q: return shape->q_rank;
    case BE_DIM_HEAD: return shape->head_dim;
    case BE_DIM_H: return shape->head_count;
    case BE_DIM_HEADS: return (uint64_t)shape->head_count * shape->head_dim;
    case BE_DIM_GO: return (uint64_t)shape->out_groups * shape->out_rank;
    case BE_DIM_GROUP_IN: return (uint64_t)shape->head_count * shape->head_dim / shape->out_groups;
    case BE_DIM_HI: return shape->index_heads;
    case BE_DIM_DI: return shape->index_dim;
    case BE_DIM_INDEX_HEADS: return (uint64_t)shape->index_heads * shape->index_dim;
    case BE_DIM_TOPK: return shape->index_topk;
    case BE_DIM_E: return shape->expert_count;
    case BE_DIM_K: return shape->experts_per_token;
    case BE_DIM_I: return shape->expert_dim;
    case BE_DIM_V: return shape->vocab;
    case BE_DIM_B: return shape->spark_block;
    case BE_DIM_RATIO: return op->ratio;
    case BE_DIM_COMP: return lanes * shape->head_dim;
    case BE_DIM_INDEX_COMP: return lanes * shape->index_dim;
    case BE_DIM_TAPS:
        while (taps < BE_OP_IN_MAX && op->in[taps] != 0)
            taps++;
        return (uint64_t)taps * shape->dim;
    case BE_DIM_RANK: return shape->spark_rank;
    case BE_DIM_CONFIDENCE: return (uint64_t)shape->dim + shape->spark_rank;
    }
    FM_UNREACHABLE();
    return 0;
}
