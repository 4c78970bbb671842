/* What the layers of all families are made of: parts of a step, products of rows with matrices, and
 * what becomes of them. */

#ifndef EMBEDFLEET_LAYER_H
#define EMBEDFLEET_LAYER_H

#include "pass.h"
#include "product.h"

/* Things of a step that are this thread's to do. */
typedef struct {
    int from, to;
} Part;

/* The next part of `count` things; 0 when none is left and all are done. A block of one's own has
 * one part. */
int next(Share *share, int count, Part *part);

static inline const InstructionSet *set_of(const Share *share) { return share->pass->model->set; }

/* The states of the rows, [count, hidden], and what is asked or was seen by them. */
static inline float *states_of(const Share *share)
{
    return share->rows->states + (int64_t)share->first * share->pass->model->shape.hidden;
}
static inline float *queries_of(const Share *share)
{
    return share->rows->queries + (int64_t)share->first * query_width(&share->pass->model->shape);
}

/* Rows ready for products. `norm` is none, or the RMS norm that goes first. */
Input ready(Share *share, const float *from, int width, const float *norm);

/* What becomes of a tile: `rows` rows from `row` on, `panel` outputs from `output` on, of a matrix
 * with `width` outputs. */
typedef struct {
    int row, rows, output, panel, width;
} Place;

/* Tiles of the set for a matrix: `rows` times `panel`. */
typedef struct {
    int rows, panel;
} TileSize;

TileSize tile_size(const Share *share);
Place place_of(const Share *share, const Matrix *matrix, TileSize size, int panel, int row);

/* The tile may be overwritten. */
typedef void Keep(const Share *share, float *to, Place place, float *tile);

Keep store, add;
/* As values, in the cache. */
Keep keep;

/* Rows times a matrix, plus its bias. */
void multiply(Share *share, const Input *input, const Matrix *matrix, Keep *put, float *to);

#endif
