#include "kernel.h"

/* Sum of two rows. Not inlined: several layers call it. */
#if defined(__GNUC__)
__attribute__((noinline))
#endif
static void lm_add_row(const float *a, size_t a_step, const float *b, size_t b_step, float *y, size_t y_step, int pixels, int lanes,
                       int relu)
{
#if defined(__GNUC__)
    lm_floats zero;
    memset(&zero, 0, sizeof zero);
#endif
    for (int p = 0; p < pixels; p++) {
        const float *pa = a + (size_t)p * a_step, *pb = b + (size_t)p * b_step;
        float *py = y + (size_t)p * y_step;
        for (int v = 0; v < lanes; v += LM_VECTOR) {
#if defined(__GNUC__)
            lm_floats sum, other;
            memcpy(&sum, pa + v, sizeof sum);
            memcpy(&other, pb + v, sizeof other);
            sum += other;
            if (relu) {
                const lm_masks negative = sum < zero;
                sum = (lm_floats)((lm_masks)sum & ~negative);
            }
            memcpy(py + v, &sum, sizeof sum);
#else
            for (int i = 0; i < LM_VECTOR; i++) {
                const float sum = pa[v + i] + pb[v + i];
                py[v + i] = relu && sum < 0.0f ? 0.0f : sum;
            }
#endif
        }
    }
}
