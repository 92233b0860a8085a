#include "kernel-s8.h"

/* Real numbers to codes: one division, rounded to even, clamped. */
static void lm_quantise_row(const float *x, size_t x_step, int pixels, int channels, float step, uint8_t *y, size_t y_step)
{
    for (int p = 0; p < pixels; p++) {
        for (int c = 0; c < channels; c++) {
            y[c] = LM_BYTE(lm_round_code(x[c] / step, -128));
        }
        x += x_step;
        y += y_step;
    }
}
