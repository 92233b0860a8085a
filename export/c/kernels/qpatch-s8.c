#include "kernel-s8.h"

/* Copies the k x k neighbourhood of every output pixel of a row side by side; outside the map lies code 0. */
static void lm_qpatch_row(const uint8_t *const *rows, int k, size_t x_step, int in_width, int stride, int pad, uint8_t *y, int out_width)
{
    for (int ox = 0; ox < out_width; ox++) {
        for (int dy = 0; dy < k; dy++) {
            for (int dx = 0; dx < k; dx++) {
                const int ix = ox * stride + dx - pad;
                if (rows[dy] != NULL && ix >= 0 && ix < in_width) {
                    memcpy(y, rows[dy] + (size_t)ix * x_step, x_step);
                } else {
                    memset(y, LM_ZERO, x_step);
                }
                y += x_step;
            }
        }
    }
}
