/* Whether these kernels run here. Only instructions that every processor of this kind has. */

#include "model.h"

#include <cpuid.h>

#define BIT(number) (1u << (number))

/* What the system keeps of a thread while others run: registers of SSE, AVX and AVX-512. */
static unsigned kept_registers(void)
{
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

int32_t embedfleet_supported(void)
{
    const unsigned kept = BIT(1) | BIT(2) | BIT(5) | BIT(6) | BIT(7);
    const unsigned fma = BIT(12), xsave = BIT(27);                     /* leaf 1, ecx */
    const unsigned f = BIT(16), dq = BIT(17), bw = BIT(30), vl = BIT(31); /* leaf 7, ebx */
    const unsigned vnni = BIT(11);                                     /* leaf 7, ecx */
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (fma | xsave)) != (fma | xsave))
        return 0;
    if ((kept_registers() & kept) != kept)
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    return (b & (f | dq | bw | vl)) == (f | dq | bw | vl) && (c & vnni) != 0;
}
