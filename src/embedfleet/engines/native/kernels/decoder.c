/* Layers of Qwen3: norms come first, heads are normed and turned, the MLP is gated. */

#include "layer.h"

static void multiply_gated(Share *share, const Input *input, const Layer *layer)
{
    Tile gate, up;
    const InstructionSet *set = set_of(share);
    TileSize size = tile_size(share);
    for (Part part = {0}; next(share, layer->gate.out / size.panel, &part);)
        for (int panel = part.from; panel < part.to; panel++)
            for (int row = 0; row < share->count; row += size.rows) {
                Place place = place_of(share, &layer->gate, size, panel, row);
                product(set, input, row, place.rows, &layer->gate, panel, gate);
                product(set, input, row, place.rows, &layer->up, panel, up);
                set->swiglu(gate, up, place.rows * place.panel);
                store(share, share->scratch->product, place, gate);
            }
}

/* Norm and turn the heads of a token, [count, head_dim]. */
static void set_heads(const Pass *pass, float *heads, int count, const float *norm, int position)
{
    const Shape *shape = &pass->model->shape;
    const InstructionSet *set = pass->model->set;
    int width = shape->head_dim;
    int64_t at = (int64_t)position * (width / 2);
    for (int head = 0; head < count; head++, heads += width) {
        set->rms_norm(heads, norm, width, shape->epsilon, heads);
        set->rotate(heads, pass->cosines + at, pass->sines + at, width);
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

static void project(Share *share, const Layer *layer, int wanted)
{
    Input input = ready(share, states_of(share), share->pass->model->shape.hidden,
                        layer->input_norm);
    if (wanted & QUERIES) {
        multiply(share, &input, &layer->query, store, queries_of(share));
        set_queries(share, layer);
    }
    if (wanted & KEYS_AND_VALUES) {
        multiply(share, &input, &layer->key, store, share->scratch->keys);
        multiply(share, &input, &layer->value, keep, NULL);
        set_keys(share, layer);
    }
}

static void finish(Share *share, const Layer *layer)
{
    const Shape *shape = &share->pass->model->shape;
    float *states = states_of(share);
    Input input = ready(share, queries_of(share), query_width(shape), NULL);
    multiply(share, &input, &layer->output, add, states);
    input = ready(share, states, shape->hidden, layer->mlp_norm);
    multiply_gated(share, &input, layer);
    input = ready(share, share->scratch->product, shape->intermediate, NULL);
    multiply(share, &input, &layer->down, add, states);
}

const Family decoder = {.causal = 1, .project = project, .finish = finish};
