/* Rows times a panel of weights: where nearly all the time of a pass goes. As many sums as the
 * registers hold, so that enough are in flight to hide the latency of a multiplication, and each
 * number that is loaded meets several. A panel is read from one end to the other and stays in the
 * nearest caches while row after row meets it.
 *
 * A set defines, beside what `vectors.h` wants:
 *   FLOAT_ROWS, COLUMNS                rows and registers of a tile of floats
 *   BYTE_ROWS                          rows of a tile of bytes
 *   DOT(sum, bytes, weights)           four products of each lane's bytes, added to its sum
 *   DOT_CONSTANTS                      declarations that DOT wants before the loop; may be empty
 * One with another layout of sums writes `multiply_bytes` itself and defines OWN_BYTES. */

#include "rows_times.h"
#include "vectors.h"

#define PANEL (COLUMNS * LANES)
#define EACH_COLUMN(M, r) EACH_COLUMN_IN(COLUMNS, M, r)

_Static_assert(PANEL <= MOST_PANEL && 32 % PANEL == 0, "panels divide what models are divided by");
_Static_assert(FLOAT_ROWS <= MOST_TILE_ROWS && BYTE_ROWS <= MOST_TILE_ROWS, "a tile has room");

/* The factors of a register of outputs, which all rows share. */
#define LOAD_FACTORS(r, c)                                    \
    Ints too_much_##c = load_ints(factors->sums + c * LANES); \
    Floats scales_##c = load(factors->weights + c * LANES);

static inline void finish(Ints sum, Ints too_much, Floats scales, Floats row, int more, float *to)
{
    /* What the offset of the bytes added goes off again. */
    Floats product = __builtin_convertvector(sum - too_much, Floats);
    store(to, FMA(product * scales, row, more ? load(to) : SPLAT(0.0f)));
}

#define LOAD_BYTES(r, c) Ints weights_##c = load_ints(weights + c * 4 * LANES);
#define LOAD_FLOATS(r, c) Floats weights_##c = load(weights + c * LANES);
#define ZERO_INTS(r, c) Ints sum##r##_##c = SPLAT_INT(0);
#define ZERO_FLOATS(r, c) Floats sum##r##_##c = SPLAT(0.0f);
#define ADD_DOT(r, c) DOT(sum##r##_##c, x, weights_##c)
#define ADD_PRODUCT(r, c) sum##r##_##c = FMA(x, weights_##c, sum##r##_##c);
#define FINISH(r, c) \
    finish(sum##r##_##c, too_much_##c, scales_##c, scale, more, tile + r * PANEL + c * LANES);
#define STORE(r, c) store(tile + r * PANEL + c * LANES, sum##r##_##c);

#ifndef OWN_BYTES
static inline int32_t four_bytes(const uint8_t *from)
{
    int32_t four;
    memcpy(&four, from, sizeof four);
    return four;
}

#define ZERO_ROW(r) EACH_COLUMN(ZERO_INTS, r)
#define STEP_ROW(r)                              \
    {                                            \
        Ints x = SPLAT_INT(four_bytes(AT_##r)); \
        EACH_COLUMN(ADD_DOT, r)                  \
    }
/* Row by row, or GCC puts all stores at the end, where each waits for the one before: 2 % of a pass. */
#define FINISH_ROW(r)                                   \
    {                                                   \
        Floats scale = SPLAT(row_scales[r * distance]); \
        EACH_COLUMN(FINISH, r)                          \
        __asm__ volatile("" ::: "memory");              \
    }
/* Read once: what is stored might change them, as far as the compiler knows. */
#define READ_FACTORS                          \
    const float *row_scales = factors->rows;  \
    const int64_t distance = factors->stride; \
    const int more = factors->more;           \
    EACH_COLUMN(LOAD_FACTORS, )
#define BYTES_KERNEL(count)                                                                       \
    static void bytes_##count(const uint8_t *a, int64_t stride, const int8_t *weights, int inputs, \
                              int64_t ahead, const Factors *factors, float *tile)                 \
    {                                                                                             \
        const uint8_t *b = a + 4 * stride, *c = a + 8 * stride;                                   \
        int64_t triple = 3 * stride;                                                              \
        DOT_CONSTANTS                                                                             \
        ROWS_##count(ZERO_ROW) /* one after another */                                            \
        for (int i = 0; i < inputs; i += 4, weights += 4 * PANEL, a += 4, b += 4, c += 4) {       \
            EACH_COLUMN(LOAD_BYTES, )                                                             \
            for (int line = 0; line < 4 * PANEL; line += 64)                                      \
                PREFETCH(weights + ahead + line);                                                 \
            ROWS_##count(STEP_ROW)                                                                \
        }                                                                                         \
        READ_FACTORS                                                                              \
        ROWS_##count(FINISH_ROW)                                                                  \
        (void)triple, (void)b, (void)c;                                                           \
    }
UP_TO(BYTE_ROWS, BYTES_KERNEL)

typedef void BytesKernel(const uint8_t *, int64_t, const int8_t *, int, int64_t, const Factors *,
                         float *);
#define BYTES_NAME(count) bytes_##count,
static BytesKernel *const BYTES_KERNELS[] = {UP_TO(BYTE_ROWS, BYTES_NAME)};

static void multiply_bytes(const uint8_t *values, int64_t stride, int rows, const int8_t *weights,
                           int inputs, int64_t ahead, const Factors *factors, float *tile)
{
    BYTES_KERNELS[rows - 1](values, stride, weights, inputs, ahead, factors, tile);
}
#endif

#define ZERO_FLOAT_ROW(r) EACH_COLUMN(ZERO_FLOATS, r)
#define STEP_FLOAT_ROW(r)              \
    {                                  \
        Floats x = SPLAT(*(AT_##r));   \
        EACH_COLUMN(ADD_PRODUCT, r)    \
    }
#define STORE_FLOAT_ROW(r) EACH_COLUMN(STORE, r)
#define FLOATS_KERNEL(count)                                                                       \
    static void floats_##count(const float *a, int64_t stride, const float *weights, int inputs,   \
                               int64_t ahead, float *tile)                                         \
    {                                                                                              \
        const float *b = a + 4 * stride, *c = a + 8 * stride;                                      \
        int64_t triple = 3 * stride;                                                               \
        ROWS_##count(ZERO_FLOAT_ROW) /* one after another */                                       \
        for (int i = 0; i < inputs; i++, weights += PANEL, a++, b++, c++) {                        \
            EACH_COLUMN(LOAD_FLOATS, )                                                             \
            for (int line = 0; line < PANEL; line += 16)                                           \
                PREFETCH(weights + ahead + line);                                                  \
            ROWS_##count(STEP_FLOAT_ROW)                                                           \
        }                                                                                          \
        ROWS_##count(STORE_FLOAT_ROW)                                                              \
        (void)triple, (void)b, (void)c;                                                            \
    }
UP_TO(FLOAT_ROWS, FLOATS_KERNEL)

typedef void FloatsKernel(const float *, int64_t, const float *, int, int64_t, float *);
#define FLOATS_NAME(count) floats_##count,
static FloatsKernel *const FLOATS_KERNELS[] = {UP_TO(FLOAT_ROWS, FLOATS_NAME)};

static void multiply_floats(const float *values, int64_t stride, int rows, const float *weights,
                            int inputs, int64_t ahead, float *tile)
{
    FLOATS_KERNELS[rows - 1](values, stride, weights, inputs, ahead, tile);
}

static void store_tile(const float *tile, int rows, float *to, int64_t stride)
{
    for (int row = 0; row < rows; row++, tile += PANEL, to += stride)
        for (int c = 0; c < COLUMNS; c++)
            store(to + c * LANES, load(tile + c * LANES));
}

static void add_tile(const float *tile, int rows, float *to, int64_t stride)
{
    for (int row = 0; row < rows; row++, tile += PANEL, to += stride)
        for (int c = 0; c < COLUMNS; c++)
            store(to + c * LANES, load(to + c * LANES) + load(tile + c * LANES));
}
