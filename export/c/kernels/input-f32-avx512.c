/* 8-bit pixels -> normalised floats for AVX-512: compilers convert bytes one by one, or in halves. */
#include "kernel.h"
#include <immintrin.h>

#define LM_INPUT_16(i)                                                                                                 \
    {                                                                                                                  \
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(x + i));                                 \
        const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));                                          \
        _mm512_storeu_ps(y + i, _mm512_fmsub_ps(value, _mm512_loadu_ps(scale + i), _mm512_loadu_ps(shift + i)));       \
    }

static LM_TARGET_AVX512 void lm_input_row_avx512(const uint8_t *x, int width, const float *scale, const float *shift, float *y)
{
    memset(y, 0, 3 * sizeof *y);
    y += 3;
    for (int p = 0; p < width; p += 16) {
        LM_INPUT_16(0)
        LM_INPUT_16(16)
        LM_INPUT_16(32)
        x += 48;
        y += 48;
    }
    memset(y, 0, 3 * sizeof *y);
}
