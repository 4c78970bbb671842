/* Weights [out, in] into panels, in the order in which products read them: for int8
 * [out / 32][in / 4][32][4], as four products are added at once; for floats [out / 32][in][32]. */

#include "product.h"

#include <math.h>
#include <string.h>

static inline float widened(uint16_t bfloat16)
{
    uint32_t bits = (uint32_t)bfloat16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void pack_row(const int8_t *row, int output, int in, int8_t *packed, int32_t *sums)
{
    int8_t *to = packed + (int64_t)(output / PANEL) * PANEL * in + output % PANEL * 4;
    int32_t sum = 0;
    for (int i = 0; i < in; i++)
        sum += row[i];
    for (int i = 0; i < in; i += 4, to += 4 * PANEL)
        memcpy(to, row + i, 4);
    sums[output] = 128 * sum;
}

void embedfleet_pack_int8(const int8_t *values, int32_t out, int32_t in, int8_t *packed,
                          int32_t *sums)
{
    for (int output = 0; output < out; output++)
        pack_row(values + (int64_t)output * in, output, in, packed, sums);
}

void embedfleet_quantise_bf16(const uint16_t *values, int32_t out, int32_t in, int8_t *packed,
                              float *scales, int32_t *sums)
{
    int8_t row[in];
    for (int output = 0; output < out; output++, values += in) {
        int32_t largest = 0; /* without their signs, bits of floats are in the order of floats */
        for (int i = 0; i < in; i++) {
            int32_t bits = (int32_t)(values[i] & 0x7fff) << 16;
            largest = bits > largest ? bits : largest;
        }
        float scale = largest ? widened((uint16_t)(largest >> 16)) / 127.0f : 1.0f;
        for (int i = 0; i < in; i++)
            row[i] = (int8_t)(int32_t)rintf(widened(values[i]) / scale);
        pack_row(row, output, in, packed, sums);
        scales[output] = scale;
    }
}

void embedfleet_pack_bf16(const uint16_t *values, int32_t out, int32_t in, float *packed)
{
    for (int output = 0; output < out; output++) {
        float *to = packed + (int64_t)(output / PANEL) * PANEL * in + output % PANEL;
        for (int i = 0; i < in; i++, to += PANEL)
            *to = widened(*values++);
    }
}

void embedfleet_pack_float(const float *values, int32_t out, int32_t in, float *packed)
{
    for (int output = 0; output < out; output++) {
        float *to = packed + (int64_t)(output / PANEL) * PANEL * in + output % PANEL;
        for (int i = 0; i < in; i++, to += PANEL)
            *to = *values++;
    }
}
