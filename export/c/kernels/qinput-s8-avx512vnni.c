/* Bytes to codes for AVX-512. */
#include "kernel-s8.h"
#include <immintrin.h>

static LM_TARGET_AVX512 LM_UNUSED void lm_qinput_row_avx512vnni(const uint8_t *x, int width, const int32_t *factor,
                                                                    const int32_t *shift, uint8_t *y)
{
    memset(y, LM_ZERO, 3);
    for (int p = 0; p < width; p += 16) {
        for (int i = 0; i < 48; i += 16) {
            const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(x + i)));
            const __m512i product = _mm512_mullo_epi32(bytes, _mm512_loadu_si512((const void *)(factor + i)));
            const __m512i sum = _mm512_add_epi32(product, _mm512_loadu_si512((const void *)(shift + i)));
            const __m512i code = _mm512_sub_epi32(_mm512_srli_epi32(sum, 16), _mm512_set1_epi32(16384));
            const __m128i narrow = _mm512_cvtsepi32_epi8(code);
            _mm_storeu_si128((__m128i *)(void *)(y + 3 + i), _mm_xor_si128(narrow, _mm_set1_epi8(-128)));
        }
        x += 48;
        y += 48;
    }
    memset(y + 3, LM_ZERO, 3 + 16);
}
