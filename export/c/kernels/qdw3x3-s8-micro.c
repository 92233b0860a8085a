/* Depthwise row of codes for microcontrollers, four channels at a time. Weights: [tap][lane]. */
#include "kernel-s8.h"

#if defined(LM_DSP)
#define LM_MICRO_TAP                                                                                            \
    {                                                                                                           \
        const uint32_t xs = lm_word(x), ws = lm_word(w);                                                        \
        const uint32_t x0 = lm_even_codes(xs), x1 = lm_odd_codes(xs), w0 = lm_even_codes(ws), w1 = lm_odd_codes(ws); \
        LM_MUL_LOW(s0, x0, w0);                                                                                 \
        LM_MUL_LOW(s1, x1, w1);                                                                                 \
        LM_MUL_HIGH(s2, x0, w0);                                                                                \
        LM_MUL_HIGH(s3, x1, w1);                                                                                \
        x += step;                                                                                              \
        w += lanes;                                                                                             \
    }
#else
#define LM_MICRO_TAP                                                                                            \
    {                                                                                                           \
        s0 += LM_FACTOR(x[0]) * w[0];                                                                           \
        s1 += LM_FACTOR(x[1]) * w[1];                                                                           \
        s2 += LM_FACTOR(x[2]) * w[2];                                                                           \
        s3 += LM_FACTOR(x[3]) * w[3];                                                                           \
        x += step;                                                                                              \
        w += lanes;                                                                                             \
    }
#endif

static void lm_qdw_micro(const lm_qdw_args *a)
{
    const size_t lanes = (size_t)a->lanes, step = a->x_step;
    const float *scale = a->scale;
    const int low = a->low;
    for (int ox = 0; ox < a->out_width; ox++) {
        const int left = ox * a->stride - 1, begin = left < 0 ? 1 : 0, end = left + 3 > a->in_width ? a->in_width - left : 3;
        const size_t first = (size_t)(left + begin) * step; /* taps outside the map meet code 0 */
        for (size_t c = 0; c < lanes; c += 4) {
            int32_t s0 = a->bias[c], s1 = a->bias[c + 1], s2 = a->bias[c + 2], s3 = a->bias[c + 3];
            uint8_t *y = a->y + (size_t)ox * a->y_step + c;
            for (int dy = 0; dy < 3; dy++) {
                const int8_t *w = a->w + (size_t)(3 * dy + begin) * lanes + c;
                const uint8_t *x;
                if (a->x[dy] == NULL) {
                    continue;
                }
                x = a->x[dy] + first + c;
                if (end - begin == 3) {
                    LM_MICRO_TAP LM_MICRO_TAP LM_MICRO_TAP
                } else {
                    for (int dx = begin; dx < end; dx++) {
                        LM_MICRO_TAP
                    }
                }
            }
            y[0] = LM_BYTE(lm_round_code((float)s0 * scale[c], low));
            y[1] = LM_BYTE(lm_round_code((float)s1 * scale[c + 1], low));
            y[2] = LM_BYTE(lm_round_code((float)s2 * scale[c + 2], low));
            y[3] = LM_BYTE(lm_round_code((float)s3 * scale[c + 3], low));
        }
    }
}
