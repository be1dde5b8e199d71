/* ops.h - the kinds of operations by file; cpu_kind_get (ops.c) gathers them. */
#ifndef CPU_OPS_H
#define CPU_OPS_H

#include "backends/cpu/exec.h"

extern const struct cpu_kind cpu_op_embed, cpu_op_collapse, cpu_op_expand, cpu_op_tap, cpu_op_head;
extern const struct cpu_kind cpu_op_q_down, cpu_op_kv_store, cpu_op_q_up, cpu_op_out_grouped,
    cpu_op_out_project;
extern const struct cpu_kind cpu_op_attend, cpu_op_spark_attend;
extern const struct cpu_kind cpu_op_compress, cpu_op_compress_index;
extern const struct cpu_kind cpu_op_index_query, cpu_op_index_select;
extern const struct cpu_kind cpu_op_route, cpu_op_shared_expert, cpu_op_experts;
extern const struct cpu_kind cpu_op_mtp_join, cpu_op_spark_context, cpu_op_spark_propose;

#endif
