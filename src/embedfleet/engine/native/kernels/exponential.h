/* Powers of two, 16 at a time. */

#ifndef EMBEDFLEET_EXPONENTIAL_H
#define EMBEDFLEET_EXPONENTIAL_H

#include <immintrin.h>

#define LOG2_E 1.44269504088896340736f

/* 2^x with an error below 2e-7 of it: 2^f for f in [-1/2, 1/2] by the first seven terms of
 * exp(f ln 2), whose next one is 1.2e-7 at most, times a power of two. */
static inline __m512 exp2_of(__m512 x)
{
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, whole);
    __m512 power = _mm512_set1_ps(1.5403530e-4f);
    power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(1.3333558e-3f));
    power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(9.6181291e-3f));
    power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(5.5504109e-2f));
    power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(2.4022651e-1f));
    power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(6.9314718e-1f));
    power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

#endif
