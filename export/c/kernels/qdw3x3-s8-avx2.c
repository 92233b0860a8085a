/* Depthwise row of codes for AVX2: 32 channels at a time, three rows interleaved byte by byte. Each column feeds three outputs.
   A pair of products fits 16 bits: |x| times (w with the sign of x), or x times w where no input is negative. */
#include "kernel-s8.h"
#include <immintrin.h>

#define LM_FOUR(X) X(0) X(1) X(2) X(3)
#define LM_DW_W(q, dx) lm_load_256(w + dx * 256 + q * 64)
#define LM_DW_BIAS(q) lm_load_256(bias + q * 16)
#define LM_DW_DECLARE(q) __m256i left##q = LM_DW_BIAS(q), middle##q = left##q, right##q = left##q;
/* (row 0, row 1, row 2, nothing) of column i, eight channels to a vector. */
#define LM_DW_COLUMN(i)                                                                                                       \
    const __m256i r0 = lm_load_256(x0 + (size_t)(i) * step0), r1 = lm_load_256(x1 + (size_t)(i) * step);                      \
    const __m256i r2 = lm_load_256(x2 + (size_t)(i) * step2);                                                                 \
    const __m256i upper_low = _mm256_unpacklo_epi8(r0, r1), upper_high = _mm256_unpackhi_epi8(r0, r1);                        \
    const __m256i lower_low = _mm256_unpacklo_epi8(r2, zero), lower_high = _mm256_unpackhi_epi8(r2, zero);                    \
    const __m256i d0 = _mm256_unpacklo_epi16(upper_low, lower_low), d1 = _mm256_unpackhi_epi16(upper_low, lower_low);         \
    const __m256i d2 = _mm256_unpacklo_epi16(upper_high, lower_high), d3 = _mm256_unpackhi_epi16(upper_high, lower_high);
#define LM_DW_PLUS(sum, q, dx) sum##q = lm_dot_plus(sum##q, d##q, LM_DW_W(q, dx));
#define LM_DW_SIGNED(sum, q, dx) sum##q = lm_dot_plus(sum##q, m##q, _mm256_sign_epi8(LM_DW_W(q, dx), d##q));
#define LM_DW_SIZE(q) const __m256i m##q = _mm256_abs_epi8(d##q);
#define LM_DW_SHIFT(q)       \
    left##q = middle##q;     \
    middle##q = right##q;    \
    right##q = LM_DW_BIAS(q);
#define LM_DW_EVERY(DOT, q) DOT(left, q, 2) DOT(middle, q, 1) DOT(right, q, 0)
#define LM_DW_CENTRE(DOT, q) left##q = middle##q; DOT(left, q, 1)
#define LM_DW_BETWEEN(DOT, q) DOT(left, q, 2) middle##q = LM_DW_BIAS(q); DOT(middle, q, 0)
#define LM_DW_QUAD(STEP, DOT) STEP(DOT, 0) STEP(DOT, 1) STEP(DOT, 2) STEP(DOT, 3)
#define LM_DW_SCALED(sum, q) _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sum##q), _mm256_loadu_ps(scale + q * 16)))
/* Packing undoes the interleaving: 32 codes in channel order. */
#define LM_DW_PUT(sum, at)                                                                                      \
    {                                                                                                           \
        const __m256i a01 = _mm256_packs_epi32(LM_DW_SCALED(sum, 0), LM_DW_SCALED(sum, 1));                     \
        const __m256i a23 = _mm256_packs_epi32(LM_DW_SCALED(sum, 2), LM_DW_SCALED(sum, 3));                     \
        const __m256i codes = _mm256_max_epi8(_mm256_packs_epi16(a01, a23), low);                               \
        _mm256_storeu_si256((__m256i *)(void *)(y + (size_t)(at) * a->y_step), codes);                          \
    }

#define LM_DW_KERNEL(NAME, DOT, SIZE)                                                                           \
    static LM_TARGET_AVX2 void NAME(const lm_qdw_args *a, size_t lane)                                          \
    {                                                                                                           \
        static const uint8_t LM_ALIGNED outside[32] = {0};                                                      \
        const __m256i low = _mm256_set1_epi8((char)a->low), zero = _mm256_setzero_si256();                      \
        const size_t step = a->x_step, step0 = a->x[0] != NULL ? step : 0, step2 = a->x[2] != NULL ? step : 0;  \
        const uint8_t *x0 = a->x[0] != NULL ? a->x[0] + lane : outside, *x1 = a->x[1] + lane;                   \
        const uint8_t *x2 = a->x[2] != NULL ? a->x[2] + lane : outside;                                         \
        const int8_t *w = a->w + lane / 64 * 768 + lane % 64;                                                   \
        const int32_t *bias = a->bias + lane / 64 * 64 + lane % 64 / 4;                                         \
        const float *scale = a->scale + lane / 64 * 64 + lane % 64 / 4;                                         \
        uint8_t *y = a->y + lane;                                                                               \
        LM_FOUR(LM_DW_DECLARE)                                                                                  \
        if (a->stride == 1) {                                                                                   \
            for (int i = 0; i < a->in_width; i++) {                                                             \
                LM_DW_COLUMN(i)                                                                                 \
                LM_FOUR(SIZE)                                                                                   \
                LM_FOUR(LM_DW_SHIFT)                                                                            \
                LM_DW_QUAD(LM_DW_EVERY, DOT)                                                                    \
                if (i > 0) {                                                                                    \
                    LM_DW_PUT(left, i - 1)                                                                      \
                }                                                                                               \
            }                                                                                                   \
            LM_DW_PUT(middle, a->in_width - 1)                                                                  \
        } else {                                                                                                \
            for (int i = 0; i < a->out_width; i++) {                                                            \
                {                                                                                               \
                    LM_DW_COLUMN(2 * i)                                                                         \
                    LM_FOUR(SIZE)                                                                               \
                    LM_DW_QUAD(LM_DW_CENTRE, DOT)                                                               \
                }                                                                                               \
                if (2 * i + 1 < a->in_width) {                                                                  \
                    LM_DW_COLUMN(2 * i + 1)                                                                     \
                    LM_FOUR(SIZE)                                                                               \
                    LM_DW_QUAD(LM_DW_BETWEEN, DOT)                                                              \
                }                                                                                               \
                LM_DW_PUT(left, i)                                                                              \
            }                                                                                                   \
        }                                                                                                       \
    }

#define LM_DW_NO_SIZE(q)
LM_DW_KERNEL(lm_qdw_plus, LM_DW_PLUS, LM_DW_NO_SIZE)
LM_DW_KERNEL(lm_qdw_signed, LM_DW_SIGNED, LM_DW_SIZE)

static LM_TARGET_AVX2 void lm_qdw_avx2(const lm_qdw_args *a)
{
    for (int half = 0; half < a->blocks * 2; half++) {
        (a->positive ? lm_qdw_plus : lm_qdw_signed)(a, (size_t)half * 32);
    }
}
