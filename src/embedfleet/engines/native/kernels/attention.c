#include "attention.h"

#include <math.h>
#include <string.h>

#define LOG2_E 1.44269504088896340736f

/* The state of one task. */
typedef struct {
    uint32_t queries[TASK_ROWS][MOST_HEAD_DIM]; /* times log2(e) / sqrt(head_dim) */
    float scores[TASK_ROWS][KEYS];
    uint32_t powers[TASK_ROWS][KEYS]; /* of two, of the scores */
    float found[TASK_ROWS][MOST_HEAD_DIM];
    Softmax softmax[TASK_ROWS];
} __attribute__((aligned(64))) State;

void keep_key(const Cache *cache, int kv_head, int64_t slot, const float *key)
{
    uint32_t words[MOST_HEAD_DIM] __attribute__((aligned(64)));
    int count = cache->head_dim / cache->math->lanes;
    int64_t block = kv_head * (cache->slots / KEY_BLOCK) + slot / KEY_BLOCK;
    uint32_t *to = cache->keys + block * count * KEY_BLOCK + slot % KEY_BLOCK;
    cache->math->to_words(key, cache->head_dim, 1, words);
    for (int i = 0; i < count; i++)
        to[i * KEY_BLOCK] = words[i];
}

void keep_values(const Cache *cache, int kv_head, const int64_t *slots, int rows, int begin,
                 int width, const float *values)
{
    uint16_t numbers[MOST_VALUES] __attribute__((aligned(64)));
    int lanes = cache->math->lanes;
    if (lanes == 2)
        cache->math->to_words(values, rows * width, 1, (uint32_t *)numbers);
    for (int row = 0; row < rows; row++) {
        int64_t at = (kv_head * cache->slots + slots[row]) / lanes * cache->head_dim + begin;
        if (lanes == 1) {
            memcpy(cache->values + at, values + row * width, (size_t)width * sizeof *values);
            continue;
        }
        uint16_t *half = (uint16_t *)(cache->values + at) + slots[row] % 2;
        for (int i = 0; i < width; i++)
            half[2 * i] = numbers[row * width + i];
    }
}

void copy_slots(const Cache *cache, int64_t from, int64_t to, int count)
{
    int64_t words = cache->head_dim / cache->math->lanes; /* of a token, and of one of values */
    size_t bytes = (size_t)(count * words) * sizeof(uint32_t);
    for (int head = 0; head < cache->kv_heads; head++) {
        int64_t begin = head * cache->slots * words;
        memcpy(cache->keys + begin + to * words, cache->keys + begin + from * words, bytes);
        memcpy(cache->values + begin + to * words, cache->values + begin + from * words, bytes);
    }
}

static int64_t offset_of(const Cache *cache, const Queries *queries, int kv_head, int row)
{
    int group = cache->heads / cache->kv_heads;
    int64_t token = queries->query + row / group, head = kv_head * group + row % group;
    return (token * cache->heads + head) * cache->head_dim;
}

static void begin_task(State *state, const Cache *cache, const Queries *queries, int kv_head,
                       int count, const float *rows)
{
    float scale = LOG2_E / sqrtf((float)cache->head_dim);
    size_t bytes = (size_t)cache->head_dim * sizeof(float);
    /* Rows that fill the last tile up hold zeros; nobody reads what becomes of them. */
    for (int row = 0; row < count || row % ATTENTION_ROWS; row++) {
        if (row < count) {
            const float *query = rows + offset_of(cache, queries, kv_head, row);
            cache->math->to_words(query, cache->head_dim, scale, state->queries[row]);
        } else {
            memset(state->queries[row], 0, bytes);
        }
        memset(state->found[row], 0, bytes);
        /* The highest of nothing; infinity would make 2^(inf - inf). */
        state->softmax[row] = (Softmax){.highest = -1e30f};
    }
}

static void meet(State *state, const Cache *cache, const Queries *queries, int kv_head, int count)
{
    const AttentionMath *math = cache->math;
    int group = cache->heads / cache->kv_heads, head_dim = cache->head_dim;
    int words = head_dim / math->lanes, keys = queries->keys;
    int64_t begin = (kv_head * cache->slots + queries->slot) * words;
    const uint32_t *key = cache->keys + begin, *value = cache->values + begin;
    for (int first = 0; first < keys; first += KEYS, key += KEYS * words, value += KEYS * words) {
        int here = keys - first < KEYS ? keys - first : KEYS;
        int blocks = (here + KEY_BLOCK - 1) / KEY_BLOCK;
        int64_t ahead = keys - first > KEYS ? KEYS * words : 0; /* for values it is as much */
        for (int row = 0; row < count || row % ATTENTION_ROWS; row++) {
            if (row % ATTENTION_ROWS == 0)
                math->score(state->queries + row, key, words, blocks, row ? 0 : ahead,
                            state->scores + row);
            int visible = here;
            if (cache->causal && row < count)
                visible = queries->position + row / group + 1 - first;
            math->soften(state->scores[row], visible, blocks, &state->softmax[row],
                         state->powers[row]);
        }
        for (int row = 0; row < count; row += ATTENTION_ROWS)
            math->gather(state->powers + row, state->softmax + row, value,
                         (here + math->lanes - 1) / math->lanes, head_dim, row ? 0 : ahead,
                         state->found + row);
    }
}

/* In one order, whatever the width of the registers. */
static float total_of(const Softmax *softmax)
{
    float sums[PARTS];
    memcpy(sums, softmax->totals, sizeof sums);
    for (int half = PARTS / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

void attend(const Cache *cache, const Queries *queries, int kv_head, float *rows)
{
    State state;
    int count = queries->count * (cache->heads / cache->kv_heads);
    begin_task(&state, cache, queries, kv_head, count, rows);
    meet(&state, cache, queries, kv_head, count);
    for (int row = 0; row < count; row++) {
        float *to = rows + offset_of(cache, queries, kv_head, row);
        float scale = 1.0f / total_of(&state.softmax[row]);
        for (int i = 0; i < cache->head_dim; i++)
            to[i] = state.found[row][i] * scale;
    }
}
