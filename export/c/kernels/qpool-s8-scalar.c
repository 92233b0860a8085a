#include "kernel-s8.h"

/* Adds a row of codes to running integer sums (kept in the output's place); the last row turns them into float means. */
static LM_UNUSED void lm_qpool_row_scalar(const uint8_t *x, size_t x_step, int pixels, int channels, float *y, int first, int last, float scale)
{
    for (int c = 0; c < channels; c += 16) {
        int32_t sum[16];
        for (int i = 0; i < 16; i++) {
            sum[i] = -LM_ZERO * pixels;
        }
        for (int p = 0; p < pixels; p++) {
            const uint8_t *at = x + (size_t)p * x_step + c;
            for (int i = 0; i < 16; i++) {
                sum[i] += LM_ZERO ? (int32_t)at[i] : (int32_t)(int8_t)at[i];
            }
        }
        if (!first) {
            int32_t before[16];
            memcpy(before, y + c, sizeof before);
            for (int i = 0; i < 16; i++) {
                sum[i] += before[i];
            }
        }
        if (last) {
            for (int i = 0; i < 16; i++) {
                y[c + i] = (float)sum[i] * scale;
            }
        } else {
            memcpy(y + c, sum, sizeof sum);
        }
    }
}
