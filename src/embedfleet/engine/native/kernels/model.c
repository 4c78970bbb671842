/* The way of a pass through the model.
 *
 * Between attention and attention every token is on its own, so a thread takes a block of rows
 * through everything there: what it works on stays in its caches, and threads meet twice a layer.
 * A pass of few tokens has no rows to share out; there all threads take each step together, every
 * one a part of the outputs, and meet after each. Both are the same steps: see `Share`. */

#include "model.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "product.h"
#include "rows.h"
#include "threads.h"

/* Rows of a block. Each block reads a layer's weights once, so fewer rows ask more of
 * the memory, and more rows leave the caches. */
#define BLOCK_ROWS 192
/* With fewer rows for each thread, threads share outputs and no rows. */
#define FEW_ROWS 24

/* Buffers for the rows of a block, or of a pass of few. */
typedef struct {
    void *ready;    /* bytes or floats [rows, the widest input] */
    float *scales;  /* [rows] */
    float *keys;    /* [rows, kv_heads * head_dim] */
    float *product; /* [rows, intermediate] */
    float *normed;  /* [hidden] for each part */
} Scratch;

/* Rows that go through the layers: all tokens, or in the last layer one of each text. */
typedef struct {
    float *states;            /* [count, hidden] */
    float *queries;           /* [count, heads * head_dim]; then what they saw */
    const int32_t *positions; /* in the text */
    int count;
} Rows;

struct Model {
    Shape shape;
    Layer *layers;
    const float *final_norm;
    int threads, few;
    int lanes; /* of attention, see Cache */
    Pool *pool;
    Scratch *scratches;
    /* Grows with passes. */
    void *workspace;
    size_t workspace_bytes;
};

typedef struct {
    const Model *model;
    int texts;
    const int32_t *begins;
    const float *cosines, *sines;
    float *out;
    Rows all, last;
    int64_t *slots; /* of each token */
    Cache cache;
    Queries *tasks, *last_tasks;
    int task_count;
    atomic_int *claims; /* one for each thing that threads share out in a pass */
} Pass;

/* Which part of a step is this thread's: all of it for a block of rows of its own, or, of rows that
 * all threads compute together, one part of `parts`. */
typedef struct {
    const Pass *pass;
    const Rows *rows;
    const Scratch *scratch;
    int first, count; /* rows */
    int part, parts;
} Share;

static int query_width(const Shape *shape) { return shape->heads * shape->head_dim; }
static int key_width(const Shape *shape) { return shape->kv_heads * shape->head_dim; }

static void part_of(const Share *share, int count, int *from, int *to)
{
    *from = (int)((int64_t)count * share->part / share->parts);
    *to = (int)((int64_t)count * (share->part + 1) / share->parts);
}

static void sync(const Share *share)
{
    if (share->parts > 1)
        pool_wait(share->pass->model->pool);
}

/* Rows ready for products. `norm` is none, or the norm that goes first. */
static Input ready(const Share *share, const float *from, int width, const float *norm)
{
    const Shape *shape = &share->pass->model->shape;
    const Scratch *scratch = share->scratch;
    float *normed = scratch->normed + (int64_t)share->part * shape->hidden;
    int row, end;
    if (shape->kind == FLOAT && !norm)
        return (Input){from, NULL, width};
    for (part_of(share, share->count, &row, &end); row < end; row++) {
        const float *values = from + (int64_t)row * width;
        if (shape->kind == FLOAT) {
            rms_norm(values, norm, width, shape->epsilon, (float *)scratch->ready + (int64_t)row * width);
            continue;
        }
        if (norm) {
            rms_norm(values, norm, width, shape->epsilon, normed);
            values = normed;
        }
        scratch->scales[row] = quantise(values, width, (uint8_t *)scratch->ready + (int64_t)row * width);
    }
    return (Input){scratch->ready, scratch->scales, width};
}

/* What becomes of a tile: `rows` rows from `row` on, outputs from `output` on. */
typedef void Keep(const Share *share, float *to, int width, int row, int rows, int output, Tile tile);

static void store(const Share *share, float *to, int width, int row, int rows, int output, Tile tile)
{
    (void)share;
    for (int r = 0; r < rows; r++)
        memcpy(to + (int64_t)(row + r) * width + output, tile[r], sizeof tile[r]);
}

static void add(const Share *share, float *to, int width, int row, int rows, int output, Tile tile)
{
    (void)share;
    for (int r = 0; r < rows; r++) {
        float *sum = to + (int64_t)(row + r) * width + output;
        for (int c = 0; c < PANEL; c++)
            sum[c] += tile[r][c];
    }
}

static void keep_values(const Share *share, float *to, int width, int row, int rows, int output,
                        Tile tile)
{
    const Cache *cache = &share->pass->cache;
    const int64_t *slots = share->pass->slots + share->first;
    int head = output / cache->head_dim, begin = output % cache->head_dim;
    (void)to, (void)width;
    for (int r = 0; r < rows; r++)
        keep_value(cache, head, slots[row + r], begin, PANEL, tile[r]);
}

static int rows_of_tile(const Share *share, int row)
{
    return share->count - row < TILE_ROWS ? share->count - row : TILE_ROWS;
}

static void multiply(const Share *share, const Input *input, const Matrix *matrix, Keep *keep,
                     float *to)
{
    Tile tile;
    int panel, end;
    for (part_of(share, matrix->out / PANEL, &panel, &end); panel < end; panel++)
        for (int row = 0; row < share->count; row += TILE_ROWS) {
            int rows = rows_of_tile(share, row);
            product(input, row, rows, matrix, panel, tile);
            keep(share, to, matrix->out, row, rows, panel * PANEL, tile);
        }
}

static void multiply_gated(const Share *share, const Input *input, const Layer *layer)
{
    Tile gate, up;
    int panel, end, width = layer->gate.out;
    for (part_of(share, width / PANEL, &panel, &end); panel < end; panel++)
        for (int row = 0; row < share->count; row += TILE_ROWS) {
            int rows = rows_of_tile(share, row);
            product(input, row, rows, &layer->gate, panel, gate);
            product(input, row, rows, &layer->up, panel, up);
            for (int r = 0; r < rows; r++)
                swiglu(gate[r], up[r]);
            store(share, share->scratch->product, width, row, rows, panel * PANEL, gate);
        }
}

/* Norm and turn heads [heads, head_dim] of a token. */
static void place_heads(const Pass *pass, float *heads, int count, const float *norm, int position)
{
    const Shape *shape = &pass->model->shape;
    int width = shape->head_dim;
    int64_t at = (int64_t)position * (width / 2);
    for (int head = 0; head < count; head++, heads += width) {
        rms_norm(heads, norm, width, shape->epsilon, heads);
        rotate(heads, pass->cosines + at, pass->sines + at, width);
    }
}

static void place_queries(const Share *share, const Layer *layer)
{
    const Shape *shape = &share->pass->model->shape;
    int row, end;
    for (part_of(share, share->count, &row, &end); row < end; row++) {
        int64_t at = share->first + row;
        place_heads(share->pass, share->rows->queries + at * query_width(shape), shape->heads,
                    layer->query_norm, share->rows->positions[at]);
    }
}

static void place_keys(const Share *share, const Layer *layer)
{
    const Pass *pass = share->pass;
    const Shape *shape = &pass->model->shape;
    int row, end;
    for (part_of(share, share->count, &row, &end); row < end; row++) {
        float *keys = share->scratch->keys + (int64_t)row * key_width(shape);
        int at = share->first + row;
        place_heads(pass, keys, shape->kv_heads, layer->key_norm, share->rows->positions[at]);
        for (int head = 0; head < shape->kv_heads; head++)
            keep_key(&pass->cache, head, pass->slots[at], keys + head * shape->head_dim);
    }
}

enum { QUERIES = 1, KEYS_AND_VALUES = 2 };

/* From states to queries, keys and values, ready for attention. */
static void project(const Share *share, const Layer *layer, int wanted)
{
    const Shape *shape = &share->pass->model->shape;
    const Rows *rows = share->rows;
    Input input = ready(share, rows->states + (int64_t)share->first * shape->hidden, shape->hidden,
                        layer->input_norm);
    sync(share);
    if (wanted & QUERIES)
        multiply(share, &input, &layer->query, store,
                 rows->queries + (int64_t)share->first * query_width(shape));
    if (wanted & KEYS_AND_VALUES) {
        multiply(share, &input, &layer->key, store, share->scratch->keys);
        multiply(share, &input, &layer->value, keep_values, NULL);
    }
    sync(share);
    if (wanted & QUERIES)
        place_queries(share, layer);
    if (wanted & KEYS_AND_VALUES)
        place_keys(share, layer);
    sync(share);
}

/* From what attention found to the states after the layer. */
static void finish(const Share *share, const Layer *layer)
{
    const Shape *shape = &share->pass->model->shape;
    const Rows *rows = share->rows;
    float *states = rows->states + (int64_t)share->first * shape->hidden;
    const float *attended = rows->queries + (int64_t)share->first * query_width(shape);
    Input input = ready(share, attended, query_width(shape), NULL);
    sync(share);
    multiply(share, &input, &layer->output, add, states);
    sync(share);
    input = ready(share, states, shape->hidden, layer->mlp_norm);
    sync(share);
    multiply_gated(share, &input, layer);
    sync(share);
    input = ready(share, share->scratch->product, shape->intermediate, NULL);
    sync(share);
    multiply(share, &input, &layer->down, add, states);
    sync(share);
}

/* What a block of rows goes through between one attention and the next. */
typedef struct {
    const Layer *finished; /* or NULL */
    const Layer *begun;    /* or NULL */
    int wanted;
} Stretch;

static void go(const Share *share, const Stretch *stretch)
{
    if (stretch->finished)
        finish(share, stretch->finished);
    if (stretch->begun)
        project(share, stretch->begun, stretch->wanted);
}

/* The next block of rows for one of `threads`: smaller ones towards the end, so that all end
 * together. */
static int claim(atomic_int *taken, int count, int threads, int *first)
{
    int begin = atomic_load(taken), size;
    do {
        if (begin >= count)
            return 0;
        size = threads == 1 ? BLOCK_ROWS : (count - begin) / (2 * threads);
        size = (size + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
        size = size > BLOCK_ROWS ? BLOCK_ROWS : size < FEW_ROWS ? FEW_ROWS : size;
        size = size > count - begin ? count - begin : size;
    } while (!atomic_compare_exchange_weak(taken, &begin, begin + size));
    *first = begin;
    return size;
}

static void share_out(const Pass *pass, const Rows *rows, const Stretch *stretch, int thread,
                      atomic_int *taken)
{
    const Model *model = pass->model;
    Share share = {pass, rows, &model->scratches[thread], 0, 0, 0, 1};
    if (rows->count < model->few) {
        share = (Share){pass, rows, model->scratches, 0, rows->count, thread, model->threads};
        go(&share, stretch);
        return;
    }
    while ((share.count = claim(taken, rows->count, model->threads, &share.first)))
        go(&share, stretch);
    pool_wait(model->pool);
}

static void attention(const Pass *pass, const Rows *rows, const Queries *tasks, int count,
                      atomic_int *taken)
{
    int heads = pass->cache.kv_heads, task;
    while ((task = atomic_fetch_add(taken, 1)) < count * heads)
        attend(&pass->cache, &tasks[task % count], task / count, rows->queries);
    pool_wait(pass->model->pool);
}

static void take_last_rows(const Pass *pass, int thread)
{
    int hidden = pass->model->shape.hidden;
    for (int text = thread; text < pass->texts; text += pass->model->threads)
        memcpy(pass->last.states + (int64_t)text * hidden,
               pass->all.states + (int64_t)(pass->begins[text + 1] - 1) * hidden,
               (size_t)hidden * sizeof(float));
    pool_wait(pass->model->pool);
}

static void forward(void *context, int thread)
{
    const Pass *pass = context;
    const Model *model = pass->model;
    const Layer *layers = model->layers;
    int last = model->shape.layers - 1;
    atomic_int *taken = pass->claims;
    for (int index = 0; index <= last; index++) {
        /* Of the last layer only the last token of each text is wanted, and keys and values. */
        int wanted = index == last ? KEYS_AND_VALUES : QUERIES | KEYS_AND_VALUES;
        Stretch stretch = {index ? &layers[index - 1] : NULL, &layers[index], wanted};
        share_out(pass, &pass->all, &stretch, thread, taken++);
        if (index < last)
            attention(pass, &pass->all, pass->tasks, pass->task_count, taken++);
    }
    take_last_rows(pass, thread);
    share_out(pass, &pass->last, &(Stretch){NULL, &layers[last], QUERIES}, thread, taken++);
    attention(pass, &pass->last, pass->last_tasks, pass->texts, taken++);
    share_out(pass, &pass->last, &(Stretch){&layers[last], NULL, 0}, thread, taken++);
    int hidden = model->shape.hidden;
    for (int text = thread; text < pass->texts; text += model->threads)
        rms_norm(pass->last.states + (int64_t)text * hidden, model->final_norm, hidden,
                 model->shape.epsilon, pass->out + (int64_t)text * hidden);
}

/* Of two values in a word the second may belong to no token; it must be a number all the same. */
static void zero_value(const Cache *cache, int64_t slot)
{
    float zeros[MOST_HEAD_DIM] = {0};
    for (int head = 0; slot % cache->lanes && head < cache->kv_heads; head++)
        keep_value(cache, head, slot, 0, cache->head_dim, zeros);
}

/* Where each token of each text stands, and what attention has to do. */
static void lay_out(Pass *pass, int32_t *positions, int32_t *last_positions)
{
    const Shape *shape = &pass->model->shape;
    int most = TASK_ROWS / (shape->heads / shape->kv_heads), count = 0;
    int64_t slot = 0;
    for (int text = 0; text < pass->texts; text++) {
        int begin = pass->begins[text], length = pass->begins[text + 1] - begin;
        for (int i = 0; i < length; i++) {
            positions[begin + i] = i;
            pass->slots[begin + i] = slot + i;
        }
        for (int i = 0; i < length; i += most)
            pass->tasks[count++] =
                (Queries){slot, begin + i, i, length - i < most ? length - i : most};
        pass->last_tasks[text] = (Queries){slot, text, length - 1, 1};
        last_positions[text] = length - 1;
        zero_value(&pass->cache, slot + length);
        slot += (length + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK;
    }
    pass->task_count = count;
}

static void *take(char **next, size_t bytes)
{
    void *taken = *next;
    *next += (bytes + 63) / 64 * 64;
    return taken;
}

/* Put everything that a pass needs at `next` and after; also measures, with nothing there. */
static size_t place(Pass *pass, char *start)
{
    const Shape *shape = &pass->model->shape;
    char *next = start;
    size_t tokens = (size_t)pass->all.count, texts = (size_t)pass->texts, most = 0, slots = 0;
    size_t each = (size_t)(TASK_ROWS / (shape->heads / shape->kv_heads));
    for (size_t text = 0; text < texts; text++) {
        size_t length = (size_t)(pass->begins[text + 1] - pass->begins[text]);
        slots += (length + KEY_BLOCK - 1) / KEY_BLOCK * KEY_BLOCK;
        most += (length + each - 1) / each;
    }
    size_t queries = (size_t)query_width(shape) * sizeof(float);
    int lanes = pass->model->lanes;
    size_t keys = (size_t)key_width(shape) * sizeof(float) / (size_t)lanes;
    pass->cache = (Cache){NULL, NULL, (int64_t)slots, lanes, shape->heads, shape->kv_heads, shape->head_dim};
    pass->cache.keys = take(&next, slots * keys);
    pass->cache.values = take(&next, slots * keys);
    pass->all.queries = take(&next, tokens * queries);
    pass->last.queries = take(&next, texts * queries);
    pass->last.states = take(&next, texts * (size_t)shape->hidden * sizeof(float));
    pass->slots = take(&next, tokens * sizeof *pass->slots);
    pass->tasks = take(&next, most * sizeof *pass->tasks);
    pass->last_tasks = take(&next, texts * sizeof *pass->last_tasks);
    pass->claims = take(&next, (size_t)(2 * shape->layers + 4) * sizeof *pass->claims);
    pass->all.positions = take(&next, tokens * sizeof(int32_t));
    pass->last.positions = take(&next, texts * sizeof(int32_t));
    return (size_t)(next - start);
}

static int grow(Model *model, size_t bytes)
{
    if (bytes <= model->workspace_bytes)
        return 0;
    embedfleet_release(model);
    model->workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    model->workspace_bytes = model->workspace ? bytes : 0;
    return model->workspace ? 0 : -1;
}

int32_t embedfleet_run(Model *model, int32_t texts, const int32_t *begins, float *states,
                       const float *cosines, const float *sines, float *out)
{
    Pass pass = {.model = model, .texts = texts, .begins = begins, .out = out};
    pass.cosines = cosines;
    pass.sines = sines;
    pass.all = (Rows){.states = states, .count = begins[texts]};
    pass.last = (Rows){.count = texts};
    if (grow(model, place(&pass, NULL)))
        return -1;
    place(&pass, model->workspace);
    lay_out(&pass, (int32_t *)pass.all.positions, (int32_t *)pass.last.positions);
    for (int i = 0; i < 2 * model->shape.layers + 4; i++)
        atomic_init(&pass.claims[i], 0);
    pool_run(model->pool, forward, &pass);
    return 0;
}

void embedfleet_release(Model *model)
{
    free(model->workspace);
    model->workspace = NULL;
    model->workspace_bytes = 0;
}

static int make_scratch(const Model *model, Scratch *scratch, int rows)
{
    const Shape *shape = &model->shape;
    int widest = query_width(shape) > shape->intermediate ? query_width(shape) : shape->intermediate;
    widest = shape->hidden > widest ? shape->hidden : widest;
    size_t each = shape->kind == INT8 ? 1 : sizeof(float), count = ((size_t)rows + 15) / 16 * 16;
    size_t parts = (size_t)model->threads;
    scratch->ready = aligned_alloc(64, count * (size_t)widest * each);
    scratch->scales = aligned_alloc(64, count * sizeof(float));
    scratch->keys = aligned_alloc(64, count * (size_t)key_width(shape) * sizeof(float));
    scratch->product = aligned_alloc(64, count * (size_t)shape->intermediate * sizeof(float));
    scratch->normed = aligned_alloc(64, parts * (size_t)shape->hidden * sizeof(float));
    return scratch->ready && scratch->scales && scratch->keys && scratch->product && scratch->normed
               ? 0
               : -1;
}

Model *embedfleet_open(const Shape *shape, const Layer *layers, const float *final_norm,
                       int32_t threads)
{
    Model *model = calloc(1, sizeof *model);
    if (!model)
        return NULL;
    model->shape = *shape;
    model->final_norm = final_norm;
    model->threads = threads;
    model->lanes = shape->kind == INT8 && __builtin_cpu_supports("avx512bf16") ? 2 : 1;
    model->few = threads == 1 ? 0 : FEW_ROWS * threads;
    size_t bytes = (size_t)shape->layers * sizeof *layers;
    model->layers = malloc(bytes);
    model->scratches = calloc((size_t)threads, sizeof *model->scratches);
    model->pool = pool_open(threads);
    int failed = !model->layers || !model->scratches || !model->pool;
    for (int thread = 0; !failed && thread < threads; thread++) {
        int rows = thread || model->few < BLOCK_ROWS ? BLOCK_ROWS : model->few;
        failed = make_scratch(model, &model->scratches[thread], rows);
    }
    if (failed) {
        embedfleet_close(model);
        return NULL;
    }
    memcpy(model->layers, layers, bytes);
    return model;
}

void embedfleet_close(Model *model)
{
    if (model->pool)
        pool_close(model->pool);
    for (int thread = 0; model->scratches && thread < model->threads; thread++) {
        Scratch *scratch = &model->scratches[thread];
        free(scratch->ready), free(scratch->scales), free(scratch->keys);
        free(scratch->product), free(scratch->normed);
    }
    embedfleet_release(model);
    free(model->scratches);
    free(model->layers);
    free(model);
}
