#include "kernel.h"

/* Adds a row to the running sums; the last row turns them into means. Four pixels at a time: sums that do not wait for each
   other. */
LM_ONE_COPY static void lm_pool_row(const float *x, size_t x_step, int pixels, int lanes, float *y, int first, int last, float scale)
{
    for (int v = 0; v < lanes; v += LM_VECTOR) {
        const float *at = x + v;
        int p = 0;
#if defined(__GNUC__)
        lm_floats sum, a, b, c, d;
        memset(&sum, 0, sizeof sum);
        if (!first) {
            memcpy(&sum, y + v, sizeof sum);
        }
        for (; p + 4 <= pixels; p += 4) {
            memcpy(&a, at, sizeof a);
            memcpy(&b, at + x_step, sizeof b);
            memcpy(&c, at + 2 * x_step, sizeof c);
            memcpy(&d, at + 3 * x_step, sizeof d);
            sum += (a + b) + (c + d);
            at += 4 * x_step;
        }
        for (; p < pixels; p++) {
            memcpy(&a, at, sizeof a);
            sum += a;
            at += x_step;
        }
        if (last) {
            sum *= scale;
        }
        memcpy(y + v, &sum, sizeof sum);
#else
        float sum[LM_VECTOR];
        for (int i = 0; i < LM_VECTOR; i++) {
            sum[i] = first ? 0.0f : y[v + i];
        }
        for (; p + 4 <= pixels; p += 4) {
            const float *b = at + x_step, *c = b + x_step, *d = c + x_step;
            for (int i = 0; i < LM_VECTOR; i++) {
                sum[i] += (at[i] + b[i]) + (c[i] + d[i]);
            }
            at += 4 * x_step;
        }
        for (; p < pixels; p++) {
            for (int i = 0; i < LM_VECTOR; i++) {
                sum[i] += at[i];
            }
            at += x_step;
        }
        for (int i = 0; i < LM_VECTOR; i++) {
            y[v + i] = last ? sum[i] * scale : sum[i];
        }
#endif
    }
}
