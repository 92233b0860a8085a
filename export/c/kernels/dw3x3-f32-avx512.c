/* Depthwise 3x3 for AVX-512: nine weights stay in registers, each input column is loaded once and feeds three outputs
   of one row, or six of two rows. */
#include "kernel.h"
#include <immintrin.h>

#define LM_IF_0(X)
#define LM_IF_1(X) X
#define LM_DW_LOAD(d, at) __m512 v##d = _mm512_loadu_ps(x##d + (size_t)(at) * step);
#define LM_DW_MUL(d, tap, sum) sum = _mm512_fmadd_ps(v##d, w##tap, sum);
#define LM_DW_PUT(out, at, sum)                                                                                        \
    _mm512_mask_storeu_ps(out + (size_t)(at) * y_step, lanes, relu ? _mm512_max_ps(sum, zero) : sum);
#if defined(__GNUC__)
#define LM_KEEP(v) __asm__("" : "+v"(v)); /* used twice: compilers would read it from memory twice */
#else
#define LM_KEEP(v)
#endif
#define LM_DW_START                                                                                                    \
    const float *w = a->w + lane * 9;                                                                                  \
    const size_t step = a->x_step, y_step = a->y_step;                                                                 \
    const __m512 zero = _mm512_setzero_ps(), bias = _mm512_loadu_ps(a->bias + lane);                                   \
    const __m512 w00 = _mm512_loadu_ps(w), w01 = _mm512_loadu_ps(w + 16), w02 = _mm512_loadu_ps(w + 32);               \
    const __m512 w10 = _mm512_loadu_ps(w + 48), w11 = _mm512_loadu_ps(w + 64), w12 = _mm512_loadu_ps(w + 80);          \
    const __m512 w20 = _mm512_loadu_ps(w + 96), w21 = _mm512_loadu_ps(w + 112), w22 = _mm512_loadu_ps(w + 128);        \
    const int relu = a->relu, width = a->in_width, count = a->out_width;                                               \
    const __mmask16 lanes = (__mmask16)((1u << written) - 1);                                                          \
    float *y = a->y[0] + lane;                                                                                         \
    (void)lanes;                                                                                                       \
    (void)width;                                                                                                       \
    (void)count;

/* Input row `d` is row `r` of the 3x3 window: its taps for the left, middle and right output. */
#define LM_DW_FEED(d, r, left, middle, right) LM_DW_MUL(d, r##2, left) LM_DW_MUL(d, r##1, middle) LM_DW_MUL(d, r##0, right)
#define LM_DW_FIRST(d, r, middle, right) LM_DW_MUL(d, r##1, middle) LM_DW_MUL(d, r##0, right)

/* T and B tell whether the top and the bottom row exist. */
#define LM_DW_ONE(T, B)                                                                                                \
    static LM_TARGET_AVX512 void lm_dw_s1_##T##B(const lm_dw_args *a, size_t lane, ptrdiff_t written)                  \
    {                                                                                                                  \
        LM_DW_START                                                                                                    \
        __m512 left, middle = bias, right = bias;                                                                      \
        LM_IF_##T(const float *x0 = a->x[0] + lane;)                                                                   \
        const float *x1 = a->x[1] + lane;                                                                              \
        LM_IF_##B(const float *x2 = a->x[2] + lane;)                                                                   \
        {                                                                                                              \
            LM_IF_##T(LM_DW_LOAD(0, 0) LM_DW_FIRST(0, 0, middle, right))                                               \
            LM_DW_LOAD(1, 0) LM_DW_FIRST(1, 1, middle, right)                                                          \
            LM_IF_##B(LM_DW_LOAD(2, 0) LM_DW_FIRST(2, 2, middle, right))                                               \
        }                                                                                                              \
        for (int i = 1; i < width; i++) {                                                                              \
            left = middle;                                                                                             \
            middle = right;                                                                                            \
            right = bias;                                                                                              \
            LM_IF_##T(LM_DW_LOAD(0, i) LM_DW_FEED(0, 0, left, middle, right))                                          \
            LM_DW_LOAD(1, i) LM_DW_FEED(1, 1, left, middle, right)                                                     \
            LM_IF_##B(LM_DW_LOAD(2, i) LM_DW_FEED(2, 2, left, middle, right))                                          \
            LM_DW_PUT(y, i - 1, left)                                                                                  \
        }                                                                                                              \
        LM_DW_PUT(y, width - 1, middle)                                                                                \
        (void)w00, (void)w01, (void)w02, (void)w20, (void)w21, (void)w22;                                              \
    }                                                                                                                  \
    static LM_TARGET_AVX512 void lm_dw_s2_##T##B(const lm_dw_args *a, size_t lane, ptrdiff_t written)                  \
    {                                                                                                                  \
        LM_DW_START                                                                                                    \
        __m512 next = bias;                                                                                            \
        LM_IF_##T(const float *x0 = a->x[0] + lane;)                                                                   \
        const float *x1 = a->x[1] + lane;                                                                              \
        LM_IF_##B(const float *x2 = a->x[2] + lane;)                                                                   \
        int i = 0;                                                                                                     \
        for (; 2 * i + 1 < width; i++) {                                                                               \
            __m512 sum = next;                                                                                         \
            next = bias;                                                                                               \
            LM_IF_##T({ LM_DW_LOAD(0, 0) LM_DW_MUL(0, 01, sum) })                                                      \
            { LM_DW_LOAD(1, 0) LM_DW_MUL(1, 11, sum) }                                                                 \
            LM_IF_##B({ LM_DW_LOAD(2, 0) LM_DW_MUL(2, 21, sum) })                                                      \
            LM_IF_##T({ LM_DW_LOAD(0, 1) LM_KEEP(v0) LM_DW_MUL(0, 02, sum) LM_DW_MUL(0, 00, next) x0 += 2 * step; })   \
            { LM_DW_LOAD(1, 1) LM_KEEP(v1) LM_DW_MUL(1, 12, sum) LM_DW_MUL(1, 10, next) x1 += 2 * step; }              \
            LM_IF_##B({ LM_DW_LOAD(2, 1) LM_KEEP(v2) LM_DW_MUL(2, 22, sum) LM_DW_MUL(2, 20, next) x2 += 2 * step; })   \
            LM_DW_PUT(y, 0, sum)                                                                                       \
            y += y_step;                                                                                               \
        }                                                                                                              \
        if (i < count) {                                                                                               \
            LM_IF_##T({ LM_DW_LOAD(0, 0) LM_DW_MUL(0, 01, next) })                                                     \
            { LM_DW_LOAD(1, 0) LM_DW_MUL(1, 11, next) }                                                                \
            LM_IF_##B({ LM_DW_LOAD(2, 0) LM_DW_MUL(2, 21, next) })                                                     \
            LM_DW_PUT(y, 0, next)                                                                                      \
        }                                                                                                              \
        (void)w00, (void)w01, (void)w02, (void)w20, (void)w21, (void)w22;                                              \
    }

/* Two rows at an edge of the map, or a part of a vector. */
#define LM_DW_TWO(T, B)                                                                                                \
    static LM_TARGET_AVX512 void lm_dw_s1_two_##T##B(const lm_dw_args *a, size_t lane, ptrdiff_t written)              \
    {                                                                                                                  \
        LM_DW_START                                                                                                    \
        float *z = a->y[1] + lane;                                                                                     \
        __m512 left, middle = bias, right = bias, below_left, below = bias, below_right = bias;                        \
        LM_IF_##T(const float *x0 = a->x[0] + lane;)                                                                   \
        const float *x1 = a->x[1] + lane, *x2 = a->x[2] + lane;                                                        \
        LM_IF_##B(const float *x3 = a->x[3] + lane;)                                                                   \
        {                                                                                                              \
            LM_IF_##T(LM_DW_LOAD(0, 0) LM_DW_FIRST(0, 0, middle, right))                                               \
            LM_DW_LOAD(1, 0) LM_DW_FIRST(1, 1, middle, right) LM_DW_FIRST(1, 0, below, below_right)                    \
            LM_DW_LOAD(2, 0) LM_DW_FIRST(2, 2, middle, right) LM_DW_FIRST(2, 1, below, below_right)                    \
            LM_IF_##B(LM_DW_LOAD(3, 0) LM_DW_FIRST(3, 2, below, below_right))                                          \
        }                                                                                                              \
        for (int i = 1; i < width; i++) {                                                                              \
            left = middle;                                                                                             \
            middle = right;                                                                                            \
            right = bias;                                                                                              \
            below_left = below;                                                                                        \
            below = below_right;                                                                                       \
            below_right = bias;                                                                                        \
            LM_DW_LOAD(1, i)                                                                                           \
            LM_DW_FEED(1, 1, left, middle, right) LM_DW_FEED(1, 0, below_left, below, below_right)                     \
            LM_DW_LOAD(2, i)                                                                                           \
            LM_DW_FEED(2, 2, left, middle, right) LM_DW_FEED(2, 1, below_left, below, below_right)                     \
            LM_IF_##T(LM_DW_LOAD(0, i) LM_DW_FEED(0, 0, left, middle, right))                                          \
            LM_IF_##B(LM_DW_LOAD(3, i) LM_DW_FEED(3, 2, below_left, below, below_right))                               \
            LM_DW_PUT(y, i - 1, left)                                                                                  \
            LM_DW_PUT(z, i - 1, below_left)                                                                            \
        }                                                                                                              \
        LM_DW_PUT(y, width - 1, middle)                                                                                \
        LM_DW_PUT(z, width - 1, below)                                                                                 \
    }

LM_DW_ONE(0, 0)
LM_DW_ONE(0, 1)
LM_DW_ONE(1, 0)
LM_DW_ONE(1, 1)
LM_DW_TWO(0, 1)
LM_DW_TWO(1, 0)
LM_DW_TWO(1, 1)

/* A whole vector: quicker than through a mask. */
#define LM_DW_PUT_WHOLE(out, at, sum)                                                                                  \
    _mm512_storeu_ps(out + (size_t)(at) * y_step, relu ? _mm512_max_ps(sum, zero) : sum);
/* Two rows with neighbours above and below. Sums change their names from column to column: copies would take the multiply-adds' place. */
#define LM_DW_COLUMN(L, M, R)                                                                                          \
    {                                                                                                                  \
        __m512 v1 = _mm512_loadu_ps(x1), v2 = _mm512_loadu_ps(x2), v0 = _mm512_loadu_ps(x0), v3 = _mm512_loadu_ps(x3); \
        LM_KEEP(v0) LM_KEEP(v1) LM_KEEP(v2) LM_KEEP(v3)                                                                \
        LM_DW_MUL(1, 12, upper##L) LM_DW_MUL(1, 11, upper##M) LM_DW_MUL(1, 02, lower##L) LM_DW_MUL(1, 01, lower##M)    \
        LM_DW_MUL(2, 22, upper##L) LM_DW_MUL(2, 21, upper##M) LM_DW_MUL(2, 12, lower##L) LM_DW_MUL(2, 11, lower##M)    \
        LM_DW_MUL(0, 02, upper##L) LM_DW_MUL(0, 01, upper##M) LM_DW_MUL(3, 22, lower##L) LM_DW_MUL(3, 21, lower##M)    \
        upper##R = _mm512_fmadd_ps(v0, w00, bias);                                                                     \
        lower##R = _mm512_fmadd_ps(v3, w20, bias);                                                                     \
        LM_DW_MUL(1, 10, upper##R) LM_DW_MUL(1, 00, lower##R) LM_DW_MUL(2, 20, upper##R) LM_DW_MUL(2, 10, lower##R)    \
        x0 += step, x1 += step, x2 += step, x3 += step;                                                                \
        LM_DW_PUT_WHOLE(y, 0, upper##L)                                                                                \
        LM_DW_PUT_WHOLE(z, 0, lower##L)                                                                                \
        y += y_step, z += y_step;                                                                                      \
    }
static LM_TARGET_AVX512 void lm_dw_s1_inside(const lm_dw_args *a, size_t lane, ptrdiff_t written)
{
    LM_DW_START
    float *z = a->y[1] + lane;
    const float *x0 = a->x[0] + lane, *x1 = a->x[1] + lane, *x2 = a->x[2] + lane, *x3 = a->x[3] + lane;
    __m512 upper0 = bias, upper1 = bias, upper2 = bias, lower0 = bias, lower1 = bias, lower2 = bias;
    int left = width - 1;
    {
        LM_DW_LOAD(0, 0) LM_DW_LOAD(1, 0) LM_DW_LOAD(2, 0) LM_DW_LOAD(3, 0)
        LM_DW_MUL(0, 01, upper0) LM_DW_MUL(0, 00, upper1)
        LM_DW_MUL(1, 11, upper0) LM_DW_MUL(1, 10, upper1) LM_DW_MUL(1, 01, lower0) LM_DW_MUL(1, 00, lower1)
        LM_DW_MUL(2, 21, upper0) LM_DW_MUL(2, 20, upper1) LM_DW_MUL(2, 11, lower0) LM_DW_MUL(2, 10, lower1)
        LM_DW_MUL(3, 21, lower0) LM_DW_MUL(3, 20, lower1)
        x0 += step, x1 += step, x2 += step, x3 += step;
    }
    for (; left >= 3; left -= 3) {
        LM_DW_COLUMN(0, 1, 2)
        LM_DW_COLUMN(1, 2, 0)
        LM_DW_COLUMN(2, 0, 1)
    }
    if (left >= 1) {
        LM_DW_COLUMN(0, 1, 2)
        upper0 = upper1;
        lower0 = lower1;
    }
    if (left >= 2) {
        LM_DW_COLUMN(0, 2, 1)
        upper0 = upper2;
        lower0 = lower2;
    }
    LM_DW_PUT_WHOLE(y, 0, upper0)
    LM_DW_PUT_WHOLE(z, 0, lower0)
}

typedef void (*lm_dw_fn)(const lm_dw_args *a, size_t lane, ptrdiff_t written);

LM_ONE_COPY static LM_TARGET_AVX512 void lm_dw_avx512(const lm_dw_args *a)
{
    static const lm_dw_fn one[2][4] = {
        {lm_dw_s1_00, lm_dw_s1_01, lm_dw_s1_10, lm_dw_s1_11},
        {lm_dw_s2_00, lm_dw_s2_01, lm_dw_s2_10, lm_dw_s2_11},
    };
    static const lm_dw_fn two[4] = {NULL, lm_dw_s1_two_01, lm_dw_s1_two_10, lm_dw_s1_inside};
    lm_dw_args part = *a;
    const int edges = (a->x[0] != NULL ? 2 : 0) + (a->x[3] != NULL ? 1 : 0);
    const int together = a->rows == 2 && a->stride == 1 && edges != 0 ? 2 : 1;
    for (int row = 0; row < a->rows; row += together) {
        const int first = row * a->stride, last = first + 2;
        const int kind = (a->x[first] != NULL ? 2 : 0) + (a->x[last] != NULL ? 1 : 0);
        const lm_dw_fn kernel = together == 2 ? two[edges] : one[a->stride - 1][kind];
        for (int k = first; k <= first + 1 + together; k++) {
            part.x[k - first] = a->x[k];
        }
        for (int v = 0; v < a->vectors; v++) {
            const ptrdiff_t shift = v == a->vectors - 1 ? a->shift : 0;
            const ptrdiff_t written = shift == 0 ? 16 : shift & 15;
            part.y[0] = a->y[row] + shift;
            part.y[1] = together == 2 ? a->y[1] + shift : NULL;
            (shift != 0 && kernel == lm_dw_s1_inside ? lm_dw_s1_two_11 : kernel)(&part, (size_t)v * 16, written);
        }
    }
}
