/* What the int8 kernels share. A map holds one byte per channel: the code, plus LM_ZERO where the machine multiplies unsigned
   by signed bytes. A sum becomes a code by one float32 multiplication, rounded to even: the same bytes on every machine. */
#ifndef LM_KERNEL_S8_H
#define LM_KERNEL_S8_H
#include "kernel.h"

#if LM_ZERO
#define LM_FACTOR(byte) ((int32_t)(byte))
#else
#define LM_FACTOR(byte) ((int32_t)(int8_t)(byte))
#endif
#define LM_CODE(byte) ((int)LM_FACTOR(byte) - LM_ZERO)
#define LM_BYTE(code) ((uint8_t)((code) + LM_ZERO))
/* A bias that makes up for LM_ZERO in the inputs: `sum` is the sum of the channel's weights. */
#define LM_BIAS(bias, sum) ((bias) - LM_ZERO * (sum))

#if defined(__GNUC__)
#define LM_UNUSED __attribute__((unused))
#else
#define LM_UNUSED
#endif

/* Keeps a compiler from fusing a product into a following sum: that would round once where the specification rounds twice. */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__SSE2__))
#define LM_ALONE(value) __asm__("" : "+x"(value))
#elif defined(__GNUC__) && defined(__aarch64__)
#define LM_ALONE(value) __asm__("" : "+w"(value))
#elif defined(__GNUC__) && defined(__arm__) && defined(__ARM_FP)
#define LM_ALONE(value) __asm__("" : "+t"(value))
#elif defined(__GNUC__)
#define LM_ALONE(value) __asm__("" : "+m"(value))
#else
#define LM_ALONE(value) { volatile float lm_kept = (value); (value) = lm_kept; }
#endif

/* The same for an array of products. */
#if defined(__GNUC__)
#define LM_ALL_ALONE(products) __asm__("" : "+m"(products))
#else
#define LM_ALL_ALONE(products) { volatile float lm_kept[LM_VECTOR]; for (int j = 0; j < LM_VECTOR; j++) { lm_kept[j] = (products)[j]; } \
                             for (int j = 0; j < LM_VECTOR; j++) { (products)[j] = lm_kept[j]; } }
#endif

/* A run of input channels, four to a group. */
typedef struct lm_bytes {
    const uint8_t *x;
    size_t groups;
} lm_bytes;

/* Matrix product of codes: sum = bias + sum_k x * w; then sum * scale (+ added code * add_scale) is rounded and clamped to
   low..127, or stays float (y_float). Weights: [panel][k / 4][16 * vectors][4]. */
typedef struct lm_qgemm_args {
    const lm_bytes *runs;
    int run_count;
    size_t x_step;
    size_t groups; /* of four, in all runs */
    const int8_t *w;
    const int32_t *bias;
    const float *scale;
    uint8_t *y;
    float *y_float; /* NULL: codes are wanted */
    size_t y_step;
    const uint8_t *add; /* NULL: nothing to add */
    size_t add_step;
    float add_scale;
    int vectors;
    int lanes; /* for microcontrollers: lanes of an output pixel, a multiple of four; weights are [lane][k] */
    int pixels;
    int low;
    int positive; /* no input code is negative */
} lm_qgemm_args;

/* One output row of a depthwise 3x3 convolution of codes, padding 1. A row outside the map is NULL. Channels come in blocks of 64;
   weights, bias and scale lie in the order in which interleaving bytes leaves them: [block][column][sub][lane][row]. */
typedef struct lm_qdw_args {
    const uint8_t *x[3];
    size_t x_step;
    int in_width;
    int stride;
    const int8_t *w;
    const int32_t *bias;
    const float *scale;
    uint8_t *y;
    size_t y_step;
    int out_width;
    int blocks;
    int lanes; /* for microcontrollers: channels, a multiple of four */
    int low;
    int positive;
} lm_qdw_args;

/* A float layer whose sums run in the order that the specification fixes: bias, then x[at[k]] * w[k] for one k after the other,
   every product rounded by itself. Weights: [vector][k][16]. */
typedef struct lm_ordered_args {
    const float *x;
    const int32_t *at;
    int k_total;
    size_t x_step;
    const float *w;
    const float *bias;
    float *y;
    size_t y_step;
    int vectors;
    int pixels;
    int relu;
} lm_ordered_args;

/* Rounds to even and clamps to low..127. Clamping comes first: so no product can be fused into the rounding. */
static LM_UNUSED int lm_round_code(float value, int low)
{
#if defined(__GNUC__) && defined(__arm__) && defined(__ARM_FP) /* one instruction that rounds; whole limits may come after it */
    int32_t code;
    __asm__("vcvtr.s32.f32 %0, %0" : "+t"(value));
    memcpy(&code, &value, sizeof code);
    return code < low ? low : code > 127 ? 127 : code;
#else
    const float floor_value = (float)low;
    float whole;
    value = value < floor_value ? floor_value : value > 127.0f ? 127.0f : value;
    whole = value + 12582912.0f;
    LM_ALONE(whole);
    return (int)(whole - 12582912.0f);
#endif
}

#endif
