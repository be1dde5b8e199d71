/* numeric.c - the tables of numeric.h, and the flush mode. */
#include "backends/base/numeric.h"

#if defined(__x86_64__)
#include <xmmintrin.h>

enum { MXCSR_FTZ_DAZ = 1u << 15 | 1u << 6 };

uint64_t fm_numeric_enter(void)
{
    uint32_t mode = _mm_getcsr();
    _mm_setcsr(mode | MXCSR_FTZ_DAZ);
    return mode;
}

void fm_numeric_leave(uint64_t mode)
{
    _mm_setcsr((uint32_t)mode);
}
#elif defined(__aarch64__)
uint64_t fm_numeric_enter(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | UINT64_C(1) << 24));
    return mode;
}

void fm_numeric_leave(uint64_t mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}
#else
#error "no way is known to flush denormals on this processor"
#endif

const float fm_e2m1_table[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                 -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

const int8_t fm_e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Eight mantissas over one exponent: `unit` is the value of mantissa step 1, `first` of step 0. */
#define STEPS(first, unit)                                                                         \
    (first), (first) + (unit), (first) + 2 * (unit), (first) + 3 * (unit), (first) + 4 * (unit),   \
        (first) + 5 * (unit), (first) + 6 * (unit), (first) + 7 * (unit)
#define NORMAL(power) STEPS((power), (power) / 8)
#define HALF_TABLE(sign)                                                                           \
    sign 0.0f, sign 0x1p-9f, sign 0x2p-9f, sign 0x3p-9f, sign 0x4p-9f, sign 0x5p-9f, sign 0x6p-9f, \
        sign 0x7p-9f, NORMAL(sign 0x1p-6f), NORMAL(sign 0x1p-5f), NORMAL(sign 0x1p-4f),            \
        NORMAL(sign 0x1p-3f), NORMAL(sign 0x1p-2f), NORMAL(sign 0x1p-1f), NORMAL(sign 0x1p0f),     \
        NORMAL(sign 0x1p1f), NORMAL(sign 0x1p2f), NORMAL(sign 0x1p3f), NORMAL(sign 0x1p4f),        \
        NORMAL(sign 0x1p5f), NORMAL(sign 0x1p6f), NORMAL(sign 0x1p7f), sign 256.0f, sign 288.0f,   \
        sign 320.0f, sign 352.0f, sign 384.0f, sign 416.0f, sign 448.0f, sign __builtin_nanf("")

const float fm_e4m3_table[256] = {HALF_TABLE(+), HALF_TABLE(-)};
