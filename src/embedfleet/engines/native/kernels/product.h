/* Rows times a panel of a weight matrix, group by group of inputs. */

#ifndef EMBEDFLEET_PRODUCT_H
#define EMBEDFLEET_PRODUCT_H

#include "instruction_set.h"
#include "model.h"

/* Rows made ready for products: float32, or bytes that are values / scale + offset. */
typedef struct {
    const void *values;
    const float *scales; /* [rows, groups] */
    int64_t stride;      /* elements from a row to the next */
} Input;

static inline int groups_of(int inputs) { return (inputs + GROUP_INPUTS - 1) / GROUP_INPUTS; }

/* tile[r][c] = row `row + r` times output `panel * width + c`, for as many rows as a tile has or
 * fewer; `width` outputs are a panel of the set. */
static inline void product(const InstructionSet *set, const Input *input, int row, int rows,
                           const Matrix *matrix, int panel, float *tile)
{
    int64_t width = matrix->scales ? set->byte_panel : set->float_panel;
    /* The first rows that a panel meets fetch the next panel from far away. */
    int64_t size = width * matrix->in, ahead = row ? 0 : size;
    if (!matrix->scales) {
        set->multiply_floats((const float *)input->values + row * input->stride, input->stride, rows,
                             (const float *)matrix->packed + panel * size, matrix->in, ahead, tile);
        return;
    }
    int64_t groups = groups_of(matrix->in);
    const uint8_t *values = (const uint8_t *)input->values + row * input->stride;
    const int8_t *weights = (const int8_t *)matrix->packed + panel * size;
    Factors factors = {
        .sums = matrix->sums + panel * groups * width,
        .weights = matrix->scales + panel * groups * width,
        .rows = input->scales + row * groups,
        .stride = groups,
    };
    for (int from = 0; from < matrix->in; from += GROUP_INPUTS) {
        int inputs = matrix->in - from < GROUP_INPUTS ? matrix->in - from : GROUP_INPUTS;
        set->multiply_bytes(values + from, input->stride, rows, weights + from * width, inputs,
                            ahead, &factors, tile);
        factors.sums += width;
        factors.weights += width;
        factors.rows++;
        factors.more = 1;
    }
}

#endif
