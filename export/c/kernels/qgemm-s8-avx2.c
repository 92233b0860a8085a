/* Matrix product of codes for AVX2. A pair of products fits 16 bits without saturation: |x| times (w with the sign of x) is at
   most 128 * 127; where no input is negative, x times w needs no signs. Widening both to 16 bits first is no faster. */
#include "kernel-s8.h"
#include <immintrin.h>

#define LM_EACH_1(X) X(0)
#define LM_EACH_2(X) LM_EACH_1(X) X(1)
#define LM_EACH_3(X) LM_EACH_2(X) X(2)
#define LM_EACH_4(X) LM_EACH_3(X) X(3)
#define LM_START(i) __m256i s##i##_0 = lm_load_256(bias), s##i##_1 = lm_load_256(bias + 8);
#define LM_POINT(i) const uint8_t *x##i = base + (size_t)i * a->x_step;
#define LM_DOT_PLUS(i)                                                  \
    {                                                                   \
        const __m256i x = _mm256_set1_epi32(lm_load_4(x##i + k));       \
        s##i##_0 = lm_dot_plus(s##i##_0, x, w0);                        \
        s##i##_1 = lm_dot_plus(s##i##_1, x, w1);                        \
    }
#define LM_DOT_SIGNED(i)                                                \
    {                                                                   \
        const __m256i x = _mm256_set1_epi32(lm_load_4(x##i + k));       \
        s##i##_0 = lm_dot_256(s##i##_0, x, w0);                         \
        s##i##_1 = lm_dot_256(s##i##_1, x, w1);                         \
    }
#define LM_PUT(i) lm_put_16(a, s##i##_0, s##i##_1, lane, pixel + i);

LM_INLINE_256 LM_TARGET_AVX2 __m256i lm_dot_plus(__m256i sum, __m256i x, __m256i w)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}

LM_INLINE_256 LM_TARGET_AVX2 __m256i lm_dot_256(__m256i sum, __m256i x, __m256i w)
{
    return lm_dot_plus(sum, _mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
}

/* `count` tiles of M pixels, one behind the other, 16 lanes. */
#define LM_TILE(M, NAME, DOT)                                                                                             \
    static LM_TARGET_AVX2 void NAME##_##M(const lm_qgemm_args *a, const int8_t *panel, size_t w_step, size_t lane,        \
                                          size_t pixel, int count)                                                        \
    {                                                                                                                     \
        const int32_t *bias = a->bias + lane;                                                                             \
        for (int tile = 0; tile < count; tile++) {                                                                        \
            const int8_t *w = panel;                                                                                      \
            LM_EACH_##M(LM_START)                                                                                         \
            for (int r = 0; r < a->run_count; r++) {                                                                      \
                const uint8_t *base = a->runs[r].x + pixel * a->x_step;                                                   \
                const size_t length = a->runs[r].groups * 4;                                                              \
                LM_EACH_##M(LM_POINT)                                                                                     \
                for (size_t k = 0; k < length; k += 4) {                                                                  \
                    const __m256i w0 = lm_load_256(w), w1 = lm_load_256(w + 32);                                          \
                    LM_EACH_##M(DOT)                                                                                      \
                    w += w_step;                                                                                          \
                }                                                                                                         \
            }                                                                                                             \
            LM_EACH_##M(LM_PUT)                                                                                           \
            pixel += M;                                                                                                   \
        }                                                                                                                 \
    }

LM_TILE(1, lm_qplus, LM_DOT_PLUS) LM_TILE(2, lm_qplus, LM_DOT_PLUS) LM_TILE(3, lm_qplus, LM_DOT_PLUS) LM_TILE(4, lm_qplus, LM_DOT_PLUS)
LM_TILE(1, lm_qsigned, LM_DOT_SIGNED) LM_TILE(2, lm_qsigned, LM_DOT_SIGNED) LM_TILE(3, lm_qsigned, LM_DOT_SIGNED) LM_TILE(4, lm_qsigned, LM_DOT_SIGNED)

typedef void (*lm_qtile_fn)(const lm_qgemm_args *a, const int8_t *panel, size_t w_step, size_t lane, size_t pixel, int count);

/* Tiles of nearly equal size: no slow remainder. */
static LM_TARGET_AVX2 void lm_qgemm_tiles(const lm_qgemm_args *a, const lm_qtile_fn *kernels)
{
    const int tiles = (a->pixels + 3) / 4;
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

static LM_TARGET_AVX2 void lm_qgemm_avx2(const lm_qgemm_args *a)
{
    static const lm_qtile_fn plus[5] = {NULL, lm_qplus_1, lm_qplus_2, lm_qplus_3, lm_qplus_4};
    static const lm_qtile_fn both[5] = {NULL, lm_qsigned_1, lm_qsigned_2, lm_qsigned_3, lm_qsigned_4};
    lm_qgemm_tiles(a, a->positive ? plus : both);
}
