#include "kernel.h"

/* e to the power of 16 numbers that are not positive, within 2 units in the last place; below -87: that of -87. */
static void lm_exp(float *x)
{
    float whole[LM_VECTOR], rest[LM_VECTOR], sum[LM_VECTOR];
    int32_t bits[LM_VECTOR];
    for (int i = 0; i < LM_VECTOR; i++) {
        const float clipped = x[i] < -87.0f ? -87.0f : x[i];
        bits[i] = (int32_t)(clipped * 1.44269504f - 0.5f); /* rounds towards zero, so to the nearest */
        whole[i] = (float)bits[i];
        rest[i] = (clipped - whole[i] * 0.693359375f) + whole[i] * 2.12194440e-4f;
    }
    for (int i = 0; i < LM_VECTOR; i++) {
        const float r = rest[i];
        float s = 1.9875691500e-4f;
        s = s * r + 1.3981999507e-3f;
        s = s * r + 8.3334519073e-3f;
        s = s * r + 4.1665795894e-2f;
        s = s * r + 1.6666665459e-1f;
        s = s * r + 5.0000001201e-1f;
        sum[i] = s * (r * r) + r + 1.0f;
        bits[i] = (bits[i] + 127) * (1 << 23);
    }
    memcpy(whole, bits, sizeof whole);
    for (int i = 0; i < LM_VECTOR; i++) {
        x[i] = sum[i] * whole[i];
    }
}
