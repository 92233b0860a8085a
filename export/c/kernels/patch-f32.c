#include "kernel.h"

/* Copies the k x k neighbourhood of every output pixel of a row side by side; outside the map lie zeros. */
static void lm_patch_row(const float *const *rows, int k, size_t x_step, int in_width, int stride, int pad, float *y, int out_width)
{
    for (int ox = 0; ox < out_width; ox++) {
        for (int dy = 0; dy < k; dy++) {
            for (int dx = 0; dx < k; dx++) {
                const int ix = ox * stride + dx - pad;
                if (rows[dy] != NULL && ix >= 0 && ix < in_width) {
                    memcpy(y, rows[dy] + (size_t)ix * x_step, x_step * sizeof *y);
                } else {
                    memset(y, 0, x_step * sizeof *y);
                }
                y += x_step;
            }
        }
    }
}
