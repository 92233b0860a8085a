/* Reference of the matrix product: plain C, one lane block at a time. */
#include "kernel.h"

static void lm_gemm_scalar(const lm_gemm_args *a)
{
    const float *panel = a->w;
    int left = a->vectors, done = 0;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        for (int p = 0; p < a->pixels; p++) {
            for (int v = 0; v < n; v++) {
                const size_t lane = (size_t)(done + v) * LM_VECTOR;
                const float *w = panel + (size_t)v * LM_VECTOR;
                float acc[LM_VECTOR];
                float *y = a->y + (size_t)p * a->y_step + lane;
                for (int i = 0; i < LM_VECTOR; i++) {
                    acc[i] = a->bias[lane + (size_t)i];
                }
                if (a->add != NULL) {
                    const float *add = a->add + (size_t)p * a->add_step + lane;
                    for (int i = 0; i < LM_VECTOR; i++) {
                        acc[i] += add[i];
                    }
                }
                for (int r = 0; r < a->run_count; r++) {
                    const float *x = a->runs[r].x + (size_t)p * a->x_step;
                    for (size_t k = 0; k < a->runs[r].length; k++) {
                        for (int i = 0; i < LM_VECTOR; i++) {
                            acc[i] += x[k] * w[i];
                        }
                        w += (size_t)n * LM_VECTOR;
                    }
                }
                for (int i = 0; i < LM_VECTOR; i++) {
                    y[i] = a->relu && acc[i] < 0.0f ? 0.0f : acc[i];
                }
            }
        }
        panel += a->k_total * (size_t)n * LM_VECTOR;
        left -= n;
        done += n;
    }
    if (a->tail == 0) {
        return;
    }
    for (int p = 0; p < a->pixels; p++) {
        const float *w = panel;
        float sum[LM_VECTOR] = {0.0f};
        for (int r = 0; r < a->run_count; r++) {
            const float *x = a->runs[r].x + (size_t)p * a->x_step;
            for (size_t k = 0; k < a->runs[r].length; k += (size_t)a->tail) {
                for (int i = 0; i < LM_VECTOR; i++) {
                    sum[i] += x[k + (size_t)(i % a->tail)] * w[i];
                }
                w += LM_VECTOR;
            }
        }
        lm_gemm_finish_tail(a, (size_t)done * LM_VECTOR, (size_t)p, sum);
    }
}
