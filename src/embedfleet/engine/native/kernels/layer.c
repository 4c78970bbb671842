/* What tokens go through between one attention and the next. */

#include <string.h>

#include "pass.h"
#include "product.h"
#include "rows.h"

/* Things of a step that are this thread's to do. */
typedef struct {
    int from, to;
} Part;

/* The next part of `count` things; 0 when none is left and all are done. A block of one's own has
 * one part. */
static int next(Share *share, int count, Part *part)
{
    if (!share->step) {
        *part = (Part){part->to, count};
        return part->from < part->to;
    }
    int size = count / (4 * share->pass->model->threads);
    if (part->from < part->to)
        step_did(share->step, count, part->to - part->from);
    size = step_take(share->step, count, size ? size : 1, &part->from);
    part->to = part->from + size;
    if (!size) {
        step_wait(share->step, count);
        share->step++;
    }
    return size;
}

/* Rows ready for products. `norm` is none, or the norm that goes first. */
static Input ready(Share *share, const float *from, int width, const float *norm)
{
    const Shape *shape = &share->pass->model->shape;
    const Scratch *scratch = share->scratch;
    if (shape->kind == FLOAT && !norm)
        return (Input){from, NULL, width};
    float normed[shape->hidden] __attribute__((aligned(64)));
    for (Part part = {0}; next(share, share->count, &part);)
        for (int64_t row = part.from; row < part.to; row++) {
            const float *values = from + row * width;
            float *floats = shape->kind == FLOAT ? (float *)scratch->ready + row * width : normed;
            if (norm) {
                rms_norm(values, norm, width, shape->epsilon, floats);
                values = floats;
            }
            if (shape->kind == INT8)
                scratch->scales[row] =
                    quantise(values, width, (uint8_t *)scratch->ready + row * width);
        }
    return (Input){scratch->ready, scratch->scales, width};
}

/* What becomes of a tile: `rows` rows from `row` on, outputs from `output` on. */
typedef struct {
    int row, rows, output, width;
} Place;

typedef void Keep(const Share *share, float *to, Place place, Tile tile);

static void store(const Share *share, float *to, Place place, Tile tile)
{
    (void)share;
    to += (int64_t)place.row * place.width + place.output;
    for (int r = 0; r < place.rows; r++, to += place.width)
        memcpy(to, tile[r], sizeof tile[r]);
}

static void add(const Share *share, float *to, Place place, Tile tile)
{
    (void)share;
    to += (int64_t)place.row * place.width + place.output;
    for (int r = 0; r < place.rows; r++, to += place.width)
        for (int c = 0; c < PANEL; c++)
            to[c] += tile[r][c];
}

static void keep_values(const Share *share, float *to, Place place, Tile tile)
{
    const Cache *cache = &share->pass->cache;
    const int64_t *slots = share->pass->slots + share->first + place.row;
    int head = place.output / cache->head_dim, begin = place.output % cache->head_dim;
    (void)to;
    for (int r = 0; r < place.rows; r++)
        keep_value(cache, head, slots[r], begin, PANEL, tile[r]);
}

static Place place_of(const Share *share, const Matrix *matrix, int panel, int row)
{
    int rows = share->count - row < TILE_ROWS ? share->count - row : TILE_ROWS;
    return (Place){row, rows, panel * PANEL, matrix->out};
}

static void multiply(Share *share, const Input *input, const Matrix *matrix, Keep *keep, float *to)
{
    Tile tile;
    for (Part part = {0}; next(share, matrix->out / PANEL, &part);)
        for (int panel = part.from; panel < part.to; panel++)
            for (int row = 0; row < share->count; row += TILE_ROWS) {
                Place place = place_of(share, matrix, panel, row);
                product(input, row, place.rows, matrix, panel, tile);
                keep(share, to, place, tile);
            }
}

static void multiply_gated(Share *share, const Input *input, const Layer *layer)
{
    Tile gate, up;
    for (Part part = {0}; next(share, layer->gate.out / PANEL, &part);)
        for (int panel = part.from; panel < part.to; panel++)
            for (int row = 0; row < share->count; row += TILE_ROWS) {
                Place place = place_of(share, &layer->gate, panel, row);
                product(input, row, place.rows, &layer->gate, panel, gate);
                product(input, row, place.rows, &layer->up, panel, up);
                for (int r = 0; r < place.rows; r++)
                    swiglu(gate[r], up[r]);
                store(share, share->scratch->product, place, gate);
            }
}

/* Norm and turn the heads of a token, [count, head_dim]. */
static void set_heads(const Pass *pass, float *heads, int count, const float *norm, int position)
{
    const Shape *shape = &pass->model->shape;
    int width = shape->head_dim;
    int64_t at = (int64_t)position * (width / 2);
    for (int head = 0; head < count; head++, heads += width) {
        rms_norm(heads, norm, width, shape->epsilon, heads);
        rotate(heads, pass->cosines + at, pass->sines + at, width);
    }
}

static void set_queries(Share *share, const Layer *layer)
{
    const Shape *shape = &share->pass->model->shape;
    const Rows *rows = share->rows;
    for (Part part = {0}; next(share, share->count, &part);)
        for (int64_t row = share->first + part.from; row < share->first + part.to; row++)
            set_heads(share->pass, rows->queries + row * query_width(shape), shape->heads,
                      layer->query_norm, rows->positions[row]);
}

static void set_keys(Share *share, const Layer *layer)
{
    const Pass *pass = share->pass;
    const Shape *shape = &pass->model->shape;
    for (Part part = {0}; next(share, share->count, &part);)
        for (int row = part.from; row < part.to; row++) {
            float *keys = share->scratch->keys + (int64_t)row * key_width(shape);
            int token = share->first + row;
            set_heads(pass, keys, shape->kv_heads, layer->key_norm, share->rows->positions[token]);
            for (int head = 0; head < shape->kv_heads; head++)
                keep_key(&pass->cache, head, pass->slots[token], keys + head * shape->head_dim);
        }
}

void project(Share *share, const Layer *layer, int wanted)
{
    const Shape *shape = &share->pass->model->shape;
    const Rows *rows = share->rows;
    Input input = ready(share, rows->states + (int64_t)share->first * shape->hidden, shape->hidden,
                        layer->input_norm);
    if (wanted & QUERIES) {
        multiply(share, &input, &layer->query, store,
                 rows->queries + (int64_t)share->first * query_width(shape));
        set_queries(share, layer);
    }
    if (wanted & KEYS_AND_VALUES) {
        multiply(share, &input, &layer->key, store, share->scratch->keys);
        multiply(share, &input, &layer->value, keep_values, NULL);
        set_keys(share, layer);
    }
}

void finish(Share *share, const Layer *layer)
{
    const Shape *shape = &share->pass->model->shape;
    const Rows *rows = share->rows;
    float *states = rows->states + (int64_t)share->first * shape->hidden;
    const float *attended = rows->queries + (int64_t)share->first * query_width(shape);
    Input input = ready(share, attended, query_width(shape), NULL);
    multiply(share, &input, &layer->output, add, states);
    input = ready(share, states, shape->hidden, layer->mlp_norm);
    multiply_gated(share, &input, layer);
    input = ready(share, share->scratch->product, shape->intermediate, NULL);
    multiply(share, &input, &layer->down, add, states);
}
