#include "kernel.h"

/* Row `row` of a map `factor` times as large, bilinear between pixel centres; `above` and `below` are the rows it lies between. */
static void lm_bilinear_row(const float *above, const float *below, size_t x_step, int row, int factor, float *y, size_t y_step,
                            int in_width, int in_height, int lanes)
{
    const float last_row = (float)(in_height - 1), last = (float)(in_width - 1);
    float down = ((float)row + 0.5f) / (float)factor - 0.5f;
    down = down < 0.0f ? 0.0f : down > last_row ? last_row : down;
    down -= (float)(int)down;
    for (int ox = 0; ox < in_width * factor; ox++) {
        float right = ((float)ox + 0.5f) / (float)factor - 0.5f;
        right = right < 0.0f ? 0.0f : right > last ? last : right;
        const int ix = (int)right;
        const size_t next = ix + 1 < in_width ? x_step : 0;
        const float *a = above + (size_t)ix * x_step, *b = below + (size_t)ix * x_step;
        right -= (float)ix;
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
