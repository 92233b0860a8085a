/* Running sums of codes for AVX2: 16-bit sums inside a row (at most 256 pixels at a time), 32-bit sums across rows. */
#include "kernel-s8.h"
#include <immintrin.h>

static LM_TARGET_AVX2 LM_UNUSED void lm_qpool_row_avx2(const uint8_t *x, size_t x_step, int pixels, int channels, float *y,
                                                       int first, int last, float scale)
{
    const __m256i zero = _mm256_setzero_si256(), flip = _mm256_set1_epi8((char)(LM_ZERO ? 0 : -128));
    for (int c = 0; c < channels; c += 32) {
        __m256i q0 = zero, q1 = zero, q2 = zero, q3 = zero, sums[4];
        for (int start = 0; start < pixels; start += 256) {
            const int end = pixels - start > 256 ? start + 256 : pixels;
            __m256i even = zero, odd = zero;
            for (int p = start; p < end; p++) { /* codes + 128: no sign */
                const __m256i bytes = _mm256_xor_si256(lm_load_256(x + (size_t)p * x_step + c), flip);
                even = _mm256_add_epi16(even, _mm256_unpacklo_epi8(bytes, zero));
                odd = _mm256_add_epi16(odd, _mm256_unpackhi_epi8(bytes, zero));
            }
            q0 = _mm256_add_epi32(q0, _mm256_unpacklo_epi16(even, zero));
            q1 = _mm256_add_epi32(q1, _mm256_unpackhi_epi16(even, zero));
            q2 = _mm256_add_epi32(q2, _mm256_unpacklo_epi16(odd, zero));
            q3 = _mm256_add_epi32(q3, _mm256_unpackhi_epi16(odd, zero));
        }
        sums[0] = _mm256_permute2x128_si256(q0, q1, 0x20); /* back to channel order */
        sums[1] = _mm256_permute2x128_si256(q2, q3, 0x20);
        sums[2] = _mm256_permute2x128_si256(q0, q1, 0x31);
        sums[3] = _mm256_permute2x128_si256(q2, q3, 0x31);
        for (int v = 0; v < 4 && c + 8 * v < channels; v++) {
            float *place = y + c + 8 * v;
            __m256i sum = _mm256_sub_epi32(sums[v], _mm256_set1_epi32(128 * pixels));
            if (!first) {
                sum = _mm256_add_epi32(sum, lm_load_256(place));
            }
            if (last) {
                _mm256_storeu_ps(place, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scale)));
            } else {
                _mm256_storeu_si256((__m256i *)(void *)place, sum);
            }
        }
    }
}
