/* x86 with AVX2 and AVX-VNNI: laptops since Alder Lake. */

#include "avx.h"

#define OFFSET 128
#define MOST_VALUE 127.0f
#define BYTE_ROWS 6
#define DOT_CONSTANTS
/* As an instruction: in the shape of AVX-VNNI, and without asking the compiler for it. */
#ifndef VNNI_SHAPE
#define VNNI_SHAPE "%{vex%} "
#endif
#define DOT(sum, bytes, weights) \
    __asm__(VNNI_SHAPE "vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(weights));

#include "attending_narrow.h"

#define SET avx_vnni
#define NEEDS "avx2 fma avx_vnni"
#define HALVES NULL
#include "set.h"
