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

/* Inputs that are packed for all outputs of a panel before the next ones: what is written meanwhile
 * stays in the nearest cache until it is whole. */
#define INPUTS 64

static inline float *float_place(float *packed, int output, int input, int in)
{
    return packed + (int64_t)(output / PANEL) * PANEL * in + input * PANEL + output % PANEL;
}

/* Add up what products of bytes that are values + 128 will hold too much. */
static void add_sums(int8_t rows[PANEL][INPUTS], int input, int32_t (*sums)[PANEL])
{
    for (int output = 0; output < PANEL; output++) {
        int32_t sum = 0;
        for (int i = 0; i < INPUTS; i++)
            sum += rows[output][i];
        sums[input / GROUP_INPUTS][output] += 128 * sum;
    }
}

static void pack_panel(int8_t rows[PANEL][INPUTS], int8_t *to)
{
    for (int output = 0; output < PANEL; output++)
        for (int i = 0; i < INPUTS; i += 4)
            memcpy(to + i * PANEL + output * 4, &rows[output][i], 4);
}

static int32_t (*sums_of(int32_t *sums, int output, int in))[PANEL]
{
    return (int32_t (*)[PANEL])(sums + (int64_t)(output / PANEL) * groups_of(in) * PANEL);
}

static void zero(int32_t *sums, int out, int in)
{
    memset(sums, 0, (size_t)out * (size_t)groups_of(in) * sizeof *sums);
}

void embedfleet_pack_int8(const int8_t *values, int32_t out, int32_t in, int8_t *packed,
                          int32_t *sums)
{
    int8_t rows[PANEL][INPUTS];
    zero(sums, out, in);
    for (int output = 0; output < out; output += PANEL)
        for (int i = 0; i < in; i += INPUTS) {
            for (int row = 0; row < PANEL; row++)
                memcpy(rows[row], values + (int64_t)(output + row) * in + i, INPUTS);
            add_sums(rows, i, sums_of(sums, output, in));
            pack_panel(rows, packed + (int64_t)output * in + i * PANEL);
        }
}

static float scale_of(const uint16_t *values, int in)
{
    int16_t largest = 0; /* without their signs, bits of floats are in the order of floats */
    for (int i = 0; i < in; i++) {
        int16_t bits = values[i] & 0x7fff;
        largest = bits > largest ? bits : largest;
    }
    return largest ? widened((uint16_t)largest) / 127.0f : 1.0f;
}

void embedfleet_quantise_bf16(const uint16_t *values, int32_t out, int32_t in, int8_t *packed,
                              float *scales, int32_t *sums)
{
    int8_t rows[PANEL][INPUTS];
    zero(sums, out, in);
    for (int output = 0; output < out; output++)
        scales[output] = scale_of(values + (int64_t)output * in, in);
    for (int output = 0; output < out; output += PANEL)
        for (int i = 0; i < in; i += INPUTS) {
            for (int row = 0; row < PANEL; row++) {
                const uint16_t *from = values + (int64_t)(output + row) * in + i;
                float scale = scales[output + row];
                for (int j = 0; j < INPUTS; j++)
                    rows[row][j] = (int8_t)(int32_t)rintf(widened(from[j]) / scale);
            }
            add_sums(rows, i, sums_of(sums, output, in));
            pack_panel(rows, packed + (int64_t)output * in + i * PANEL);
        }
}

void embedfleet_pack_bf16(const uint16_t *values, int32_t out, int32_t in, float *packed)
{
    for (int panel = 0; panel < out; panel += PANEL)
        for (int i = 0; i < in; i += INPUTS)
            for (int output = panel; output < panel + PANEL; output++)
                for (int j = i; j < i + INPUTS; j++)
                    *float_place(packed, output, j, in) = widened(values[(int64_t)output * in + j]);
}

void embedfleet_pack_float(const float *values, int32_t out, int32_t in, float *packed)
{
    for (int panel = 0; panel < out; panel += PANEL)
        for (int i = 0; i < in; i += INPUTS)
            for (int output = panel; output < panel + PANEL; output++)
                for (int j = i; j < i + INPUTS; j++)
                    *float_place(packed, output, j, in) = values[(int64_t)output * in + j];
}
