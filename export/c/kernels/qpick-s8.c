#include "kernel-s8.h"

/* Copies runs of lanes of every pixel: {first lane, lane it goes to, count}. */
static void lm_qpick_row(const uint8_t *x, size_t x_step, const int (*runs)[3], int run_count, uint8_t *y, size_t y_step, int pixels)
{
    for (int p = 0; p < pixels; p++) {
        for (int r = 0; r < run_count; r++) {
            memcpy(y + runs[r][1], x + runs[r][0], (size_t)runs[r][2]);
        }
        x += x_step;
        y += y_step;
    }
}
