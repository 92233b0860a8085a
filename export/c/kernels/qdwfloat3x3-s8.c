#include "kernel-s8.h"

/* A row of a 3x3 depthwise convolution of codes that is read as float: exact sums, one product. Weights: [tap][lane]. */
static void lm_qdw_float_row(const uint8_t *const *rows, size_t lane, size_t x_step, int in_width, int stride, const int8_t *w,
                             size_t w_step, const int32_t *bias, const float *scale, int channels, float *y, size_t y_step,
                             int out_width, int relu)
{
    for (int first = 0; first < channels; first += LM_VECTOR) {
        for (int ox = 0; ox < out_width; ox++) {
            float *out = y + (size_t)ox * y_step + first;
            int32_t sum[LM_VECTOR];
            memcpy(sum, bias + first, sizeof sum);
            for (int tap = 0; tap < 9; tap++) {
                const int ix = ox * stride + tap % 3 - 1;
                if (rows[tap / 3] != NULL && ix >= 0 && ix < in_width) {
                    const uint8_t *x = rows[tap / 3] + (size_t)ix * x_step + lane + (size_t)first;
                    const int8_t *weight = w + (size_t)tap * w_step + first;
                    for (int i = 0; i < LM_VECTOR; i++) {
                        sum[i] += LM_CODE(x[i]) * weight[i];
                    }
                }
            }
            for (int i = 0; i < LM_VECTOR; i++) {
                const float value = (float)sum[i] * scale[first + i];
                out[i] = relu && value < 0.0f ? 0.0f : value;
            }
        }
    }
}
