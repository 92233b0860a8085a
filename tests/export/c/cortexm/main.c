/* Two faces that are a formula, all working memory static: prints statuses, coordinates as hexadecimal bits, time, stack used. */
#include "board.h"
#include "landmarks.h"

#include <string.h>

static uint8_t arena[LM_ARENA_BYTES] __attribute__((aligned(LM_ARENA_ALIGN)));

int main(void)
{
    lm_ctx ctx;
    float xy[2 * LM_POINTS];
    uint32_t state = 1, ticks = 0;
    lm_status status;
    int layer = -1;
    board_number((uint32_t)lm_init(&ctx, arena, sizeof arena));
    for (int n = 0; n < 2; n++) {
        uint8_t *face = lm_face(&ctx);
        for (size_t i = 0; i < LM_INPUT_WIDTH * LM_INPUT_HEIGHT * LM_INPUT_CHANNELS; i++) {
            state = state * 1664525u + 1013904223u;
            face[i] = (uint8_t)(state >> 24);
        }
        board_timer_start();
        status = lm_run(&ctx, face, xy);
        ticks = board_timer_ticks();
        board_number((uint32_t)status);
        for (int i = 0; i < 2 * LM_POINTS; i++) {
            uint32_t bits;
            memcpy(&bits, &xy[i], sizeof bits);
            board_number(bits);
        }
    }
    board_number(ticks);
    board_number(board_stack_used());
    board_number((uint32_t)lm_selftest(&ctx, &layer));
    return 0;
}
