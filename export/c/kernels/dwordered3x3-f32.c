#include "kernel-s8.h"

/* A row of a float 3x3 depthwise convolution whose sums run in the order that the specification fixes: bias, then kernel row after
   row, every product rounded by itself. Weights: [vector][tap][16]. */
static void lm_dw_ordered_row(const float *const *rows, size_t x_step, int in_width, int stride, const float *w, const float *bias,
                              float *y, size_t y_step, int out_width, int vectors, int relu)
{
    for (int v = 0; v < vectors; v++) {
        for (int ox = 0; ox < out_width; ox++) {
            float *out = y + (size_t)ox * y_step;
            float sum[LM_VECTOR], product[LM_VECTOR];
            memcpy(sum, bias, sizeof sum);
            for (int tap = 0; tap < 9; tap++) {
                const int ix = ox * stride + tap % 3 - 1;
                if (rows[tap / 3] != NULL && ix >= 0 && ix < in_width) {
                    const float *x = rows[tap / 3] + (size_t)ix * x_step + v * LM_VECTOR;
                    for (int i = 0; i < LM_VECTOR; i++) {
                        product[i] = x[i] * w[tap * LM_VECTOR + i];
                    }
                    LM_ALL_ALONE(product);
                    for (int i = 0; i < LM_VECTOR; i++) {
                        sum[i] += product[i];
                    }
                }
            }
            for (int i = 0; i < LM_VECTOR; i++) {
                out[i] = relu && sum[i] < 0.0f ? 0.0f : sum[i];
            }
        }
        w += 9 * LM_VECTOR;
        bias += LM_VECTOR;
        y += LM_VECTOR;
    }
}
