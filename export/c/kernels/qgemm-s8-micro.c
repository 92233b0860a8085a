/* Matrix product of codes for microcontrollers: two pixels by two outputs, four inputs at a time. Arm cores with DSP instructions
   multiply two pairs of codes at once; the others have plain C. */
#include "kernel-s8.h"

#if defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__) && !defined(LM_FORCE_SCALAR)
#undef LM_ISA
#define LM_ISA "Arm DSP"
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

static void lm_qgemm_micro(const lm_qgemm_args *a)
{
    const size_t row = 4 * (size_t)a->lanes;
    const int plain = a->y_float == NULL && a->add == NULL, low = a->low;
    const float *scale = a->scale;
    for (size_t p = 0; p < (size_t)a->pixels; p += 2) {
        const int two = p + 1 < (size_t)a->pixels;
        for (size_t o = 0; o < (size_t)a->lanes; o += 2) {
            const int8_t *w = a->w + 4 * o;
            int32_t s00 = a->bias[o], s01 = a->bias[o + 1], s10 = s00, s11 = s01;
            for (int r = 0; r < a->run_count; r++) {
                const uint8_t *x = a->runs[r].x + p * a->x_step, *z = two ? x + a->x_step : x;
                for (size_t g = a->runs[r].groups; g > 0; g--) {
#if defined(LM_DSP)
                    const uint32_t xs = lm_word(x), zs = lm_word(z), u = lm_word(w), v = lm_word(w + 4);
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
                        s01 += here * w[4 + i];
                        s10 += there * w[i];
                        s11 += there * w[4 + i];
                    }
#endif
                    x += 4;
                    z += 4;
                    w += row;
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
