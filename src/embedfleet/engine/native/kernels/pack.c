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

/* A group of inputs of a panel, on its way. */
typedef struct {
    float values[PANEL][GROUP_INPUTS];
    int8_t bytes[PANEL][GROUP_INPUTS];
    int width; /* inputs */
} Group;

static void put_bytes(Group *group, int8_t *to, int32_t *sums)
{
    for (int i = 0; i < group->width; i += 4)
        for (int output = 0; output < PANEL; output++)
            memcpy(to + i * PANEL + output * 4, &group->bytes[output][i], 4);
    for (int output = 0; output < PANEL; output++) {
        /* What products of bytes that are values + 128 will hold too much. */
        int32_t sum = 0;
        for (int i = 0; i < group->width; i++)
            sum += group->bytes[output][i];
        sums[output] = 128 * sum;
    }
}

static float quantise_weights(const float *values, int width, int8_t *bytes)
{
    float largest = 0;
    for (int i = 0; i < width; i++) { /* once NaN, always NaN: the scale must tell of it */
        float size = fabsf(values[i]);
        largest = size > largest || size != size ? size : largest;
    }
    float scale = largest == 0 ? 1.0f : largest / 127.0f;
    for (int i = 0; i < width; i++) {
        float quotient = rintf(values[i] / scale);
        bytes[i] = quotient == quotient ? (int8_t)quotient : 0;
    }
    return scale;
}

/* The group from input `begin` on of the panel from `output` on: into `packed`, and its scales and
 * sums to their places. Without `scales` it is bytes already. */
static void put_group(Group *group, int output, int begin, int in, int8_t *packed, float *scales,
                      int32_t *sums)
{
    int64_t number = (int64_t)(output / PANEL) * groups_of(in) + begin / GROUP_INPUTS;
    for (int row = 0; scales && row < PANEL; row++)
        scales[number * PANEL + row] =
            quantise_weights(group->values[row], group->width, group->bytes[row]);
    put_bytes(group, packed + ((int64_t)output * in + (int64_t)begin * PANEL), sums + number * PANEL);
}

enum Source { FROM_INT8, FROM_BF16, FROM_FLOAT };

static void fill(Group *group, int row, const void *values, int64_t at, enum Source source)
{
    size_t width = (size_t)group->width;
    if (source == FROM_INT8)
        memcpy(group->bytes[row], (const int8_t *)values + at, width);
    else if (source == FROM_FLOAT)
        memcpy(group->values[row], (const float *)values + at, width * sizeof(float));
    else
        for (size_t i = 0; i < width; i++)
            group->values[row][i] = widened(((const uint16_t *)values)[at + (int64_t)i]);
}

static void pack_groups(const void *values, enum Source source, int out, int in, int8_t *packed,
                        float *scales, int32_t *sums)
{
    Group group;
    for (int output = 0; output < out; output += PANEL)
        for (int begin = 0; begin < in; begin += GROUP_INPUTS) {
            group.width = in - begin < GROUP_INPUTS ? in - begin : GROUP_INPUTS;
            for (int row = 0; row < PANEL; row++)
                fill(&group, row, values, (int64_t)(output + row) * in + begin, source);
            put_group(&group, output, begin, in, packed, scales, sums);
        }
}

void embedfleet_pack_int8(const int8_t *values, int32_t out, int32_t in, int8_t *packed,
                          int32_t *sums)
{
    pack_groups(values, FROM_INT8, out, in, packed, NULL, sums);
}

void embedfleet_quantise_float(const float *values, int32_t out, int32_t in, int8_t *packed,
                               float *scales, int32_t *sums)
{
    pack_groups(values, FROM_FLOAT, out, in, packed, scales, sums);
}

void embedfleet_quantise_bf16(const uint16_t *values, int32_t out, int32_t in, int8_t *packed,
                              float *scales, int32_t *sums)
{
    pack_groups(values, FROM_BF16, out, in, packed, scales, sums);
}

/* Inputs that are packed for all outputs of a panel before the next ones: what is written meanwhile
 * stays in the nearest cache until it is whole. */
#define INPUTS 64

static inline float *float_place(float *packed, int output, int input, int in)
{
    return packed + (int64_t)(output / PANEL) * PANEL * in + input * PANEL + output % PANEL;
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
