#include "product.h"

#include <immintrin.h>

/* A kernel for each number of rows. Sums have names and are no array: compilers keep arrays in
 * memory, which halves the speed. */
#define ROWS_1(M) M(0)
#define ROWS_2(M) ROWS_1(M) M(1)
#define ROWS_3(M) ROWS_2(M) M(2)
#define ROWS_4(M) ROWS_3(M) M(3)
#define ROWS_5(M) ROWS_4(M) M(4)
#define ROWS_6(M) ROWS_5(M) M(5)
#define ROWS_7(M) ROWS_6(M) M(6)
#define ROWS_8(M) ROWS_7(M) M(7)
#define ROWS_9(M) ROWS_8(M) M(8)
#define ROWS_10(M) ROWS_9(M) M(9)
#define ROWS_11(M) ROWS_10(M) M(10)
#define ROWS_12(M) ROWS_11(M) M(11)

#define EACH_COUNT(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12)

/* Where row `r` is: three pointers and multiples of the stride that an address may hold. */
#define AT_0 (a)
#define AT_1 (a + stride)
#define AT_2 (a + 2 * stride)
#define AT_3 (a + triple)
#define AT_4 (b)
#define AT_5 (b + stride)
#define AT_6 (b + 2 * stride)
#define AT_7 (b + triple)
#define AT_8 (c)
#define AT_9 (c + stride)
#define AT_10 (c + 2 * stride)
#define AT_11 (c + triple)

/* Four products of bytes with int8 weights, added to 32 bits without overflow on the way. As an
 * instruction: from the intrinsic GCC 12 makes two copies of the sum. */
#define DOT(sum, bytes, weights) \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights))

/* What turns sums of products into numbers. */
typedef struct {
    __m512i sums_low, sums_high; /* of the weights of each output, times 128 */
    __m512 scales_low, scales_high;
    const float *rows; /* scales of rows */
    int64_t stride;
    int more; /* whether the tile holds something already, to which they are added */
} Factors;

static inline void finish_int8(__m512i low, __m512i high, const Factors *factors, int row,
                               float *out)
{
    /* Bytes were values + 128: what 128 times the weights added goes off again. */
    __m512 scale = _mm512_set1_ps(factors->rows[row * factors->stride]);
    __m512 left = _mm512_cvtepi32_ps(_mm512_sub_epi32(low, factors->sums_low));
    __m512 right = _mm512_cvtepi32_ps(_mm512_sub_epi32(high, factors->sums_high));
    __m512 zero = _mm512_setzero_ps();
    left = _mm512_mul_ps(left, factors->scales_low);
    right = _mm512_mul_ps(right, factors->scales_high);
    __m512 old_left = factors->more ? _mm512_load_ps(out) : zero;
    __m512 old_right = factors->more ? _mm512_load_ps(out + 16) : zero;
    _mm512_store_ps(out, _mm512_fmadd_ps(left, scale, old_left));
    _mm512_store_ps(out + 16, _mm512_fmadd_ps(right, scale, old_right));
}

#define ZERO_INT8(r) __m512i low##r = _mm512_setzero_si512(), high##r = low##r;
#define STEP_INT8(r)                                              \
    {                                                             \
        __m512i x = _mm512_set1_epi32(*(const int32_t *)(AT_##r)); \
        DOT(low##r, x, left);                                     \
        DOT(high##r, x, right);                                   \
    }
#define FINISH_INT8(r) finish_int8(low##r, high##r, factors, r, tile[r]);

#define INT8_KERNEL(count)                                                                     \
    static void int8_##count(const uint8_t *a, int64_t stride, const int8_t *panel, int in,    \
                             int64_t ahead, const Factors *factors, Tile tile)                 \
    {                                                                                          \
        const uint8_t *b = a + 4 * stride, *c = a + 8 * stride;                                \
        int64_t triple = 3 * stride;                                                           \
        ROWS_##count(ZERO_INT8)                                                                \
        for (int i = 0; i < in; i += 4, panel += 4 * PANEL, a += 4, b += 4, c += 4) {          \
            __m512i left = _mm512_load_si512(panel), right = _mm512_load_si512(panel + 64);    \
            _mm_prefetch(panel + ahead, _MM_HINT_T1);                                          \
            _mm_prefetch(panel + ahead + 64, _MM_HINT_T1);                                     \
            ROWS_##count(STEP_INT8)                                                            \
        }                                                                                      \
        ROWS_##count(FINISH_INT8)                                                              \
        (void)triple, (void)b, (void)c;                                                        \
    }
EACH_COUNT(INT8_KERNEL)

#define ZERO_FLOAT(r) __m512 low##r = _mm512_setzero_ps(), high##r = low##r;
#define STEP_FLOAT(r)                            \
    {                                            \
        __m512 x = _mm512_set1_ps(*(AT_##r));    \
        low##r = _mm512_fmadd_ps(x, left, low##r);   \
        high##r = _mm512_fmadd_ps(x, right, high##r); \
    }
#define FINISH_FLOAT(r)                   \
    _mm512_store_ps(tile[r], low##r);     \
    _mm512_store_ps(tile[r] + 16, high##r);

#define FLOAT_KERNEL(count)                                                               \
    static void float_##count(const float *a, int64_t stride, const float *panel, int in, \
                              int64_t ahead, Tile tile)                                   \
    {                                                                                     \
        const float *b = a + 4 * stride, *c = a + 8 * stride;                             \
        int64_t triple = 3 * stride;                                                      \
        ROWS_##count(ZERO_FLOAT)                                                          \
        for (int i = 0; i < in; i++, panel += PANEL, a++, b++, c++) {                     \
            __m512 left = _mm512_load_ps(panel), right = _mm512_load_ps(panel + 16);      \
            _mm_prefetch(panel + ahead, _MM_HINT_T1);                                     \
            _mm_prefetch(panel + ahead + 16, _MM_HINT_T1);                                \
            ROWS_##count(STEP_FLOAT)                                                      \
        }                                                                                 \
        ROWS_##count(FINISH_FLOAT)                                                        \
        (void)triple, (void)b, (void)c;                                                   \
    }
EACH_COUNT(FLOAT_KERNEL)

typedef void Int8Kernel(const uint8_t *, int64_t, const int8_t *, int, int64_t, const Factors *,
                        Tile);
typedef void FloatKernel(const float *, int64_t, const float *, int, int64_t, Tile);

#define INT8_NAME(count) int8_##count,
#define FLOAT_NAME(count) float_##count,
static Int8Kernel *const INT8_KERNELS[] = {EACH_COUNT(INT8_NAME)};
static FloatKernel *const FLOAT_KERNELS[] = {EACH_COUNT(FLOAT_NAME)};

static void product_int8(const Input *input, int row, int rows, const Matrix *matrix, int panel,
                         int64_t ahead, Tile tile)
{
    const uint8_t *values = (const uint8_t *)input->values + row * input->stride;
    const int8_t *weights = (const int8_t *)matrix->packed + (int64_t)panel * PANEL * matrix->in;
    int64_t groups = groups_of(matrix->in);
    const int32_t *sums = matrix->sums + panel * groups * PANEL;
    const float *scales = matrix->scales + panel * groups * PANEL;
    Factors factors = {
        .rows = input->scales + row * groups,
        .stride = groups,
    };
    for (int from = 0; from < matrix->in; from += GROUP_INPUTS, factors.rows++) {
        int inputs = matrix->in - from < GROUP_INPUTS ? matrix->in - from : GROUP_INPUTS;
        factors.sums_low = _mm512_loadu_si512(sums);
        factors.sums_high = _mm512_loadu_si512(sums + 16);
        factors.scales_low = _mm512_loadu_ps(scales);
        factors.scales_high = _mm512_loadu_ps(scales + 16);
        factors.more = from > 0;
        INT8_KERNELS[rows - 1](values + from, input->stride, weights + (int64_t)from * PANEL,
                               inputs, ahead, &factors, tile);
        sums += PANEL;
        scales += PANEL;
    }
}

void product(const Input *input, int row, int rows, const Matrix *matrix, int panel, Tile tile)
{
    /* The first rows that a panel meets fetch the next panel from far away. */
    int64_t size = (int64_t)PANEL * matrix->in, ahead = row ? 0 : size;
    if (matrix->scales)
        product_int8(input, row, rows, matrix, panel, ahead, tile);
    else
        FLOAT_KERNELS[rows - 1]((const float *)input->values + row * input->stride, input->stride,
                                (const float *)matrix->packed + panel * size, matrix->in, ahead,
                                tile);
}
