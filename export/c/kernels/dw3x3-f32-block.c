/* Depthwise 3x3 for machines with 8 or 4 floats per vector: nine weights in registers, each input column feeds three outputs. */
#include "kernel.h"

#define LM_IF_0(X)
#define LM_IF_1(X) X
#define LM_DW_LOAD(d, at) const lm_vec v = lm_vec_load(x##d + (size_t)(at) * step);
#define LM_DW_TAPS(d, at, left, middle, right) \
    { LM_DW_LOAD(d, at) left = lm_vec_fma(v, w##d##2, left); middle = lm_vec_fma(v, w##d##1, middle); right = lm_vec_fma(v, w##d##0, right); }
#define LM_DW_EVEN(d, at, sum) { LM_DW_LOAD(d, at) sum = lm_vec_fma(v, w##d##1, sum); }
#define LM_DW_ODD(d, at, sum, next) { LM_DW_LOAD(d, at) sum = lm_vec_fma(v, w##d##2, sum); next = lm_vec_fma(v, w##d##0, next); }
#define LM_DW_PUT(to, sum)                                                                                      \
    if (written == LM_SIMD) {                                                                                   \
        lm_vec_store(to, lm_vec_max(low, sum));                                                                 \
    } else {                                                                                                    \
        float part[LM_SIMD];                                                                                    \
        lm_vec_store(part, lm_vec_max(low, sum));                                                               \
        memcpy(to, part, (size_t)written * sizeof *part);                                                       \
    }
#define LM_DW_WEIGHTS(d)                                                                                        \
    const float *x##d = a->x[d] + lane;                                                                         \
    const lm_vec w##d##0 = lm_vec_load(w + (d * 3 + 0) * 16), w##d##1 = lm_vec_load(w + (d * 3 + 1) * 16),      \
                 w##d##2 = lm_vec_load(w + (d * 3 + 2) * 16);

#define LM_DW_KERNEL(T, B)                                                                                      \
    static LM_TARGET void lm_dw_row_##T##B(const lm_dw_args *a, size_t lane, ptrdiff_t written)                 \
    {                                                                                                           \
        const float *w = a->w + lane / 16 * 144 + lane % 16;                                                    \
        const size_t step = a->x_step, y_step = a->y_step;                                                      \
        const lm_vec bias = lm_vec_load(a->bias + lane), low = lm_vec_set(a->relu ? 0.0f : -INFINITY);          \
        float *y = a->y[0] + lane;                                                                              \
        LM_IF_##T(LM_DW_WEIGHTS(0)) LM_DW_WEIGHTS(1) LM_IF_##B(LM_DW_WEIGHTS(2))                                \
        if (a->stride == 1) {                                                                                   \
            lm_vec left = bias, middle = bias, right = bias;                                                    \
            for (int i = 0; i < a->in_width; i++) {                                                             \
                left = middle;                                                                                  \
                middle = right;                                                                                 \
                right = bias;                                                                                   \
                LM_IF_##T(LM_DW_TAPS(0, i, left, middle, right))                                                \
                LM_DW_TAPS(1, i, left, middle, right)                                                           \
                LM_IF_##B(LM_DW_TAPS(2, i, left, middle, right))                                                \
                if (i > 0) {                                                                                    \
                    LM_DW_PUT(y + (size_t)(i - 1) * y_step, left)                          \
                }                                                                                               \
            }                                                                                                   \
            LM_DW_PUT(y + (size_t)(a->in_width - 1) * y_step, middle)                      \
        } else {                                                                                                \
            lm_vec next = bias;                                                                                 \
            for (int i = 0; i < a->out_width; i++) {                                                            \
                lm_vec sum = next;                                                                              \
                LM_IF_##T(LM_DW_EVEN(0, 2 * i, sum))                                                            \
                LM_DW_EVEN(1, 2 * i, sum)                                                                       \
                LM_IF_##B(LM_DW_EVEN(2, 2 * i, sum))                                                            \
                next = bias;                                                                                    \
                if (2 * i + 1 < a->in_width) {                                                                  \
                    LM_IF_##T(LM_DW_ODD(0, 2 * i + 1, sum, next))                                               \
                    LM_DW_ODD(1, 2 * i + 1, sum, next)                                                          \
                    LM_IF_##B(LM_DW_ODD(2, 2 * i + 1, sum, next))                                               \
                }                                                                                               \
                LM_DW_PUT(y + (size_t)i * y_step, sum)                                     \
            }                                                                                                   \
        }                                                                                                       \
    }

LM_DW_KERNEL(0, 0)
LM_DW_KERNEL(0, 1)
LM_DW_KERNEL(1, 0)
LM_DW_KERNEL(1, 1)

typedef void (*lm_dw_fn)(const lm_dw_args *a, size_t lane, ptrdiff_t written);

static LM_TARGET void lm_dw_block(const lm_dw_args *a)
{
    static const lm_dw_fn kernels[4] = {lm_dw_row_00, lm_dw_row_01, lm_dw_row_10, lm_dw_row_11};
    lm_dw_args part = *a;
    for (int row = 0; row < a->rows; row++) {
        const int first = row * a->stride;
        for (int k = 0; k < 3; k++) {
            part.x[k] = a->x[first + k];
        }
        for (int lane = 0; lane < a->vectors * 16; lane += LM_SIMD) {
            const ptrdiff_t shift = lane >= (a->vectors - 1) * 16 ? a->shift : 0;
            const int left = shift == 0 ? LM_SIMD : (int)(shift & 15) - lane % 16;
            if (left <= 0) {
                break;
            }
            part.y[0] = a->y[row] + shift;
            kernels[(part.x[0] != NULL ? 2 : 0) + (part.x[2] != NULL ? 1 : 0)](&part, (size_t)lane, left < LM_SIMD ? left : LM_SIMD);
        }
    }
}
