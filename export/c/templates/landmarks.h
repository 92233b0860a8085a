/* @BANNER@
 *
 * Face landmarks without dependencies. All memory is the caller's; contexts are independent of each other.
 *
 *     static unsigned char memory[LM_ARENA_BYTES + LM_ARENA_ALIGN];
 *     lm_ctx ctx;
 *     float xy[2 * LM_POINTS];
 *     lm_status status = lm_init(&ctx, lm_align(memory), LM_ARENA_BYTES);
 *     if (status == LM_OK) status = lm_run_image(&ctx, &image, &box, xy);
 */
#ifndef LM_LANDMARKS_H
#define LM_LANDMARKS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LM_ABI_VERSION 1
@DEFINES@

/* What a call can answer. */
typedef enum lm_status {
    LM_OK = 0,
    LM_ERR_NULL,        /* a pointer is NULL */
    LM_ERR_ARENA_SIZE,  /* the arena is shorter than LM_ARENA_BYTES */
    LM_ERR_ARENA_ALIGN, /* the arena does not start at a multiple of LM_ARENA_ALIGN */
    LM_ERR_CONTEXT,     /* the context was not set up by lm_init */
    LM_ERR_IMAGE,       /* width, height or stride of the image are impossible */
    LM_ERR_FORMAT,      /* unknown pixel format */
    LM_ERR_BOX,         /* the box is empty, not finite or absurdly large */
    LM_ERR_SELFTEST,    /* this build computes something else than the exporter did */
    LM_ERR_ISA          /* no such instruction set in this build, or not on this machine */
} lm_status;

typedef enum lm_format {
    LM_BGR = 0,
    LM_RGB,
    LM_GRAY,
    LM_NV12 /* full-range BT.601; `data` is the luma plane, `chroma` the interleaved half-size plane */
} lm_format;

/* An image in memory; rows may be padded. Sides up to LM_MAX_SIDE. */
typedef struct lm_image {
    const uint8_t *data;
    int32_t width;
    int32_t height;
    size_t stride; /* bytes from one row to the next */
    lm_format format;
    const uint8_t *chroma; /* LM_NV12 only */
    size_t chroma_stride;
} lm_image;

/* A face box in pixels of the image; integers are pixel centres. It may reach outside the image. */
typedef struct lm_box {
    float x0;
    float y0;
    float x1;
    float y1;
} lm_box;

/* Set up by lm_init; its content is private. */
typedef struct lm_ctx {
    uint32_t magic;
    int32_t isa;
    void *arena;
} lm_ctx;

/* Bytes of working memory that lm_init wants: LM_ARENA_BYTES. */
size_t lm_arena_bytes(void);

/* First suitably aligned address at or behind `memory`. */
void *lm_align(void *memory);

/* Bind a context to working memory. The memory must outlive the context; nothing needs to be freed. */
lm_status lm_init(lm_ctx *ctx, void *arena, size_t bytes);

/* One prepared face, LM_INPUT_HEIGHT x LM_INPUT_WIDTH x 3 bytes in LM_INPUT_ORDER -> 2 * LM_POINTS coordinates x, y in 0..1 of the crop. */
lm_status lm_run(lm_ctx *ctx, const uint8_t *face, float *xy);

/* Crop by the model's rule, run, map back: 2 * LM_POINTS coordinates in pixels of the image. `xy` is written when it is LM_OK only. */
lm_status lm_run_image(lm_ctx *ctx, const lm_image *image, const lm_box *box, float *xy);

/* The crop that lm_run_image makes, for those who want to look at it: LM_INPUT_HEIGHT x LM_INPUT_WIDTH x 3 bytes. */
lm_status lm_crop_image(const lm_image *image, const lm_box *box, uint8_t *face);

/* The place in the arena where lm_run_image makes its crop. A face that you prepare there and hand to lm_run needs no memory of its
   own. NULL when the context was not set up. */
uint8_t *lm_face(lm_ctx *ctx);

/* Run the embedded face and compare every layer; on LM_ERR_SELFTEST `bad_layer` (may be NULL) is the first that differs, else -1. */
lm_status lm_selftest(lm_ctx *ctx, int *bad_layer);

/* Number of layers, and what a layer does ("?" outside 0..count-1). */
int lm_layer_count(void);
const char *lm_layer_name(int layer);

/* One English sentence. */
const char *lm_status_text(lm_status status);

/* The instruction set that lm_init chooses on this machine. */
const char *lm_isa(void);

/* The instruction sets in this build, best first: one, unless it was exported to choose at run time ("?" outside 0..count-1). */
int lm_isa_count(void);
const char *lm_isa_name(int isa);

/* Use another of them than lm_init chose: for tests and comparisons. int8 results are the same bytes on all. */
lm_status lm_use_isa(lm_ctx *ctx, int isa);

#ifdef __cplusplus
}
#endif

#endif
