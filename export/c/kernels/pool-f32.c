#include "kernel.h"

/* Adds a row to the running sums; the last row turns them into means. */
static void lm_pool_row(const float *x, size_t x_step, int pixels, int lanes, float *y, int first, int last, float scale)
{
    for (int v = 0; v < lanes; v += LM_VECTOR) {
        float sum[LM_VECTOR];
        for (int i = 0; i < LM_VECTOR; i++) {
            sum[i] = first ? 0.0f : y[v + i];
        }
        for (int p = 0; p < pixels; p++) {
            for (int i = 0; i < LM_VECTOR; i++) {
                sum[i] += x[(size_t)p * x_step + (size_t)(v + i)];
            }
        }
        for (int i = 0; i < LM_VECTOR; i++) {
            y[v + i] = last ? sum[i] * scale : sum[i];
        }
    }
}
