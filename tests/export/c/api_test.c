/* Every documented status, guard bytes around everything that is written, and inputs that nobody should send. */
#include "landmarks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
#define CHECK(condition)                                              \
    do {                                                              \
        if (!(condition)) {                                           \
            printf("line %d: %s\n", __LINE__, #condition);            \
            failures++;                                               \
        }                                                             \
    } while (0)

enum { GUARD = 256 };
static uint8_t face[LM_INPUT_WIDTH * LM_INPUT_HEIGHT * 3];

static void contexts(void)
{
    uint8_t *block = (uint8_t *)malloc(LM_ARENA_BYTES + 2 * GUARD + LM_ARENA_ALIGN);
    uint8_t *arena = (uint8_t *)lm_align(block + GUARD);
    struct { float before[16], xy[2 * LM_POINTS], after[16]; } out;
    lm_ctx ctx, blank;
    float in_place[2 * LM_POINTS];
    int layer = 7;
    memset(&blank, 0, sizeof blank);
    memset(block, 0xa5, LM_ARENA_BYTES + 2 * GUARD + LM_ARENA_ALIGN);
    memset(&out, 0x5a, sizeof out);
    CHECK(lm_arena_bytes() == LM_ARENA_BYTES);
    CHECK(lm_init(NULL, arena, LM_ARENA_BYTES) == LM_ERR_NULL);
    CHECK(lm_init(&ctx, NULL, LM_ARENA_BYTES) == LM_ERR_NULL);
    CHECK(lm_init(&ctx, arena + 1, LM_ARENA_BYTES) == LM_ERR_ARENA_ALIGN);
    CHECK(lm_init(&ctx, arena, LM_ARENA_BYTES - 1) == LM_ERR_ARENA_SIZE);
    CHECK(lm_init(&ctx, arena, 0) == LM_ERR_ARENA_SIZE);
    CHECK(lm_run(&ctx, face, out.xy) == LM_ERR_CONTEXT);
    CHECK(lm_selftest(&ctx, &layer) == LM_ERR_CONTEXT && layer == -1);
    CHECK(lm_init(&ctx, arena, LM_ARENA_BYTES) == LM_OK);
    CHECK(lm_run(NULL, face, out.xy) == LM_ERR_NULL);
    CHECK(lm_run(&ctx, NULL, out.xy) == LM_ERR_NULL);
    CHECK(lm_run(&ctx, face, NULL) == LM_ERR_NULL);
    CHECK(lm_run(&ctx, face, out.xy) == LM_OK);
    CHECK(lm_face(NULL) == NULL && lm_face(&blank) == NULL);
    CHECK(lm_face(&ctx) >= arena && lm_face(&ctx) + sizeof face <= arena + LM_ARENA_BYTES);
    memcpy(lm_face(&ctx), face, sizeof face); /* the network does not touch it */
    CHECK(lm_run(&ctx, lm_face(&ctx), in_place) == LM_OK && memcmp(in_place, out.xy, sizeof in_place) == 0);
    CHECK(lm_run(&ctx, lm_face(&ctx), in_place) == LM_OK && memcmp(in_place, out.xy, sizeof in_place) == 0);
    CHECK(lm_selftest(&ctx, NULL) == LM_OK);
    CHECK(lm_selftest(&ctx, &layer) == LM_OK && layer == -1);
    for (uint8_t *p = block; p < arena; p++) {
        CHECK(*p == 0xa5);
    }
    for (uint8_t *p = arena + LM_ARENA_BYTES; p < arena + LM_ARENA_BYTES + GUARD; p++) {
        CHECK(*p == 0xa5);
    }
    for (size_t i = 0; i < sizeof out.before; i++) {
        CHECK(((uint8_t *)out.before)[i] == 0x5a && ((uint8_t *)out.after)[i] == 0x5a);
    }
    free(block);
}

/* The result must not depend on what the arena held before. */
static void dirty_memory(void)
{
    float first[2 * LM_POINTS], second[2 * LM_POINTS];
    uint8_t *block = (uint8_t *)malloc(LM_ARENA_BYTES + LM_ARENA_ALIGN);
    lm_ctx ctx;
    for (size_t i = 0; i < sizeof face; i++) {
        face[i] = (uint8_t)(i * 31 + i / 7);
    }
    memset(block, 0, LM_ARENA_BYTES + LM_ARENA_ALIGN);
    CHECK(lm_init(&ctx, lm_align(block), LM_ARENA_BYTES) == LM_OK);
    CHECK(lm_run(&ctx, face, first) == LM_OK);
    memset(block, 0xff, LM_ARENA_BYTES + LM_ARENA_ALIGN);
    CHECK(lm_run(&ctx, face, second) == LM_OK);
    CHECK(memcmp(first, second, sizeof first) == 0);
    free(block);
}

static void images(void)
{
    enum { WIDTH = 37, HEIGHT = 29, STRIDE = WIDTH * 3 + 5 };
    uint8_t *pixels = (uint8_t *)malloc(STRIDE * HEIGHT), *chroma = (uint8_t *)malloc((WIDTH + 1) * ((HEIGHT + 1) / 2));
    uint8_t *block = (uint8_t *)malloc(LM_ARENA_BYTES + LM_ARENA_ALIGN);
    const float odd[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 1e6f, -1e6f, 0.0f, 1e-30f, 36.5f, 1e5f, -3.25f};
    const int count = (int)(sizeof odd / sizeof *odd);
    float xy[2 * LM_POINTS];
    lm_ctx ctx;
    lm_image image = {NULL, WIDTH, HEIGHT, STRIDE, LM_BGR, NULL, 0}, bad;
    lm_box box = {5.0f, 5.0f, 25.0f, 25.0f};
    memset(pixels, 90, STRIDE * HEIGHT);
    memset(chroma, 128, (WIDTH + 1) * ((HEIGHT + 1) / 2));
    CHECK(lm_init(&ctx, lm_align(block), LM_ARENA_BYTES) == LM_OK);
    CHECK(lm_run_image(&ctx, &image, &box, xy) == LM_ERR_NULL);
    image.data = pixels;
    CHECK(lm_run_image(NULL, &image, &box, xy) == LM_ERR_NULL);
    CHECK(lm_run_image(&ctx, NULL, &box, xy) == LM_ERR_NULL);
    CHECK(lm_run_image(&ctx, &image, NULL, xy) == LM_ERR_NULL);
    CHECK(lm_run_image(&ctx, &image, &box, NULL) == LM_ERR_NULL);
    CHECK(lm_crop_image(&image, &box, NULL) == LM_ERR_NULL);
    CHECK(lm_run_image(&ctx, &image, &box, xy) == LM_OK);
    bad = image, bad.width = 0;
    CHECK(lm_run_image(&ctx, &bad, &box, xy) == LM_ERR_IMAGE);
    bad = image, bad.height = -1;
    CHECK(lm_run_image(&ctx, &bad, &box, xy) == LM_ERR_IMAGE);
    bad = image, bad.width = 0x7fffffff;
    CHECK(lm_run_image(&ctx, &bad, &box, xy) == LM_ERR_IMAGE);
    bad = image, bad.stride = WIDTH * 3 - 1;
    CHECK(lm_run_image(&ctx, &bad, &box, xy) == LM_ERR_IMAGE);
    bad = image, bad.stride = (size_t)-1;
    CHECK(lm_run_image(&ctx, &bad, &box, xy) == LM_ERR_IMAGE);
    bad = image, bad.format = (lm_format)99;
    CHECK(lm_run_image(&ctx, &bad, &box, xy) == LM_ERR_FORMAT);
    bad = image, bad.format = LM_NV12;
    CHECK(lm_run_image(&ctx, &bad, &box, xy) == LM_ERR_NULL);
    bad.chroma = chroma, bad.chroma_stride = WIDTH - 1;
    CHECK(lm_run_image(&ctx, &bad, &box, xy) == LM_ERR_IMAGE);
    for (int format = LM_BGR; format <= LM_NV12; format++) {
        lm_image any = image;
        any.format = (lm_format)format;
        any.chroma = chroma;
        any.chroma_stride = WIDTH + 1;
        for (int i = 0; i < count * count * count * count; i++) {
            const int k[4] = {i % count, i / count % count, i / count / count % count, i / count / count / count};
            const lm_box strange = {odd[k[0]], odd[k[1]], odd[k[2]], odd[k[3]]};
            const lm_status status = lm_crop_image(&any, &strange, face);
            const int sane = fabsf(odd[k[0]]) <= 1e6f && fabsf(odd[k[1]]) <= 1e6f && fabsf(odd[k[2]]) <= 1e6f && fabsf(odd[k[3]]) <= 1e6f;
            CHECK(status == LM_OK || status == LM_ERR_BOX);
            CHECK(status == LM_ERR_BOX || (sane && odd[k[2]] > odd[k[0]] && odd[k[3]] > odd[k[1]]));
            i += 90 + i % 13; /* a sample of all combinations */
        }
    }
    free(pixels);
    free(chroma);
    free(block);
}

static void words(void)
{
    for (int status = LM_OK; status <= LM_ERR_SELFTEST + 1; status++) {
        CHECK(strlen(lm_status_text((lm_status)status)) > 1);
    }
    CHECK(lm_layer_count() > 10);
    CHECK(strcmp(lm_layer_name(-1), "?") == 0 && strcmp(lm_layer_name(lm_layer_count()), "?") == 0);
    CHECK(strlen(lm_layer_name(0)) > 3 && strlen(lm_isa()) > 2);
}

int main(void)
{
    contexts();
    dirty_memory();
    images();
    words();
    printf("%d failures\n", failures);
    return failures != 0;
}
