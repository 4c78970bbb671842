/* What sets with x86' registers of 32 bytes share: 16 registers, of which twelve, or ten, are sums. */

#include "x86.h"

#define LANES 8
typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
#define SPLAT(x) ((Floats)_mm256_set1_ps(x))
#define SPLAT_INT(x) ((Ints)_mm256_set1_epi32(x))
#define FMA(x, y, z) ((Floats)_mm256_fmadd_ps((__m256)(x), (__m256)(y), (__m256)(z)))
#define GREATER(x, y) ((Floats)_mm256_max_ps((__m256)(x), (__m256)(y)))
#define LESSER(x, y) ((Floats)_mm256_min_ps((__m256)(x), (__m256)(y)))
#define GREATER_INT(x, y) ((Ints)_mm256_max_epi32((__m256i)(x), (__m256i)(y)))
static inline float sum_of_lanes(Floats x) { return sum_of_8((__m256)x); }
static inline float greatest_of_lanes(Floats x) { return greatest_of_8((__m256)x); }
static inline int32_t greatest_int_of_lanes(Ints x) { return greatest_int_of_8((__m256i)x); }
static inline void store_bytes(uint8_t *to, const Ints *ints)
{
    Ints low = ints[0] & SPLAT_INT(255), high = ints[1] & SPLAT_INT(255);
    /* Packing takes halves of registers in turn. */
    __m256i words = _mm256_packus_epi32((__m256i)low, (__m256i)high);
    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i *)to, _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                     _mm256_extracti128_si256(words, 1)));
}

#define COLUMNS 2
#define FLOAT_ROWS 6
