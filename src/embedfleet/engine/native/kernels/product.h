/* Rows times a panel of a weight matrix: where nearly all the time of a pass goes.
 *
 * Twelve rows times 32 outputs keep 24 of the 32 vector registers busy: enough sums in flight to
 * hide the latency of a multiplication, and 14 loads for 24 of them. A panel is read from one end
 * to the other and stays in the nearest caches while row after row meets it. */

#ifndef EMBEDFLEET_PRODUCT_H
#define EMBEDFLEET_PRODUCT_H

#include "model.h"

#define PANEL 32
#define TILE_ROWS 12

typedef float Tile[TILE_ROWS][PANEL] __attribute__((aligned(64)));

/* Rows made ready for products: float32, or bytes that are values / scale + 128. */
typedef struct {
    const void *values;
    const float *scales; /* [rows, groups] */
    int64_t stride;      /* elements from a row to the next */
} Input;

static inline int groups_of(int inputs) { return (inputs + GROUP_INPUTS - 1) / GROUP_INPUTS; }

/* tile[r][c] = row `row + r` times output `panel * 32 + c`, for 1 to 12 rows. */
void product(const Input *input, int row, int rows, const Matrix *matrix, int panel, Tile tile);

#endif
