/* Sixteen floats at a time, for kernels that are written once for all vectors. */
#include "kernel.h"
#include <immintrin.h>

#define LM_TARGET LM_TARGET_AVX512
#define LM_SIMD 16
typedef __m512 lm_vec;
#define lm_vec_load(p) _mm512_loadu_ps(p)
#define lm_vec_store(p, v) _mm512_storeu_ps(p, v)
#define lm_vec_set(x) _mm512_set1_ps(x)
#define lm_vec_fma(a, b, sum) _mm512_fmadd_ps(a, b, sum)
#define lm_vec_max(low, v) _mm512_max_ps(low, v)
