/* Opening a model over its weights, running passes, and giving all of it back. */

#include "model.h"

#include <stdlib.h>
#include <string.h>

#include "pass.h"
#include "product.h"

int32_t embedfleet_abi(void) { return ABI; }

static int make_scratch(const Shape *shape, Scratch *scratch, int rows)
{
    size_t widest = (size_t)query_width(shape), count = ((size_t)rows + 15) / 16 * 16;
    size_t hidden = (size_t)shape->hidden, inner = (size_t)shape->intermediate;
    widest = widest > hidden ? widest : hidden;
    widest = widest > inner ? widest : inner;
    scratch->ready = aligned_alloc(64, count * widest * (shape->kind == INT8 ? 1 : sizeof(float)));
    scratch->scales = aligned_alloc(64, count * (size_t)groups_of((int)widest) * sizeof(float));
    scratch->keys = aligned_alloc(64, count * (size_t)key_width(shape) * sizeof(float));
    scratch->product = aligned_alloc(64, count * inner * sizeof(float));
    return scratch->ready && scratch->scales && scratch->keys && scratch->product ? 0 : -1;
}

Model *embedfleet_open(const Shape *shape, const Layer *layers, const float *final_norm,
                       int32_t threads)
{
    Model *model = calloc(1, sizeof *model);
    if (!model)
        return NULL;
    size_t bytes = (size_t)shape->layers * sizeof *layers;
    model->shape = *shape;
    model->final_norm = final_norm;
    model->threads = threads;
    model->few = threads == 1 ? 0 : FEW_ROWS * threads;
    model->lanes = shape->kind == INT8 && __builtin_cpu_supports("avx512bf16") ? 2 : 1;
    model->layers = malloc(bytes);
    model->scratches = calloc((size_t)threads, sizeof *model->scratches);
    model->pool = pool_open(threads);
    int failed = !model->layers || !model->scratches || !model->pool;
    for (int thread = 0; !failed && thread < threads; thread++) {
        int rows = thread == 0 && model->few > BLOCK_ROWS ? model->few : BLOCK_ROWS;
        failed = make_scratch(shape, &model->scratches[thread], rows);
    }
    if (failed) {
        embedfleet_close(model);
        return NULL;
    }
    memcpy(model->layers, layers, bytes);
    return model;
}

/* Memory for a pass, a multiple of 64 bytes. */
static void *workspace(Model *model, size_t bytes)
{
    if (bytes > model->workspace_bytes) {
        embedfleet_release(model);
        model->workspace = aligned_alloc(64, bytes);
        model->workspace_bytes = model->workspace ? bytes : 0;
    }
    return model->workspace;
}

int32_t embedfleet_run(Model *model, int32_t texts, const int32_t *begins, float *states,
                       const float *cosines, const float *sines, float *out)
{
    const Shape *shape = &model->shape;
    Pass pass = {
        .model = model,
        .texts = texts,
        .begins = begins,
        .cosines = cosines,
        .sines = sines,
        .out = out,
        .all = {.states = states, .count = begins[texts]},
        .last = {.count = texts},
        .cache = {.lanes = model->lanes,
                  .heads = shape->heads,
                  .kv_heads = shape->kv_heads,
                  .head_dim = shape->head_dim},
    };
    char *start = workspace(model, lay_out(&pass, NULL));
    if (!start)
        return -1;
    lay_out(&pass, start);
    pool_run(model->pool, forward, &pass);
    return 0;
}

void embedfleet_release(Model *model)
{
    free(model->workspace);
    model->workspace = NULL;
    model->workspace_bytes = 0;
}

void embedfleet_close(Model *model)
{
    if (model->pool)
        pool_close(model->pool);
    for (int thread = 0; model->scratches && thread < model->threads; thread++) {
        Scratch *scratch = &model->scratches[thread];
        free(scratch->ready);
        free(scratch->scales);
        free(scratch->keys);
        free(scratch->product);
    }
    embedfleet_release(model);
    free(model->scratches);
    free(model->layers);
    free(model);
}
