/* Bytes to codes for AVX2. */
#include "kernel-s8.h"
#include <immintrin.h>

static LM_TARGET_AVX2 LM_UNUSED void lm_qinput_row_avx2(const uint8_t *x, int width, const int32_t *factor, const int32_t *shift, uint8_t *y)
{
    memset(y, LM_ZERO, 3);
    for (int p = 0; p < width; p += 16) {
        for (int i = 0; i < 48; i += 8) {
            const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(x + i)));
            const __m256i sum = _mm256_add_epi32(_mm256_mullo_epi32(bytes, lm_load_256(factor + i)), lm_load_256(shift + i));
            const __m256i code = _mm256_sub_epi32(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(16384));
            const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
            _mm_storel_epi64((__m128i *)(void *)(y + 3 + i), LM_FLIP_128(_mm_packs_epi16(words, words)));
        }
        x += 48;
        y += 48;
    }
    memset(y + 3, LM_ZERO, 3 + 16);
}
