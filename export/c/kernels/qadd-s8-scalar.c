#include "kernel-s8.h"

/* Sum of two rows of codes: each times its own scale, added in float32, rounded once. */
static LM_UNUSED void lm_qadd_row_scalar(const uint8_t *a, size_t a_step, float a_scale, const uint8_t *b, size_t b_step, float b_scale, uint8_t *y,
                        size_t y_step, int pixels, int lanes, int low)
{
    for (int p = 0; p < pixels; p++) {
        for (int i = 0; i < lanes; i++) {
            float left = (float)LM_CODE(a[(size_t)p * a_step + (size_t)i]) * a_scale;
            float right = (float)LM_CODE(b[(size_t)p * b_step + (size_t)i]) * b_scale;
            LM_ALONE(left);
            LM_ALONE(right);
            y[(size_t)p * y_step + (size_t)i] = LM_BYTE(lm_round_code(left + right, low));
        }
    }
}
