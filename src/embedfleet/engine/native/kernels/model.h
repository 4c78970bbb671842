/* What Python sees of the kernels: weights are packed once, a model is opened over them, and each
 * run takes a pass of texts lying end to end. The caller owns every array that it hands over, and
 * keeps it until the model is closed. Nothing here reads a file or knows a token. */

#ifndef EMBEDFLEET_MODEL_H
#define EMBEDFLEET_MODEL_H

#include <stdint.h>

#define EXPORTED __attribute__((visibility("default")))

/* Counts up with every change of what is declared here, or of the order in which weights are
 * packed: a library that was compiled before must not be given what is made for this one. */
#define ABI 1
EXPORTED int32_t embedfleet_abi(void);

enum Kind {
    INT8 = 0,  /* int8 weights and activations, both with a scale for each group of inputs */
    FLOAT = 1, /* float32 weights and activations */
};

typedef struct {
    int32_t hidden, layers, heads, kv_heads, head_dim, intermediate;
    float epsilon;
    int32_t kind;
} Shape;

/* Inputs that share a scale in int8, those of a token as those of an output: a number far larger
 * than the others costs those of its group exactness, and no more. The last group may have fewer. */
#define GROUP_INPUTS 256

/* A weight matrix [out, in] in panels of 32 outputs. `out` is a multiple of 32, `in` of 64. */
typedef struct {
    const void *packed;   /* 64-byte aligned; int8 or float [out / 32] panels, see pack.c */
    const float *scales;  /* of weights [out / 32][groups][32]; int8 only */
    const int32_t *sums;  /* of weights times 128 [out / 32][groups][32]; int8 only */
    int32_t out, in;
} Matrix;

typedef struct {
    Matrix query, key, value, output, gate, up, down;
    const float *input_norm, *query_norm, *key_norm, *mlp_norm;
} Layer;

typedef struct Model Model;

/* From float32, bfloat16 bits or int8 [out, in] to panels. `packed` has out * in elements. */
EXPORTED void embedfleet_pack_int8(const int8_t *values, int32_t out, int32_t in,
                                   int8_t *packed, int32_t *sums);
/* The scale of a group is its largest magnitude / 127; values are rounded, halves to even. */
EXPORTED void embedfleet_quantise_bf16(const uint16_t *values, int32_t out, int32_t in,
                                       int8_t *packed, float *scales, int32_t *sums);
EXPORTED void embedfleet_quantise_float(const float *values, int32_t out, int32_t in,
                                        int8_t *packed, float *scales, int32_t *sums);
EXPORTED void embedfleet_pack_bf16(const uint16_t *values, int32_t out, int32_t in, float *packed);
EXPORTED void embedfleet_pack_float(const float *values, int32_t out, int32_t in, float *packed);

/* `layers` are copied, what they point to is not. NULL when memory or threads are not to be had. */
EXPORTED Model *embedfleet_open(const Shape *shape, const Layer *layers, const float *final_norm,
                                int32_t threads);

/* Final states of each text's last token, [texts, hidden], after the final norm.
 *
 * `begins` [texts + 1]: where each text's rows begin, and the end of the last; no text is empty.
 * `states` [tokens, hidden]: the tokens' embeddings; overwritten.
 * `cosines`, `sines` [positions, head_dim / 2]: at least as many as the longest text has tokens.
 * 0, or -1 when memory is not to be had. One run at a time; the caller sees to it. */
EXPORTED int32_t embedfleet_run(Model *model, int32_t texts, const int32_t *begins, float *states,
                                const float *cosines, const float *sines, float *out);

/* Give back what a large run grew; the next run takes it anew. */
EXPORTED void embedfleet_release(Model *model);
EXPORTED void embedfleet_close(Model *model);

#endif
