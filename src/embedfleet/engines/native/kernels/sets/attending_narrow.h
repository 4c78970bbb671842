/* Attention where a register is narrower than a block of keys: one block, or 16 numbers of a value,
 * at a time. */

#include "attending.h"

#define Vector Floats
#define LOAD_WORDS(from) load(from)

static inline float float_of(uint32_t word)
{
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}
#define SPLAT_WORD(word) SPLAT(float_of(word))
#define ADD_WORDS(sum, x, y) sum = FMA(x, y, sum);

#if LANES == 8
SCORES(score_block, 2)
GATHER(gather_16, 2)
#else
SCORES(score_block, 4)
GATHER(gather_16, 4)
#endif

static void score(uint32_t (*queries)[MOST_HEAD_DIM], const uint32_t *keys, int words, int blocks,
                  int64_t ahead, float (*scores)[KEYS])
{
    for (int block = 0; block < blocks; block++)
        score_block(queries, keys + (int64_t)block * words * KEY_BLOCK, words, ahead,
                    (float (*)[KEYS])(scores[0] + block * KEY_BLOCK));
}

static void gather(uint32_t (*powers)[KEYS], const Softmax *softmax, const uint32_t *values,
                   int words, int head_dim, int64_t ahead, float (*found)[MOST_HEAD_DIM])
{
    for (int part = 0; part < head_dim; part += PARTS)
        gather_16(powers, softmax, values + part, words, head_dim, ahead,
                  (float (*)[MOST_HEAD_DIM])(found[0] + part));
}

static const AttentionMath floats = {1, score, soften_floats, gather, floats_to_words};
