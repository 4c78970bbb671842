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

/* Without their signs, bits of floats are in the order of floats; those of NaN come last. */
static float largest_of(const float *values, int width)
{
    int32_t largest = 0;
    for (int i = 0; i < width; i++) {
        int32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        bits &= INT32_MAX;
        largest = bits > largest ? bits : largest;
    }
    float found;
    memcpy(&found, &largest, sizeof found);
    return found;
}

static float quantise_weights(const float *values, int width, int8_t *bytes)
{
    float largest = largest_of(values, width), scale = largest == 0 ? 1.0f : largest / 127.0f;
    if (!isfinite(scale)) { /* which tells of a weight that is no number */
        memset(bytes, 0, (size_t)width);
        return scale;
    }
    for (int i = 0; i < width; i++)
        bytes[i] = (int8_t)(int32_t)rintf(values[i] / scale);
    return scale;
}

static void put_floats(const Group *group, float *to)
{
    for (int output = 0; output < PANEL; output++)
        for (int i = 0; i < group->width; i++)
            to[i * PANEL + output] = group->values[output][i];
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

/* Where packed weights go: as floats without `sums`, else as bytes, which they are already without
 * `scales`. */
typedef struct {
    void *packed;
    float *scales;
    int32_t *sums;
} Target;

/* `number` is that of the group, and `at` its first weight's among all that are packed. */
static void put_group(Group *group, int64_t number, int64_t at, const Target *target)
{
    if (!target->sums) {
        put_floats(group, (float *)target->packed + at);
        return;
    }
    for (int row = 0; target->scales && row < PANEL; row++)
        target->scales[number * PANEL + row] =
            quantise_weights(group->values[row], group->width, group->bytes[row]);
    put_bytes(group, (int8_t *)target->packed + at, target->sums + number * PANEL);
}

static void pack(const void *values, enum Source source, int out, int in, Target target)
{
    Group group;
    int64_t number = 0;
    for (int64_t output = 0; output < out; output += PANEL)
        for (int begin = 0; begin < in; begin += GROUP_INPUTS, number++) {
            group.width = in - begin < GROUP_INPUTS ? in - begin : GROUP_INPUTS;
            for (int row = 0; row < PANEL; row++)
                fill(&group, row, values, (output + row) * in + begin, source);
            put_group(&group, number, output * in + begin * PANEL, &target);
        }
}

void embedfleet_pack_int8(const int8_t *values, int32_t out, int32_t in, int8_t *packed,
                          int32_t *sums)
{
    pack(values, FROM_INT8, out, in, (Target){packed, NULL, sums});
}

void embedfleet_quantise_float(const float *values, int32_t out, int32_t in, int8_t *packed,
                               float *scales, int32_t *sums)
{
    pack(values, FROM_FLOAT, out, in, (Target){packed, scales, sums});
}

void embedfleet_quantise_bf16(const uint16_t *values, int32_t out, int32_t in, int8_t *packed,
                              float *scales, int32_t *sums)
{
    pack(values, FROM_BF16, out, in, (Target){packed, scales, sums});
}

void embedfleet_pack_bf16(const uint16_t *values, int32_t out, int32_t in, float *packed)
{
    pack(values, FROM_BF16, out, in, (Target){packed, NULL, NULL});
}

void embedfleet_pack_float(const float *values, int32_t out, int32_t in, float *packed)
{
    pack(values, FROM_FLOAT, out, in, (Target){packed, NULL, NULL});
}
