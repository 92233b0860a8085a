#include "kernel-s8.h"

#ifndef LM_RUN
#define LM_RUN LM_VECTOR /* lanes that every pixel has a multiple of */
#endif

/* Largest codes of k x k windows; rows outside the map are NULL, and nothing outside it counts. */
static void lm_qmaxpool_row(const uint8_t *const *rows, int k, size_t x_step, int in_width, int stride, int pad, uint8_t *y,
                            size_t y_step, int out_width, int lanes)
{
    for (int ox = 0; ox < out_width; ox++) {
        const int left = ox * stride - pad, first = left < 0 ? 0 : left, end = left + k > in_width ? in_width : left + k;
        for (int v = 0; v < lanes; v += LM_RUN) {
            int most[LM_RUN];
            for (int i = 0; i < LM_RUN; i++) {
                most[i] = -128;
            }
            for (int dy = 0; dy < k; dy++) {
                for (int ix = first; ix < end && rows[dy] != NULL; ix++) {
                    const uint8_t *x = rows[dy] + (size_t)ix * x_step + v;
                    for (int i = 0; i < LM_RUN; i++) {
                        most[i] = most[i] > LM_CODE(x[i]) ? most[i] : LM_CODE(x[i]);
                    }
                }
            }
            for (int i = 0; i < LM_RUN; i++) {
                y[v + i] = LM_BYTE(most[i]);
            }
        }
        y += y_step;
    }
}
