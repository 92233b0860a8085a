/* Sum of two rows of codes for AVX-512. */
#include "kernel-s8.h"
#include <immintrin.h>

static LM_TARGET_AVX512 LM_UNUSED void lm_qadd_row_avx512vnni(const uint8_t *a, size_t a_step, float a_scale, const uint8_t *b, size_t b_step,
                                                              float b_scale, uint8_t *y, size_t y_step, int pixels, int lanes, int low)
{
    const __m512 left_scale = _mm512_set1_ps(a_scale), right_scale = _mm512_set1_ps(b_scale);
    const __m128i flip = _mm_set1_epi8(-128), least = _mm_set1_epi8((char)low);
    for (int p = 0; p < pixels; p++) {
        for (int i = 0; i < lanes; i += 16) {
            const __m128i one = _mm_loadu_si128((const __m128i *)(const void *)(a + (size_t)p * a_step + i));
            const __m128i other = _mm_loadu_si128((const __m128i *)(const void *)(b + (size_t)p * b_step + i));
            __m512 left = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_xor_si128(one, flip))), left_scale);
            __m512 right = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_xor_si128(other, flip))), right_scale);
            __m128i codes;
            LM_ALONE_512(left);
            LM_ALONE_512(right);
            codes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_add_ps(left, right)));
            codes = _mm_xor_si128(_mm_max_epi8(codes, least), flip);
            _mm_storeu_si128((__m128i *)(void *)(y + (size_t)p * y_step + i), codes);
        }
    }
}
