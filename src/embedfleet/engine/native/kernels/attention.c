#include "attention.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "exponential.h"

/* Rows and key blocks, or rows and parts of a head, that are computed together: 24 sums. */
#define TILE 6
#define BLOCKS 4
#define KEYS (BLOCKS * KEY_BLOCK)

/* The state of one task. */
typedef struct {
    uint32_t queries[TASK_ROWS][MOST_HEAD_DIM]; /* times log2(e) / sqrt(head_dim) */
    float scores[TASK_ROWS][KEYS];
    uint32_t powers[TASK_ROWS][KEYS]; /* of two, of the scores */
    float found[TASK_ROWS][MOST_HEAD_DIM];
    __m512 totals[TASK_ROWS]; /* in 16 parts */
    float highest[TASK_ROWS], correction[TASK_ROWS];
} __attribute__((aligned(64))) State;

/* sum += x * y for words of one float32, or of two bfloat16. As an instruction: compilers would
 * want the whole file to be for processors that have it. */
#define ADD_1(sum, x, y) \
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), sum);
#define ADD_2(sum, x, y) __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));

#define EACH_ROW(M, j, lanes) \
    M(0, j, lanes) M(1, j, lanes) M(2, j, lanes) M(3, j, lanes) M(4, j, lanes) M(5, j, lanes)
#define EACH_SUM_1(M, lanes) EACH_ROW(M, 0, lanes)
#define EACH_SUM_2(M, lanes) EACH_SUM_1(M, lanes) EACH_ROW(M, 1, lanes)
#define EACH_SUM_3(M, lanes) EACH_SUM_2(M, lanes) EACH_ROW(M, 2, lanes)
#define EACH_SUM_4(M, lanes) EACH_SUM_3(M, lanes) EACH_ROW(M, 3, lanes)

/* What the first rows load, they also fetch for the keys after; `ahead` is 0 for the others, and
 * where no keys come after. */
#define LOAD(j, from)                       \
    __m512i y##j = _mm512_load_si512(from); \
    _mm_prefetch((from) + ahead, _MM_HINT_T0);
#define LOAD_1(from, step) LOAD(0, from)
#define LOAD_2(from, step) LOAD_1(from, step) LOAD(1, from + step)
#define LOAD_3(from, step) LOAD_2(from, step) LOAD(2, from + 2 * step)
#define LOAD_4(from, step) LOAD_3(from, step) LOAD(3, from + 3 * step)

/* scores[6][blocks * 16] = queries [6, words] times keys. */
#define SCORE_ZERO(r, j, lanes) __m512 sum##r##j = _mm512_setzero_ps();
#define SCORE_STEP(r, j, lanes) ADD_##lanes(sum##r##j, x##r, y##j)
#define SCORE_KEEP(r, j, lanes) _mm512_store_ps(scores[r] + KEY_BLOCK * j, sum##r##j);
#define QUERY(r, j, lanes) __m512i x##r = _mm512_set1_epi32((int)queries[r][i]);
#define SCORES(blocks, lanes)                                                              \
    static void scores_##blocks##_##lanes(uint32_t (*queries)[MOST_HEAD_DIM],              \
                                          const uint32_t *keys, int words, int64_t ahead,  \
                                          float (*scores)[KEYS])                           \
    {                                                                                      \
        const int64_t block = (int64_t)words * KEY_BLOCK;                                  \
        (void)block;                                                                       \
        EACH_SUM_##blocks(SCORE_ZERO, lanes) /* one after another */                       \
        for (int i = 0; i < words; i++, keys += KEY_BLOCK) {                               \
            LOAD_##blocks(keys, block) EACH_ROW(QUERY, 0, lanes)                           \
            EACH_SUM_##blocks(SCORE_STEP, lanes)                                           \
        }                                                                                  \
        EACH_SUM_##blocks(SCORE_KEEP, lanes)                                               \
    }

/* found[6][parts * 16] = found * correction + powers [6, words] times values [words, head_dim]. */
#define FOUND_BEGIN(r, j, lanes)                                               \
    __m512 sum##r##j = _mm512_mul_ps(_mm512_load_ps(found[r] + 16 * j),        \
                                     _mm512_set1_ps(correction[r]));
#define FOUND_KEEP(r, j, lanes) _mm512_store_ps(found[r] + 16 * j, sum##r##j);
#define POWER(r, j, lanes) __m512i x##r = _mm512_set1_epi32((int)powers[r][i]);
#define FOUND(parts, lanes)                                                                  \
    static void found_##parts##_##lanes(uint32_t (*powers)[KEYS], const float *correction,   \
                                        const uint32_t *values, int words, int head_dim,     \
                                        int64_t ahead, float (*found)[MOST_HEAD_DIM])        \
    {                                                                                        \
        EACH_SUM_##parts(FOUND_BEGIN, lanes) /* one after another */                         \
        for (int i = 0; i < words; i++, values += head_dim) {                                \
            LOAD_##parts(values, 16) EACH_ROW(POWER, 0, lanes)                               \
            EACH_SUM_##parts(SCORE_STEP, lanes)                                              \
        }                                                                                    \
        EACH_SUM_##parts(FOUND_KEEP, lanes)                                                  \
    }

#define KERNELS(lanes)                                                                 \
    SCORES(1, lanes) SCORES(2, lanes) SCORES(3, lanes) SCORES(4, lanes) FOUND(2, lanes) \
    FOUND(4, lanes)
KERNELS(1)
KERNELS(2)

typedef void ScoreKernel(uint32_t (*)[MOST_HEAD_DIM], const uint32_t *, int, int64_t,
                         float (*)[KEYS]);
typedef void FoundKernel(uint32_t (*)[KEYS], const float *, const uint32_t *, int, int, int64_t,
                         float (*)[MOST_HEAD_DIM]);

static ScoreKernel *const SCORE_KERNELS[2][BLOCKS] = {
    {scores_1_1, scores_2_1, scores_3_1, scores_4_1},
    {scores_1_2, scores_2_2, scores_3_2, scores_4_2},
};
static FoundKernel *const FOUND_KERNELS[2][2] = {{found_2_1, found_4_1}, {found_2_2, found_4_2}};

/* 32 floats to as many bfloat16, rounded to the nearest, halves to even. */
static inline __m512i bfloat16(__m512 low, __m512 high)
{
    __m512i both;
    __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(both) : "v"(high), "v"(low));
    return both;
}

/* [count] floats times `scale` to words; `count` is a multiple of 32. */
static inline void to_words(const float *from, int count, float scale, int lanes, uint32_t *to)
{
    __m512 factor = _mm512_set1_ps(scale);
    for (int i = 0; i < count; i += 32) {
        __m512 low = _mm512_mul_ps(_mm512_loadu_ps(from + i), factor);
        __m512 high = _mm512_mul_ps(_mm512_loadu_ps(from + i + 16), factor);
        if (lanes == 2) {
            _mm512_storeu_si512(to + i / 2, bfloat16(low, high));
        } else {
            _mm512_storeu_ps(to + i, low);
            _mm512_storeu_ps(to + i + 16, high);
        }
    }
}

void keep_key(const Cache *cache, int kv_head, int64_t slot, const float *key)
{
    uint32_t words[MOST_HEAD_DIM] __attribute__((aligned(64)));
    int count = cache->head_dim / cache->lanes;
    int64_t block = kv_head * (cache->slots / KEY_BLOCK) + slot / KEY_BLOCK;
    uint32_t *to = cache->keys + block * count * KEY_BLOCK + slot % KEY_BLOCK;
    to_words(key, cache->head_dim, 1, cache->lanes, words);
    for (int i = 0; i < count; i++)
        to[i * KEY_BLOCK] = words[i];
}

void keep_value(const Cache *cache, int kv_head, int64_t slot, int begin, int width,
                const float *value)
{
    int64_t row = (kv_head * cache->slots + slot) / cache->lanes;
    uint32_t *to = cache->values + row * cache->head_dim + begin;
    if (cache->lanes == 1) {
        memcpy(to, value, (size_t)width * sizeof *value);
        return;
    }
    uint16_t *half = (uint16_t *)to + slot % 2;
    uint16_t numbers[MOST_HEAD_DIM] __attribute__((aligned(64)));
    to_words(value, width, 1, 2, (uint32_t *)numbers);
    for (int i = 0; i < width; i++)
        half[2 * i] = numbers[i];
}

static int64_t offset_of(const Cache *cache, const Queries *queries, int kv_head, int row)
{
    int group = cache->heads / cache->kv_heads;
    int64_t token = queries->query + row / group, head = kv_head * group + row % group;
    return (token * cache->heads + head) * cache->head_dim;
}

static void begin_task(State *state, const Cache *cache, const Queries *queries, int kv_head, int count,
                  const float *rows)
{
    float scale = LOG2_E / sqrtf((float)cache->head_dim);
    size_t bytes = (size_t)cache->head_dim * sizeof(float);
    /* Rows that fill the last tile up hold zeros; nobody reads what becomes of them. */
    for (int row = 0; row < count || row % TILE; row++) {
        if (row < count) {
            const float *query = rows + offset_of(cache, queries, kv_head, row);
            to_words(query, cache->head_dim, scale, cache->lanes, state->queries[row]);
        } else {
            memset(state->queries[row], 0, bytes);
        }
        memset(state->found[row], 0, bytes);
        state->highest[row] = -1e30f; /* of nothing; infinity would make 2^(inf - inf) */
        state->totals[row] = _mm512_setzero_ps();
    }
}

/* Scores of the `visible` first keys into powers of two, those of the others into zeros. */
static inline void soften(State *state, int row, int visible, int blocks, int lanes)
{
    const float *scores = state->scores[row];
    __m512 power[BLOCKS], best = _mm512_set1_ps(-1e30f), sum = _mm512_setzero_ps();
    __mmask16 seen[BLOCKS];
    for (int j = 0; j < blocks; j++) {
        int left = visible - j * KEY_BLOCK;
        seen[j] = left >= 16 ? 0xffff : left > 0 ? (__mmask16)((1 << left) - 1) : 0;
        best = _mm512_mask_max_ps(best, seen[j], best, _mm512_load_ps(scores + j * KEY_BLOCK));
    }
    float highest = fmaxf(state->highest[row], _mm512_reduce_max_ps(best));
    __m512 top = _mm512_set1_ps(highest);
    for (int j = 0; j < BLOCKS; j++) {
        power[j] = _mm512_setzero_ps();
        if (j < blocks)
            power[j] = _mm512_maskz_mov_ps(
                seen[j], exp2_of(_mm512_sub_ps(_mm512_load_ps(scores + j * KEY_BLOCK), top)));
        sum = _mm512_add_ps(sum, power[j]);
    }
    for (int j = 0; j < BLOCKS; j += 2) {
        uint32_t *to = state->powers[row] + j * KEY_BLOCK / lanes;
        if (lanes == 2) {
            _mm512_store_si512(to, bfloat16(power[j], power[j + 1]));
        } else {
            _mm512_store_ps(to, power[j]);
            _mm512_store_ps(to + KEY_BLOCK, power[j + 1]);
        }
    }
    __m512 correction = exp2_of(_mm512_set1_ps(state->highest[row] - highest));
    state->totals[row] = _mm512_fmadd_ps(state->totals[row], correction, sum);
    state->correction[row] = _mm512_cvtss_f32(correction);
    state->highest[row] = highest;
}

/* Add what a tile of rows finds at `words` words of keys. */
static void gather(State *state, int tile, int words, const uint32_t *values, int64_t ahead,
                   const Cache *cache)
{
    FoundKernel *const *kernels = FOUND_KERNELS[cache->lanes - 1];
    int head_dim = cache->head_dim, row = tile * TILE;
    for (int part = 0; part < head_dim; part += 64)
        kernels[head_dim - part >= 64](
            state->powers + row, state->correction + row, values + part, words, head_dim, ahead,
            (float (*)[MOST_HEAD_DIM])(state->found[row] + part));
}

static inline void meet(State *state, const Cache *cache, const Queries *queries, int kv_head,
                        int count, const int lanes)
{
    int group = cache->heads / cache->kv_heads, head_dim = cache->head_dim, words = head_dim / lanes;
    int keys = queries->position + queries->count;
    int64_t begin = (kv_head * cache->slots + queries->slot) * words;
    const uint32_t *key = cache->keys + begin, *value = cache->values + begin;
    for (int first = 0; first < keys; first += KEYS, key += KEYS * words, value += KEYS * words) {
        int here = keys - first < KEYS ? keys - first : KEYS;
        int blocks = (here + KEY_BLOCK - 1) / KEY_BLOCK;
        int64_t ahead = keys - first > KEYS ? KEYS * words : 0; /* for values it is as much */
        for (int row = 0; row < count || row % TILE; row++) {
            if (row % TILE == 0)
                SCORE_KERNELS[lanes - 1][blocks - 1](state->queries + row, key, words,
                                                     row ? 0 : ahead, state->scores + row);
            int visible = row < count ? queries->position + row / group + 1 - first : here;
            soften(state, row, visible, blocks, lanes);
        }
        for (int tile = 0; tile * TILE < count; tile++)
            gather(state, tile, (here + lanes - 1) / lanes, value, tile ? 0 : ahead, cache);
    }
}

void attend(const Cache *cache, const Queries *queries, int kv_head, float *rows)
{
    State state;
    int count = queries->count * (cache->heads / cache->kv_heads);
    begin_task(&state, cache, queries, kv_head, count, rows);
    if (cache->lanes == 2)
        meet(&state, cache, queries, kv_head, count, 2);
    else
        meet(&state, cache, queries, kv_head, count, 1);
    for (int row = 0; row < count; row++) {
        float *to = rows + offset_of(cache, queries, kv_head, row);
        float scale = 1.0f / _mm512_reduce_add_ps(state.totals[row]);
        for (int i = 0; i < cache->head_dim; i++)
            to[i] = state.found[row][i] * scale;
    }
}
