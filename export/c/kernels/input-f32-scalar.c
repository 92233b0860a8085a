#include "kernel.h"

/* 8-bit pixels -> normalised floats; one zero pixel on either side stands for the padding. A map is a multiple of 16 pixels
   wide; `scale` and `shift` hold the three channels 16 times over, so that compilers vectorise. */
static void lm_input_row_scalar(const uint8_t *x, int width, const float *scale, const float *shift, float *y)
{
    memset(y, 0, 3 * sizeof *y);
    for (int p = 0; p < width; p += 16) {
        for (int i = 0; i < 48; i++) {
            y[3 + i] = (float)x[i] * scale[i] - shift[i];
        }
        x += 48;
        y += 48;
    }
    memset(y + 3, 0, 3 * sizeof *y);
}
