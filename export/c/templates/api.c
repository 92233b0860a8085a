/* ---- the interface ---- */

#define LM_MAGIC 0x4c4d3031u

size_t lm_arena_bytes(void)
{
    return LM_ARENA_BYTES;
}

void *lm_align(void *memory)
{
    const uintptr_t address = (uintptr_t)memory;
    return (uint8_t *)memory + (LM_ARENA_ALIGN - address % LM_ARENA_ALIGN) % LM_ARENA_ALIGN;
}

static int lm_path_runs(int isa)
{
    return (lm_paths[isa].needs & ~lm_cpu()) == 0;
}

/* The first that this machine can run; the last one runs everywhere. */
static int lm_best_path(void)
{
    int isa = 0;
    while (isa < LM_PATHS - 1 && !lm_path_runs(isa)) {
        isa++;
    }
    return isa;
}

int lm_isa_count(void)
{
    return LM_PATHS;
}

const char *lm_isa_name(int isa)
{
    return isa >= 0 && isa < LM_PATHS ? lm_paths[isa].name : "?";
}

lm_status lm_init(lm_ctx *ctx, void *arena, size_t bytes)
{
    if (ctx == NULL) {
        return LM_ERR_NULL;
    }
    ctx->magic = 0;
    ctx->arena = NULL;
    if (arena == NULL) {
        return LM_ERR_NULL;
    }
    if ((uintptr_t)arena % LM_ARENA_ALIGN != 0) {
        return LM_ERR_ARENA_ALIGN;
    }
    if (bytes < LM_ARENA_BYTES) {
        return LM_ERR_ARENA_SIZE;
    }
    ctx->arena = arena;
    ctx->isa = lm_best_path();
    ctx->magic = LM_MAGIC;
    return LM_OK;
}

static lm_status lm_check_ctx(const lm_ctx *ctx)
{
    if (ctx == NULL) {
        return LM_ERR_NULL;
    }
    return ctx->magic == LM_MAGIC && ctx->arena != NULL && ctx->isa >= 0 && ctx->isa < LM_PATHS ? LM_OK : LM_ERR_CONTEXT;
}

lm_status lm_use_isa(lm_ctx *ctx, int isa)
{
    const lm_status status = lm_check_ctx(ctx);
    if (status != LM_OK) {
        return status;
    }
    if (isa < 0 || isa >= LM_PATHS || !lm_path_runs(isa)) {
        return LM_ERR_ISA;
    }
    ctx->isa = isa;
    return LM_OK;
}

lm_status lm_run(lm_ctx *ctx, const uint8_t *face, float *xy)
{
    lm_net net;
    const lm_status status = lm_check_ctx(ctx);
    if (status != LM_OK) {
        return status;
    }
    if (face == NULL || xy == NULL) {
        return LM_ERR_NULL;
    }
    net.arena = (uint8_t *)ctx->arena;
    net.face = face;
    net.check = NULL;
    lm_paths[ctx->isa].network(&net, xy);
    return LM_OK;
}

lm_status lm_crop_image(const lm_image *image, const lm_box *box, uint8_t *face)
{
    lm_region region;
    lm_status status;
    if (image == NULL || box == NULL || face == NULL) {
        return LM_ERR_NULL;
    }
    status = lm_check_image(image);
    if (status == LM_OK) {
        status = lm_box_region(box, &region);
    }
    if (status == LM_OK) {
        lm_crop(image, &region, face);
    }
    return status;
}

uint8_t *lm_face(lm_ctx *ctx)
{
    return lm_check_ctx(ctx) == LM_OK ? (uint8_t *)ctx->arena + LM_FACE_OFFSET : NULL;
}

lm_status lm_run_image(lm_ctx *ctx, const lm_image *image, const lm_box *box, float *xy)
{
    lm_region region;
    uint8_t *face;
    lm_status status = lm_check_ctx(ctx);
    if (status != LM_OK) {
        return status;
    }
    if (image == NULL || box == NULL || xy == NULL) {
        return LM_ERR_NULL;
    }
    face = lm_face(ctx);
    status = lm_crop_image(image, box, face);
    if (status == LM_OK) {
        status = lm_run(ctx, face, xy);
    }
    if (status == LM_OK && lm_box_region(box, &region) == LM_OK) {
        const double half = LM_COORDINATES_CORNER ? 0.5 : 0.0;
        for (int i = 0; i < LM_POINTS; i++) {
            xy[2 * i] = (float)(region.corner_x + region.step * ((double)xy[2 * i] * LM_INPUT_WIDTH - 0.5) + half);
            xy[2 * i + 1] = (float)(region.corner_y + region.step * ((double)xy[2 * i + 1] * LM_INPUT_HEIGHT - 0.5) + half);
        }
    }
    return status;
}

/* The embedded face is a formula: soft bands and some noise, the same on every machine. */
static void lm_test_face(uint8_t *face)
{
    uint32_t state = LM_TEST_SEED;
    for (int y = 0; y < LM_INPUT_HEIGHT; y++) {
        for (int x = 0; x < LM_INPUT_WIDTH; x++) {
            for (int c = 0; c < 3; c++) {
                state = state * 1664525u + 1013904223u;
                *face++ = (uint8_t)((((unsigned)x * (3u + (unsigned)c) + (unsigned)y * (5u - (unsigned)c)) % 192u) + (state >> 26));
            }
        }
    }
}

lm_status lm_selftest(lm_ctx *ctx, int *bad_layer)
{
    lm_net net;
    lm_check check;
    float xy[2 * LM_POINTS];
    const lm_status status = lm_check_ctx(ctx);
    if (bad_layer != NULL) {
        *bad_layer = -1;
    }
    if (status != LM_OK) {
        return status;
    }
    memset(&check, 0, sizeof check);
    net.arena = (uint8_t *)ctx->arena;
    net.face = net.arena + LM_FACE_OFFSET;
    net.check = &check;
    lm_test_face(net.arena + LM_FACE_OFFSET);
    lm_paths[ctx->isa].network(&net, xy);
    for (int i = 0; i < LM_LAYER_COUNT; i++) {
        if (!lm_layer_right(&check, i)) {
            if (bad_layer != NULL) {
                *bad_layer = i;
            }
            return LM_ERR_SELFTEST;
        }
    }
    return LM_OK;
}

int lm_layer_count(void)
{
    return LM_LAYER_COUNT;
}

const char *lm_layer_name(int layer)
{
    return layer >= 0 && layer < LM_LAYER_COUNT ? lm_layers[layer].name : "?";
}

const char *lm_status_text(lm_status status)
{
    switch (status) {
    case LM_OK:
        return "ok";
    case LM_ERR_NULL:
        return "a pointer is NULL";
    case LM_ERR_ARENA_SIZE:
        return "the arena is too short; it needs LM_ARENA_BYTES";
    case LM_ERR_ARENA_ALIGN:
        return "the arena is not aligned to LM_ARENA_ALIGN";
    case LM_ERR_CONTEXT:
        return "the context was not set up by lm_init";
    case LM_ERR_IMAGE:
        return "width, height or stride of the image are impossible";
    case LM_ERR_FORMAT:
        return "unknown pixel format";
    case LM_ERR_BOX:
        return "the face box is empty, not finite or too large";
    case LM_ERR_SELFTEST:
        return "the self-test failed: this build computes something else than the exporter did";
    case LM_ERR_ISA:
        return "this build has no such instruction set, or this machine lacks it";
    default:
        return "unknown status";
    }
}

const char *lm_isa(void)
{
    return lm_paths[lm_best_path()].name;
}
