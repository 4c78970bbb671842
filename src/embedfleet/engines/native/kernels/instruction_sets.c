/* Which instruction sets this library has, and which of them run here. Compiled for any processor of
 * the architecture: no instruction is used before it is known to be there. */

#include "instruction_set.h"

#include <string.h>

#define BIT(number) (1u << (number))
#define ALL_OF(value, bits) (((value) & (bits)) == (bits))

#if defined(HAVE_AVX512_VNNI)
extern const InstructionSet instruction_set_avx512_vnni;
#endif
#if defined(HAVE_AVX_VNNI)
extern const InstructionSet instruction_set_avx_vnni;
#endif
#if defined(HAVE_AVX2)
extern const InstructionSet instruction_set_avx2;
#endif
#if defined(HAVE_NEON_I8MM)
extern const InstructionSet instruction_set_neon_i8mm;
#endif
#if defined(HAVE_NEON_DOTPROD)
extern const InstructionSet instruction_set_neon_dotprod;
#endif
#if defined(HAVE_NEON_PLAIN)
extern const InstructionSet instruction_set_neon;
#endif
extern const InstructionSet instruction_set_portable;

static const InstructionSet *const SETS[] = {
#if defined(HAVE_AVX512_VNNI)
    &instruction_set_avx512_vnni,
#endif
#if defined(HAVE_AVX_VNNI)
    &instruction_set_avx_vnni,
#endif
#if defined(HAVE_AVX2)
    &instruction_set_avx2,
#endif
#if defined(HAVE_NEON_I8MM)
    &instruction_set_neon_i8mm,
#endif
#if defined(HAVE_NEON_DOTPROD)
    &instruction_set_neon_dotprod,
#endif
#if defined(HAVE_NEON_PLAIN)
    &instruction_set_neon,
#endif
    &instruction_set_portable,
};

const InstructionSet *const *instruction_sets(int *count)
{
    *count = (int)(sizeof SETS / sizeof *SETS);
    return SETS;
}

/* What the processor has, and the system keeps for threads. */
typedef struct {
    int avx2, avx_vnni, avx512_vnni, avx512_bf16, asimd, asimddp, i8mm;
} Processor;

#if defined(__x86_64__)
#include <cpuid.h>

/* What the system keeps of a thread while others run: registers of SSE, AVX and AVX-512. */
static unsigned kept_registers(void)
{
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static Processor processor(void)
{
    const unsigned avx_kept = BIT(1) | BIT(2), avx512_kept = avx_kept | BIT(5) | BIT(6) | BIT(7);
    const unsigned fma = BIT(12), xsave = BIT(27), avx = BIT(28);          /* leaf 1, ecx */
    const unsigned avx2 = BIT(5);                                          /* leaf 7, ebx */
    const unsigned f = BIT(16), dq = BIT(17), bw = BIT(30), vl = BIT(31);
    const unsigned vnni = BIT(11);                                         /* leaf 7, ecx */
    const unsigned avx_vnni = BIT(4), bf16 = BIT(5);                       /* leaf 7.1, eax */
    Processor found = {0};
    unsigned a, b, c, d, most;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !ALL_OF(c, fma | xsave | avx))
        return found;
    unsigned kept = kept_registers();
    if (!ALL_OF(kept, avx_kept) || !__get_cpuid_count(7, 0, &most, &b, &c, &d))
        return found;
    a = 0;
    if (most >= 1) {
        unsigned ignored;
        __get_cpuid_count(7, 1, &a, &ignored, &ignored, &d);
    }
    found.avx2 = ALL_OF(b, avx2);
    found.avx_vnni = found.avx2 && ALL_OF(a, avx_vnni);
    found.avx512_vnni = ALL_OF(kept, avx512_kept) && ALL_OF(b, f | dq | bw | vl) && ALL_OF(c, vnni);
    found.avx512_bf16 = found.avx512_vnni && ALL_OF(a, bf16);
    return found;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

static Processor processor(void)
{
    unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    Processor found = {0};
    found.asimd = ALL_OF(first, BIT(1));
    found.asimddp = ALL_OF(first, BIT(20));
    found.i8mm = found.asimddp && ALL_OF(second, BIT(13));
    return found;
}
#else
static Processor processor(void) { return (Processor){0}; }
#endif

int instruction_set_runs(const InstructionSet *set)
{
    Processor here = processor();
    const struct {
        const char *name;
        int runs;
    } sets[] = {
        {"avx512_vnni", here.avx512_vnni}, {"avx_vnni", here.avx_vnni},
        {"avx2", here.avx2},               {"neon_i8mm", here.i8mm},
        {"neon_dotprod", here.asimddp},    {"neon", here.asimd},
        {"portable", 1},
    };
    for (unsigned i = 0; i < sizeof sets / sizeof *sets; i++)
        if (!strcmp(set->name, sets[i].name))
            return sets[i].runs;
    return 0;
}

int instruction_set_has_halves(const InstructionSet *set)
{
    return set->halves && processor().avx512_bf16;
}
