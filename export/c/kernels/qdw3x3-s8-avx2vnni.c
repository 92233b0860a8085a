/* Depthwise row of codes for AVX2 with VNNI: 32 channels at a time, three rows interleaved byte by byte, so that one instruction
   sums a column. Each column feeds three outputs. Missing rows and columns hold LM_ZERO, which stands for code 0. */
#include "kernel-s8.h"
#include <immintrin.h>

#define LM_FOUR(X) X(0) X(1) X(2) X(3)
#define LM_DW_W(q, dx) lm_load_256(w + dx * 256 + q * 64)
#define LM_DW_BIAS(q) lm_load_256(bias + q * 16)
/* Four vectors of (row 0, row 1, row 2, row 2) of column i. */
#define LM_DW_COLUMN(i)                                                                                                       \
    const __m256i r0 = lm_load_256(x0 + (size_t)(i) * step0), r1 = lm_load_256(x1 + (size_t)(i) * step);                      \
    const __m256i r2 = lm_load_256(x2 + (size_t)(i) * step2);                                                                 \
    const __m256i upper_low = _mm256_unpacklo_epi8(r0, r1), upper_high = _mm256_unpackhi_epi8(r0, r1);                        \
    const __m256i lower_low = _mm256_unpacklo_epi8(r2, r2), lower_high = _mm256_unpackhi_epi8(r2, r2);                        \
    const __m256i d0 = _mm256_unpacklo_epi16(upper_low, lower_low), d1 = _mm256_unpackhi_epi16(upper_low, lower_low);         \
    const __m256i d2 = _mm256_unpacklo_epi16(upper_high, lower_high), d3 = _mm256_unpackhi_epi16(upper_high, lower_high);
#define LM_DW_EDGE(q) __m256i middle##q = LM_DW_BIAS(q); LM_SUM_PRODUCTS(middle##q, pad, LM_DW_W(q, 0))
#define LM_DW_DECLARE(q) __m256i left##q, right##q = LM_DW_BIAS(q);
#define LM_DW_FIRST(q) LM_SUM_PRODUCTS(middle##q, d##q, LM_DW_W(q, 1)) LM_SUM_PRODUCTS(right##q, d##q, LM_DW_W(q, 0))
#define LM_DW_NEXT(q)                                 \
    left##q = middle##q;                              \
    middle##q = right##q;                             \
    right##q = LM_DW_BIAS(q);                         \
    LM_SUM_PRODUCTS(left##q, d##q, LM_DW_W(q, 2))     \
    LM_SUM_PRODUCTS(middle##q, d##q, LM_DW_W(q, 1))   \
    LM_SUM_PRODUCTS(right##q, d##q, LM_DW_W(q, 0))
#define LM_DW_LAST(q) left##q = middle##q; LM_SUM_PRODUCTS(left##q, pad, LM_DW_W(q, 2))
#define LM_DW_EVEN(q) left##q = middle##q; LM_SUM_PRODUCTS(left##q, d##q, LM_DW_W(q, 1))
#define LM_DW_ODD(q)                                                            \
    LM_SUM_PRODUCTS(left##q, d##q, LM_DW_W(q, 2))                               \
    middle##q = LM_DW_BIAS(q);                                                  \
    LM_SUM_PRODUCTS(middle##q, d##q, LM_DW_W(q, 0))
#define LM_DW_OUTSIDE(q) LM_SUM_PRODUCTS(left##q, pad, LM_DW_W(q, 2))
#define LM_DW_SCALED(q) _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(left##q), _mm256_loadu_ps(scale + q * 16)))
/* Packing undoes the interleaving: 32 codes in channel order. */
#define LM_DW_PUT(at)                                                                                              \
    {                                                                                                              \
        const __m256i a01 = _mm256_packs_epi32(LM_DW_SCALED(0), LM_DW_SCALED(1));                                  \
        const __m256i a23 = _mm256_packs_epi32(LM_DW_SCALED(2), LM_DW_SCALED(3));                                  \
        const __m256i codes = _mm256_max_epi8(_mm256_packs_epi16(a01, a23), low);                                  \
        _mm256_storeu_si256((__m256i *)(void *)(y + (size_t)(at) * y_step), _mm256_xor_si256(codes, pad));         \
    }

static LM_TARGET_AVX2 void lm_qdw_avx2vnni(const lm_qdw_args *a)
{
    static const uint8_t LM_ALIGNED outside[32] = {
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
        128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
    };
    const size_t step = a->x_step, y_step = a->y_step;
    const size_t step0 = a->x[0] != NULL ? step : 0, step2 = a->x[2] != NULL ? step : 0;
    const __m256i pad = _mm256_set1_epi8(-128), low = _mm256_set1_epi8((char)a->low);
    for (int half = 0; half < a->blocks * 2; half++) {
        const size_t lane = (size_t)half * 32, block = (size_t)half / 2, part = (size_t)half % 2;
        const uint8_t *x0 = a->x[0] != NULL ? a->x[0] + lane : outside, *x1 = a->x[1] + lane;
        const uint8_t *x2 = a->x[2] != NULL ? a->x[2] + lane : outside;
        const int8_t *w = a->w + block * 768 + part * 32;
        const int32_t *bias = a->bias + block * 64 + part * 8;
        const float *scale = a->scale + block * 64 + part * 8;
        uint8_t *y = a->y + lane;
        LM_FOUR(LM_DW_EDGE)
        LM_FOUR(LM_DW_DECLARE)
        if (a->stride == 1) {
            {
                LM_DW_COLUMN(0)
                LM_FOUR(LM_DW_FIRST)
            }
            for (int i = 1; i < a->in_width; i++) {
                LM_DW_COLUMN(i)
                LM_FOUR(LM_DW_NEXT)
                LM_DW_PUT(i - 1)
            }
            LM_FOUR(LM_DW_LAST)
            LM_DW_PUT(a->in_width - 1)
        } else {
            for (int i = 0; i < a->out_width; i++) {
                {
                    LM_DW_COLUMN(2 * i)
                    LM_FOUR(LM_DW_EVEN)
                }
                if (2 * i + 1 < a->in_width) {
                    LM_DW_COLUMN(2 * i + 1)
                    LM_FOUR(LM_DW_ODD)
                } else {
                    LM_FOUR(LM_DW_OUTSIDE)
                }
                LM_DW_PUT(i)
            }
        }
    }
}
