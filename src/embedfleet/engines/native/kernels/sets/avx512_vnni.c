/* x86 with AVX-512 and VNNI. Attention of int8 multiplies bfloat16 where the processor does. */

#include "x86.h"

#define LANES 16
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
#define SPLAT(x) ((Floats)_mm512_set1_ps(x))
#define SPLAT_INT(x) ((Ints)_mm512_set1_epi32(x))
#define FMA(x, y, z) ((Floats)_mm512_fmadd_ps((__m512)(x), (__m512)(y), (__m512)(z)))
#define GREATER(x, y) ((Floats)_mm512_max_ps((__m512)(x), (__m512)(y)))
#define LESSER(x, y) ((Floats)_mm512_min_ps((__m512)(x), (__m512)(y)))
#define GREATER_INT(x, y) ((Ints)_mm512_max_epi32((__m512i)(x), (__m512i)(y)))
static inline float sum_of_lanes(Floats x)
{
    __m256 high = _mm512_extractf32x8_ps((__m512)x, 1);
    return sum_of_8(_mm256_add_ps(_mm512_castps512_ps256((__m512)x), high));
}
static inline float greatest_of_lanes(Floats x) { return _mm512_reduce_max_ps((__m512)x); }
static inline int32_t greatest_int_of_lanes(Ints x) { return _mm512_reduce_max_epi32((__m512i)x); }
static inline void store_bytes(uint8_t *to, const Ints *ints)
{
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)ints[0]));
}
#define OFFSET 128
#define MOST_VALUE 127.0f

/* 24 of the 32 registers are sums. */
#define COLUMNS 2
#define BYTE_ROWS 12
#define FLOAT_ROWS 12
#define DOT_CONSTANTS
/* Without overflow on the way. As an instruction: from the intrinsic GCC 12 makes two copies of the
 * sum. */
#define DOT(sum, bytes, weights) \
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights));

#include "attending.h"

#define Vector __m512i
#define LOAD_WORDS(from) _mm512_load_si512(from)
#define SPLAT_WORD(word) _mm512_set1_epi32((int)(word))

#define ADD_WORDS(sum, x, y) sum = FMA(x, y, sum);
SCORES(score_floats_1, 1) SCORES(score_floats_2, 2) SCORES(score_floats_3, 3)
SCORES(score_floats_4, 4) GATHER(gather_floats_2, 2) GATHER(gather_floats_4, 4)
#undef ADD_WORDS
/* Two products of bfloat16 each. As an instruction: compilers would want the whole file to be for
 * processors that have it. */
#define ADD_WORDS(sum, x, y) __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
SCORES(score_halves_1, 1) SCORES(score_halves_2, 2) SCORES(score_halves_3, 3)
SCORES(score_halves_4, 4) GATHER(gather_halves_2, 2) GATHER(gather_halves_4, 4)

#define MATH_OF(words)                                                                            \
    static void score_##words(uint32_t (*queries)[MOST_HEAD_DIM], const uint32_t *keys, int count, \
                              int blocks, int64_t ahead, float (*scores)[KEYS])                   \
    {                                                                                             \
        if (blocks == 4)                                                                          \
            score_##words##_4(queries, keys, count, ahead, scores);                               \
        else if (blocks == 3)                                                                     \
            score_##words##_3(queries, keys, count, ahead, scores);                               \
        else if (blocks == 2)                                                                     \
            score_##words##_2(queries, keys, count, ahead, scores);                               \
        else                                                                                      \
            score_##words##_1(queries, keys, count, ahead, scores);                               \
    }                                                                                             \
    static void gather_##words(uint32_t (*powers)[KEYS], const Softmax *softmax,                  \
                               const uint32_t *values, int count, int head_dim, int64_t ahead,    \
                               float (*found)[MOST_HEAD_DIM])                                     \
    {                                                                                             \
        int part = 0;                                                                             \
        for (; part + 64 <= head_dim; part += 64)                                                 \
            gather_##words##_4(powers, softmax, values + part, count, head_dim, ahead,            \
                               (float (*)[MOST_HEAD_DIM])(found[0] + part));                      \
        if (part < head_dim)                                                                      \
            gather_##words##_2(powers, softmax, values + part, count, head_dim, ahead,            \
                               (float (*)[MOST_HEAD_DIM])(found[0] + part));                      \
    }
MATH_OF(floats)
MATH_OF(halves)

/* 32 floats to as many bfloat16, rounded to the nearest, halves to even. */
static inline __m512i halves_of(Floats low, Floats high)
{
    __m512i both;
    __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(both) : "v"(high), "v"(low));
    return both;
}

static void soften_halves(const float *scores, int visible, int blocks, Softmax *softmax,
                          uint32_t *powers)
{
    Floats found[KEYS / LANES];
    powers_of(scores, visible, blocks, softmax, found);
    for (int i = 0; i < KEYS / LANES; i += 2)
        _mm512_storeu_si512(powers + i * LANES / 2, halves_of(found[i], found[i + 1]));
}

static void halves_to_words(const float *from, int count, float scale, uint32_t *to)
{
    for (int i = 0; i < count; i += 2 * LANES)
        _mm512_storeu_si512(to + i / 2, halves_of(load(from + i) * SPLAT(scale),
                                                  load(from + i + LANES) * SPLAT(scale)));
}

static const AttentionMath floats = {1, score_floats, soften_floats, gather_floats,
                                     floats_to_words};
static const AttentionMath halves = {2, score_halves, soften_halves, gather_halves,
                                     halves_to_words};

#define SET avx512_vnni
#define NEEDS "avx512f avx512bw avx512dq avx512vl avx512_vnni fma"
#define HALVES &halves
#include "set.h"
