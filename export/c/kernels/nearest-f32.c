#include "kernel.h"

/* Every pixel `factor` times. */
static void lm_nearest_row(const float *x, size_t x_step, int factor, float *y, size_t y_step, int in_width, int lanes)
{
    for (int p = 0; p < in_width; p++) {
        for (int r = 0; r < factor; r++) {
            memcpy(y, x, (size_t)lanes * sizeof *y);
            y += y_step;
        }
        x += x_step;
    }
}
