#include "kernel-s8.h"

/* 8-bit pixels -> codes by a table; one pixel of code 0 on either side. */
static void lm_qtable_row(const uint8_t *x, int width, const int8_t *table, uint8_t *y)
{
    memset(y, LM_ZERO, 3);
    for (int i = 0; i < 3 * width; i++) {
        y[3 + i] = LM_BYTE(table[3 * x[i] + i % 3]);
    }
    memset(y + 3 + 3 * width, LM_ZERO, 3 + 16);
}
