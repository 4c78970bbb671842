/* 64-bit Arm with products of 2x8 and 8x2 matrices of bytes (i8mm): twice a dot product's work. */

#include "neon.h"

#define TOGETHER 8
#define OWN_BYTES

#include "attending_narrow.h"

/* A register is [2 outputs][8 inputs] of weights, [2 rows][8 inputs] of rows; a sum is [2 rows][2
 * outputs]. Eight of them make a panel of 16 outputs for a pair of rows. */
#define EIGHT(M, p) M(p, 0) M(p, 1) M(p, 2) M(p, 3) M(p, 4) M(p, 5) M(p, 6) M(p, 7)
#define PAIRS_1(M) M(0)
#define PAIRS_2(M) PAIRS_1(M) M(1)
#define PAIRS_3(M) PAIRS_2(M) M(2)

#define ZERO_SUM(p, c) int32x4_t pair##p##_##c = vdupq_n_s32(0);
#define ZERO_PAIR(p) EIGHT(ZERO_SUM, p)
/* The second row of the last pair may be missing; its place is taken by the first. */
#define LOAD_PAIR(p)                                                                      \
    int8x16_t x##p = vcombine_s8(vld1_s8(values + 2 * p * stride + i),                    \
                                 vld1_s8(values + (p < last ? 2 * p + 1 : second) * stride + i));
#define MEET_0(p) pair##p##_0 = vmmlaq_s32(pair##p##_0, x##p, y);
#define MEET_1(p) pair##p##_1 = vmmlaq_s32(pair##p##_1, x##p, y);
#define MEET_2(p) pair##p##_2 = vmmlaq_s32(pair##p##_2, x##p, y);
#define MEET_3(p) pair##p##_3 = vmmlaq_s32(pair##p##_3, x##p, y);
#define MEET_4(p) pair##p##_4 = vmmlaq_s32(pair##p##_4, x##p, y);
#define MEET_5(p) pair##p##_5 = vmmlaq_s32(pair##p##_5, x##p, y);
#define MEET_6(p) pair##p##_6 = vmmlaq_s32(pair##p##_6, x##p, y);
#define MEET_7(p) pair##p##_7 = vmmlaq_s32(pair##p##_7, x##p, y);
#define STEP(pairs, c)                               \
    {                                                \
        int8x16_t y = vld1q_s8(weights + 16 * (c)); \
        PAIRS_##pairs(MEET_##c)                      \
    }
static inline void finish_at(Ints sum, const Factors *factors, int row, int column, float *tile)
{
    finish(sum, load_ints(factors->sums + column * LANES), load(factors->weights + column * LANES),
           SPLAT(factors->rows[row * factors->stride]), factors->more,
           tile + row * PANEL + column * LANES);
}

#define FINISH_TWO(p, low, high, column)                                                   \
    {                                                                                      \
        int64x2_t a = vreinterpretq_s64_s32(low), b = vreinterpretq_s64_s32(high);         \
        finish_at(vreinterpretq_s32_s64(vtrn1q_s64(a, b)), factors, 2 * p, column, tile);     \
        if (p < last || second > 2 * p)                                                    \
            finish_at(vreinterpretq_s32_s64(vtrn2q_s64(a, b)), factors, 2 * p + 1, column, tile); \
    }
#define FINISH_PAIR(p)                           \
    FINISH_TWO(p, pair##p##_0, pair##p##_1, 0)   \
    FINISH_TWO(p, pair##p##_2, pair##p##_3, 1)   \
    FINISH_TWO(p, pair##p##_4, pair##p##_5, 2)   \
    FINISH_TWO(p, pair##p##_6, pair##p##_7, 3)

#define PAIRS_KERNEL(pairs)                                                                  \
    static void pairs_##pairs(const int8_t *values, int64_t stride, int rows,                \
                              const int8_t *weights, int inputs, int64_t ahead,              \
                              const Factors *factors, float *tile)                           \
    {                                                                                        \
        const int last = pairs - 1, second = rows - 1;                                       \
        PAIRS_##pairs(ZERO_PAIR) /* one after another */                                     \
        for (int i = 0; i < inputs; i += 8, weights += 8 * PANEL) {                          \
            PREFETCH(weights + ahead);                                                       \
            PREFETCH(weights + ahead + 64);                                                  \
            PAIRS_##pairs(LOAD_PAIR)                                                         \
            STEP(pairs, 0) STEP(pairs, 1) STEP(pairs, 2) STEP(pairs, 3)                      \
            STEP(pairs, 4) STEP(pairs, 5) STEP(pairs, 6) STEP(pairs, 7)                      \
        }                                                                                    \
        PAIRS_##pairs(FINISH_PAIR)                                                           \
    }
PAIRS_KERNEL(1)
PAIRS_KERNEL(2)
PAIRS_KERNEL(3)

static void multiply_bytes(const uint8_t *values, int64_t stride, int rows, const int8_t *weights,
                           int inputs, int64_t ahead, const Factors *factors, float *tile)
{
    const int8_t *bytes = (const int8_t *)values;
    if (rows > 4)
        pairs_3(bytes, stride, rows, weights, inputs, ahead, factors, tile);
    else if (rows > 2)
        pairs_2(bytes, stride, rows, weights, inputs, ahead, factors, tile);
    else
        pairs_1(bytes, stride, rows, weights, inputs, ahead, factors, tile);
}

#define SET neon_i8mm
#define NEEDS "asimddp i8mm"
#define HALVES NULL
#include "set.h"
