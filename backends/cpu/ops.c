/* ops.c - how each kind of operation is computed: one line per kind, the code by noun in op_*.c. */
#include "backends/cpu/ops.h"

#include "backends/base/assert.h"

const struct cpu_kind *cpu_kind_get(enum be_op_kind kind)
{
    static const struct cpu_kind *const kinds[BE_OP_KIND_COUNT] = {
        [BE_OP_EMBED] = &cpu_op_embed,
        [BE_OP_HC_COLLAPSE] = &cpu_op_collapse,
        [BE_OP_Q_DOWN] = &cpu_op_q_down,
        [BE_OP_KV_STORE] = &cpu_op_kv_store,
        [BE_OP_COMPRESS] = &cpu_op_compress,
        [BE_OP_COMPRESS_INDEX] = &cpu_op_compress_index,
        [BE_OP_INDEX_QUERY] = &cpu_op_index_query,
        [BE_OP_INDEX_SELECT] = &cpu_op_index_select,
        [BE_OP_Q_UP] = &cpu_op_q_up,
        [BE_OP_ATTEND] = &cpu_op_attend,
        [BE_OP_OUT_GROUPED] = &cpu_op_out_grouped,
        [BE_OP_OUT_PROJECT] = &cpu_op_out_project,
        [BE_OP_HC_EXPAND] = &cpu_op_expand,
        [BE_OP_ROUTE] = &cpu_op_route,
        [BE_OP_SHARED_EXPERT] = &cpu_op_shared_expert,
        [BE_OP_EXPERTS] = &cpu_op_experts,
        [BE_OP_TAP] = &cpu_op_tap,
        [BE_OP_HEAD] = &cpu_op_head,
        [BE_OP_MTP_JOIN] = &cpu_op_mtp_join,
        [BE_OP_SPARK_CONTEXT] = &cpu_op_spark_context,
        [BE_OP_SPARK_ATTEND] = &cpu_op_spark_attend,
        [BE_OP_SPARK_PROPOSE] = &cpu_op_spark_propose,
    };
    FM_ASSERT(kind < BE_OP_KIND_COUNT);
    return kinds[kind];
}
