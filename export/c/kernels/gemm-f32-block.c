/* Matrix product for machines with 8 or 4 floats per vector: tiles of 1..6 pixels by LM_BLOCK lanes. */
#include "kernel.h"

#define LM_EACH_1(X) X(0)
#define LM_EACH_2(X) LM_EACH_1(X) X(1)
#define LM_EACH_3(X) LM_EACH_2(X) X(2)
#define LM_EACH_4(X) LM_EACH_3(X) X(3)
#define LM_EACH_5(X) LM_EACH_4(X) X(4)
#define LM_EACH_6(X) LM_EACH_5(X) X(5)

#define LM_START(i, j) lm_vec s##i##_##j = lm_vec_load(bias + j * LM_SIMD);
#define LM_START_ALL(i) LM_PARTS(LM_START, i)
#define LM_PLUS(i, j) s##i##_##j = lm_vec_add(s##i##_##j, lm_vec_load(add + j * LM_SIMD));
#define LM_PLUS_ALL(i) LM_PARTS(LM_PLUS, i) add += add_step;
#define LM_WEIGHT(i, j) const lm_vec w##j = lm_vec_load(w + j * LM_SIMD);
#define LM_MUL(i, j) s##i##_##j = lm_vec_fma(x, w##j, s##i##_##j);
#define LM_FMA_ALL(i) { const lm_vec x = lm_vec_set(x##i[k]); LM_PARTS(LM_MUL, i) }
#define LM_PUT(i, j) lm_vec_store(y + j * LM_SIMD, lm_vec_max(low, s##i##_##j));
#define LM_PUT_ALL(i) LM_PARTS(LM_PUT, i) y += y_step;
#define LM_POINT(i) const float *x##i = base + (size_t)i * x_step;

#define LM_TILE(M)                                                                                              \
    static LM_TARGET void lm_tile_##M(const lm_gemm_args *a, const float *panel, size_t w_step, size_t lane,    \
                                      size_t pixel, int count)                                                  \
    {                                                                                                           \
        const size_t x_step = a->x_step, y_step = a->y_step, add_step = a->add_step;                            \
        const float *bias = a->bias + lane;                                                                     \
        const float *add = a->add == NULL ? NULL : a->add + pixel * add_step + lane;                            \
        const lm_vec low = lm_vec_set(a->relu ? 0.0f : -INFINITY);                                              \
        float *y = a->y + pixel * y_step + lane;                                                                \
        for (int tile = 0; tile < count; tile++) {                                                              \
            const float *w = panel;                                                                             \
            LM_EACH_##M(LM_START_ALL)                                                                           \
            if (add != NULL) {                                                                                  \
                LM_EACH_##M(LM_PLUS_ALL)                                                                        \
            }                                                                                                   \
            for (int r = 0; r < a->run_count; r++) {                                                            \
                const float *base = a->runs[r].x + pixel * x_step;                                              \
                const size_t length = a->runs[r].length;                                                        \
                LM_EACH_##M(LM_POINT)                                                                           \
                for (size_t k = 0; k < length; k++) {                                                           \
                    LM_PARTS(LM_WEIGHT, 0)                                                                      \
                    LM_EACH_##M(LM_FMA_ALL)                                                                     \
                    w += w_step;                                                                                \
                }                                                                                               \
            }                                                                                                   \
            LM_EACH_##M(LM_PUT_ALL)                                                                             \
            pixel += M;                                                                                         \
        }                                                                                                       \
    }

LM_TILE(1) LM_TILE(2) LM_TILE(3) LM_TILE(4) LM_TILE(5) LM_TILE(6)

#define LM_ZERO_SUM(i, j) lm_vec s##i##_##j = lm_vec_set(0.0f);
#define LM_ZERO_ALL(i) LM_PARTS(LM_ZERO_SUM, i)
#define LM_PAIR_ALL(i) { const lm_vec x = lm_vec_pair(x##i + k); LM_PARTS(LM_MUL, i) }
#define LM_QUAD_ALL(i) { const lm_vec x = lm_vec_quad(x##i + k); LM_PARTS(LM_MUL, i) }
#define LM_KEEP(i, j) lm_vec_store(sums + i * 16 + sub + j * LM_SIMD, s##i##_##j);
#define LM_KEEP_ALL(i) LM_PARTS(LM_KEEP, i)

/* M pixels of the tail: every vector of weights serves GROUP inputs. */
#define LM_TAIL(M, GROUP, ALL)                                                                                  \
    static LM_TARGET void lm_tail_##M##_##GROUP(const lm_gemm_args *a, const float *panel, size_t lane, size_t pixel) \
    {                                                                                                           \
        const size_t x_step = a->x_step;                                                                        \
        float sums[M * 16];                                                                                     \
        for (int sub = 0; sub < 16; sub += LM_BLOCK) {                                                          \
            const float *w = panel + sub;                                                                       \
            LM_EACH_##M(LM_ZERO_ALL)                                                                            \
            for (int r = 0; r < a->run_count; r++) {                                                            \
                const float *base = a->runs[r].x + pixel * x_step;                                              \
                const size_t length = a->runs[r].length;                                                        \
                LM_EACH_##M(LM_POINT)                                                                           \
                for (size_t k = 0; k < length; k += GROUP) {                                                    \
                    LM_PARTS(LM_WEIGHT, 0)                                                                      \
                    LM_EACH_##M(ALL)                                                                            \
                    w += 16;                                                                                    \
                }                                                                                               \
            }                                                                                                   \
            LM_EACH_##M(LM_KEEP_ALL)                                                                            \
        }                                                                                                       \
        for (size_t i = 0; i < M; i++) {                                                                        \
            lm_gemm_finish_tail(a, lane, pixel + i, sums + i * 16);                                             \
        }                                                                                                       \
    }

LM_TAIL(1, 2, LM_PAIR_ALL) LM_TAIL(4, 2, LM_PAIR_ALL)
LM_TAIL(1, 4, LM_QUAD_ALL) LM_TAIL(4, 4, LM_QUAD_ALL)

typedef void (*lm_tile_fn)(const lm_gemm_args *a, const float *panel, size_t w_step, size_t lane, size_t pixel, int count);

static LM_TARGET void lm_gemm_block(const lm_gemm_args *a)
{
    static const lm_tile_fn kernels[7] = {NULL, lm_tile_1, lm_tile_2, lm_tile_3, lm_tile_4, lm_tile_5, lm_tile_6};
    const int tiles = (a->pixels + 5) / 6; /* of nearly equal size: no slow remainder */
    const int m = a->pixels / tiles, larger = a->pixels % tiles;
    const float *panel = a->w;
    size_t lane = 0;
    int left = a->vectors;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        for (int sub = 0; sub < n * 16; sub += LM_BLOCK) {
            const float *w = panel + sub;
            if (larger > 0) {
                kernels[m + 1](a, w, (size_t)n * 16, lane, 0, larger);
            }
            kernels[m](a, w, (size_t)n * 16, lane, (size_t)((m + 1) * larger), tiles - larger);
            lane += LM_BLOCK;
        }
        panel += a->k_total * (size_t)n * 16;
        left -= n;
    }
    for (size_t pixel = 0; a->tail != 0 && pixel < (size_t)a->pixels;) {
        if (pixel + 4 <= (size_t)a->pixels) {
            (a->tail == 2 ? lm_tail_4_2 : lm_tail_4_4)(a, panel, lane, pixel);
            pixel += 4;
        } else {
            (a->tail == 2 ? lm_tail_1_2 : lm_tail_1_4)(a, panel, lane, pixel);
            pixel++;
        }
    }
}
