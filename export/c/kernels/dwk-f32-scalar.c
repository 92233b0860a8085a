/* Reference of a depthwise row with an odd kernel of k x k and k / 2 pixels of padding. Row dy of the window is rows[dy], NULL
   outside the map. Weights: [vector][tap][16]. */
#include "kernel.h"

static void lm_dwk_row_scalar(const float *const *rows, int k, size_t x_step, int in_width, int stride, const float *w,
                              const float *bias, float *y, size_t y_step, int out_width, int vectors, int relu)
{
    for (int v = 0; v < vectors; v++) {
        const size_t lane = (size_t)v * LM_VECTOR;
        for (int ox = 0; ox < out_width; ox++) {
            float acc[LM_VECTOR];
            memcpy(acc, bias + lane, sizeof acc);
            for (int dy = 0; dy < k; dy++) {
                for (int dx = 0; dx < k; dx++) {
                    const int ix = ox * stride + dx - k / 2;
                    if (rows[dy] != NULL && ix >= 0 && ix < in_width) {
                        const float *x = rows[dy] + (size_t)ix * x_step + lane;
                        const float *tap = w + lane * (size_t)(k * k) + (size_t)(dy * k + dx) * LM_VECTOR;
                        for (int i = 0; i < LM_VECTOR; i++) {
                            acc[i] += x[i] * tap[i];
                        }
                    }
                }
            }
            for (int i = 0; i < LM_VECTOR; i++) {
                y[(size_t)ox * y_step + lane + (size_t)i] = relu && acc[i] < 0.0f ? 0.0f : acc[i];
            }
        }
    }
}
