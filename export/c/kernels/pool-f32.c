#include "kernel.h"

/* Adds a row to the running sums; the last row turns them into means. */
LM_ONE_COPY static void lm_pool_row(const float *x, size_t x_step, int pixels, int lanes, float *y, int first, int last, float scale)
{
    for (int v = 0; v < lanes; v += LM_VECTOR) {
        float sum[LM_VECTOR];
        for (int i = 0; i < LM_VECTOR; i++) {
            sum[i] = first ? 0.0f : y[v + i];
        }
        int p = 0;
        for (; p + 4 <= pixels; p += 4) { /* four at a time: sums that do not wait for each other */
            const float *a = x + (size_t)p * x_step + v, *b = a + x_step, *c = b + x_step, *d = c + x_step;
            for (int i = 0; i < LM_VECTOR; i++) {
                sum[i] += (a[i] + b[i]) + (c[i] + d[i]);
            }
        }
        for (; p < pixels; p++) {
            for (int i = 0; i < LM_VECTOR; i++) {
                sum[i] += x[(size_t)p * x_step + (size_t)(v + i)];
            }
        }
        for (int i = 0; i < LM_VECTOR; i++) {
            y[v + i] = last ? sum[i] * scale : sum[i];
        }
    }
}
