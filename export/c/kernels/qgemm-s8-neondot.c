/* Matrix product of codes for NEON with dot products: tiles of 1..4 pixels by 16 lanes. */
#include "kernel-s8.h"
#include <arm_neon.h>

#define LM_EACH_1(X) X(0)
#define LM_EACH_2(X) LM_EACH_1(X) X(1)
#define LM_EACH_3(X) LM_EACH_2(X) X(2)
#define LM_EACH_4(X) LM_EACH_3(X) X(3)
#define LM_START(i)                                                              \
    int32x4_t s##i##_0 = vld1q_s32(bias), s##i##_1 = vld1q_s32(bias + 4),        \
              s##i##_2 = vld1q_s32(bias + 8), s##i##_3 = vld1q_s32(bias + 12);
#define LM_POINT(i) const uint8_t *x##i = base + (size_t)i * a->x_step;
#define LM_DOT(i)                                                                \
    {                                                                            \
        int32_t four;                                                            \
        memcpy(&four, x##i + k, sizeof four);                                    \
        const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));             \
        s##i##_0 = vdotq_s32(s##i##_0, w0, x);                                   \
        s##i##_1 = vdotq_s32(s##i##_1, w1, x);                                   \
        s##i##_2 = vdotq_s32(s##i##_2, w2, x);                                   \
        s##i##_3 = vdotq_s32(s##i##_3, w3, x);                                   \
    }
#define LM_PUT(i) lm_put_neon(a, s##i##_0, s##i##_1, s##i##_2, s##i##_3, lane, pixel + i);

static float32x4_t lm_scaled_neon(const lm_qgemm_args *a, int32x4_t sum, int16x4_t added, size_t lane)
{
    float32x4_t value = vmulq_f32(vcvtq_f32_s32(sum), vld1q_f32(a->scale + lane));
    if (a->add != NULL) {
        float32x4_t other = vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(added)), a->add_scale);
        LM_ALONE(value);
        LM_ALONE(other);
        value = vaddq_f32(value, other);
    }
    return value;
}

static void lm_put_neon(const lm_qgemm_args *a, int32x4_t s0, int32x4_t s1, int32x4_t s2, int32x4_t s3, size_t lane, size_t pixel)
{
    const int8x16_t bytes = a->add != NULL ? vld1q_s8((const int8_t *)a->add + pixel * a->add_step + lane) : vdupq_n_s8(0);
    const int16x8_t low_half = vmovl_s8(vget_low_s8(bytes)), high_half = vmovl_s8(vget_high_s8(bytes));
    const float32x4_t f0 = lm_scaled_neon(a, s0, vget_low_s16(low_half), lane);
    const float32x4_t f1 = lm_scaled_neon(a, s1, vget_high_s16(low_half), lane + 4);
    const float32x4_t f2 = lm_scaled_neon(a, s2, vget_low_s16(high_half), lane + 8);
    const float32x4_t f3 = lm_scaled_neon(a, s3, vget_high_s16(high_half), lane + 12);
    if (a->y_float != NULL) {
        const float32x4_t low = vdupq_n_f32(a->low == 0 ? 0.0f : -INFINITY);
        float *y = a->y_float + pixel * a->y_step + lane;
        vst1q_f32(y, vmaxq_f32(low, f0));
        vst1q_f32(y + 4, vmaxq_f32(low, f1));
        vst1q_f32(y + 8, vmaxq_f32(low, f2));
        vst1q_f32(y + 12, vmaxq_f32(low, f3));
    } else {
        const int16x8_t first = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(f0)), vqmovn_s32(vcvtnq_s32_f32(f1)));
        const int16x8_t second = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(f2)), vqmovn_s32(vcvtnq_s32_f32(f3)));
        const int8x16_t codes = vmaxq_s8(vcombine_s8(vqmovn_s16(first), vqmovn_s16(second)), vdupq_n_s8((int8_t)a->low));
        vst1q_s8((int8_t *)a->y + pixel * a->y_step + lane, codes);
    }
}

#define LM_TILE(M)                                                                                                      \
    static void lm_qtile_##M(const lm_qgemm_args *a, const int8_t *panel, size_t w_step, size_t lane, size_t pixel,     \
                             int count)                                                                                 \
    {                                                                                                                   \
        const int32_t *bias = a->bias + lane;                                                                           \
        for (int tile = 0; tile < count; tile++) {                                                                      \
            const int8_t *w = panel;                                                                                    \
            LM_EACH_##M(LM_START)                                                                                       \
            for (int r = 0; r < a->run_count; r++) {                                                                    \
                const uint8_t *base = a->runs[r].x + pixel * a->x_step;                                                 \
                const size_t length = a->runs[r].groups * 4;                                                            \
                LM_EACH_##M(LM_POINT)                                                                                   \
                for (size_t k = 0; k < length; k += 4) {                                                                \
                    const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16), w2 = vld1q_s8(w + 32), w3 = vld1q_s8(w + 48); \
                    LM_EACH_##M(LM_DOT)                                                                                 \
                    w += w_step;                                                                                        \
                }                                                                                                       \
            }                                                                                                           \
            LM_EACH_##M(LM_PUT)                                                                                         \
            pixel += M;                                                                                                 \
        }                                                                                                               \
    }

LM_TILE(1) LM_TILE(2) LM_TILE(3) LM_TILE(4)

typedef void (*lm_qtile_fn)(const lm_qgemm_args *a, const int8_t *panel, size_t w_step, size_t lane, size_t pixel, int count);

static void lm_qgemm_neondot(const lm_qgemm_args *a)
{
    static const lm_qtile_fn kernels[5] = {NULL, lm_qtile_1, lm_qtile_2, lm_qtile_3, lm_qtile_4};
    const int tiles = (a->pixels + 3) / 4; /* of nearly equal size: no slow remainder */
    const int m = a->pixels / tiles, larger = a->pixels % tiles;
    const int8_t *panel = a->w;
    size_t lane = 0;
    int left = a->vectors;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        for (int v = 0; v < n; v++) {
            const int8_t *w = panel + v * 64;
            if (larger > 0) {
                kernels[m + 1](a, w, (size_t)n * 64, lane, 0, larger);
            }
            kernels[m](a, w, (size_t)n * 64, lane, (size_t)((m + 1) * larger), tiles - larger);
            lane += 16;
        }
        panel += a->groups * (size_t)n * 64;
        left -= n;
    }
}
