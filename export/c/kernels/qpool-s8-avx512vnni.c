/* Running sums of codes for AVX-512: 16-bit sums inside a row (at most 256 pixels at a time), 32-bit sums across rows. */
#include "kernel-s8.h"
#include <immintrin.h>

static LM_TARGET_AVX512 LM_UNUSED void lm_qpool_row_avx512vnni(const uint8_t *x, size_t x_step, int pixels, int channels, float *y,
                                                                   int first, int last, float scale)
{
    const __m512i zero = _mm512_setzero_si512();
    for (int c = 0; c < channels; c += 64) {
        __m512i q0 = zero, q1 = zero, q2 = zero, q3 = zero, t0, t1, t2, t3, sums[4];
        for (int start = 0; start < pixels; start += 256) {
            const int end = pixels - start > 256 ? start + 256 : pixels;
            __m512i even = zero, odd = zero;
            for (int p = start; p < end; p++) {
                const __m512i bytes = _mm512_loadu_si512((const void *)(x + (size_t)p * x_step + c));
                even = _mm512_add_epi16(even, _mm512_unpacklo_epi8(bytes, zero));
                odd = _mm512_add_epi16(odd, _mm512_unpackhi_epi8(bytes, zero));
            }
            q0 = _mm512_add_epi32(q0, _mm512_unpacklo_epi16(even, zero));
            q1 = _mm512_add_epi32(q1, _mm512_unpackhi_epi16(even, zero));
            q2 = _mm512_add_epi32(q2, _mm512_unpacklo_epi16(odd, zero));
            q3 = _mm512_add_epi32(q3, _mm512_unpackhi_epi16(odd, zero));
        }
        t0 = _mm512_shuffle_i32x4(q0, q1, 0x44); /* back to channel order: lanes of four channels change places */
        t1 = _mm512_shuffle_i32x4(q0, q1, 0xee);
        t2 = _mm512_shuffle_i32x4(q2, q3, 0x44);
        t3 = _mm512_shuffle_i32x4(q2, q3, 0xee);
        sums[0] = _mm512_shuffle_i32x4(t0, t2, 0x88);
        sums[1] = _mm512_shuffle_i32x4(t0, t2, 0xdd);
        sums[2] = _mm512_shuffle_i32x4(t1, t3, 0x88);
        sums[3] = _mm512_shuffle_i32x4(t1, t3, 0xdd);
        for (int v = 0; v < 4 && c + 16 * v < channels; v++) {
            void *place = y + c + 16 * v;
            __m512i sum = _mm512_sub_epi32(sums[v], _mm512_set1_epi32(LM_ZERO * pixels));
            if (!first) {
                sum = _mm512_add_epi32(sum, _mm512_loadu_si512(place));
            }
            if (last) {
                _mm512_storeu_ps(place, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale)));
            } else {
                _mm512_storeu_si512(place, sum);
            }
        }
    }
}
