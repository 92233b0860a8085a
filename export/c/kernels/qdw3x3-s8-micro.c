/* Depthwise row of codes for microcontrollers, four channels at a time, with vectors (MVE) eight. Weights: [tap][lane]. */
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

#if defined(LM_MVE)
#define LM_MVE_TAP(x, w)                                                                                        \
    {                                                                                                           \
        const int16x8_t xs = whole ? vldrbq_s16(x) : vldrbq_z_s16(x, some);                                     \
        const int16x8_t ws = whole ? vldrbq_s16(w) : vldrbq_z_s16(w, some);                                     \
        s0 = vaddq_s32(s0, vmullbq_int_s16(xs, ws));                                                            \
        s1 = vaddq_s32(s1, vmulltq_int_s16(xs, ws));                                                            \
        w += lanes;                                                                                             \
        __asm__ volatile("" : "+w"(s0), "+w"(s1) : : "memory"); /* in order: else gcc 12 runs out of registers */ \
    }
#define LM_MVE_ROW(x) LM_MVE_TAP(x, w) LM_MVE_TAP(x + step, w) LM_MVE_TAP(x + 2 * step, w)

/* Eight channels of a row, or as many as are left: even ones in one vector of sums, odd ones in the other, as wide products leave them. */
static inline __attribute__((always_inline)) void lm_qdw_mve(const lm_qdw_args *a, size_t c, int whole)
{
    const size_t lanes = (size_t)a->lanes, step = a->x_step;
    const uint32x4_t even = {0, 2, 4, 6}, odd = {1, 3, 5, 7};
    const mve_pred16_t some = vctp16q((uint32_t)(lanes - c)), half = vctp32q((uint32_t)(lanes - c) / 2);
    const int32x4_t bias0 = vldrwq_gather_shifted_offset_z_s32(a->bias + c, even, half);
    const int32x4_t bias1 = vldrwq_gather_shifted_offset_z_s32(a->bias + c, odd, half);
    const float32x4_t scale0 = vldrwq_gather_shifted_offset_z_f32(a->scale + c, even, half);
    const float32x4_t scale1 = vldrwq_gather_shifted_offset_z_f32(a->scale + c, odd, half);
    const int16x8_t low = vdupq_n_s16((int16_t)a->low);
    const int inner = a->x[0] != NULL && a->x[1] != NULL && a->x[2] != NULL;
    int8_t *y = (int8_t *)a->y + c;
    for (int ox = 0; ox < a->out_width; ox++) {
        const int left = ox * a->stride - 1, begin = left < 0 ? 1 : 0, end = left + 3 > a->in_width ? a->in_width - left : 3;
        const size_t first = (size_t)(left + begin) * step + c; /* taps outside the map meet code 0 */
        int32x4_t s0 = bias0, s1 = bias1;
        int16x8_t codes;
        if (inner && end - begin == 3) {
            const int8_t *x0 = (const int8_t *)a->x[0] + first, *x1 = (const int8_t *)a->x[1] + first;
            const int8_t *x2 = (const int8_t *)a->x[2] + first, *w = a->w + c;
            LM_MVE_ROW(x0)
            LM_MVE_ROW(x1)
            LM_MVE_ROW(x2)
        } else {
            for (int dy = 0; dy < 3; dy++) {
                const int8_t *w = a->w + (size_t)(3 * dy + begin) * lanes + c;
                if (a->x[dy] != NULL) {
                    const int8_t *x = (const int8_t *)a->x[dy] + first;
                    for (int dx = begin; dx < end; dx++, x += step) {
                        LM_MVE_TAP(x, w)
                    }
                }
            }
        }
        codes = vqmovnbq_s32(vdupq_n_s16(0), vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(s0), scale0)));
        codes = vqmovntq_s32(codes, vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(s1), scale1)));
        codes = vminq_s16(vmaxq_s16(codes, low), vdupq_n_s16(127));
        if (whole) {
            vstrbq_s16(y, codes);
        } else {
            vstrbq_p_s16(y, codes, some);
        }
        y += a->y_step;
    }
}

static void lm_qdw_micro(const lm_qdw_args *a)
{
    const size_t lanes = (size_t)a->lanes;
    size_t c = 0;
    for (; c + 8 <= lanes; c += 8) {
        lm_qdw_mve(a, c, 1);
    }
    if (c < lanes) {
        lm_qdw_mve(a, c, 0);
    }
}
#else
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
#endif
