#include "kernel.h"

/* A row times one factor per channel. */
static void lm_scale_row(const float *x, size_t x_step, const float *factor, float *y, size_t y_step, int pixels, int lanes)
{
    for (int p = 0; p < pixels; p++) {
        for (int v = 0; v < lanes; v += LM_VECTOR) {
            float value[LM_VECTOR];
            for (int i = 0; i < LM_VECTOR; i++) {
                value[i] = x[v + i] * factor[v + i];
            }
            memcpy(y + v, value, sizeof value);
        }
        x += x_step;
        y += y_step;
    }
}
