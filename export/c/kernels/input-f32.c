#include "kernel.h"

/* 8-bit pixels -> normalised floats; one zero pixel on either side stands for the padding. */
static void lm_input_row(const uint8_t *x, int width, const float *scale, const float *shift, float *y)
{
    memset(y, 0, 3 * sizeof *y);
    for (int i = 0; i < width; i++) {
        for (int c = 0; c < 3; c++) {
            y[3 * (i + 1) + c] = (float)x[3 * i + c] * scale[c] - shift[c];
        }
    }
    memset(y + 3 * (width + 1), 0, 3 * sizeof *y);
}
