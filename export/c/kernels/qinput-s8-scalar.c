#include "kernel-s8.h"

/* 8-bit pixels -> codes by integers, (byte * factor + shift) >> 16, which the exporter has proven for all 256 bytes
   (`shift` holds 2^30 more, to stay positive); one pixel of code 0 on either side. A map is a multiple of 16 pixels wide; `factor` and `shift` hold the three channels 16 times over. */
static LM_UNUSED void lm_qinput_row_scalar(const uint8_t *x, int width, const int32_t *factor, const int32_t *shift, uint8_t *y)
{
    memset(y, LM_ZERO, 3);
    for (int p = 0; p < width; p += 16) {
        for (int i = 0; i < 48; i++) {
            const int32_t value = (int32_t)((uint32_t)((int32_t)x[i] * factor[i] + shift[i]) >> 16) - 16384;
            y[3 + i] = LM_BYTE(value < -128 ? -128 : value > 127 ? 127 : value);
        }
        x += 48;
        y += 48;
    }
    memset(y + 3, LM_ZERO, 3 + 16);
}
