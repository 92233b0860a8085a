/* Depthwise row of codes for AVX2: 32 channels at a time, three rows interleaved byte by byte. */
#include "kernel-s8.h"
#include <immintrin.h>

#define LM_FOUR(X) X(0) X(1) X(2) X(3)
#define LM_DW_START(q) __m256i s##q = lm_load_256(bias + q * 16);
#define LM_DW_DOT(q) s##q = lm_dot_256(s##q, d##q, lm_load_256(w + dx * 256 + q * 64));
#define LM_DW_SCALED(q) _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(s##q), _mm256_loadu_ps(scale + q * 16)))

static LM_TARGET_AVX2 void lm_qdw_avx2(const lm_qdw_args *a)
{
    const __m256i low = _mm256_set1_epi8((char)a->low), zero = _mm256_setzero_si256();
    for (int half = 0; half < a->blocks * 2; half++) {
        const size_t lane = (size_t)half * 32, block = (size_t)half / 2, part = (size_t)half % 2;
        const int8_t *w = a->w + block * 768 + part * 32;
        const int32_t *bias = a->bias + block * 64 + part * 8;
        const float *scale = a->scale + block * 64 + part * 8;
        for (int i = 0; i < a->out_width; i++) {
            LM_FOUR(LM_DW_START)
            for (int dx = 0; dx < 3; dx++) {
                const int at = i * a->stride + dx - 1;
                if (at >= 0 && at < a->in_width) {
                    const size_t place = (size_t)at * a->x_step + lane;
                    const __m256i r0 = a->x[0] != NULL ? lm_load_256(a->x[0] + place) : zero;
                    const __m256i r1 = lm_load_256(a->x[1] + place);
                    const __m256i r2 = a->x[2] != NULL ? lm_load_256(a->x[2] + place) : zero;
                    const __m256i upper_low = _mm256_unpacklo_epi8(r0, r1), upper_high = _mm256_unpackhi_epi8(r0, r1);
                    const __m256i lower_low = _mm256_unpacklo_epi8(r2, zero), lower_high = _mm256_unpackhi_epi8(r2, zero);
                    const __m256i d0 = _mm256_unpacklo_epi16(upper_low, lower_low), d1 = _mm256_unpackhi_epi16(upper_low, lower_low);
                    const __m256i d2 = _mm256_unpacklo_epi16(upper_high, lower_high);
                    const __m256i d3 = _mm256_unpackhi_epi16(upper_high, lower_high);
                    LM_FOUR(LM_DW_DOT)
                }
            }
            {
                const __m256i a01 = _mm256_packs_epi32(LM_DW_SCALED(0), LM_DW_SCALED(1));
                const __m256i a23 = _mm256_packs_epi32(LM_DW_SCALED(2), LM_DW_SCALED(3));
                const __m256i codes = _mm256_max_epi8(_mm256_packs_epi16(a01, a23), low);
                _mm256_storeu_si256((__m256i *)(void *)(a->y + (size_t)i * a->y_step + lane), codes);
            }
        }
    }
}
