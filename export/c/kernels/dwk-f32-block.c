/* Depthwise row with a larger kernel, written once for vectors of 16, 8 or 4 floats: eight pixels share every weight where the
   whole window lies inside the map; at its edges four vectors of one pixel run side by side. */
#include "kernel.h"

#define LM_DWK_EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define LM_DWK_START(i) lm_vec s##i = lm_vec_load(bias);
#define LM_DWK_MUL(i) s##i = lm_vec_fma(lm_vec_load(x + (size_t)i * apart), tap, s##i);
#define LM_DWK_PUT(i) lm_vec_store(y + (size_t)i * y_step, lm_vec_max(low, s##i));

#define LM_DWK_WEIGHTS(at) (w + (at) / 16 * 16 * taps + (at) % 16) /* of the vector that begins at a lane */

/* Eight neighbouring pixels of one vector; `left` is the first column of the first window. */
static LM_TARGET void lm_dwk_eight(const float *const *rows, int k, size_t x_step, size_t apart, size_t left, const float *w,
                                   const float *bias, float *y, size_t y_step, size_t lane, float least)
{
    const lm_vec low = lm_vec_set(least);
    LM_DWK_EACH(LM_DWK_START)
    for (int dy = 0; dy < k; dy++) {
        if (rows[dy] != NULL) {
            const float *x = rows[dy] + left * x_step + lane;
            for (int dx = 0; dx < k; dx++) {
                const lm_vec tap = lm_vec_load(w + (size_t)dx * 16);
                LM_DWK_EACH(LM_DWK_MUL)
                x += x_step;
            }
        }
        w += (size_t)k * 16;
    }
    LM_DWK_EACH(LM_DWK_PUT)
}

/* Four vectors of one pixel, `next` lanes apart (0: one vector, four times). Columns from `first` to `end` of the window lie
   inside the map, and `left` is where its column 0 would be. */
static LM_TARGET void lm_dwk_edge(const float *const *rows, int k, size_t x_step, int left, int first, int end, const float *w,
                                  const float *bias, float *y, size_t lane, size_t next, float least)
{
    const lm_vec low = lm_vec_set(least);
    const size_t taps = (size_t)(k * k);
    const float *w0 = LM_DWK_WEIGHTS(lane), *w1 = LM_DWK_WEIGHTS(lane + next), *w2 = LM_DWK_WEIGHTS(lane + 2 * next),
                *w3 = LM_DWK_WEIGHTS(lane + 3 * next);
    lm_vec s0 = lm_vec_load(bias + lane), s1 = lm_vec_load(bias + lane + next), s2 = lm_vec_load(bias + lane + 2 * next),
           s3 = lm_vec_load(bias + lane + 3 * next);
    for (int dy = 0; dy < k; dy++) {
        for (int dx = first; dx < end && rows[dy] != NULL; dx++) {
            const float *x = rows[dy] + (size_t)(left + dx) * x_step + lane;
            const size_t tap = (size_t)(dy * k + dx) * 16;
            s0 = lm_vec_fma(lm_vec_load(x), lm_vec_load(w0 + tap), s0);
            s1 = lm_vec_fma(lm_vec_load(x + next), lm_vec_load(w1 + tap), s1);
            s2 = lm_vec_fma(lm_vec_load(x + 2 * next), lm_vec_load(w2 + tap), s2);
            s3 = lm_vec_fma(lm_vec_load(x + 3 * next), lm_vec_load(w3 + tap), s3);
        }
    }
    y += lane;
    lm_vec_store(y, lm_vec_max(low, s0));
    lm_vec_store(y + next, lm_vec_max(low, s1));
    lm_vec_store(y + 2 * next, lm_vec_max(low, s2));
    lm_vec_store(y + 3 * next, lm_vec_max(low, s3));
}

static LM_TARGET void lm_dwk_row_block(const float *const *rows, int k, size_t x_step, int in_width, int stride, const float *w,
                                       const float *bias, float *y, size_t y_step, int out_width, int vectors, int relu)
{
    const float least = relu ? 0.0f : -INFINITY;
    const size_t lanes = (size_t)vectors * 16, taps = (size_t)(k * k), four = 4 * LM_SIMD;
    for (int ox = 0; ox < out_width;) {
        const int left = ox * stride - k / 2;
        if (left >= 0 && ox + 8 <= out_width && left + 7 * stride + k <= in_width) {
            for (size_t lane = 0; lane < lanes; lane += LM_SIMD) {
                lm_dwk_eight(rows, k, x_step, (size_t)stride * x_step, (size_t)left, LM_DWK_WEIGHTS(lane), bias + lane,
                             y + (size_t)ox * y_step + lane, y_step, lane, least);
            }
            ox += 8;
            continue;
        }
        for (size_t lane = 0; lane < lanes;) {
            const int first = left < 0 ? -left : 0, end = left + k > in_width ? in_width - left : k;
            const size_t next = lane + four <= lanes ? LM_SIMD : 0;
            lm_dwk_edge(rows, k, x_step, left, first, end, w, bias, y + (size_t)ox * y_step, lane, next, least);
            lane += next != 0 ? four : LM_SIMD;
        }
        ox++;
    }
}
