/* weights.h - the tensors of a model directory, by name.
 *
 * A directory holds either model.safetensors.index.json with the shards that it names, or one
 * model.safetensors; the index wins where both exist.  Files are mapped read-only; nothing is read
 * before it is asked for.  Tensors are known by their official names: the spellings of recent
 * transformers and a leading "model." are translated at open, and the expert stacks of transformers
 * (gate_up_proj, down_proj) appear as the per-expert tensors that they hold.
 *
 * Three checks, so that no load reads a large model twice:
 *   open    every header: lengths, types, shapes, offsets within the file, no overlap, no name twice
 *   check   every tensor that the model needs is there with its shape and type; tables of experts
 *   read    the values of the rows that are read: NaN codes, infinities, scales that are 0 or NaN
 * Who uses eng_tensor.data instead of eng_weights_read calls eng_weights_scan first.
 *
 * Owner: who opened it.  Immutable after eng_weights_check, then readable from any thread.  A file
 * that somebody truncates while it is open takes the process down with SIGBUS: that is outside
 * what a mapping can promise. */
#ifndef ENG_WEIGHTS_H
#define ENG_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/status.h"
#include "engine/hparams.h"
#include "engine/safetensors.h"

struct eng_tensor {
    const char *name; /* official, NUL-terminated */
    enum eng_dtype dtype;
    uint32_t rank;               /* 1 .. ENG_RANK_MAX; 0 for a scalar */
    uint64_t dims[ENG_RANK_MAX]; /* outermost first; for I8 the last one counts bytes */
    const void *data;            /* mapped; row-major, little-endian, at ANY alignment */
    uint64_t bytes;
    uint64_t row_bytes;  /* bytes / dims[0]; all bytes for a scalar */
    uint32_t file_index; /* see eng_weights_file_name */
};

/* The weight of one linear as [rows, cols], y[r] = sum over c of w[r,c] x[c].
 *   FP8   scale [ceil(rows / 128), ceil(cols / 128)]
 *   FP4   scale [rows, cols / 32]; weight is [rows, cols / 2] bytes
 *   BF16  scale is NULL
 * A scale is F8_E8M0 or F32. */
struct eng_linear {
    enum eng_format format;
    uint32_t rows, cols;
    const struct eng_tensor *weight, *scale;
};

struct eng_weights; /* opaque: engine/weights.c */

/* Everything below in one call: config.json, the files, the draft blocks, the check.  Both outputs
 * are written on success only; free with eng_weights_close. */
enum fm_status eng_weights_load(const char *dir, struct eng_hparams *ret_hparams,
                                struct eng_weights **ret_weights, struct fm_err *err) FM_MUST_CHECK;

/* Map the files of a model directory and read their headers.
 *   FM_IO       a file cannot be opened, sized or mapped
 *   FM_CORRUPT  a header or the index is wrong: the sentence names file, tensor, found, expected
 *   FM_NOMEM    about 150 bytes per tensor are needed
 * Cost: about 3 us per tensor (0.4 s for 145,000). */
enum fm_status eng_weights_open(const char *dir, struct eng_weights **ret_weights,
                                struct fm_err *err) FM_MUST_CHECK;

/* NULL is allowed.  Every eng_tensor of it is gone afterwards. */
void eng_weights_close(struct eng_weights *weights);

/* The draft blocks that the names show: DSPARK if mtp.0.main_proj exists, MTP if mtp.0.e_proj does,
 * else NONE; the stages are the mtp.<i>, which must be 0 .. n-1 without a gap (FM_CORRUPT). */
enum fm_status eng_weights_draft(const struct eng_weights *weights, enum eng_draft_kind *ret_kind,
                                 uint32_t *ret_stage_count, struct fm_err *err) FM_MUST_CHECK;

/* Is everything there that a model of these parameters needs, with the right shape and type?  Also
 * reads the expert tables of the hash layers.  Tensors beyond that are ignored.  FM_CORRUPT names
 * the first thing that is wrong.  Call once, before any other thread sees `weights`. */
enum fm_status eng_weights_check(struct eng_weights *weights, const struct eng_hparams *hparams,
                                 struct fm_err *err) FM_MUST_CHECK;

/* The tensor of that official name: FM_OK, or FM_MISS.  Valid until close. */
enum fm_status eng_weights_find(const struct eng_weights *weights, const char *name,
                                const struct eng_tensor **ret_tensor) FM_MUST_CHECK;

/* A linear by the name without ".weight": "layers.3.attn.wq_a", "layers.3.ffn.experts.7.w2",
 * "head".  Only after eng_weights_check; FM_MISS if there is none. */
enum fm_status eng_weights_linear(const struct eng_weights *weights, const char *name,
                                  struct eng_linear *ret_linear) FM_MUST_CHECK;

/* Copy rows [row_first, row_first + row_count) of the first dimension, row_count * row_bytes bytes,
 * and check the values that were copied: no NaN code in E4M3, no infinity or NaN in BF16 and F32, a
 * scale (E8M0 or F32) neither 0 nor NaN nor subnormal nor negative.  Rows beyond the tensor are
 * FM_INVALID, bad values FM_CORRUPT with file, tensor and place; ret_rows may be partly written
 * then.  Any thread.  Reads from disk where the page cache has no copy. */
enum fm_status eng_weights_read(const struct eng_weights *weights, const struct eng_tensor *tensor,
                                uint64_t row_first, uint64_t row_count, void *ret_rows,
                                struct fm_err *err) FM_MUST_CHECK;

/* Called now and then from eng_weights_scan with bytes done and bytes in all; false stops it. */
typedef bool (*eng_weights_progress)(void *context, uint64_t bytes_done, uint64_t bytes_total);

/* The value check of eng_weights_read over every tensor of the model, without a copy.  Reads the
 * whole model once: for small models, and for who uses eng_tensor.data.  progress may be NULL.
 * FM_CANCELED when progress said so.  Only after eng_weights_check. */
enum fm_status eng_weights_scan(const struct eng_weights *weights, eng_weights_progress progress,
                                void *context, struct fm_err *err) FM_MUST_CHECK;

/* What was opened: for logs and messages. */
uint32_t eng_weights_tensor_count(const struct eng_weights *weights);
const struct eng_tensor *eng_weights_tensor(const struct eng_weights *weights, uint32_t index);
uint32_t eng_weights_file_count(const struct eng_weights *weights);
const char *eng_weights_file_name(const struct eng_weights *weights, uint32_t file_index);
uint64_t eng_weights_bytes(const struct eng_weights *weights); /* of the model's tensors */

/* Rows of the hash layers' expert tables that name an expert twice: 0 in a sound model, a matter
 * for a warning, not for an error.  After eng_weights_check. */
uint64_t eng_weights_hash_duplicates(const struct eng_weights *weights);

#endif
