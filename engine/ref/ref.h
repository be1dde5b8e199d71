/* ref.h - the whole model in scalar C: what every other implementation is compared with.
 *
 * A chunk of one sequence runs through eng_ref_forward, which reports everything that it computes
 * on the way by name.  Slow and plain: each layer keeps all that it ever stored in arrays that are
 * indexed by position, so that rings, pages and their arithmetic cannot be wrong here.  The
 * arithmetic of each operation is the one its header states (linear.h, hyper.h, attn.h, ...), and
 * no result depends on how a sequence was cut into chunks.
 *
 * Names that are reported (T rows of the chunk; dims as listed; i a layer of the backbone):
 *   layer.<i>.q [T, H, d]  kv [T, d]  attn_out [T, D]  moe_out [T, D]  streams [T, N, D]      bf16
 *   layer.<i>.experts [T, K] i64, in slot order           layer.<i>.expert_weights [T, K] f32
 *   layer.<i>.compressed [entries, d], index_keys [entries, di], completed by the chunk       bf16
 *   layer.<i>.index_scores [T, entries so far] bf16 (also of entries that a row cannot see yet)
 *   layer.<i>.index_topk [T, topk] i64, ascending, -1 behind the last
 *   logits [1, V] f32, one report per row
 *   mtp.<i>.<the same> for draft block i;  mtp.logits [1, V] f32, one report per row
 *   mtp.0.input [T, N, D] bf16, the joined streams of MTP (before `inject`)
 *   dspark.tokens [B] i64, dspark.confidence [B] f32, dspark.logits [B, V] f32
 *
 * A model is immutable after eng_ref_model_new and may be shared; a state belongs to one thread.
 * The functions flush denormals while they run and restore the thread's mode (numeric.h). */
#ifndef ENG_REF_REF_H
#define ENG_REF_REF_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"
#include "engine/hparams.h"
#include "engine/weights.h"

struct eng_ref_model; /* opaque: model.h */
struct eng_ref_state; /* opaque: model.h */

enum eng_ref_dtype { ENG_REF_BF16, ENG_REF_F32, ENG_REF_I64 };

/* One report: rows [first, first + dims[0]) of the named tensor (first counts positions, or entries
 * of the compressed kinds).  data is row-major and gone after the call. */
struct eng_ref_tensor {
    const char *name;
    enum eng_ref_dtype dtype;
    uint32_t first, rank, dims[3];
    const void *data;
};

/* The callbacks run on the caller's thread and may be NULL.
 *   report   gets every tensor
 *   inject   before layer `layer_index` (draft block i: layer_count + i): may overwrite streams
 *            [count, N, D] bf16, its input
 *   inject_taps   DSpark: may overwrite taps [count, targets, D] bf16 before they become context */
struct eng_ref_hooks {
    void (*report)(void *context, const struct eng_ref_tensor *tensor);
    void (*inject)(void *context, uint32_t layer_index, uint32_t first, uint32_t count,
                   uint16_t *streams);
    void (*inject_taps)(void *context, uint32_t first, uint32_t count, uint16_t *taps);
    void *context;
};

/* Views of the weights, and aligned copies of the small ones.  hparams and weights (checked, and
 * scanned by who does not trust the file) must outlive the model.  FM_NOMEM; FM_CORRUPT when a
 * tensor is missing after all. */
enum fm_status eng_ref_model_new(const struct eng_hparams *hparams,
                                 const struct eng_weights *weights,
                                 struct eng_ref_model **ret_model,
                                 struct fm_err *err) FM_MUST_CHECK;
void eng_ref_model_free(struct eng_ref_model *model);

/* An empty sequence with room for position_max tokens. */
enum fm_status eng_ref_state_new(const struct eng_ref_model *model, uint32_t position_max,
                                 struct eng_ref_state **ret_state,
                                 struct fm_err *err) FM_MUST_CHECK;
void eng_ref_state_free(struct eng_ref_state *state);

/* Tokens processed so far; and back to fewer (length at most that). */
uint32_t eng_ref_state_length(const struct eng_ref_state *state);
void eng_ref_state_rewind(struct eng_ref_state *state, uint32_t length);

/* The next `count` tokens of the sequence, positions length .. length + count.  Logits are computed
 * for the chunk's rows from logits_first on (count: none).  For DSpark the stages' context rows are
 * written too.  FM_INVALID for an id outside the vocabulary, FM_LIMIT beyond position_max,
 * FM_NOMEM; the length is unchanged then. */
enum fm_status eng_ref_forward(const struct eng_ref_model *model, struct eng_ref_state *state,
                               const uint32_t *ids, uint32_t count, uint32_t logits_first,
                               const struct eng_ref_hooks *hooks, struct fm_err *err) FM_MUST_CHECK;

/* MTP over positions [first, first + count), all processed, first at most the number that MTP has
 * seen: next_ids[i] is the token at position first + i + 1.  Reports mtp.logits of each row. */
enum fm_status eng_ref_mtp(const struct eng_ref_model *model, struct eng_ref_state *state,
                           uint32_t first, const uint32_t *next_ids, uint32_t count,
                           const struct eng_ref_hooks *hooks, struct fm_err *err) FM_MUST_CHECK;

/* DSpark's greedy draft after `position` (processed), next_id being the token behind it. */
enum fm_status eng_ref_dspark(const struct eng_ref_model *model, struct eng_ref_state *state,
                              uint32_t position, uint32_t next_id,
                              const struct eng_ref_hooks *hooks, struct fm_err *err) FM_MUST_CHECK;

#endif
