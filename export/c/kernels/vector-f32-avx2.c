/* Eight floats at a time. */
#include "kernel.h"
#include <immintrin.h>

#define LM_TARGET LM_TARGET_AVX2
#define LM_SIMD 8
#define LM_BLOCK 16
#define LM_PARTS(X, i) X(i, 0) X(i, 1)
typedef __m256 lm_vec;
#define lm_vec_load(p) _mm256_loadu_ps(p)
#define lm_vec_store(p, v) _mm256_storeu_ps(p, v)
#define lm_vec_set(x) _mm256_set1_ps(x)
#define lm_vec_pair(p) _mm256_castpd_ps(_mm256_broadcast_sd((const double *)(const void *)(p))) /* p[0], p[1] over and over */
#define lm_vec_quad(p) _mm256_broadcast_ps((const __m128 *)(const void *)(p))
#define lm_vec_add(a, b) _mm256_add_ps(a, b)
#define lm_vec_fma(a, b, sum) _mm256_fmadd_ps(a, b, sum)
#define lm_vec_max(low, v) _mm256_max_ps(low, v)
