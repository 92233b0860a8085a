/* Float convolution in the fixed order for AVX-512: six pixels at a time, products rounded by themselves. */
#include "kernel-s8.h"
#include <immintrin.h>

#define LM_SIX(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define LM_ORDERED_START(i)                                                                         \
    const float *x##i = a->x + (size_t)(pixel + (i < count ? i : 0)) * a->x_step;                   \
    __m512 s##i = _mm512_loadu_ps(a->bias + lane);
#define LM_ORDERED_TERM(i)                                                          \
    {                                                                               \
        __m512 product = _mm512_mul_ps(_mm512_set1_ps(x##i[a->at[k]]), weight);     \
        LM_ALONE_512(product);                                                      \
        s##i = _mm512_add_ps(s##i, product);                                        \
    }
#define LM_ORDERED_PUT(i)                                                                                        \
    if (i < count) {                                                                                             \
        _mm512_storeu_ps(a->y + (size_t)(pixel + i) * a->y_step + lane, _mm512_max_ps(low, s##i));               \
    }

static LM_TARGET_AVX512 void lm_ordered_avx512(const lm_ordered_args *a)
{
    const __m512 low = _mm512_set1_ps(a->relu ? 0.0f : -INFINITY);
    for (int v = 0; v < a->vectors; v++) {
        const size_t lane = (size_t)v * 16;
        for (int pixel = 0; pixel < a->pixels; pixel += 6) {
            const int count = a->pixels - pixel < 6 ? a->pixels - pixel : 6;
            const float *w = a->w + lane * (size_t)a->k_total;
            LM_SIX(LM_ORDERED_START)
            for (int k = 0; k < a->k_total; k++) {
                const __m512 weight = _mm512_loadu_ps(w);
                LM_SIX(LM_ORDERED_TERM)
                w += 16;
            }
            LM_SIX(LM_ORDERED_PUT)
        }
    }
}
