/* The way of a pass through the layers, and where in memory it lies. */

#include "pass.h"

#include <stdlib.h>
#include <string.h>

#include "product.h"
#include "rows.h"

/* What rows go through between one attention and the next. */
typedef struct {
    const Layer *finished; /* or NULL */
    const Layer *begun;    /* or NULL */
    int wanted;
} Stretch;

static int rounded_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

static void go(Share *share, const Stretch *stretch)
{
    if (stretch->finished)
        finish(share, stretch->finished);
    if (stretch->begun)
        project(share, stretch->begun, stretch->wanted);
}

/* Rows of a block: as many blocks for one thread as for another, all of about the same size. One
 * thread alone takes whole tiles, and has fewer rows left for its last block. */
static int block_rows(int count, int threads)
{
    int rounds = (count + threads * BLOCK_ROWS - 1) / (threads * BLOCK_ROWS);
    int rows = (count + threads * rounds - 1) / (threads * rounds);
    return threads == 1 ? rounded_up(rows, TILE_ROWS) : rows;
}

static Step *share_out(const Pass *pass, const Rows *rows, const Stretch *stretch, int thread,
                       Step *step)
{
    const Model *model = pass->model;
    if (rows->count < model->few) {
        Share all = {pass, rows, model->scratches, 0, rows->count, step};
        go(&all, stretch);
        return all.step;
    }
    Share own = {.pass = pass, .rows = rows, .scratch = &model->scratches[thread]};
    int size = block_rows(rows->count, model->threads);
    while ((own.count = step_take(step, rows->count, size, &own.first))) {
        go(&own, stretch);
        step_did(step, rows->count, own.count);
    }
    step_wait(step, rows->count);
    return step + 1;
}

static Step *attention(const Pass *pass, const Rows *rows, const Queries *tasks, int count,
                       Step *step)
{
    /* Head by head: threads look at the same keys at about the same time. */
    int all = count * pass->cache.kv_heads, task;
    while (step_take(step, all, 1, &task)) {
        attend(&pass->cache, &tasks[task % count], task / count, rows->queries);
        step_did(step, all, 1);
    }
    step_wait(step, all);
    return step + 1;
}

static Step *take_last_rows(const Pass *pass, Step *step)
{
    int hidden = pass->model->shape.hidden, text;
    while (step_take(step, pass->texts, 1, &text)) {
        memcpy(pass->last.states + (int64_t)text * hidden,
               pass->all.states + (int64_t)(pass->begins[text + 1] - 1) * hidden,
               (size_t)hidden * sizeof(float));
        step_did(step, pass->texts, 1);
    }
    step_wait(step, pass->texts);
    return step + 1;
}

static void put_out(const Pass *pass, Step *step)
{
    const Model *model = pass->model;
    int hidden = model->shape.hidden, text;
    while (step_take(step, pass->texts, 1, &text)) {
        rms_norm(pass->last.states + (int64_t)text * hidden, model->final_norm, hidden,
                 model->shape.epsilon, pass->out + (int64_t)text * hidden);
        step_did(step, pass->texts, 1);
    }
    step_wait(step, pass->texts);
}

void forward(void *context, int thread)
{
    const Pass *pass = context;
    const Layer *layers = pass->model->layers, *last = layers + pass->model->shape.layers - 1;
    Step *step = pass->steps;
    for (const Layer *layer = layers; layer <= last; layer++) {
        /* Of the last layer only each text's last token is wanted, and all keys and values. */
        Stretch stretch = {layer == layers ? NULL : layer - 1, layer, KEYS_AND_VALUES};
        stretch.wanted |= layer == last ? 0 : QUERIES;
        step = share_out(pass, &pass->all, &stretch, thread, step);
        if (layer < last)
            step = attention(pass, &pass->all, pass->tasks, pass->task_count, step);
    }
    step = take_last_rows(pass, step);
    step = share_out(pass, &pass->last, &(Stretch){NULL, last, QUERIES}, thread, step);
    step = attention(pass, &pass->last, pass->last_tasks, pass->texts, step);
    step = share_out(pass, &pass->last, &(Stretch){last, NULL, 0}, thread, step);
    put_out(pass, step);
}

static int task_tokens(const Shape *shape) { return TASK_ROWS / (shape->heads / shape->kv_heads); }

/* Of two values in a word the second may belong to no token; it must be a number all the same. */
static void zero_value(const Cache *cache, int64_t slot)
{
    float zeros[MOST_HEAD_DIM] = {0};
    for (int head = 0; slot % cache->lanes && head < cache->kv_heads; head++)
        keep_value(cache, head, slot, 0, cache->head_dim, zeros);
}

/* Where each token stands, and what attention has to do. */
static void place_tokens(Pass *pass)
{
    int most = task_tokens(&pass->model->shape), count = 0;
    int64_t slot = 0;
    for (int text = 0; text < pass->texts; text++) {
        int begin = pass->begins[text], length = pass->begins[text + 1] - begin;
        for (int i = 0; i < length; i++) {
            pass->all.positions[begin + i] = i;
            pass->slots[begin + i] = slot + i;
        }
        for (int i = 0; i < length; i += most)
            pass->tasks[count++] =
                (Queries){slot, begin + i, i, length - i < most ? length - i : most};
        pass->last_tasks[text] = (Queries){slot, text, length - 1, 1};
        pass->last.positions[text] = length - 1;
        zero_value(&pass->cache, slot + length);
        slot += rounded_up(length, KEY_BLOCK);
    }
    pass->task_count = count;
}

static void *take(char **next, size_t bytes)
{
    void *taken = *next;
    *next += (bytes + 63) / 64 * 64;
    return taken;
}

size_t lay_out(Pass *pass, char *start)
{
    const Model *model = pass->model;
    const Shape *shape = &model->shape;
    char *next = start;
    size_t tokens = (size_t)pass->all.count, texts = (size_t)pass->texts, tasks = 0, slots = 0;
    for (int text = 0; text < pass->texts; text++) {
        int length = pass->begins[text + 1] - pass->begins[text], most = task_tokens(shape);
        slots += (size_t)rounded_up(length, KEY_BLOCK);
        tasks += (size_t)(rounded_up(length, most) / most);
    }
    size_t queries = (size_t)query_width(shape) * sizeof(float);
    size_t keys = (size_t)key_width(shape) * sizeof(float) / (size_t)model->lanes;
    size_t steps = (size_t)(shape->layers + 1) * LAYER_STEPS * sizeof(Step);
    pass->cache.slots = (int64_t)slots;
    pass->cache.keys = take(&next, slots * keys);
    pass->cache.values = take(&next, slots * keys);
    pass->all.queries = take(&next, tokens * queries);
    pass->last.queries = take(&next, texts * queries);
    pass->last.states = take(&next, texts * (size_t)shape->hidden * sizeof(float));
    pass->slots = take(&next, tokens * sizeof *pass->slots);
    pass->tasks = take(&next, tasks * sizeof *pass->tasks);
    pass->last_tasks = take(&next, texts * sizeof *pass->last_tasks);
    pass->steps = take(&next, steps);
    pass->all.positions = take(&next, tokens * sizeof(int32_t));
    pass->last.positions = take(&next, texts * sizeof(int32_t));
    if (start) {
        memset(pass->steps, 0, steps);
        place_tokens(pass);
    }
    return (size_t)(next - start);
}
