/* Four floats at a time. */
#include "kernel.h"
#include <arm_neon.h>

#define LM_TARGET
#define LM_SIMD 4
#define LM_BLOCK 16
#define LM_PARTS(X, i) X(i, 0) X(i, 1) X(i, 2) X(i, 3)
typedef float32x4_t lm_vec;
#define lm_vec_load(p) vld1q_f32(p)
#define lm_vec_store(p, v) vst1q_f32(p, v)
#define lm_vec_set(x) vdupq_n_f32(x)
#define lm_vec_pair(p) vcombine_f32(vld1_f32(p), vld1_f32(p)) /* p[0], p[1] over and over */
#define lm_vec_quad(p) vld1q_f32(p)
#define lm_vec_add(a, b) vaddq_f32(a, b)
#define lm_vec_fma(a, b, sum) vfmaq_f32(sum, a, b)
#define lm_vec_max(low, v) vmaxq_f32(low, v)
