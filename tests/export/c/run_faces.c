/* Faces from standard input -> landmarks on standard output, both as raw bytes; the instruction set on standard error.
   run_faces [ISA]: another one than lm_init chose. Exit code: the first status that is not LM_OK. */
#include "landmarks.h"

#include <stdio.h>
#include <stdlib.h>

static unsigned char memory[LM_ARENA_BYTES + LM_ARENA_ALIGN];
static uint8_t face[LM_INPUT_WIDTH * LM_INPUT_HEIGHT * LM_INPUT_CHANNELS];

int main(int argc, char **argv)
{
    lm_ctx ctx;
    float xy[2 * LM_POINTS];
    int isa = 0;
    lm_status status = lm_init(&ctx, lm_align(memory), LM_ARENA_BYTES);
    while (status == LM_OK && argc < 2 && isa < lm_isa_count() - 1 && lm_isa_name(isa) != lm_isa()) {
        isa++;
    }
    if (status == LM_OK && argc > 1) {
        isa = atoi(argv[1]);
        status = lm_use_isa(&ctx, isa);
    }
    fprintf(stderr, "%s", lm_isa_name(isa));
    while (status == LM_OK && fread(face, sizeof face, 1, stdin) == 1) {
        status = lm_run(&ctx, face, xy);
        fwrite(xy, sizeof xy, 1, stdout);
    }
    return status == LM_OK ? (int)lm_selftest(&ctx, NULL) : (int)status;
}
