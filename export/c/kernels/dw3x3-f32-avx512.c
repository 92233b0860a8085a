/* Depthwise 3x3 row for AVX-512: nine weights stay in registers, each input column is loaded once and feeds three outputs. */
#include "kernel.h"
#include <immintrin.h>

#define LM_DW_ROW_0(X)
#define LM_DW_ROW_1(X) X
#define LM_DW_LOAD(d, at) const __m512 v##d = _mm512_loadu_ps(x##d + (size_t)(at) * step);
#define LM_DW_MUL(d, tap, sum) sum = _mm512_fmadd_ps(v##d, w##d##tap, sum);
#define LM_DW_WEIGHTS(d)                                           \
    const __m512 w##d##0 = _mm512_loadu_ps(w + (d * 3 + 0) * 16); \
    const __m512 w##d##1 = _mm512_loadu_ps(w + (d * 3 + 1) * 16); \
    const __m512 w##d##2 = _mm512_loadu_ps(w + (d * 3 + 2) * 16); \
    const float *x##d = a->x[d] + lane;
#define LM_DW_PUT(at, sum) _mm512_storeu_ps(y + (size_t)(at) * y_step, relu ? _mm512_max_ps(sum, zero) : sum);

/* T and B tell whether the top and the bottom row exist. */
#define LM_DW_KERNEL(T, B)                                                                                                      \
    static LM_TARGET_AVX512 void lm_dw_s1_##T##B(const lm_dw_args *a, size_t lane)                                              \
    {                                                                                                                           \
        const float *w = a->w + lane * 9;                                                                                       \
        const size_t step = a->x_step, y_step = a->y_step;                                                                      \
        const __m512 zero = _mm512_setzero_ps(), bias = _mm512_loadu_ps(a->bias + lane);                                        \
        const int relu = a->relu, width = a->in_width;                                                                          \
        float *y = a->y + lane;                                                                                                 \
        __m512 left, middle = bias, right = bias;                                                                               \
        LM_DW_ROW_##T(LM_DW_WEIGHTS(0)) LM_DW_WEIGHTS(1) LM_DW_ROW_##B(LM_DW_WEIGHTS(2))                                        \
        {                                                                                                                       \
            LM_DW_ROW_##T(LM_DW_LOAD(0, 0)) LM_DW_LOAD(1, 0) LM_DW_ROW_##B(LM_DW_LOAD(2, 0))                                    \
            LM_DW_ROW_##T(LM_DW_MUL(0, 1, middle)) LM_DW_MUL(1, 1, middle) LM_DW_ROW_##B(LM_DW_MUL(2, 1, middle))               \
            LM_DW_ROW_##T(LM_DW_MUL(0, 0, right)) LM_DW_MUL(1, 0, right) LM_DW_ROW_##B(LM_DW_MUL(2, 0, right))                  \
        }                                                                                                                       \
        for (int i = 1; i < width; i++) {                                                                                       \
            left = middle;                                                                                                      \
            middle = right;                                                                                                     \
            right = bias;                                                                                                       \
            LM_DW_ROW_##T(LM_DW_LOAD(0, i)) LM_DW_LOAD(1, i) LM_DW_ROW_##B(LM_DW_LOAD(2, i))                                    \
            LM_DW_ROW_##T(LM_DW_MUL(0, 2, left)) LM_DW_MUL(1, 2, left) LM_DW_ROW_##B(LM_DW_MUL(2, 2, left))                     \
            LM_DW_ROW_##T(LM_DW_MUL(0, 1, middle)) LM_DW_MUL(1, 1, middle) LM_DW_ROW_##B(LM_DW_MUL(2, 1, middle))               \
            LM_DW_ROW_##T(LM_DW_MUL(0, 0, right)) LM_DW_MUL(1, 0, right) LM_DW_ROW_##B(LM_DW_MUL(2, 0, right))                  \
            LM_DW_PUT(i - 1, left)                                                                                              \
        }                                                                                                                       \
        LM_DW_PUT(width - 1, middle)                                                                                            \
    }                                                                                                                           \
    static LM_TARGET_AVX512 void lm_dw_s2_##T##B(const lm_dw_args *a, size_t lane)                                              \
    {                                                                                                                           \
        const float *w = a->w + lane * 9;                                                                                       \
        const size_t step = a->x_step, y_step = a->y_step;                                                                      \
        const __m512 zero = _mm512_setzero_ps(), bias = _mm512_loadu_ps(a->bias + lane);                                        \
        const int relu = a->relu, width = a->in_width, count = a->out_width;                                                    \
        float *y = a->y + lane;                                                                                                 \
        __m512 next = bias;                                                                                                     \
        LM_DW_ROW_##T(LM_DW_WEIGHTS(0)) LM_DW_WEIGHTS(1) LM_DW_ROW_##B(LM_DW_WEIGHTS(2))                                        \
        for (int i = 0; i < count; i++) {                                                                                       \
            __m512 sum = next;                                                                                                  \
            {                                                                                                                   \
                LM_DW_ROW_##T(LM_DW_LOAD(0, 2 * i)) LM_DW_LOAD(1, 2 * i) LM_DW_ROW_##B(LM_DW_LOAD(2, 2 * i))                    \
                LM_DW_ROW_##T(LM_DW_MUL(0, 1, sum)) LM_DW_MUL(1, 1, sum) LM_DW_ROW_##B(LM_DW_MUL(2, 1, sum))                    \
            }                                                                                                                   \
            next = bias;                                                                                                        \
            if (2 * i + 1 < width) {                                                                                            \
                LM_DW_ROW_##T(LM_DW_LOAD(0, 2 * i + 1)) LM_DW_LOAD(1, 2 * i + 1) LM_DW_ROW_##B(LM_DW_LOAD(2, 2 * i + 1))        \
                LM_DW_ROW_##T(LM_DW_MUL(0, 2, sum)) LM_DW_MUL(1, 2, sum) LM_DW_ROW_##B(LM_DW_MUL(2, 2, sum))                    \
                LM_DW_ROW_##T(LM_DW_MUL(0, 0, next)) LM_DW_MUL(1, 0, next) LM_DW_ROW_##B(LM_DW_MUL(2, 0, next))                 \
            }                                                                                                                   \
            LM_DW_PUT(i, sum)                                                                                                   \
        }                                                                                                                       \
    }

LM_DW_KERNEL(0, 0)
LM_DW_KERNEL(0, 1)
LM_DW_KERNEL(1, 0)
LM_DW_KERNEL(1, 1)

typedef void (*lm_dw_fn)(const lm_dw_args *a, size_t lane);

static LM_TARGET_AVX512 void lm_dw_avx512(const lm_dw_args *a)
{
    static const lm_dw_fn kernels[2][4] = {
        {lm_dw_s1_00, lm_dw_s1_01, lm_dw_s1_10, lm_dw_s1_11},
        {lm_dw_s2_00, lm_dw_s2_01, lm_dw_s2_10, lm_dw_s2_11},
    };
    const lm_dw_fn kernel = kernels[a->stride - 1][(a->x[0] != NULL ? 2 : 0) + (a->x[2] != NULL ? 1 : 0)];
    for (int v = 0; v < a->vectors; v++) {
        kernel(a, (size_t)v * 16);
    }
}
