/* Layers of BERT: norms come after what they norm, matrices have biases, the MLP has no gate. */

#include "layer.h"

static void store_activated(const Share *share, float *to, Place place, float *tile)
{
    set_of(share)->gelu(tile, place.rows * place.panel);
    store(share, to, place, tile);
}

/* The states of the rows, normed in place. */
static void norm(Share *share, const float *weight, const float *bias)
{
    const Shape *shape = &share->pass->model->shape;
    float *states = states_of(share);
    for (Part part = {0}; next(share, share->count, &part);)
        for (int row = part.from; row < part.to; row++) {
            float *state = states + (int64_t)row * shape->hidden;
            set_of(share)->layer_norm(state, weight, bias, shape->hidden, shape->epsilon, state);
        }
}

static void keep_keys(Share *share)
{
    const Pass *pass = share->pass;
    const Shape *shape = &pass->model->shape;
    for (Part part = {0}; next(share, share->count, &part);)
        for (int row = part.from; row < part.to; row++) {
            const float *keys = share->scratch->keys + (int64_t)row * key_width(shape);
            for (int head = 0; head < shape->kv_heads; head++)
                keep_key(&pass->cache, head, pass->slots[share->first + row],
                         keys + head * shape->head_dim);
        }
}

static void project(Share *share, const Layer *layer, int wanted)
{
    Input input = ready(share, states_of(share), share->pass->model->shape.hidden, NULL);
    if (wanted & QUERIES)
        multiply(share, &input, &layer->query, store, queries_of(share));
    if (wanted & KEYS_AND_VALUES) {
        multiply(share, &input, &layer->key, store, share->scratch->keys);
        multiply(share, &input, &layer->value, keep, NULL);
        keep_keys(share);
    }
}

static void finish(Share *share, const Layer *layer)
{
    const Shape *shape = &share->pass->model->shape;
    float *states = states_of(share);
    Input input = ready(share, queries_of(share), query_width(shape), NULL);
    multiply(share, &input, &layer->output, add, states);
    norm(share, layer->attention_norm, layer->attention_norm_bias);
    input = ready(share, states, shape->hidden, NULL);
    multiply(share, &input, &layer->up, store_activated, share->scratch->product);
    input = ready(share, share->scratch->product, shape->intermediate, NULL);
    multiply(share, &input, &layer->down, add, states);
    norm(share, layer->output_norm, layer->output_norm_bias);
}

const Family encoder = {.causal = 0, .project = project, .finish = finish};
