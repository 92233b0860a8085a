/* ---- what this processor can do ---- */

#define LM_CPU_AVX2 1u
#define LM_CPU_FMA 2u
#define LM_CPU_AVX512F 4u
#define LM_CPU_AVX512BW 8u
#define LM_CPU_AVX512VL 16u
#define LM_CPU_AVX512VNNI 32u
#define LM_CPU_AVXVNNI 64u

#ifdef LM_DISPATCH
#include <cpuid.h>

/* An instruction counts only where the system saves its registers too. */
static unsigned lm_cpu(void)
{
    unsigned a, b, c, d, more, saved, high, can = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & (1u << 27)) == 0 || (c & (1u << 28)) == 0) {
        return 0;
    }
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    (void)high;
    if ((saved & 6u) != 6u) {
        return 0;
    }
    can |= (c & (1u << 12)) != 0 ? LM_CPU_FMA : 0u;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) {
        return can;
    }
    more = a;
    can |= (b & (1u << 5)) != 0 ? LM_CPU_AVX2 : 0u;
    if ((saved & 0xe6u) == 0xe6u) {
        can |= (b & (1u << 16)) != 0 ? LM_CPU_AVX512F : 0u;
        can |= (b & (1u << 30)) != 0 ? LM_CPU_AVX512BW : 0u;
        can |= (b & (1u << 31)) != 0 ? LM_CPU_AVX512VL : 0u;
        can |= (c & (1u << 11)) != 0 ? LM_CPU_AVX512VNNI : 0u;
    }
    if (more >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
        can |= (a & (1u << 4)) != 0 ? LM_CPU_AVXVNNI : 0u;
    }
    return can;
}
#else
#define lm_cpu() 0u
#endif
