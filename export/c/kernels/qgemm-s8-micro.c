/* Matrix product of codes for microcontrollers. Arm cores with vectors (MVE) take four outputs of a pixel, sixteen inputs at a time;
   those with DSP instructions two pixels by two outputs, four inputs at a time, and so does plain C. */
#include "kernel-s8.h"

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 2) && !defined(LM_FORCE_SCALAR)
#include <arm_mve.h>
#undef LM_ISA
#define LM_ISA "Arm MVE"
#define LM_MVE
#endif

#if defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__) && !defined(LM_FORCE_SCALAR)
#if !defined(LM_MVE)
#undef LM_ISA
#define LM_ISA "Arm DSP"
#endif
#define LM_DSP

/* Codes 0 and 2, or 1 and 3, of a word as two halves of 16 bits. */
static LM_UNUSED uint32_t lm_even_codes(uint32_t codes)
{
    uint32_t halves;
    __asm__("sxtb16 %0, %1" : "=r"(halves) : "r"(codes));
    return halves;
}

static LM_UNUSED uint32_t lm_odd_codes(uint32_t codes)
{
    uint32_t halves;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(codes));
    return halves;
}

#define LM_MUL_PAIRS(sum, a, b) __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b))
#define LM_MUL_LOW(sum, a, b) __asm__("smlabb %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b))
#define LM_MUL_HIGH(sum, a, b) __asm__("smlatt %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b))
#endif

/* gcc 12 makes unsigned products of signed bytes out of such loops when it may use VNNI: not out of values that it cannot follow. */
#if defined(__GNUC__)
#define LM_HIDE(value) __asm__("" : "+r"(value))
#else
#define LM_HIDE(value) (void)(value)
#endif

static LM_UNUSED uint32_t lm_word(const void *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* An output that is a sum of maps, or stays float. */
static LM_ONE_COPY void lm_qgemm_put(const lm_qgemm_args *a, size_t pixel, size_t channel, int32_t sum)
{
    float value = (float)sum * a->scale[channel];
    if (a->y_float != NULL) {
        a->y_float[pixel * a->y_step + channel] = a->low == 0 && value < 0.0f ? 0.0f : value;
        return;
    }
    if (a->add != NULL) {
        float other = (float)LM_CODE(a->add[pixel * a->add_step + channel]) * a->add_scale;
        LM_ALONE(value);
        LM_ALONE(other);
        value += other;
    }
    a->y[pixel * a->y_step + channel] = LM_BYTE(lm_round_code(value, a->low));
}

#if defined(LM_MVE)
/* Four sums to codes: rounded to even, as everywhere. */
static inline int32x4_t lm_codes_mve(int32x4_t sums, float32x4_t scale, int low)
{
    const int32x4_t codes = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums), scale));
    return vminq_s32(vmaxq_s32(codes, vdupq_n_s32(low)), vdupq_n_s32(127));
}

/* Four sums without their bias, as one vector. */
static inline int32x4_t lm_four_mve(int32_t s0, int32_t s1, int32_t s2, int32_t s3)
{
    const int32x4_t sums = {s0, s1, s2, s3};
    return sums;
}

/* Four outputs of all pixels from no more than sixteen inputs in one run: their weights stay in registers. */
static LM_ONE_COPY void lm_qgemm_few_mve(const lm_qgemm_args *a, size_t o, int32x4_t bias, float32x4_t scale)
{
    const size_t total = 4 * a->groups, x_step = a->x_step, y_step = a->y_step;
    const int low = a->low;
    const mve_pred16_t some = vctp8q((uint32_t)total);
    const int8_t *x = (const int8_t *)a->runs[0].x, *w = a->w + o * total;
    const int8x16_t w0 = vldrbq_z_s8(w, some), w1 = vldrbq_z_s8(w + total, some);
    const int8x16_t w2 = vldrbq_z_s8(w + 2 * total, some), w3 = vldrbq_z_s8(w + 3 * total, some);
    int8_t *y = (int8_t *)a->y + o;
    for (int p = a->pixels; p > 0; p--) {
        const int8x16_t codes = vldrbq_z_s8(x, some);
        const int32x4_t sums =
            lm_four_mve(vmladavq_s8(codes, w0), vmladavq_s8(codes, w1), vmladavq_s8(codes, w2), vmladavq_s8(codes, w3));
        vstrbq_s32(y, lm_codes_mve(vaddq_s32(sums, bias), scale, low));
        x += x_step;
        y += y_step;
    }
}

/* The same from any number of inputs in one run. */
static LM_ONE_COPY void lm_qgemm_run_mve(const lm_qgemm_args *a, size_t o, int32x4_t bias, float32x4_t scale)
{
    const size_t total = 4 * a->groups, x_step = a->x_step, y_step = a->y_step;
    const int low = a->low;
    const uint32_t chunks = (uint32_t)total / 16;
    const mve_pred16_t some = vctp8q((uint32_t)total % 16);
    const int8_t *x = (const int8_t *)a->runs[0].x;
    const int8_t *w = a->w + o * total;
    int8_t *y = (int8_t *)a->y + o;
    for (int p = a->pixels; p > 0; p--) {
        const int8_t *at = x, *w0 = w, *w1 = w0 + total, *w2 = w1 + total, *w3 = w2 + total;
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (uint32_t i = chunks; i > 0; i--) {
            const int8x16_t codes = vldrbq_s8(at);
            s0 = vmladavaq_s8(s0, codes, vldrbq_s8(w0));
            s1 = vmladavaq_s8(s1, codes, vldrbq_s8(w1));
            s2 = vmladavaq_s8(s2, codes, vldrbq_s8(w2));
            s3 = vmladavaq_s8(s3, codes, vldrbq_s8(w3));
            at += 16;
            w0 += 16;
            w1 += 16;
            w2 += 16;
            w3 += 16;
        }
        if (some) {
            const int8x16_t codes = vldrbq_z_s8(at, some);
            s0 = vmladavaq_s8(s0, codes, vldrbq_z_s8(w0, some));
            s1 = vmladavaq_s8(s1, codes, vldrbq_z_s8(w1, some));
            s2 = vmladavaq_s8(s2, codes, vldrbq_z_s8(w2, some));
            s3 = vmladavaq_s8(s3, codes, vldrbq_z_s8(w3, some));
        }
        vstrbq_s32(y, lm_codes_mve(vaddq_s32(lm_four_mve(s0, s1, s2, s3), bias), scale, low));
        x += x_step;
        y += y_step;
    }
}

/* Four sums of one pixel from several runs. */
static inline int32x4_t lm_sums_mve(const lm_bytes *run, int runs, size_t first, const int8_t *w, size_t total)
{
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (; runs > 0; runs--, run++) {
        const int8_t *x = (const int8_t *)run->x + first;
        for (uint32_t left = 4 * (uint32_t)run->groups; left > 0;) {
            const uint32_t here = left < 16 ? left : 16;
            const mve_pred16_t some = vctp8q(left);
            const int8x16_t codes = vldrbq_z_s8(x, some);
            s0 = vmladavaq_s8(s0, codes, vldrbq_z_s8(w, some));
            s1 = vmladavaq_s8(s1, codes, vldrbq_z_s8(w + total, some));
            s2 = vmladavaq_s8(s2, codes, vldrbq_z_s8(w + 2 * total, some));
            s3 = vmladavaq_s8(s3, codes, vldrbq_z_s8(w + 3 * total, some));
            x += here;
            w += here;
            left -= here;
        }
    }
    return lm_four_mve(s0, s1, s2, s3);
}

static void lm_qgemm_micro(const lm_qgemm_args *a)
{
    const size_t total = 4 * a->groups, pixels = (size_t)a->pixels, x_step = a->x_step, y_step = a->y_step;
    const int plain = a->y_float == NULL && a->add == NULL, low = a->low, runs = a->run_count;
    for (size_t o = 0; o < (size_t)a->lanes; o += 4) {
        const int32x4_t bias = vldrwq_s32(a->bias + o);
        const float32x4_t scale = vldrwq_f32(a->scale + o);
        const int8_t *w = a->w + o * total;
        if (plain && runs == 1 && total <= 16) {
            lm_qgemm_few_mve(a, o, bias, scale);
        } else if (plain && runs == 1) {
            lm_qgemm_run_mve(a, o, bias, scale);
        } else if (plain) {
            int8_t *y = (int8_t *)a->y + o;
            for (size_t p = 0; p < pixels; p++) {
                const int32x4_t sums = lm_sums_mve(a->runs, runs, p * x_step, w, total);
                vstrbq_s32(y, lm_codes_mve(vaddq_s32(sums, bias), scale, low));
                y += y_step;
            }
        } else {
            for (size_t p = 0; p < pixels; p++) {
                const int32x4_t sums = vaddq_s32(lm_sums_mve(a->runs, runs, p * x_step, w, total), bias);
                lm_qgemm_put(a, p, o, vgetq_lane_s32(sums, 0));
                lm_qgemm_put(a, p, o + 1, vgetq_lane_s32(sums, 1));
                lm_qgemm_put(a, p, o + 2, vgetq_lane_s32(sums, 2));
                lm_qgemm_put(a, p, o + 3, vgetq_lane_s32(sums, 3));
            }
        }
    }
}
#else
static void lm_qgemm_micro(const lm_qgemm_args *a)
{
    const size_t total = 4 * a->groups;
    const int plain = a->y_float == NULL && a->add == NULL, low = a->low;
    const float *scale = a->scale;
    for (size_t p = 0; p < (size_t)a->pixels; p += 2) {
        const int two = p + 1 < (size_t)a->pixels;
        for (size_t o = 0; o < (size_t)a->lanes; o += 2) {
            const int8_t *w = a->w + o * total;
            int32_t s00 = a->bias[o], s01 = a->bias[o + 1], s10 = s00, s11 = s01;
            for (int r = 0; r < a->run_count; r++) {
                const uint8_t *x = a->runs[r].x + p * a->x_step, *z = two ? x + a->x_step : x;
                for (size_t g = a->runs[r].groups; g > 0; g--) {
#if defined(LM_DSP)
                    const uint32_t xs = lm_word(x), zs = lm_word(z), u = lm_word(w), v = lm_word(w + total);
                    const uint32_t x0 = lm_even_codes(xs), x1 = lm_odd_codes(xs), z0 = lm_even_codes(zs), z1 = lm_odd_codes(zs);
                    const uint32_t u0 = lm_even_codes(u), u1 = lm_odd_codes(u), v0 = lm_even_codes(v), v1 = lm_odd_codes(v);
                    LM_MUL_PAIRS(s00, x0, u0);
                    LM_MUL_PAIRS(s00, x1, u1);
                    LM_MUL_PAIRS(s01, x0, v0);
                    LM_MUL_PAIRS(s01, x1, v1);
                    LM_MUL_PAIRS(s10, z0, u0);
                    LM_MUL_PAIRS(s10, z1, u1);
                    LM_MUL_PAIRS(s11, z0, v0);
                    LM_MUL_PAIRS(s11, z1, v1);
#else
                    for (int i = 0; i < 4; i++) {
                        int32_t here = LM_FACTOR(x[i]), there = LM_FACTOR(z[i]);
                        LM_HIDE(here);
                        LM_HIDE(there);
                        s00 += here * w[i];
                        s01 += here * w[total + (size_t)i];
                        s10 += there * w[i];
                        s11 += there * w[total + (size_t)i];
                    }
#endif
                    x += 4;
                    z += 4;
                    w += 4;
                }
            }
            if (plain) {
                uint8_t *y = a->y + p * a->y_step + o;
                y[0] = LM_BYTE(lm_round_code((float)s00 * scale[o], low));
                y[1] = LM_BYTE(lm_round_code((float)s01 * scale[o + 1], low));
                if (two) {
                    y += a->y_step;
                    y[0] = LM_BYTE(lm_round_code((float)s10 * scale[o], low));
                    y[1] = LM_BYTE(lm_round_code((float)s11 * scale[o + 1], low));
                }
                continue;
            }
            lm_qgemm_put(a, p, o, s00);
            lm_qgemm_put(a, p, o + 1, s01);
            if (two) {
                lm_qgemm_put(a, p + 1, o, s10);
                lm_qgemm_put(a, p + 1, o + 1, s11);
            }
        }
    }
}
#endif
