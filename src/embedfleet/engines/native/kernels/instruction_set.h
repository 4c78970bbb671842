/* An instruction set: what computes with vectors, compiled once for each kind of processor and chosen
 * at run time. Everything else (layers, passes, packing, threads) is compiled once, for any.
 *
 * In float32 every set with fused multiply-add gives the same bits: each sum is added up in one
 * order, in as many parts, whatever the width of the registers. */

#ifndef EMBEDFLEET_INSTRUCTION_SET_H
#define EMBEDFLEET_INSTRUCTION_SET_H

#include <stdint.h>

#include "attention.h"
#include "model.h"

/* The largest tile and panel of any set. */
#define MOST_TILE_ROWS 12
#define MOST_PANEL 32

_Static_assert(MOST_TILE_ROWS * MOST_PANEL <= MOST_VALUES && MOST_HEAD_DIM <= MOST_VALUES,
               "a tile and a head are kept at once");

/* Rows times outputs of one panel, [rows][panel]. */
typedef float Tile[MOST_TILE_ROWS * MOST_PANEL] __attribute__((aligned(64)));

/* What turns integer sums of a group of inputs into numbers. */
typedef struct {
    const int32_t *sums;  /* [panel] */
    const float *weights; /* scales of the weights [panel] */
    const float *rows;    /* scales of the rows, `stride` apart */
    int64_t stride;
    int more; /* whether the tile holds something already, to which they are added */
} Factors;

/* tile = or += `rows` rows of bytes, `stride` apart, times a panel of weights; `inputs` of each.
 * `ahead` says how far on the next panel lies that is to be fetched, 0 if none is. */
typedef void MultiplyBytes(const uint8_t *values, int64_t stride, int rows, const int8_t *weights,
                           int inputs, int64_t ahead, const Factors *factors, float *tile);
typedef void MultiplyFloats(const float *values, int64_t stride, int rows, const float *weights,
                            int inputs, int64_t ahead, float *tile);

typedef struct InstructionSet {
    const char *name;
    const char *needs; /* by Linux' names, divided by blanks */

    /* Rows of a tile and outputs of a panel: as many sums as the registers hold. */
    int byte_rows, byte_panel, float_rows, float_panel;
    /* Inputs of an output that lie together in packed int8: [in / together][panel][together]. */
    int together;
    /* Bytes of rows are value / scale + offset, with magnitudes up to `most_value`. */
    int offset, most_value;
    /* Whether int8 is faster than float32. */
    int quick_int8;

    MultiplyBytes *multiply_bytes;
    MultiplyFloats *multiply_floats;
    /* Rows of a tile to rows that are `stride` apart, or added to them. Panels of bytes and of floats
     * are equally wide. */
    void (*store_tile)(const float *tile, int rows, float *to, int64_t stride);
    void (*add_tile)(const float *tile, int rows, float *to, int64_t stride);

    /* to = from * weight / sqrt(mean(from²) + epsilon); `to` may be `from`; a multiple of 32. */
    void (*rms_norm)(const float *from, const float *weight, int width, float epsilon, float *to);
    /* to = (from - mean(from)) * weight / sqrt(variance(from) + epsilon) + bias; likewise. */
    void (*layer_norm)(const float *from, const float *weight, const float *bias, int width,
                       float epsilon, float *to);
    /* Bytes that are values / scale + offset, halves rounded to even; returns the scale, which takes
     * the largest magnitude to `most_value`. It is not finite when any value is not, and so is what
     * it multiplies. A multiple of 64. */
    float (*quantise)(const float *from, int width, uint8_t *to);
    /* The same for weights, up to a magnitude of 127; all zero where the scale is not finite. */
    float (*quantise_weights)(const float *from, int width, int8_t *to);
    /* Turn the halves of a head [width] against each other by angles [width / 2]. */
    void (*rotate)(float *head, const float *cosines, const float *sines, int width);
    /* gate = gate / (1 + exp(-gate)) * up, [count]; a multiple of 16. */
    void (*swiglu)(float *gate, const float *up, int count);

    /* values = values * Phi(values), the distribution of normal numbers, [count]; a multiple of 16. */
    void (*gelu)(float *values, int count);

    /* Of attention; see there. NULL in `halves` where the set has no products of bfloat16. */
    const AttentionMath *floats, *halves;
} InstructionSet;

/* Those that this library has, best first; how many there are in *count. */
const InstructionSet *const *instruction_sets(int *count);

/* Whether processor and system let a set run; may be asked anywhere. */
int instruction_set_runs(const InstructionSet *set);
/* Whether they let its `halves` run too. */
int instruction_set_has_halves(const InstructionSet *set);

#endif
