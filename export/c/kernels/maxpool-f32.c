#include "kernel.h"

/* Largest values of k x k windows; rows outside the map are NULL, and nothing outside it counts. */
static void lm_maxpool_row(const float *const *rows, int k, size_t x_step, int in_width, int stride, int pad, float *y, size_t y_step,
                           int out_width, int lanes)
{
    for (int ox = 0; ox < out_width; ox++) {
        const int left = ox * stride - pad, first = left < 0 ? 0 : left, end = left + k > in_width ? in_width : left + k;
        for (int v = 0; v < lanes; v += LM_VECTOR) {
            float most[LM_VECTOR];
            for (int i = 0; i < LM_VECTOR; i++) {
                most[i] = -INFINITY;
            }
            for (int dy = 0; dy < k; dy++) {
                for (int ix = first; ix < end && rows[dy] != NULL; ix++) {
                    const float *x = rows[dy] + (size_t)ix * x_step + v;
                    for (int i = 0; i < LM_VECTOR; i++) {
                        most[i] = most[i] > x[i] ? most[i] : x[i]; /* NaN goes on */
                    }
                }
            }
            memcpy(y + v, most, sizeof most);
        }
        y += y_step;
    }
}
