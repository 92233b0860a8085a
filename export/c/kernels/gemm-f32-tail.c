#include "kernel.h"

/* The last vector from its sums: neighbours that belong to one output are added up. */
static void lm_gemm_finish_tail(const lm_gemm_args *a, size_t lane, size_t pixel, const float *sums)
{
    const int count = LM_VECTOR / a->tail;
    float *y = a->y + pixel * a->y_step + lane;
    for (int c = 0; c < LM_VECTOR; c++) {
        float value = 0.0f;
        if (c < count) {
            for (int i = 0; i < a->tail; i++) {
                value += sums[c * a->tail + i];
            }
            value += a->bias[lane + (size_t)c];
            value += a->add != NULL ? a->add[pixel * a->add_step + lane + (size_t)c] : 0.0f;
            value = a->relu && value < 0.0f ? 0.0f : value;
        }
        y[c] = value;
    }
}
