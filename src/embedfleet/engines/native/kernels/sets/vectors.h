/* What every instruction set says of itself, and what follows from it: rows, the exponential and
 * softmax, written once in the compiler's vectors.
 *
 * A set defines, before it includes this:
 *   LANES                    floats of a register
 *   SPLAT(x), SPLAT_INT(x)   a register of the same number
 *   FMA(x, y, z)             x * y + z
 *   GREATER(x, y)            of each two floats the greater; y where either is no number
 *   LESSER(x, y), GREATER_INT(x, y)
 *   sum_of_lanes(x)          halves of the register added to each other until one number is left
 *   greatest_of_lanes(x), greatest_int_of_lanes(x)
 *   PREFETCH(address)
 *   store_bytes(to, ints)    the low bytes of 16 int32 in 16 / LANES registers
 * Nothing is contracted by the compiler (-ffp-contract=off): bits are those that are written. */

#ifndef EMBEDFLEET_VECTORS_H
#define EMBEDFLEET_VECTORS_H

#include <math.h>
#include <string.h>

#include "../instruction_set.h"

#define WHOLE_PARTS (PARTS / LANES)

_Static_assert(PARTS % LANES == 0 && WHOLE_PARTS >= 1, "sums of 16 parts fill registers");

typedef float FloatsAnywhere
    __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t IntsAnywhere
    __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Floats load(const void *from) { return *(const FloatsAnywhere *)from; }
static inline Ints load_ints(const void *from) { return *(const IntsAnywhere *)from; }
static inline void store(void *to, Floats x) { *(FloatsAnywhere *)to = x; }

/* 1.5 * 2^23: what is added to it is rounded to a whole number, halves to even, which then are the
 * low bits of the sum. For magnitudes below 2^22. */
#define ROUNDING 12582912.0f

static inline Ints rounded(Floats x)
{
    return (Ints)(x + SPLAT(ROUNDING)) - (Ints)SPLAT(ROUNDING);
}

/* The sum of 16 parts: halves are added to each other until one number is left. */
static inline float sum_of(const Floats *parts)
{
    Floats sums[WHOLE_PARTS];
    memcpy(sums, parts, sizeof sums);
    for (int half = WHOLE_PARTS / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sum_of_lanes(sums[0]);
}

static inline float greatest_of(const Floats *parts)
{
    Floats greatest = parts[0];
    for (int i = 1; i < WHOLE_PARTS; i++)
        greatest = GREATER(greatest, parts[i]);
    return greatest_of_lanes(greatest);
}

#define LOG2_E 1.44269504088896340736f

/* 2^x with an error below 2.3e-7 of it: 2^f for f in [-1/2, 1/2] by the first seven terms of
 * exp(f ln 2), whose next one is 1.2e-7 at most, times a power of two. From 2^-126 to 2^127; what
 * is no number stays none. */
static inline Floats exp2_of(Floats x)
{
    x = LESSER(SPLAT(127.0f), GREATER(SPLAT(-126.0f), x));
    Floats shifted = x + SPLAT(ROUNDING);
    Ints whole = (Ints)shifted - (Ints)SPLAT(ROUNDING);
    Floats f = x - (shifted - SPLAT(ROUNDING));
    Floats power = SPLAT(1.5403530e-4f);
    power = FMA(power, f, SPLAT(1.3333558e-3f));
    power = FMA(power, f, SPLAT(9.6181291e-3f));
    power = FMA(power, f, SPLAT(5.5504109e-2f));
    power = FMA(power, f, SPLAT(2.4022651e-1f));
    power = FMA(power, f, SPLAT(6.9314718e-1f));
    power = FMA(power, f, SPLAT(1.0f));
    return power * (Floats)((whole + SPLAT_INT(127)) << 23);
}

static void rms_norm(const float *from, const float *weight, int width, float epsilon, float *to)
{
    Floats left[WHOLE_PARTS] = {0}, right[WHOLE_PARTS] = {0};
    for (int i = 0; i < width; i += 2 * PARTS)
        for (int j = 0; j < WHOLE_PARTS; j++) {
            Floats low = load(from + i + j * LANES), high = load(from + i + PARTS + j * LANES);
            left[j] = FMA(low, low, left[j]);
            right[j] = FMA(high, high, right[j]);
        }
    for (int j = 0; j < WHOLE_PARTS; j++)
        left[j] += right[j];
    float mean = sum_of(left) / (float)width;
    Floats scale = SPLAT(1.0f / sqrtf(mean + epsilon));
    for (int i = 0; i < width; i += LANES)
        store(to + i, load(from + i) * scale * load(weight + i));
}

/* The sum of `width` floats, less `centre` each, or of their squares. */
static inline float sum_from(const float *from, int width, Floats centre, int squares)
{
    Floats left[WHOLE_PARTS] = {0}, right[WHOLE_PARTS] = {0};
    for (int i = 0; i < width; i += 2 * PARTS)
        for (int j = 0; j < WHOLE_PARTS; j++) {
            Floats low = load(from + i + j * LANES) - centre;
            Floats high = load(from + i + PARTS + j * LANES) - centre;
            left[j] = squares ? FMA(low, low, left[j]) : left[j] + low;
            right[j] = squares ? FMA(high, high, right[j]) : right[j] + high;
        }
    for (int j = 0; j < WHOLE_PARTS; j++)
        left[j] += right[j];
    return sum_of(left);
}

static void layer_norm(const float *from, const float *weight, const float *bias, int width,
                       float epsilon, float *to)
{
    Floats mean = SPLAT(sum_from(from, width, SPLAT(0.0f), 0) / (float)width);
    float variance = sum_from(from, width, mean, 1) / (float)width;
    Floats scale = SPLAT(1.0f / sqrtf(variance + epsilon));
    for (int i = 0; i < width; i += LANES)
        store(to + i, FMA((load(from + i) - mean) * scale, load(weight + i), load(bias + i)));
}

/* The largest magnitude of `width` floats, or one that is none. Without their signs, bits of floats
 * are in the order of floats; those of what is no number come last. */
static inline float largest_of(const float *from, int width)
{
    Ints magnitude = SPLAT_INT(INT32_MAX), left = SPLAT_INT(0), right = left;
    for (int i = 0; i < width; i += 2 * LANES) {
        left = GREATER_INT(left, load_ints(from + i) & magnitude);
        right = GREATER_INT(right, load_ints(from + i + LANES) & magnitude);
    }
    int32_t found = greatest_int_of_lanes(GREATER_INT(left, right));
    float largest;
    memcpy(&largest, &found, sizeof largest);
    return largest;
}

static float quantise(const float *from, int width, uint8_t *to)
{
    float largest = largest_of(from, width);
    if (largest < 1e-20f)
        largest = 1e-20f; /* a token of zeros stays zero, and is not 0 / 0 */
    Floats factor = SPLAT(MOST_VALUE / largest);
    for (int i = 0; i < width; i += 16) {
        Ints ints[WHOLE_PARTS];
        for (int j = 0; j < WHOLE_PARTS; j++)
            ints[j] = rounded(load(from + i + j * LANES) * factor) + SPLAT_INT(OFFSET);
        store_bytes(to + i, ints);
    }
    return largest / MOST_VALUE;
}

static float quantise_weights(const float *from, int width, int8_t *to)
{
    float largest = largest_of(from, width), scale = largest == 0 ? 1.0f : largest / 127.0f;
    if (!isfinite(scale)) { /* which tells of a weight that is no number */
        memset(to, 0, (size_t)width);
        return scale;
    }
    for (int i = 0; i < width; i += 16) {
        Ints ints[WHOLE_PARTS];
        for (int j = 0; j < WHOLE_PARTS; j++)
            ints[j] = rounded(load(from + i + j * LANES) / SPLAT(scale));
        store_bytes((uint8_t *)to + i, ints);
    }
    return scale;
}

static void rotate(float *head, const float *cosines, const float *sines, int width)
{
    int half = width / 2;
    for (int i = 0; i < half; i += LANES) {
        Floats cosine = load(cosines + i), sine = load(sines + i);
        Floats x = load(head + i), y = load(head + half + i);
        store(head + i, FMA(x, cosine, -(y * sine)));
        store(head + half + i, FMA(y, cosine, x * sine));
    }
}

static void swiglu(float *gate, const float *up, int count)
{
    for (int i = 0; i < count; i += LANES) {
        Floats x = load(gate + i);
        Floats below = SPLAT(1.0f) + exp2_of(x * SPLAT(-LOG2_E));
        store(gate + i, x / below * load(up + i));
    }
}

/* x Phi(x) = max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2. The complement of the error function by
 * Abramowitz and Stegun's 7.1.26, exact to 1.5e-7. */
static void gelu(float *values, int count)
{
    for (int i = 0; i < count; i += LANES) {
        Floats x = load(values + i), size = (Floats)((Ints)x & SPLAT_INT(INT32_MAX));
        Floats t = SPLAT(1.0f) / FMA(size, SPLAT(0.3275911f * 0.70710678f), SPLAT(1.0f));
        Floats tail = SPLAT(1.061405429f);
        tail = FMA(tail, t, SPLAT(-1.453152027f));
        tail = FMA(tail, t, SPLAT(1.421413741f));
        tail = FMA(tail, t, SPLAT(-0.284496736f));
        tail = FMA(tail, t, SPLAT(0.254829592f));
        tail = tail * t * exp2_of(x * x * SPLAT(-0.5f * LOG2_E));
        store(values + i, GREATER(x, SPLAT(0.0f)) - size * tail * SPLAT(0.5f));
    }
}

/* The first keys up to `visible`, as a mask. */
static inline Ints seen(int key, int visible)
{
    static const int32_t places[PARTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (Ints)(load_ints(places) < SPLAT_INT(visible - key));
}

/* Powers of two in place of scores. The caller makes words of them. */
static inline void powers_of(const float *scores, int visible, int blocks, Softmax *softmax,
                             Floats powers[KEYS / LANES])
{
    int count = blocks * KEY_BLOCK / LANES;
    Floats best[WHOLE_PARTS], sums[WHOLE_PARTS] = {0}, nothing = SPLAT(-1e30f);
    for (int j = 0; j < WHOLE_PARTS; j++)
        best[j] = nothing;
    for (int i = 0; i < count; i++) {
        Ints mask = seen(i * LANES, visible);
        Floats score = load(scores + i * LANES);
        score = (Floats)(((Ints)score & mask) | ((Ints)nothing & ~mask));
        best[i % WHOLE_PARTS] = GREATER(best[i % WHOLE_PARTS], score);
    }
    float highest = greatest_of(best);
    highest = softmax->highest > highest ? softmax->highest : highest;
    for (int i = 0; i < KEYS / LANES; i++) {
        powers[i] = SPLAT(0.0f);
        if (i < count) {
            Floats power = exp2_of(load(scores + i * LANES) - SPLAT(highest));
            powers[i] = (Floats)((Ints)power & seen(i * LANES, visible));
        }
        sums[i % WHOLE_PARTS] += powers[i];
    }
    Floats correction = exp2_of(SPLAT(softmax->highest - highest));
    for (int j = 0; j < WHOLE_PARTS; j++)
        store(softmax->totals + j * LANES,
              FMA(load(softmax->totals + j * LANES), correction, sums[j]));
    softmax->correction = correction[0];
    softmax->highest = highest;
}

static void soften_floats(const float *scores, int visible, int blocks, Softmax *softmax,
                          uint32_t *powers)
{
    Floats found[KEYS / LANES];
    powers_of(scores, visible, blocks, softmax, found);
    for (int i = 0; i < KEYS / LANES; i++)
        store(powers + i * LANES, found[i]);
}

static void floats_to_words(const float *from, int count, float scale, uint32_t *to)
{
    for (int i = 0; i < count; i += LANES)
        store(to + i, load(from + i) * SPLAT(scale));
}

#endif
