#include "kernel.h"

/* 1 / (1 + e^-x) in place, by e to a power that is not positive. */
static void lm_sigmoid_row(float *y, size_t step, int pixels, int lanes)
{
    for (int p = 0; p < pixels; p++) {
        for (int v = 0; v < lanes; v += LM_VECTOR) {
            float power[LM_VECTOR];
            for (int i = 0; i < LM_VECTOR; i++) {
                power[i] = y[v + i] > 0.0f ? -y[v + i] : y[v + i];
            }
            lm_exp(power);
            for (int i = 0; i < LM_VECTOR; i++) {
                y[v + i] = (y[v + i] > 0.0f ? 1.0f : power[i]) / (1.0f + power[i]);
            }
        }
        y += step;
    }
}
