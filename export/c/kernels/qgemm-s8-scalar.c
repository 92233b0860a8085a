/* Reference of the matrix product of codes. */
#include "kernel-s8.h"

static void lm_qgemm_scalar(const lm_qgemm_args *a)
{
    const int8_t *panel = a->w;
    int left = a->vectors;
    size_t lane = 0;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        const size_t row = (size_t)n * 64;
        for (int p = 0; p < a->pixels; p++) {
            for (int v = 0; v < n; v++) {
                const size_t first = lane + (size_t)v * 16;
                const int8_t *w = panel + (size_t)v * 64;
                int32_t sum[16];
                memcpy(sum, a->bias + first, sizeof sum);
                for (int r = 0; r < a->run_count; r++) {
                    const uint8_t *x = a->runs[r].x + (size_t)p * a->x_step;
                    for (size_t g = 0; g < a->runs[r].groups; g++) {
                        const int32_t x0 = LM_FACTOR(x[0]), x1 = LM_FACTOR(x[1]), x2 = LM_FACTOR(x[2]), x3 = LM_FACTOR(x[3]);
                        for (int i = 0; i < 16; i++) {
                            sum[i] += x0 * w[4 * i] + x1 * w[4 * i + 1] + x2 * w[4 * i + 2] + x3 * w[4 * i + 3];
                        }
                        x += 4;
                        w += row;
                    }
                }
                for (int i = 0; i < 16; i++) {
                    const size_t channel = first + (size_t)i;
                    float value = (float)sum[i] * a->scale[channel];
                    if (a->y_float != NULL) {
                        a->y_float[(size_t)p * a->y_step + channel] = a->low == 0 && value < 0.0f ? 0.0f : value;
                        continue;
                    }
                    if (a->add != NULL) {
                        float other = (float)LM_CODE(a->add[(size_t)p * a->add_step + channel]) * a->add_scale;
                        LM_ALONE(value);
                        LM_ALONE(other);
                        value += other;
                    }
                    a->y[(size_t)p * a->y_step + channel] = LM_BYTE(lm_round_code(value, a->low));
                }
            }
        }
        panel += a->groups * row;
        lane += (size_t)n * 16;
        left -= n;
    }
}
