#include "kernel.h"

/* Copies runs of lanes of every pixel: {first lane, lane it goes to, count}. */
static void lm_pick_row(const float *x, size_t x_step, const int (*runs)[3], int run_count, float *y, size_t y_step, int pixels)
{
    for (int p = 0; p < pixels; p++) {
        for (int r = 0; r < run_count; r++) {
            memcpy(y + runs[r][1], x + runs[r][0], (size_t)runs[r][2] * sizeof *y);
        }
        x += x_step;
        y += y_step;
    }
}
