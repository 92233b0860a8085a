/* Float convolution in the fixed order for AVX2: four pixels by two vectors at a time, products rounded by themselves. */
#include "kernel-s8.h"
#include <immintrin.h>

#define LM_QUAD(X) X(0) X(1) X(2) X(3)
#define LM_ORDERED_START(i)                                                                         \
    const float *x##i = a->x + (size_t)(pixel + (i < count ? i : 0)) * a->x_step;                   \
    __m256 s##i##_0 = _mm256_loadu_ps(a->bias + lane), s##i##_1 = _mm256_loadu_ps(a->bias + lane + 8);
#define LM_ORDERED_TERM(i)                                                          \
    {                                                                               \
        const __m256 x = _mm256_set1_ps(x##i[a->at[k]]);                            \
        __m256 first = _mm256_mul_ps(x, w0), second = _mm256_mul_ps(x, w1);         \
        LM_ALONE_256(first);                                                        \
        LM_ALONE_256(second);                                                       \
        s##i##_0 = _mm256_add_ps(s##i##_0, first);                                  \
        s##i##_1 = _mm256_add_ps(s##i##_1, second);                                 \
    }
#define LM_ORDERED_PUT(i)                                                                                        \
    if (i < count) {                                                                                             \
        float *y = a->y + (size_t)(pixel + i) * a->y_step + lane;                                                \
        _mm256_storeu_ps(y, _mm256_max_ps(low, s##i##_0));                                                       \
        _mm256_storeu_ps(y + 8, _mm256_max_ps(low, s##i##_1));                                                   \
    }

static LM_TARGET_AVX2 void lm_ordered_avx2(const lm_ordered_args *a)
{
    const __m256 low = _mm256_set1_ps(a->relu ? 0.0f : -INFINITY);
    for (int v = 0; v < a->vectors; v++) {
        const size_t lane = (size_t)v * 16;
        for (int pixel = 0; pixel < a->pixels; pixel += 4) {
            const int count = a->pixels - pixel < 4 ? a->pixels - pixel : 4;
            const float *w = a->w + lane * (size_t)a->k_total;
            LM_QUAD(LM_ORDERED_START)
            for (int k = 0; k < a->k_total; k++) {
                const __m256 w0 = _mm256_loadu_ps(w), w1 = _mm256_loadu_ps(w + 8);
                LM_QUAD(LM_ORDERED_TERM)
                w += 16;
            }
            LM_QUAD(LM_ORDERED_PUT)
        }
    }
}
