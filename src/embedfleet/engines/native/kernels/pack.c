/* Weights [out, in] into panels, in the order in which products read them: for int8
 * [out / panel][in / together][panel][together], as so many products are added at once; for floats
 * [out / panel][in][panel]. */

#include "product.h"

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
    float values[MOST_PANEL][GROUP_INPUTS];
    int8_t bytes[MOST_PANEL][GROUP_INPUTS];
    int width; /* inputs */
} Group;

/* What is packed, and how. */
typedef struct {
    const InstructionSet *set;
    enum Source source;
    const void *values;
    const float *rows, *columns;
    int in, panel;
    void *packed;
    float *scales;
    int32_t *sums; /* NULL for floats */
} Packing;

static void fill(const Packing *packing, Group *group, int row, int64_t at, int begin)
{
    size_t width = (size_t)group->width;
    if (packing->source == FROM_INT8)
        memcpy(group->bytes[row], (const int8_t *)packing->values + at, width);
    else if (packing->source == FROM_FLOAT)
        memcpy(group->values[row], (const float *)packing->values + at, width * sizeof(float));
    else
        for (size_t i = 0; i < width; i++)
            group->values[row][i] = widened(((const uint16_t *)packing->values)[at + (int64_t)i]);
    for (size_t i = 0; packing->columns && i < width; i++)
        group->values[row][i] *= packing->columns[(size_t)begin + i];
}

static void put_floats(const Packing *packing, const Group *group, float *to)
{
    for (int output = 0; output < packing->panel; output++)
        for (int i = 0; i < group->width; i++)
            to[i * packing->panel + output] = group->values[output][i];
}

static void put_bytes(const Packing *packing, const Group *group, int8_t *to, int32_t *sums)
{
    int together = packing->set->together;
    for (int i = 0; i < group->width; i += together)
        for (int output = 0; output < packing->panel; output++)
            memcpy(to + i * packing->panel + output * together, &group->bytes[output][i],
                   (size_t)together);
    for (int output = 0; output < packing->panel; output++) {
        /* What products of bytes with an offset will hold too much. */
        int32_t sum = 0;
        for (int i = 0; i < group->width; i++)
            sum += group->bytes[output][i];
        sums[output] = packing->set->offset * sum;
    }
}

/* `number` is that of the group, `output` its first, and `at` its first weight's number among all
 * that are packed. */
static void put_group(const Packing *packing, Group *group, int64_t number, int64_t output,
                      int64_t at)
{
    if (!packing->sums) {
        put_floats(packing, group, (float *)packing->packed + at);
        return;
    }
    float *scales = packing->scales + number * packing->panel;
    for (int row = 0; row < packing->panel; row++)
        scales[row] = packing->source == FROM_INT8
                          ? packing->rows[output + row]
                          : packing->set->quantise_weights(group->values[row], group->width,
                                                           group->bytes[row]);
    put_bytes(packing, group, (int8_t *)packing->packed + at,
              packing->sums + number * packing->panel);
}

void embedfleet_pack(int32_t set, int32_t source, const void *values, const float *rows,
                     const float *columns, int32_t out, int32_t in, void *packed, float *scales,
                     int32_t *sums)
{
    int count;
    Packing packing = {.set = instruction_sets(&count)[set],
                       .source = (enum Source)source,
                       .values = values,
                       .rows = rows,
                       .columns = columns,
                       .in = in,
                       .packed = packed,
                       .scales = scales,
                       .sums = sums};
    packing.panel = sums ? packing.set->byte_panel : packing.set->float_panel;
    Group group;
    int64_t number = 0;
    for (int64_t output = 0; output < out; output += packing.panel)
        for (int begin = 0; begin < in; begin += GROUP_INPUTS, number++) {
            group.width = in - begin < GROUP_INPUTS ? in - begin : GROUP_INPUTS;
            for (int row = 0; row < packing.panel; row++)
                fill(&packing, &group, row, (output + row) * in + begin, begin);
            put_group(&packing, &group, number, output, output * in + begin * packing.panel);
        }
}
