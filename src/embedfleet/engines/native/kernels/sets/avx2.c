/* x86 with AVX2 and FMA. Products of bytes are added in pairs of 16 bits, which would overflow with
 * eight bits on either side: rows have seven, so that 2 * 127 * 127 stays below 2^15 and every sum is
 * exact, with whatever int8 a checkpoint holds. */

#include "avx.h"

#define OFFSET 64
#define MOST_VALUE 63.0f
#define BYTE_ROWS 5
#define DOT_CONSTANTS const __m256i ones = _mm256_set1_epi16(1);
#define DOT(sum, bytes, weights)                                                      \
    {                                                                                 \
        __m256i pairs;                                                                \
        __asm__("vpmaddubsw %2, %3, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"   \
                : "+x"(sum), "=&x"(pairs)                                             \
                : "x"(weights), "x"(bytes), "x"(ones));                               \
    }

#include "attending_narrow.h"

#define SET avx2
#define NEEDS "avx2 fma"
#define HALVES NULL
#include "set.h"
