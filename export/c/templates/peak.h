/* What this machine can do at best, for bench.c: multiply-adds from registers, and reading, in loops that do nothing else. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>
#define PEAK_X86 1
#define PEAK_TARGET(name) __attribute__((noinline, target(name)))
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#if defined(__GNUC__)
#define PEAK_SEEN(value) __asm__ volatile("" : : "r"(&(value)) : "memory") /* the compiler must think that it is used */
#define PEAK_APART __attribute__((noinline))
#else
static volatile unsigned char peak_sink;
#define PEAK_SEEN(value) (peak_sink = *(const unsigned char *)&(value))
#define PEAK_APART
#endif

#define PEAK_10(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#define PEAK_20(X) PEAK_10(X) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)
#define PEAK_ROUNDS 400
#define PEAK_LOOP(EACH, STEP)               \
    for (int i = 0; i < PEAK_ROUNDS; i++) { \
        EACH(STEP)                          \
    }

typedef struct peak_loop {
    const char *name;
    const char *how;
    double macs; /* multiply-adds of one call */
    void (*run)(void);
} peak_loop;

static float peak_factor = 0.999f, peak_term = 0.001f;
static int32_t peak_codes = 0x01020304;

#ifdef PEAK_X86
#if defined(__clang__) /* keeps sums in registers by itself */
#define PEAK_FMA(sum, a, b, fma) sum = fma(a, b, sum);
#else
#define PEAK_FMA(sum, a, b, fma) __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#endif
#define PEAK_SET(i) __m512 s##i = x;
#define PEAK_STEP(i) PEAK_FMA(s##i, x, y, _mm512_fmadd_ps)
#define PEAK_USE(i) total = _mm512_add_ps(total, s##i);
PEAK_TARGET("avx512f") static void peak_float_avx512(void)
{
    const __m512 x = _mm512_set1_ps(peak_factor), y = _mm512_set1_ps(peak_term);
    __m512 total = x;
    PEAK_20(PEAK_SET) PEAK_LOOP(PEAK_20, PEAK_STEP) PEAK_20(PEAK_USE)
    PEAK_SEEN(total);
}
#undef PEAK_SET
#undef PEAK_STEP
#undef PEAK_USE
#define PEAK_SET(i) __m256 s##i = x;
#define PEAK_STEP(i) PEAK_FMA(s##i, x, y, _mm256_fmadd_ps)
#define PEAK_USE(i) total = _mm256_add_ps(total, s##i);
PEAK_TARGET("avx2,fma") static void peak_float_avx2(void)
{
    const __m256 x = _mm256_set1_ps(peak_factor), y = _mm256_set1_ps(peak_term);
    __m256 total = x;
    PEAK_10(PEAK_SET) PEAK_LOOP(PEAK_10, PEAK_STEP) PEAK_10(PEAK_USE)
    PEAK_SEEN(total);
}
#undef PEAK_SET
#undef PEAK_STEP
#undef PEAK_USE
#if defined(__SSE2__)
#define PEAK_SET(i) __m128 s##i = x;
#define PEAK_STEP(i) s##i = _mm_add_ps(_mm_mul_ps(s##i, x), y);
#define PEAK_USE(i) total = _mm_add_ps(total, s##i);
static PEAK_APART void peak_float_sse2(void)
{
    const __m128 x = _mm_set1_ps(peak_factor), y = _mm_set1_ps(peak_term);
    __m128 total = x;
    PEAK_10(PEAK_SET) PEAK_LOOP(PEAK_10, PEAK_STEP) PEAK_10(PEAK_USE)
    PEAK_SEEN(total);
}
#undef PEAK_SET
#undef PEAK_STEP
#undef PEAK_USE
#endif
#define PEAK_SET(i) __m512i s##i = x;
#define PEAK_STEP(i) s##i = _mm512_dpbusd_epi32(s##i, x, x);
#define PEAK_USE(i) total = _mm512_add_epi32(total, s##i);
PEAK_TARGET("avx512f,avx512vnni") static void peak_int8_avx512vnni(void)
{
    const __m512i x = _mm512_set1_epi32(peak_codes);
    __m512i total = x;
    PEAK_20(PEAK_SET) PEAK_LOOP(PEAK_20, PEAK_STEP) PEAK_20(PEAK_USE)
    PEAK_SEEN(total);
}
#undef PEAK_SET
#undef PEAK_STEP
#undef PEAK_USE
#if defined(__AVXVNNI__)
#define PEAK_SET(i) __m256i s##i = x;
#define PEAK_STEP(i) s##i = _mm256_dpbusd_avx_epi32(s##i, x, x);
#define PEAK_USE(i) total = _mm256_add_epi32(total, s##i);
PEAK_TARGET("avx2,avxvnni") static void peak_int8_avxvnni(void)
{
    const __m256i x = _mm256_set1_epi32(peak_codes);
    __m256i total = x;
    PEAK_10(PEAK_SET) PEAK_LOOP(PEAK_10, PEAK_STEP) PEAK_10(PEAK_USE)
    PEAK_SEEN(total);
}
#undef PEAK_SET
#undef PEAK_STEP
#undef PEAK_USE
#endif
#define PEAK_SET(i) __m256i s##i = _mm256_add_epi32(x, _mm256_set1_epi32(i));
#define PEAK_STEP(i) s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(_mm256_maddubs_epi16(x, s##i), ones));
#define PEAK_USE(i) total = _mm256_add_epi32(total, s##i);
PEAK_TARGET("avx2") static void peak_int8_avx2(void)
{
    const __m256i x = _mm256_set1_epi32(peak_codes), ones = _mm256_set1_epi16(1);
    __m256i total = x;
    PEAK_10(PEAK_SET) PEAK_LOOP(PEAK_10, PEAK_STEP) PEAK_10(PEAK_USE)
    PEAK_SEEN(total);
}
#undef PEAK_SET
#undef PEAK_STEP
#undef PEAK_USE
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define PEAK_SET(i) float32x4_t s##i = x;
#define PEAK_STEP(i) s##i = vfmaq_f32(s##i, x, y);
#define PEAK_USE(i) total = vaddq_f32(total, s##i);
static PEAK_APART void peak_float_neon(void)
{
    const float32x4_t x = vdupq_n_f32(peak_factor), y = vdupq_n_f32(peak_term);
    float32x4_t total = x;
    PEAK_20(PEAK_SET) PEAK_LOOP(PEAK_20, PEAK_STEP) PEAK_20(PEAK_USE)
    PEAK_SEEN(total);
}
#undef PEAK_SET
#undef PEAK_STEP
#undef PEAK_USE
#if defined(__ARM_FEATURE_DOTPROD)
#define PEAK_SET(i) int32x4_t s##i = vreinterpretq_s32_s8(x);
#define PEAK_STEP(i) s##i = vdotq_s32(s##i, x, x);
#define PEAK_USE(i) total = vaddq_s32(total, s##i);
static PEAK_APART void peak_int8_neondot(void)
{
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(peak_codes));
    int32x4_t total = vreinterpretq_s32_s8(x);
    PEAK_20(PEAK_SET) PEAK_LOOP(PEAK_20, PEAK_STEP) PEAK_20(PEAK_USE)
    PEAK_SEEN(total);
}
#undef PEAK_SET
#undef PEAK_STEP
#undef PEAK_USE
#endif
#endif

/* Plain C: as good as the compiler makes it with the flags of this build. */
static PEAK_APART void peak_float_plain(void)
{
    float sums[64];
    const float x = peak_factor, y = peak_term;
    for (int k = 0; k < 64; k++) {
        sums[k] = (float)k;
    }
    for (int i = 0; i < PEAK_ROUNDS; i++) {
        for (int k = 0; k < 64; k++) {
            sums[k] = sums[k] * x + y;
        }
    }
    PEAK_SEEN(sums);
}

static PEAK_APART void peak_int8_plain(void)
{
    int32_t sums[64];
    int8_t codes[64];
    for (int k = 0; k < 64; k++) {
        sums[k] = k;
        codes[k] = (int8_t)(peak_codes + k);
    }
    for (int i = 0; i < PEAK_ROUNDS; i++) {
        PEAK_SEEN(codes);
        for (int k = 0; k < 64; k++) {
            sums[k] += codes[k] * codes[63 - k];
        }
    }
    PEAK_SEEN(sums);
}

/* The first whose name the build's instruction set starts with; plain C fits all. */
static const peak_loop *peak_of(const char *isa, int int8)
{
    static const peak_loop floats[] = {
#ifdef PEAK_X86
        {"AVX-512", "vfmadd231ps zmm", 20.0 * 16 * PEAK_ROUNDS, peak_float_avx512},
        {"AVX", "vfmadd231ps ymm", 10.0 * 8 * PEAK_ROUNDS, peak_float_avx2},
#if defined(__SSE2__)
        {"SSE2", "mulps + addps", 10.0 * 4 * PEAK_ROUNDS, peak_float_sse2},
#endif
#elif defined(__aarch64__) && defined(__ARM_NEON)
        {"NEON", "fmla 4s", 20.0 * 4 * PEAK_ROUNDS, peak_float_neon},
#endif
        {"", "plain C, a * x + y", 64.0 * PEAK_ROUNDS, peak_float_plain},
    };
    static const peak_loop codes[] = {
#ifdef PEAK_X86
        {"AVX-512 VNNI", "vpdpbusd zmm", 20.0 * 64 * PEAK_ROUNDS, peak_int8_avx512vnni},
#if defined(__AVXVNNI__)
        {"AVX-VNNI", "vpdpbusd ymm", 10.0 * 32 * PEAK_ROUNDS, peak_int8_avxvnni},
        {"AVX2-VNNI", "vpdpbusd ymm", 10.0 * 32 * PEAK_ROUNDS, peak_int8_avxvnni},
        {"AVX2 VNNI", "vpdpbusd ymm", 10.0 * 32 * PEAK_ROUNDS, peak_int8_avxvnni},
#endif
        {"AVX", "vpmaddubsw + vpmaddwd + vpaddd ymm", 10.0 * 32 * PEAK_ROUNDS, peak_int8_avx2},
#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
        {"NEON", "sdot 4s", 20.0 * 16 * PEAK_ROUNDS, peak_int8_neondot},
#endif
        {"", "plain C, a * b + sum", 64.0 * PEAK_ROUNDS, peak_int8_plain},
    };
    const peak_loop *loop = int8 ? codes : floats;
    while (strncmp(isa, loop->name, strlen(loop->name)) != 0) {
        loop++;
    }
    return loop;
}

/* Reads `bytes` (a multiple of 256) once, in order, by the widest loads that this build is compiled for. */
static PEAK_APART void peak_read(const unsigned char *memory, size_t bytes)
{
#if defined(__AVX512F__) && defined(PEAK_X86)
#define PEAK_LOAD(at) _mm512_loadu_si512((const void *)(memory + i + at))
    for (size_t i = 0; i < bytes; i += 256) {
        const __m512i a = PEAK_LOAD(0), b = PEAK_LOAD(64), c = PEAK_LOAD(128), d = PEAK_LOAD(192);
        __asm__ volatile("" : : "v"(a), "v"(b), "v"(c), "v"(d));
    }
#elif defined(__AVX__) && defined(PEAK_X86)
#define PEAK_LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(memory + i + at))
    for (size_t i = 0; i < bytes; i += 128) {
        const __m256i a = PEAK_LOAD(0), b = PEAK_LOAD(32), c = PEAK_LOAD(64), d = PEAK_LOAD(96);
        __asm__ volatile("" : : "x"(a), "x"(b), "x"(c), "x"(d));
    }
#else
    uint64_t sums[8] = {0}, words[8];
    for (size_t i = 0; i < bytes; i += 64) {
        memcpy(words, memory + i, 64);
        for (int k = 0; k < 8; k++) {
            sums[k] += words[k];
        }
    }
    PEAK_SEEN(sums);
#endif
}
