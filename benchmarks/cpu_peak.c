/* As many multiplications as the processor can do, on registers alone: what no matrix product can
 * reach, as it has to read its numbers from somewhere. 24 sums hide the latency of each. */

#include <immintrin.h>

#define EACH(M) \
    M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15) M(16) \
    M(17) M(18) M(19) M(20) M(21) M(22) M(23)
#define ZERO(i) __m512 sum##i = _mm512_setzero_ps();
#define BYTES(i) __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(sum##i) : "v"(x));
#define FLOATS(i) __asm__ volatile("vfmadd231ps %1, %1, %0" : "+v"(sum##i) : "v"(x));

/* Additions and multiplications of one round of either. */
long int8_operations(void) { return 24 * 64 * 2; }
long float_operations(void) { return 24 * 16 * 2; }

void int8_rounds(long rounds)
{
    __m512 x = _mm512_setzero_ps();
    EACH(ZERO)
    for (long round = 0; round < rounds; round++) {
        EACH(BYTES)
    }
}

void float_rounds(long rounds)
{
    __m512 x = _mm512_setzero_ps();
    EACH(ZERO)
    for (long round = 0; round < rounds; round++) {
        EACH(FLOATS)
    }
}
