/* Depthwise row of codes for NEON with dot products: 16 channels at a time, three rows interleaved byte by byte. */
#include "kernel-s8.h"
#include <arm_neon.h>

#define LM_FOUR(X) X(0) X(1) X(2) X(3)
#define LM_DW_START(q) int32x4_t s##q = vld1q_s32(bias + q * 16);
#define LM_DW_DOT(q) s##q = vdotq_s32(s##q, vreinterpretq_s8_s16(d##q), vld1q_s8(w + dx * 256 + q * 64));
#define LM_DW_SCALED(q) vqmovn_s32(vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(s##q), vld1q_f32(scale + q * 16))))

static void lm_qdw_neondot(const lm_qdw_args *a)
{
    const int8x16_t zero = vdupq_n_s8(0);
    for (int quarter = 0; quarter < a->blocks * 4; quarter++) {
        const size_t lane = (size_t)quarter * 16, block = (size_t)quarter / 4, part = (size_t)quarter % 4;
        const int8_t *w = a->w + block * 768 + part * 16;
        const int32_t *bias = a->bias + block * 64 + part * 4;
        const float *scale = a->scale + block * 64 + part * 4;
        for (int i = 0; i < a->out_width; i++) {
            LM_FOUR(LM_DW_START)
            for (int dx = 0; dx < 3; dx++) {
                const int at = i * a->stride + dx - 1;
                if (at >= 0 && at < a->in_width) {
                    const size_t place = (size_t)at * a->x_step + lane;
                    const int8x16_t r0 = a->x[0] != NULL ? vld1q_s8((const int8_t *)a->x[0] + place) : zero;
                    const int8x16_t r1 = vld1q_s8((const int8_t *)a->x[1] + place);
                    const int8x16_t r2 = a->x[2] != NULL ? vld1q_s8((const int8_t *)a->x[2] + place) : zero;
                    const int16x8_t upper_low = vreinterpretq_s16_s8(vzip1q_s8(r0, r1));
                    const int16x8_t upper_high = vreinterpretq_s16_s8(vzip2q_s8(r0, r1));
                    const int16x8_t lower_low = vreinterpretq_s16_s8(vzip1q_s8(r2, zero));
                    const int16x8_t lower_high = vreinterpretq_s16_s8(vzip2q_s8(r2, zero));
                    const int16x8_t d0 = vzip1q_s16(upper_low, lower_low), d1 = vzip2q_s16(upper_low, lower_low);
                    const int16x8_t d2 = vzip1q_s16(upper_high, lower_high), d3 = vzip2q_s16(upper_high, lower_high);
                    LM_FOUR(LM_DW_DOT)
                }
            }
            {
                const int8x8_t first = vqmovn_s16(vcombine_s16(LM_DW_SCALED(0), LM_DW_SCALED(1)));
                const int8x8_t second = vqmovn_s16(vcombine_s16(LM_DW_SCALED(2), LM_DW_SCALED(3)));
                const int8x16_t codes = vmaxq_s8(vcombine_s8(first, second), vdupq_n_s8((int8_t)a->low));
                vst1q_s8((int8_t *)a->y + (size_t)i * a->y_step + lane, codes);
            }
        }
    }
}
