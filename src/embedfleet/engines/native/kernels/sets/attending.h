/* Attention's products: six rows of queries times keys, six rows of powers times values.
 *
 * A set defines SCORE_MOST, the most registers of keys that are met at once: those of one block of
 * keys, or, where a register holds a whole block, of up to four. */

#include "products.h"

#define SIX(M, c) M(0, c) M(1, c) M(2, c) M(3, c) M(4, c) M(5, c)
#define SIX_1(M) SIX(M, 0)
#define SIX_2(M) SIX_1(M) SIX(M, 1)
#define SIX_3(M) SIX_2(M) SIX(M, 2)
#define SIX_4(M) SIX_3(M) SIX(M, 3)

/* Register `c` of keys: in a block of its own where it holds one. `ahead` is fetched by the way. */
#define KEY_AT(c) (keys + (c) * LANES / KEY_BLOCK * block + (c) * LANES % KEY_BLOCK)
#define LOAD_AT(c, from)                        \
    Vector y##c = LOAD_WORDS(from);             \
    if ((c) * LANES % KEY_BLOCK == 0)           \
        PREFETCH_NEAR((from) + ahead);
#define KEY_1 LOAD_AT(0, KEY_AT(0))
#define KEY_2 KEY_1 LOAD_AT(1, KEY_AT(1))
#define KEY_3 KEY_2 LOAD_AT(2, KEY_AT(2))
#define KEY_4 KEY_3 LOAD_AT(3, KEY_AT(3))
#define VALUE_1 LOAD_AT(0, values)
#define VALUE_2 VALUE_1 LOAD_AT(1, values + LANES)
#define VALUE_3 VALUE_2 LOAD_AT(2, values + 2 * LANES)
#define VALUE_4 VALUE_3 LOAD_AT(3, values + 3 * LANES)

#define SCORE_ZERO(r, c) Floats sum##r##_##c = SPLAT(0.0f);
#define SCORE_ADD(r, c) ADD_WORDS(sum##r##_##c, x##r, y##c)
#define SCORE_KEEP(r, c) store(scores[r] + (c) * LANES, sum##r##_##c);
#define QUERY(r, c) Vector x##r = SPLAT_WORD(queries[r][i]);
#define SCORES(name, registers)                                                                   \
    static void name(uint32_t (*queries)[MOST_HEAD_DIM], const uint32_t *keys, int words,         \
                     int64_t ahead, float (*scores)[KEYS])                                        \
    {                                                                                             \
        const int64_t block = (int64_t)words * KEY_BLOCK;                                         \
        (void)block;                                                                              \
        SIX_##registers(SCORE_ZERO) /* one after another */                                       \
        for (int i = 0; i < words; i++, keys += KEY_BLOCK) {                                      \
            KEY_##registers SIX(QUERY, 0)                                                         \
            SIX_##registers(SCORE_ADD)                                                            \
        }                                                                                         \
        SIX_##registers(SCORE_KEEP)                                                               \
    }

#define FOUND_BEGIN(r, c) \
    Floats sum##r##_##c = load(found[r] + (c) * LANES) * SPLAT(softmax[r].correction);
#define FOUND_KEEP(r, c) store(found[r] + (c) * LANES, sum##r##_##c);
#define POWER(r, c) Vector x##r = SPLAT_WORD(powers[r][i]);
#define GATHER(name, registers)                                                                   \
    static void name(uint32_t (*powers)[KEYS], const Softmax *softmax, const uint32_t *values,    \
                     int words, int head_dim, int64_t ahead, float (*found)[MOST_HEAD_DIM])       \
    {                                                                                             \
        SIX_##registers(FOUND_BEGIN) /* one after another */                                      \
        for (int i = 0; i < words; i++, values += head_dim) {                                     \
            VALUE_##registers SIX(POWER, 0)                                                       \
            SIX_##registers(SCORE_ADD)                                                            \
        }                                                                                         \
        SIX_##registers(FOUND_KEEP)                                                               \
    }
