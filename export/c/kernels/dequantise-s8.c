#include "kernel-s8.h"

/* Codes to real numbers: one product. */
static void lm_dequantise_row(const uint8_t *x, size_t x_step, int pixels, int channels, float step, float *y, size_t y_step)
{
    for (int p = 0; p < pixels; p++) {
        for (int c = 0; c < channels; c++) {
            y[c] = (float)LM_CODE(x[c]) * step;
        }
        x += x_step;
        y += y_step;
    }
}
