#include "kernel.h"

/* Every pixel as often as it fits. */
static void lm_nearest_row(const float *x, size_t x_step, int in_width, float *y, size_t y_step, int out_width, int lanes)
{
    for (int p = 0; p < out_width; p++) {
        memcpy(y, x + (size_t)(p * in_width / out_width) * x_step, (size_t)lanes * sizeof *y);
        y += y_step;
    }
}
