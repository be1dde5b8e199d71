/* test_engine_ref_attn.c - attention and key rows against the softmax in double. */
#include <math.h>
#include <string.h>

#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/ref/attn.h"
#include "tests/support/support.h"

enum { HEADS = 2, DIM = 128, ROPE = 64 };

static float inverse[ROPE / 2];
static uint64_t mode, seed;

static void setup(void)
{
    seed = test_seed();
    for (uint32_t i = 0; i < ROPE / 2; i++)
        inverse[i] = powf(10000, -(float)i * 2 / ROPE);
    mode = fm_numeric_enter();
}

static void teardown(void)
{
    fm_numeric_leave(mode);
}

static void fill(uint16_t *to, uint32_t count, uint64_t stream, float size)
{
    for (uint32_t i = 0; i < count; i++)
        to[i] = fm_bf16(((float)fm_prng_unit(seed, stream, i) * 2 - 1) * size);
}

/* One head in double, position 0 (no rotation): o[c], and the sum of |p v| / l as its size. */
static void attend_exactly(const uint16_t *q, const uint16_t *rows, uint32_t row_count, float sink,
                           double *ret_o, double *ret_size)
{
    double *z = fm_alloc_array(row_count, sizeof *z), top = (double)sink, l = 0;
    for (uint32_t i = 0; i < row_count; i++) {
        z[i] = 0;
        for (uint32_t c = 0; c < DIM; c++)
            z[i] += (double)fm_bf16_value(q[c]) * (double)fm_bf16_value(rows[i * DIM + c]);
        z[i] /= sqrt(DIM);
        top = fmax(top, z[i]);
    }
    l = exp((double)sink - top);
    for (uint32_t i = 0; i < row_count; i++)
        l += z[i] = exp(z[i] - top);
    for (uint32_t c = 0; c < DIM; c++) {
        ret_o[c] = ret_size[c] = 0;
        for (uint32_t i = 0; i < row_count; i++) {
            ret_o[c] += z[i] / l * (double)fm_bf16_value(rows[i * DIM + c]);
            ret_size[c] += z[i] / l * fabs((double)fm_bf16_value(rows[i * DIM + c]));
        }
    }
    fm_free(z);
}

/* One row, odd tiles, the edges of tiles and splits, several splits. */
START_TEST(attention_is_a_softmax_with_a_sink)
{
    static const uint32_t counts[] = {1, 2, 63, 64, 65, 511, 512, 513, 1100};
    struct eng_ref_attn attn = {HEADS, DIM, ROPE, 1e-6f, inverse};
    static uint16_t rows[1100 * DIM];
    uint16_t q[HEADS * DIM], o[HEADS * DIM];
    float sink[HEADS] = {0.5f, 4.0f};
    fill(rows, 1100 * DIM, 1, 2.0f);
    fill(q, HEADS * DIM, 2, 3.0f);
    for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
        eng_ref_attend(&attn, q, rows, counts[n], sink, 0, o);
        for (uint32_t h = 0; h < HEADS; h++) {
            double want[DIM], size[DIM];
            attend_exactly(q + h * DIM, rows, counts[n], sink[h], want, size);
            for (uint32_t c = 0; c < DIM; c++) /* p and o are rounded to bf16, 2^-9 each way */
                ck_assert(fabs((double)fm_bf16_value(o[h * DIM + c]) - want[c]) <=
                          size[c] * 0x1p-8 + fabs(want[c]) * 0x1p-8 + 1e-6);
        }
    }
}
END_TEST

/* Rows of one value v: the weights sum to 1 - sink share, whatever the tiles and splits. */
START_TEST(the_sink_takes_its_share_once)
{
    struct eng_ref_attn attn = {1, DIM, ROPE, 1e-6f, inverse};
    static uint16_t rows[1024 * DIM];
    uint16_t q[DIM] = {0}, o[DIM];
    for (uint32_t i = 0; i < 1024 * DIM; i++)
        rows[i] = fm_bf16(1.0f);
    float sink = logf(1024.0f); /* as heavy as the 1024 rows with logit 0 together */
    eng_ref_attend(&attn, q, rows, 1024, &sink, 0, o);
    for (uint32_t c = 0; c < DIM; c++)
        ck_assert_float_eq_tol(fm_bf16_value(o[c]), 0.5f, 0x1p-9f + 1e-3f);
}
END_TEST

START_TEST(the_output_is_rotated_back)
{
    struct eng_ref_attn attn = {1, DIM, ROPE, 1e-6f, inverse};
    uint16_t row[DIM], turned[DIM], q[DIM] = {0}, o[DIM];
    float sink = -INFINITY;
    fill(row, DIM, 3, 1.0f);
    memcpy(turned, row, sizeof row);
    for (uint32_t i = 0; i < ROPE / 2; i++) {
        float sine, cosine;
        fm_rope_angle(9, inverse[i], &sine, &cosine);
        fm_rope_pair(turned + DIM - ROPE + 2 * i, sine, cosine);
    }
    eng_ref_attend(&attn, q, turned, 1, &sink, 9, o); /* one row: the output is that row */
    for (uint32_t c = 0; c < DIM; c++)
        ck_assert_float_eq_tol(fm_bf16_value(o[c]), fm_bf16_value(row[c]), 0x1p-6f);
}
END_TEST

START_TEST(key_rows_are_normed_turned_and_on_the_grid)
{
    struct eng_ref_attn attn = {HEADS, DIM, ROPE, 1e-6f, inverse};
    uint16_t norm[DIM], kv[DIM], again[DIM];
    for (uint32_t i = 0; i < DIM; i++)
        norm[i] = fm_bf16(1.0f);
    fill(kv, DIM, 4, 5.0f);
    eng_ref_kv_finish(&attn, norm, 3, kv);
    memcpy(again, kv, sizeof kv);
    fm_fp8_sim(again, DIM - ROPE);
    ck_assert_mem_eq(again, kv, sizeof kv);
    double squares = 0;
    for (uint32_t i = 0; i < DIM; i++)
        squares += pow((double)fm_bf16_value(kv[i]), 2);
    ck_assert(fabs(squares / DIM - 1) < 0.05);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/ref/attn");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, attention_is_a_softmax_with_a_sink);
    tcase_add_test(all, the_sink_takes_its_share_once);
    tcase_add_test(all, the_output_is_rotated_back);
    tcase_add_test(all, key_rows_are_normed_turned_and_on_the_grid);
    suite_add_tcase(suite, all);
    return suite;
}
