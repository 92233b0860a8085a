/* Reference of the depthwise row of codes. */
#include "kernel-s8.h"

static void lm_qdw_scalar(const lm_qdw_args *a)
{
    for (int position = 0; position < a->blocks * 64; position++) {
        const int block = position / 64, sub = position / 16 % 4, at = position % 16;
        const size_t channel = (size_t)(block * 64 + 16 * (at / 4) + 4 * sub + at % 4);
        const int8_t *w = a->w + (size_t)block * 768 + (size_t)(sub * 16 + at) * 4;
        for (int ox = 0; ox < a->out_width; ox++) {
            int32_t sum = a->bias[position];
            for (int dx = 0; dx < 3; dx++) {
                const int ix = ox * a->stride + dx - 1;
                for (int dy = 0; dy < 3; dy++) {
                    const int inside = ix >= 0 && ix < a->in_width && a->x[dy] != NULL;
                    const int32_t x = inside ? LM_FACTOR(a->x[dy][(size_t)ix * a->x_step + channel]) : LM_ZERO;
                    sum += x * (int32_t)w[dx * 256 + dy];
                }
            }
            a->y[(size_t)ox * a->y_step + channel] = LM_BYTE(lm_round_code((float)sum * a->scale[position], a->low));
        }
    }
}
