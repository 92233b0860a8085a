#include "kernel-s8.h"

/* A float convolution whose sums run in the order that the specification fixes. */
static void lm_ordered_scalar(const lm_ordered_args *a)
{
    for (int v = 0; v < a->vectors; v++) {
        const size_t lane = (size_t)v * LM_VECTOR;
        for (int p = 0; p < a->pixels; p++) {
            const float *x = a->x + (size_t)p * a->x_step, *w = a->w + lane * (size_t)a->k_total;
            float *y = a->y + (size_t)p * a->y_step + lane;
            float sum[LM_VECTOR], product[LM_VECTOR];
            memcpy(sum, a->bias + lane, sizeof sum);
            for (int k = 0; k < a->k_total; k++) {
                const float value = x[a->at[k]];
                for (int i = 0; i < LM_VECTOR; i++) {
                    product[i] = value * w[i];
                }
                LM_ALL_ALONE(product);
                for (int i = 0; i < LM_VECTOR; i++) {
                    sum[i] += product[i];
                }
                w += LM_VECTOR;
            }
            for (int i = 0; i < LM_VECTOR; i++) {
                y[i] = a->relu && sum[i] < 0.0f ? 0.0f : sum[i];
            }
        }
    }
}
