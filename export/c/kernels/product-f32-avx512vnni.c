/* The ordered float product for AVX-512: products are rounded by themselves, then added. */
#include "kernel-s8.h"
#include <immintrin.h>

#define LM_TERM(v)                                                      \
    {                                                                   \
        __m512 product = _mm512_mul_ps(value, _mm512_loadu_ps(row + v * 16)); \
        LM_ALONE_512(product);                                          \
        s##v = _mm512_add_ps(s##v, product);                            \
    }

static LM_TARGET_AVX512 void lm_ordered_product_avx512vnni(const float *const *x, const int *lengths, int runs, int k_total, const float *w,
                                                           const float *bias, float *y, int vectors, int relu)
{
    const __m512 low = _mm512_set1_ps(relu ? 0.0f : -INFINITY);
    int left = vectors;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        const float *row = w;
        __m512 s0 = _mm512_loadu_ps(bias), s1 = s0, s2 = s0, s3 = s0;
        if (n > 1) {
            s1 = _mm512_loadu_ps(bias + 16);
        }
        if (n > 2) {
            s2 = _mm512_loadu_ps(bias + 32);
        }
        if (n > 3) {
            s3 = _mm512_loadu_ps(bias + 48);
        }
        for (int r = 0; r < runs; r++) {
            for (int k = 0; k < lengths[r]; k++) {
                const __m512 value = _mm512_set1_ps(x[r][k]);
                LM_TERM(0)
                if (n > 1) {
                    LM_TERM(1)
                }
                if (n > 2) {
                    LM_TERM(2)
                }
                if (n > 3) {
                    LM_TERM(3)
                }
                row += n * 16;
                _mm_prefetch((const char *)(row + 1024), _MM_HINT_T0);
                _mm_prefetch((const char *)(row + 1040), _MM_HINT_T0);
                _mm_prefetch((const char *)(row + 1056), _MM_HINT_T0);
                _mm_prefetch((const char *)(row + 1072), _MM_HINT_T0);
            }
        }
        _mm512_storeu_ps(y, _mm512_max_ps(low, s0));
        if (n > 1) {
            _mm512_storeu_ps(y + 16, _mm512_max_ps(low, s1));
        }
        if (n > 2) {
            _mm512_storeu_ps(y + 32, _mm512_max_ps(low, s2));
        }
        if (n > 3) {
            _mm512_storeu_ps(y + 48, _mm512_max_ps(low, s3));
        }
        w += (size_t)k_total * (size_t)n * 16;
        bias += n * 16;
        y += n * 16;
        left -= n;
    }
}
