/* Matrix product of codes for AVX2 with VNNI: tiles of 1..6 pixels by 16 sums, four products per lane and step. */
#include "kernel-s8.h"
#include <immintrin.h>

#define LM_EACH_1(X) X(0)
#define LM_EACH_2(X) LM_EACH_1(X) X(1)
#define LM_EACH_3(X) LM_EACH_2(X) X(2)
#define LM_EACH_4(X) LM_EACH_3(X) X(3)
#define LM_EACH_5(X) LM_EACH_4(X) X(4)
#define LM_EACH_6(X) LM_EACH_5(X) X(5)

/* sum += four products per lane. Compilers that may choose copy the sums around. */
#if defined(__GNUC__)
#define LM_SUM_PRODUCTS(sum, x, w) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "xm"(w));
#else
#define LM_SUM_PRODUCTS(sum, x, w) sum = _mm256_dpbusd_avx_epi32(sum, x, w);
#endif

#define LM_START(i) __m256i s##i##_0 = lm_load_256(bias), s##i##_1 = lm_load_256(bias + 8);
#define LM_POINT(i) const uint8_t *x##i = base + (size_t)i * x_step;
#define LM_DOT(i)                                                     \
    {                                                                 \
        const __m256i x = _mm256_set1_epi32(lm_load_4(x##i + k));     \
        LM_SUM_PRODUCTS(s##i##_0, x, w0)                              \
        LM_SUM_PRODUCTS(s##i##_1, x, w1)                              \
    }
#define LM_PUT(i) lm_put_16(a, s##i##_0, s##i##_1, lane, pixel + i);

#define LM_TILE(M)                                                                                                        \
    static LM_TARGET_AVX2 void lm_qtile_##M(const lm_qgemm_args *a, const int8_t *panel, size_t w_step, size_t lane,      \
                                            size_t pixel, int count)                                                      \
    {                                                                                                                     \
        const int32_t *bias = a->bias + lane;                                                                             \
        const size_t x_step = a->x_step;                                                                                  \
        for (int tile = 0; tile < count; tile++) {                                                                        \
            const int8_t *w = panel;                                                                                      \
            LM_EACH_##M(LM_START)                                                                                         \
            for (int r = 0; r < a->run_count; r++) {                                                                      \
                const uint8_t *base = a->runs[r].x + pixel * x_step;                                                      \
                const size_t length = a->runs[r].groups * 4;                                                              \
                LM_EACH_##M(LM_POINT)                                                                                     \
                for (size_t k = 0; k < length; k += 4) {                                                                  \
                    const __m256i w0 = lm_load_256(w), w1 = lm_load_256(w + 32);                                          \
                    LM_EACH_##M(LM_DOT)                                                                                   \
                    w += w_step;                                                                                          \
                }                                                                                                         \
            }                                                                                                             \
            LM_EACH_##M(LM_PUT)                                                                                           \
            pixel += M;                                                                                                   \
        }                                                                                                                 \
    }

LM_TILE(1) LM_TILE(2) LM_TILE(3) LM_TILE(4) LM_TILE(5) LM_TILE(6)

typedef void (*lm_qtile_fn)(const lm_qgemm_args *a, const int8_t *panel, size_t w_step, size_t lane, size_t pixel, int count);

static LM_TARGET_AVX2 void lm_qgemm_avx2vnni(const lm_qgemm_args *a)
{
    static const lm_qtile_fn kernels[7] = {NULL, lm_qtile_1, lm_qtile_2, lm_qtile_3, lm_qtile_4, lm_qtile_5, lm_qtile_6};
    const int tiles = (a->pixels + 5) / 6; /* of nearly equal size: no slow remainder */
    const int m = a->pixels / tiles, larger = a->pixels % tiles;
    const int8_t *panel = a->w;
    size_t lane = 0;
    int left = a->vectors;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        for (int v = 0; v < n; v++) {
            const int8_t *w = panel + v * 64;
            if (larger > 0) {
                kernels[m + 1](a, w, (size_t)n * 64, lane, 0, larger);
            }
            kernels[m](a, w, (size_t)n * 64, lane, (size_t)((m + 1) * larger), tiles - larger);
            lane += 16;
        }
        panel += a->groups * (size_t)n * 64;
        left -= n;
    }
}
