#include "kernel.h"

/* Sum of two rows. */
static void lm_add_row(const float *a, size_t a_step, const float *b, size_t b_step, float *y, size_t y_step, int pixels, int lanes,
                       int relu)
{
    for (int p = 0; p < pixels; p++) {
        const float *pa = a + (size_t)p * a_step, *pb = b + (size_t)p * b_step;
        float *py = y + (size_t)p * y_step;
        for (int v = 0; v < lanes; v += LM_VECTOR) {
            float sum[LM_VECTOR];
            for (int i = 0; i < LM_VECTOR; i++) {
                sum[i] = pa[v + i] + pb[v + i];
            }
            for (int i = 0; relu && i < LM_VECTOR; i++) { /* apart: compilers turn each loop into a few vectors */
                sum[i] = sum[i] < 0.0f ? 0.0f : sum[i];
            }
            memcpy(py + v, sum, sizeof sum);
        }
    }
}
