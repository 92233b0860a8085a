#include "kernel-s8.h"

/* 8-bit pixels -> normalised floats by a table; one zero pixel on either side. */
static void lm_face_floats(const uint8_t *x, int width, const float *table, float *y)
{
    memset(y, 0, 3 * sizeof *y);
    for (int i = 0; i < 3 * width; i++) {
        y[3 + i] = table[3 * x[i] + i % 3];
    }
    memset(y + 3 + 3 * width, 0, 3 * sizeof *y);
}
