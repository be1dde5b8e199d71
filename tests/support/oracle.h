/* oracle.h - results of the numpy oracle (tests/golden/oracle), and the same of engine/ref.
 *
 * Both are tables of named tensors; a value is read as double.  The ids and synthetic streams are
 * made here as tests/golden/oracle/make.py makes them. */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/ref/ref.h"
#include "engine/text.h"

enum { ORACLE_MODEL_SEED = 7 }; /* of test_tiny_dir */

/* One tensor of a committed file: [rows, cols] of BF16, F32, I64 or U8. */
struct oracle_tensor {
    uint32_t rows, cols;
    char dtype[8];
    const unsigned char *data;
};

/* The tensor of tests/golden/oracle/<file>.safetensors; a failed check if it is not there. */
struct oracle_tensor oracle_tensor(const char *file, const char *name);
bool oracle_has(const char *file, const char *name);
double oracle_value(const struct oracle_tensor *tensor, uint32_t row, uint32_t col);

uint32_t oracle_id(uint32_t position, uint32_t vocab_size);

/* Rows [first, first + count) of the synthetic input of a layer, [count, N, D] bf16. */
void oracle_streams(const struct eng_hparams *hparams, uint32_t layer_index, uint32_t first,
                    uint32_t count, uint16_t *ret_streams);

/* What a run of engine/ref reported, by name, indexed by position (or entry); rows_max rows.
 * Use oracle_collect as the report hook with this as its context. */
struct oracle_run {
    uint32_t rows_max, count;
    struct {
        char name[64];
        uint32_t cols, rows; /* rows: one past the last that was reported */
        float *values;
    } tensors[256];
};
void oracle_collect(void *run, const struct eng_ref_tensor *tensor);
void oracle_run_done(struct oracle_run *run);

/* Row `row` of a collected tensor; NULL if it was not reported. */
const float *oracle_row(const struct oracle_run *run, const char *name, uint32_t row,
                        uint32_t *ret_cols);

#endif
