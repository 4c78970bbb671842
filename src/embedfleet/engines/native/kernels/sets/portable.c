/* Any processor: the compiler makes of vectors what it can. Multiplies and adds in two steps, so its
 * float32 differs from the others' in the last bits. */

#include <stdint.h>

#define LANES 4
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
#define SPLAT(x) ((Floats){x, x, x, x})
#define SPLAT_INT(x) ((Ints){x, x, x, x})
#define FMA(x, y, z) ((x) * (y) + (z))
static inline Floats greater_of(Floats x, Floats y)
{
    Ints mask = (Ints)(x > y);
    return (Floats)(((Ints)x & mask) | ((Ints)y & ~mask));
}
#define GREATER(x, y) greater_of(x, y)
static inline Floats lesser_of(Floats x, Floats y)
{
    Ints mask = (Ints)(x < y);
    return (Floats)(((Ints)x & mask) | ((Ints)y & ~mask));
}
#define LESSER(x, y) lesser_of(x, y)
static inline Ints greater_int_of(Ints x, Ints y)
{
    Ints mask = (Ints)(x > y);
    return (x & mask) | (y & ~mask);
}
#define GREATER_INT(x, y) greater_int_of(x, y)
static inline float sum_of_lanes(Floats x) { return (x[0] + x[2]) + (x[1] + x[3]); }
static inline float greatest_of_lanes(Floats x)
{
    float left = x[0] > x[1] ? x[0] : x[1], right = x[2] > x[3] ? x[2] : x[3];
    return left > right ? left : right;
}
static inline int32_t greatest_int_of_lanes(Ints x)
{
    int32_t left = x[0] > x[1] ? x[0] : x[1], right = x[2] > x[3] ? x[2] : x[3];
    return left > right ? left : right;
}
#define PREFETCH(address) __builtin_prefetch(address, 0, 2)
#define PREFETCH_NEAR(address) __builtin_prefetch(address, 0, 3)
static inline void store_bytes(uint8_t *to, const Ints *ints)
{
    for (int i = 0; i < 16; i++)
        to[i] = (uint8_t)ints[i / 4][i % 4];
}
#define OFFSET 0
#define MOST_VALUE 127.0f

#define COLUMNS 2
#define FLOAT_ROWS 4
#define BYTE_ROWS 4
#define DOT_CONSTANTS
/* The bytes of a lane by shifts, which are the same in either order of bytes. */
static inline Ints dot_of(Ints sum, Ints bytes, Ints weights)
{
    for (int shift = 24; shift >= 0; shift -= 8)
        sum += ((bytes << shift) >> 24) * ((weights << shift) >> 24);
    return sum;
}
#define DOT(sum, bytes, weights) sum = dot_of(sum, bytes, weights);
#define QUICK_INT8 0

#include "attending_narrow.h"

#define SET portable
#define NEEDS ""
#define HALVES NULL
#include "set.h"
