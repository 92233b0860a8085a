/* Four floats at a time, as every x86-64 has. */
#include "kernel.h"
#include <emmintrin.h>

#define LM_TARGET LM_TARGET_SSE2
#define LM_SIMD 4
#define LM_BLOCK 8
#define LM_PARTS(X, i) X(i, 0) X(i, 1)
typedef __m128 lm_vec;
#define lm_vec_load(p) _mm_loadu_ps(p)
#define lm_vec_store(p, v) _mm_storeu_ps(p, v)
#define lm_vec_set(x) _mm_set1_ps(x)
#define lm_vec_pair(p) _mm_castpd_ps(_mm_load1_pd((const double *)(const void *)(p))) /* p[0], p[1] over and over */
#define lm_vec_quad(p) _mm_loadu_ps(p)
#define lm_vec_add(a, b) _mm_add_ps(a, b)
#define lm_vec_fma(a, b, sum) _mm_add_ps(sum, _mm_mul_ps(a, b))
#define lm_vec_max(low, v) _mm_max_ps(low, v)
