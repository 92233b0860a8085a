/* Sum of two rows of codes for AVX2. */
#include "kernel-s8.h"
#include <immintrin.h>

static LM_TARGET_AVX2 LM_UNUSED __m256 lm_code_floats(const uint8_t *place, float scale)
{
    const __m128i bytes = LM_FLIP_128(_mm_loadl_epi64((const __m128i *)(const void *)place));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_set1_ps(scale));
}

static LM_TARGET_AVX2 LM_UNUSED void lm_qadd_row_avx2(const uint8_t *a, size_t a_step, float a_scale, const uint8_t *b, size_t b_step,
                                                      float b_scale, uint8_t *y, size_t y_step, int pixels, int lanes, int low)
{
    const __m128i least = _mm_set1_epi8((char)low);
    for (int p = 0; p < pixels; p++) {
        for (int i = 0; i < lanes; i += 8) {
            __m256 left = lm_code_floats(a + (size_t)p * a_step + i, a_scale);
            __m256 right = lm_code_floats(b + (size_t)p * b_step + i, b_scale);
            __m256i whole;
            __m128i words;
            LM_ALONE_256(left);
            LM_ALONE_256(right);
            whole = _mm256_cvtps_epi32(_mm256_add_ps(left, right));
            words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
            words = _mm_max_epi8(_mm_packs_epi16(words, words), least);
            _mm_storel_epi64((__m128i *)(void *)(y + (size_t)p * y_step + i), LM_FLIP_128(words));
        }
    }
}
