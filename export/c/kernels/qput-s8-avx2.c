/* Sums to codes, eight lanes at a time, for the AVX2 kernels. */
#include "kernel-s8.h"
#include <immintrin.h>

#if defined(__GNUC__)
#define LM_ALONE_256(value) __asm__("" : "+x"(value))
#define LM_INLINE_256 static inline __attribute__((always_inline))
#else
#define LM_ALONE_256(value) { volatile __m256 lm_kept = (value); (value) = lm_kept; }
#define LM_INLINE_256 static inline
#endif
#define LM_FLIP_128(bytes) (LM_ZERO ? _mm_xor_si128(bytes, _mm_set1_epi8(-128)) : (bytes))
#define LM_FLIP_256(bytes) (LM_ZERO ? _mm256_xor_si256(bytes, _mm256_set1_epi8(-128)) : (bytes))

LM_INLINE_256 LM_TARGET_AVX2 __m256i lm_load_256(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

LM_INLINE_256 LM_TARGET_AVX2 int32_t lm_load_4(const uint8_t *p)
{
    int32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

LM_INLINE_256 LM_TARGET_AVX2 __m256 lm_scaled_256(const lm_qgemm_args *a, __m256i sum, size_t lane, size_t pixel)
{
    __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(a->scale + lane));
    if (a->add != NULL) {
        const __m128i bytes = LM_FLIP_128(_mm_loadl_epi64((const __m128i *)(const void *)(a->add + pixel * a->add_step + lane)));
        __m256 other = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_set1_ps(a->add_scale));
        LM_ALONE_256(value);
        LM_ALONE_256(other);
        value = _mm256_add_ps(value, other);
    }
    return value;
}

LM_INLINE_256 LM_TARGET_AVX2 void lm_put_8(const lm_qgemm_args *a, __m256i sum, size_t lane, size_t pixel)
{
    const __m256 value = lm_scaled_256(a, sum, lane, pixel);
    if (a->y_float != NULL) {
        const __m256 low = _mm256_set1_ps(a->low == 0 ? 0.0f : -INFINITY);
        _mm256_storeu_ps(a->y_float + pixel * a->y_step + lane, _mm256_max_ps(low, value));
    } else {
        const __m256i whole = _mm256_cvtps_epi32(value);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        const __m128i codes = _mm_max_epi8(_mm_packs_epi16(words, words), _mm_set1_epi8((char)a->low));
        _mm_storel_epi64((__m128i *)(void *)(a->y + pixel * a->y_step + lane), LM_FLIP_128(codes));
    }
}

LM_INLINE_256 LM_TARGET_AVX2 void lm_put_16(const lm_qgemm_args *a, __m256i s0, __m256i s1, size_t lane, size_t pixel)
{
    if (a->y_float != NULL) {
        lm_put_8(a, s0, lane, pixel);
        lm_put_8(a, s1, lane + 8, pixel);
    } else {
        const __m256 f0 = lm_scaled_256(a, s0, lane, pixel), f1 = lm_scaled_256(a, s1, lane + 8, pixel);
        const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(f0), _mm256_cvtps_epi32(f1));
        const __m256i order = _mm256_permute4x64_epi64(words, 0xd8);
        const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(order), _mm256_extracti128_si256(order, 1));
        const __m128i raised = _mm_max_epi8(codes, _mm_set1_epi8((char)a->low));
        _mm_storeu_si128((__m128i *)(void *)(a->y + pixel * a->y_step + lane), LM_FLIP_128(raised));
    }
}
