/* What Arm's sets share: 32 registers of 16 bytes. Bytes are signed there and need no offset. */

#include <arm_neon.h>
#include <stdint.h>

#define LANES 4
typedef float32x4_t Floats;
typedef int32x4_t Ints;
#define SPLAT(x) vdupq_n_f32(x)
#define SPLAT_INT(x) vdupq_n_s32(x)
#define FMA(x, y, z) vfmaq_f32(z, x, y)
#define GREATER(x, y) vmaxq_f32(x, y)
#define LESSER(x, y) vminq_f32(x, y)
#define GREATER_INT(x, y) vmaxq_s32(x, y)
static inline float sum_of_lanes(Floats x)
{
    float32x2_t two = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
static inline float greatest_of_lanes(Floats x) { return vmaxvq_f32(x); }
static inline int32_t greatest_int_of_lanes(Ints x) { return vmaxvq_s32(x); }
#define PREFETCH(address) __builtin_prefetch(address, 0, 2)
#define PREFETCH_NEAR(address) __builtin_prefetch(address, 0, 3)
static inline void store_bytes(uint8_t *to, const Ints *ints)
{
    int16x8_t low = vcombine_s16(vmovn_s32(ints[0]), vmovn_s32(ints[1]));
    int16x8_t high = vcombine_s16(vmovn_s32(ints[2]), vmovn_s32(ints[3]));
    vst1q_s8((int8_t *)to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
#define OFFSET 0
#define MOST_VALUE 127.0f

/* 24 of the registers are sums. */
#define COLUMNS 4
#define FLOAT_ROWS 6
#define BYTE_ROWS 6
#define DOT_CONSTANTS
