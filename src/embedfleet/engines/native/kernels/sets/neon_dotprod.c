/* 64-bit Arm with dot products (asimddp). */

#include "neon.h"

#define DOT(sum, bytes, weights) \
    sum = vdotq_s32(sum, vreinterpretq_s8_s32(weights), vreinterpretq_s8_s32(bytes));

#include "attending_narrow.h"

#define SET neon_dotprod
#define NEEDS "asimddp"
#define HALVES NULL
#include "set.h"
