#include "kernel-s8.h"

/* A fully connected float layer whose sums run in the order that the specification fixes: bias, then input after input, every
   product rounded by itself. Weights: [panel][k][16 * vectors], as for the float matrix product. */
static void lm_ordered_product_scalar(const float *const *x, const int *lengths, int runs, int k_total, const float *w, const float *bias, float *y,
                               int vectors, int relu)
{
    int left = vectors;
    size_t lane = 0;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        float sum[64];
        const float *row = w;
        memcpy(sum, bias + lane, (size_t)n * 16 * sizeof *sum);
        for (int r = 0; r < runs; r++) {
            for (int k = 0; k < lengths[r]; k++) {
                float product[64];
                for (int i = 0; i < n * 16; i++) {
                    product[i] = x[r][k] * row[i];
                }
#if defined(__GNUC__)
                __asm__("" : "+m"(product)); /* no fusing with the sum below */
#endif
                for (int i = 0; i < n * 16; i++) {
                    sum[i] += product[i];
                }
                row += n * 16;
            }
        }
        for (int i = 0; i < n * 16; i++) {
            y[lane + (size_t)i] = relu && sum[i] < 0.0f ? 0.0f : sum[i];
        }
        w += (size_t)k_total * (size_t)n * 16;
        lane += (size_t)n * 16;
        left -= n;
    }
}
