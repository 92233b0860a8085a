/* Matrix product of codes for AVX2: |x| times (w with the sign of x) fits 16 bits without saturation, because |w| <= 127. */
#include "kernel-s8.h"
#include <immintrin.h>

#if defined(__GNUC__)
#define LM_ALONE_256(value) __asm__("" : "+x"(value))
#else
#define LM_ALONE_256(value) { volatile __m256 lm_kept = (value); (value) = lm_kept; }
#endif

#define LM_EACH_1(X) X(0)
#define LM_EACH_2(X) LM_EACH_1(X) X(1)
#define LM_EACH_3(X) LM_EACH_2(X) X(2)
#define LM_EACH_4(X) LM_EACH_3(X) X(3)
#define LM_START(i) __m256i s##i##_0 = lm_load_256(bias), s##i##_1 = lm_load_256(bias + 8);
#define LM_POINT(i) const uint8_t *x##i = base + (size_t)i * a->x_step;
#define LM_DOT(i)                                                       \
    {                                                                   \
        int32_t four;                                                   \
        memcpy(&four, x##i + k, sizeof four);                           \
        const __m256i x = _mm256_set1_epi32(four);                      \
        s##i##_0 = lm_dot_256(s##i##_0, x, w0);                         \
        s##i##_1 = lm_dot_256(s##i##_1, x, w1);                         \
    }
#define LM_PUT(i) lm_put_256(a, s##i##_0, s##i##_1, lane, pixel + i);

static LM_TARGET_AVX2 __m256i lm_load_256(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static LM_TARGET_AVX2 __m256i lm_dot_256(__m256i sum, __m256i x, __m256i w)
{
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static LM_TARGET_AVX2 __m256 lm_scaled_256(const lm_qgemm_args *a, __m256i sum, size_t lane, size_t pixel)
{
    __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(a->scale + lane));
    if (a->add != NULL) {
        const __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(a->add + pixel * a->add_step + lane));
        __m256 other = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_set1_ps(a->add_scale));
        LM_ALONE_256(value);
        LM_ALONE_256(other);
        value = _mm256_add_ps(value, other);
    }
    return value;
}

static LM_TARGET_AVX2 void lm_put_256(const lm_qgemm_args *a, __m256i s0, __m256i s1, size_t lane, size_t pixel)
{
    const __m256 f0 = lm_scaled_256(a, s0, lane, pixel), f1 = lm_scaled_256(a, s1, lane + 8, pixel);
    if (a->y_float != NULL) {
        const __m256 low = _mm256_set1_ps(a->low == 0 ? 0.0f : -INFINITY);
        _mm256_storeu_ps(a->y_float + pixel * a->y_step + lane, _mm256_max_ps(low, f0));
        _mm256_storeu_ps(a->y_float + pixel * a->y_step + lane + 8, _mm256_max_ps(low, f1));
    } else {
        const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(f0), _mm256_cvtps_epi32(f1));
        const __m256i order = _mm256_permute4x64_epi64(words, 0xd8);
        const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(order), _mm256_extracti128_si256(order, 1));
        _mm_storeu_si128((__m128i *)(void *)(a->y + pixel * a->y_step + lane), _mm_max_epi8(codes, _mm_set1_epi8((char)a->low)));
    }
}

#define LM_TILE(M)                                                                                                        \
    static LM_TARGET_AVX2 void lm_qtile_##M(const lm_qgemm_args *a, const int8_t *panel, size_t w_step, size_t lane,      \
                                            size_t pixel, int count)                                                      \
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
                    LM_EACH_##M(LM_DOT)                                                                                   \
                    w += w_step;                                                                                          \
                }                                                                                                         \
            }                                                                                                             \
            LM_EACH_##M(LM_PUT)                                                                                           \
            pixel += M;                                                                                                   \
        }                                                                                                                 \
    }

LM_TILE(1) LM_TILE(2) LM_TILE(3) LM_TILE(4)

typedef void (*lm_qtile_fn)(const lm_qgemm_args *a, const int8_t *panel, size_t w_step, size_t lane, size_t pixel, int count);

static LM_TARGET_AVX2 void lm_qgemm_avx2(const lm_qgemm_args *a)
{
    static const lm_qtile_fn kernels[5] = {NULL, lm_qtile_1, lm_qtile_2, lm_qtile_3, lm_qtile_4};
    const int tiles = (a->pixels + 3) / 4; /* of nearly equal size: no slow remainder */
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
