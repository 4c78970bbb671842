/* Any 64-bit Arm. */

#include "neon.h"

/* Pairs of products fit 16 bits: 2 * 127 * 127 is below 2^15. */
#define DOT(sum, bytes, weights)                                                         \
    {                                                                                    \
        int8x16_t left = vreinterpretq_s8_s32(bytes), right = vreinterpretq_s8_s32(weights); \
        int16x8_t low = vmull_s8(vget_low_s8(left), vget_low_s8(right));                 \
        int16x8_t high = vmull_high_s8(left, right);                                     \
        sum = vpadalq_s16(sum, vpaddq_s16(low, high));                                   \
    }

#include "attending_narrow.h"

#define SET neon
#define NEEDS "asimd"
#define HALVES NULL
#include "set.h"
