#include "kernel-s8.h"

/* Adds a row of codes to running integer sums (kept in the output's place); the last row turns them into float means. */
static LM_UNUSED void lm_qpool_row_micro(const uint8_t *x, size_t x_step, int pixels, int channels, float *y, int first, int last, float scale)
{
    for (int c = 0; c < channels; c++) {
        const uint8_t *at = x + c;
        int32_t sum = 0;
        if (!first) {
            memcpy(&sum, y + c, sizeof sum);
        }
        for (int p = 0; p < pixels; p++) {
            sum += LM_FACTOR(*at);
            at += x_step;
        }
        if (last) {
            y[c] = (float)sum * scale;
        } else {
            memcpy(y + c, &sum, sizeof sum);
        }
    }
}
