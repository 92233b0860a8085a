/* Does this build compute what the exporter did? Exit code 0 or 1. */
#include "landmarks.h"

#include <stdio.h>

static unsigned char memory[LM_ARENA_BYTES + LM_ARENA_ALIGN];

int main(void)
{
    lm_ctx ctx;
    int layer = -1;
    lm_status status = lm_init(&ctx, lm_align(memory), LM_ARENA_BYTES);
    if (status == LM_OK) {
        status = lm_selftest(&ctx, &layer);
    }
    if (status != LM_OK) {
        printf("%s %s: %s; layer %d: %s\n", lm_isa(), LM_PRECISION, lm_status_text(status), layer, lm_layer_name(layer));
        return 1;
    }
    printf("%s %s: all %d layers are right\n", lm_isa(), LM_PRECISION, lm_layer_count());
    return 0;
}
