#include "kernel.h"

/* x * min(max(slope * x + shift, 0), high) in place: HardSwish. */
static void lm_gate_row(float *y, size_t step, int pixels, int lanes, float slope, float shift, float high)
{
    for (int p = 0; p < pixels; p++) {
        for (int v = 0; v < lanes; v += LM_VECTOR) {
            float value[LM_VECTOR];
            for (int i = 0; i < LM_VECTOR; i++) {
                value[i] = y[v + i] * slope + shift;
            }
            for (int i = 0; i < LM_VECTOR; i++) { /* apart: compilers turn each loop into a few vectors; NaN stays */
                value[i] = value[i] < 0.0f ? 0.0f : value[i];
            }
            for (int i = 0; i < LM_VECTOR; i++) {
                value[i] = value[i] > high ? high : value[i];
            }
            for (int i = 0; i < LM_VECTOR; i++) {
                y[v + i] *= value[i];
            }
        }
        y += step;
    }
}
