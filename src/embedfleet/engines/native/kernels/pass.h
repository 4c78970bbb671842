/* One pass: texts lying end to end, and all that is kept for them while they go through the layers.
 *
 * Between attention and attention every token is on its own, so a thread takes a block of rows
 * through everything there, and what it works on stays in its caches. A pass of few tokens has too
 * few rows to share out: there all threads take each step together, every one some of the outputs.
 * Both are the same steps; `Share` says which. */

#ifndef EMBEDFLEET_PASS_H
#define EMBEDFLEET_PASS_H

#include <stddef.h>

#include "instruction_set.h"
#include "model.h"
#include "threads.h"

/* Rows of a block. Each block reads a layer's weights once, so fewer rows ask more of the memory,
 * and more rows leave the caches. 384 were as fast as 192 for float32 and int8, 96 slower. */
#define BLOCK_ROWS 192
/* With fewer rows for each thread, threads share outputs and no rows. */
#define FEW_ROWS 24
/* At most so many steps in a layer, whichever way. */
#define LAYER_STEPS 16

_Static_assert(MOST_TILE_ROWS <= BLOCK_ROWS, "a tile fits the scratch of a block");
_Static_assert(OUTPUTS % MOST_PANEL == 0, "panels fill every matrix");
_Static_assert(INPUTS % 16 == 0 && GROUP_INPUTS % INPUTS == 0, "inputs fill registers and groups");
_Static_assert(MOST_HEAD_DIM % OUTPUTS == 0, "the widest head is one of those that are allowed");

/* Buffers for the rows of a block, or of a pass of few. */
typedef struct {
    void *ready;    /* bytes [rows, the widest input] or floats [rows, hidden] */
    float *scales;  /* [rows, groups of the widest] */
    float *keys;    /* [rows, kv_heads * head_dim] */
    float *product; /* [rows, intermediate] */
} Scratch;

typedef struct Family Family;

struct Model {
    Shape shape;
    const Family *family;
    Layer *layers;
    const float *final_norm;
    int threads;
    int few; /* rows from which on threads share rows */
    const InstructionSet *set;
    const AttentionMath *attention;
    Pool *pool;
    Scratch *scratches; /* one for each thread; the first has room for a pass of few */
    void *workspace;    /* grows with passes */
    size_t workspace_bytes;
};

/* Rows that go through the layers: all tokens, or in the last layer the one that a text is pooled
 * to. */
typedef struct {
    float *states;      /* [count, hidden] */
    float *queries;     /* [count, heads * head_dim]; then what they saw */
    int32_t *positions; /* in the text */
    int count;
} Rows;

typedef struct {
    const Model *model;
    int texts;
    const int32_t *begins;
    const int32_t *shared, *lenders; /* or NULL */
    const float *cosines, *sines;
    float *out;
    Rows all, pooled;
    int64_t *slots; /* of each row, in the cache */
    int64_t *firsts; /* of each text, the slot of its first token */
    Cache cache;
    Queries *tasks, *pooled_tasks;
    int task_count;
    Step *steps; /* LAYER_STEPS for each layer and one more, all zero */
} Pass;

/* Rows that go through steps together, and who goes with them. */
typedef struct {
    const Pass *pass;
    const Rows *rows;
    const Scratch *scratch;
    int first, count; /* rows */
    Step *step;       /* the next one that all threads take together; NULL in a block of one's own */
} Share;

static inline int query_width(const Shape *shape) { return shape->heads * shape->head_dim; }
static inline int key_width(const Shape *shape) { return shape->kv_heads * shape->head_dim; }

enum { QUERIES = 1, KEYS_AND_VALUES = 2 };

/* What a family's layers compute between one attention and the next. */
struct Family {
    int causal; /* whether a token sees those up to it, and not all of its text */
    /* From states to queries, keys and values, ready for attention. */
    void (*project)(Share *share, const Layer *layer, int wanted);
    /* From what attention found to the states after the layer. */
    void (*finish)(Share *share, const Layer *layer);
};
extern const Family decoder, encoder;

/* Lay a pass out in the memory from `start` on; says how much it takes, and only that without. */
size_t lay_out(Pass *pass, char *start);

/* All of a pass; the work of a thread. */
void forward(void *pass, int thread);

#endif
