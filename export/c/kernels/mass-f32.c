#include "kernel.h"

/* Softmax over the pixels of every channel, then the mean of `cells` (x, y) under it; writes x0, y0, x1, y1, ... */
static void lm_mass(const float *x, size_t x_step, int pixels, int channels, const float *cells, float *y)
{
    for (int v = 0; v < channels; v += LM_VECTOR) {
        float most[LM_VECTOR], total[LM_VECTOR] = {0.0f}, across[LM_VECTOR] = {0.0f}, down[LM_VECTOR] = {0.0f};
        for (int i = 0; i < LM_VECTOR; i++) {
            most[i] = -INFINITY;
        }
        for (int p = 0; p < pixels; p++) {
            const float *at = x + (size_t)p * x_step + v;
            for (int i = 0; i < LM_VECTOR; i++) {
                most[i] = most[i] > at[i] ? most[i] : at[i];
            }
        }
        for (int p = 0; p < pixels; p++) {
            const float *at = x + (size_t)p * x_step + v;
            float share[LM_VECTOR];
            for (int i = 0; i < LM_VECTOR; i++) {
                share[i] = at[i] - most[i];
            }
            lm_exp(share);
            for (int i = 0; i < LM_VECTOR; i++) {
                total[i] += share[i];
                across[i] += share[i] * cells[2 * p];
                down[i] += share[i] * cells[2 * p + 1];
            }
        }
        for (int i = 0; i < LM_VECTOR && v + i < channels; i++) {
            y[2 * (v + i)] = across[i] / total[i];
            y[2 * (v + i) + 1] = down[i] / total[i];
        }
    }
}
