#include "kernel.h"

/* Row `row` of a larger map, bilinear between pixel centres; `above` and `below` are the rows it lies between. Places are counted in
   halves of an output pixel, so that they are exact. */
static void lm_bilinear_row(const float *above, const float *below, size_t x_step, int row, int in_height, int out_height,
                            float *y, size_t y_step, int in_width, int out_width, int lanes)
{
    int place = (2 * row + 1) * in_height - out_height;
    const float down = place < 0 ? 0.0f : (float)(place % (2 * out_height)) / (float)(2 * out_height);
    for (int ox = 0; ox < out_width; ox++) {
        place = (2 * ox + 1) * in_width - out_width;
        const int ix = place < 0 ? 0 : place / (2 * out_width);
        const float right = place < 0 ? 0.0f : (float)(place % (2 * out_width)) / (float)(2 * out_width);
        const size_t next = ix + 1 < in_width ? x_step : 0;
        const float *a = above + (size_t)ix * x_step, *b = below + (size_t)ix * x_step;
        for (int v = 0; v < lanes; v += LM_VECTOR) {
            float value[LM_VECTOR];
            for (int i = 0; i < LM_VECTOR; i++) {
                const size_t at = (size_t)(v + i);
                const float top = a[at] * (1.0f - right) + a[at + next] * right;
                const float bottom = b[at] * (1.0f - right) + b[at + next] * right;
                value[i] = top * (1.0f - down) + bottom * down;
            }
            memcpy(y + v, value, sizeof value);
        }
        y += y_step;
    }
}
