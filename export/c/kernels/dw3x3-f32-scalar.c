/* Reference of the depthwise 3x3 rows. */
#include "kernel.h"

static void lm_dw_row_scalar(const lm_dw_args *a, const float *const *rows, float *out)
{
    for (int v = 0; v < a->vectors; v++) {
        const size_t lane = (size_t)v * LM_VECTOR;
        const float *w = a->w + lane * 9;
        for (int ox = 0; ox < a->out_width; ox++) {
            float acc[LM_VECTOR];
            const ptrdiff_t shift = v == a->vectors - 1 ? a->shift : 0;
            const int written = shift == 0 ? LM_VECTOR : (int)(shift & 15);
            float *y = out + (size_t)ox * a->y_step + lane;
            y += shift;
            for (int i = 0; i < LM_VECTOR; i++) {
                acc[i] = a->bias[lane + (size_t)i];
            }
            for (int dx = 0; dx < 3; dx++) {
                const int ix = ox * a->stride + dx - 1;
                if (ix < 0 || ix >= a->in_width) {
                    continue;
                }
                for (int dy = 0; dy < 3; dy++) {
                    if (rows[dy] != NULL) {
                        const float *x = rows[dy] + (size_t)ix * a->x_step + lane;
                        const float *tap = w + (dy * 3 + dx) * LM_VECTOR;
                        for (int i = 0; i < LM_VECTOR; i++) {
                            acc[i] += x[i] * tap[i];
                        }
                    }
                }
            }
            for (int i = 0; i < written; i++) {
                y[i] = a->relu && acc[i] < 0.0f ? 0.0f : acc[i];
            }
        }
    }
}

static void lm_dw_scalar(const lm_dw_args *a)
{
    for (int row = 0; row < a->rows; row++) {
        lm_dw_row_scalar(a, a->x + row * a->stride, a->y[row]);
    }
}
