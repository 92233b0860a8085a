/* Fuzz target of lm_run_image and lm_crop_image. With clang:
       clang -g -O1 -fsanitize=fuzzer,address,undefined -I DIR fuzz_run_image.c DIR/landmarks.c -o fuzz && ./fuzz corpus
   With any compiler, to run every file of a corpus once:  cc -DLM_REPLAY ... && ./replay corpus/...

   An input: format, switches, width, height, changes of the two strides (16 bits each), four floats, then pixels that
   repeat. The image's memory ends where its last row ends, so that a sanitizer sees any byte read too far. */
#include "landmarks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD 26u
#define MOST (1u << 18)

enum { NULL_IMAGE = 1, NULL_BOX = 2, NULL_DATA = 4, NULL_CHROMA = 8, NULL_XY = 16, SMALL_BOX = 32 };

static void expect(int truth, const char *what)
{
    if (!truth) {
        fprintf(stderr, "broken promise: %s\n", what);
        abort();
    }
}

static int32_t number(const uint8_t *p)
{
    const int32_t value = p[0] | p[1] << 8;
    return value >= 32768 ? value - 65536 : value;
}

/* A plane of `height` rows in memory of exactly its size; NULL when there cannot be one. */
static uint8_t *plane(int32_t height, size_t stride, size_t row, const uint8_t *data, size_t size)
{
    size_t bytes;
    uint8_t *memory;
    if (height < 1 || stride < row || row < 1 || stride > (size_t)-1 / 4 / (size_t)height) {
        bytes = 1;
    } else {
        bytes = (size_t)(height - 1) * stride + row;
        if (bytes > MOST) {
            return NULL;
        }
    }
    memory = (uint8_t *)malloc(bytes);
    for (size_t i = 0; memory != NULL && i < bytes; i++) {
        memory[i] = size > 0 ? data[i % size] : (uint8_t)(i * 37u);
    }
    return memory;
}

static void run(const lm_image *image, const lm_box *box, int with_xy)
{
    static unsigned char memory[LM_ARENA_BYTES + LM_ARENA_ALIGN];
    static lm_ctx ctx;
    static uint8_t face[LM_INPUT_WIDTH * LM_INPUT_HEIGHT * LM_INPUT_CHANNELS];
    float xy[2 * LM_POINTS + 2], again[2 * LM_POINTS];
    lm_status status, crop;
    for (int i = 0; i < 2 * LM_POINTS + 2; i++) {
        xy[i] = -12345.0f;
    }
    expect(lm_init(&ctx, lm_align(memory), LM_ARENA_BYTES) == LM_OK, "lm_init");
    status = lm_run_image(&ctx, image, box, with_xy ? xy + 1 : NULL);
    crop = lm_crop_image(image, box, face);
    expect(strlen(lm_status_text(status)) > 1, "every status has words");
    expect(!with_xy || status == crop, "crop and run agree");
    expect(with_xy || status == LM_ERR_NULL, "no output: LM_ERR_NULL");
    expect(xy[0] == -12345.0f && xy[2 * LM_POINTS + 1] == -12345.0f, "nothing written beside the output");
    for (int i = 1; i <= 2 * LM_POINTS; i++) {
        expect((status != LM_OK) == (xy[i] == -12345.0f), "written exactly when it is LM_OK");
        expect(xy[i] - xy[i] == 0.0f, "finite");
    }
    if (status == LM_OK) {
        expect(lm_run_image(&ctx, image, box, again) == LM_OK, "the same again");
        expect(memcmp(again, xy + 1, sizeof again) == 0, "the same numbers again");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lm_image image;
    lm_box box;
    uint8_t *pixels, *chroma = NULL;
    size_t row, half;
    unsigned switches;
    if (size < HEAD) {
        return 0;
    }
    memset(&image, 0, sizeof image);
    image.format = (lm_format)(data[0] % 5u);
    switches = data[1];
    image.width = number(data + 2);
    image.height = number(data + 4);
    row = image.width > 0 ? (size_t)image.width * (image.format == LM_BGR || image.format == LM_RGB ? 3u : 1u) : 0;
    half = image.width > 0 ? ((size_t)image.width + 1) / 2 * 2 : 0;
    image.stride = row + (size_t)(number(data + 6) % 256);
    image.chroma_stride = half + (size_t)(number(data + 8) % 256);
    memcpy(&box, data + 10, sizeof box);
    if ((switches & SMALL_BOX) != 0) {
        box.x0 = (float)number(data + 10) / 16.0f;
        box.y0 = (float)number(data + 12) / 16.0f;
        box.x1 = (float)number(data + 14) / 16.0f;
        box.y1 = (float)number(data + 16) / 16.0f;
    }
    pixels = plane(image.height, image.stride, row, data + HEAD, size - HEAD);
    if (image.format == LM_NV12 && image.height > 0) {
        chroma = plane((image.height + 1) / 2, image.chroma_stride, half, data + HEAD, size - HEAD);
    }
    image.data = (switches & NULL_DATA) != 0 ? NULL : pixels;
    image.chroma = (switches & NULL_CHROMA) != 0 ? NULL : chroma;
    if (pixels != NULL && (image.format != LM_NV12 || chroma != NULL || image.height < 1)) {
        run((switches & NULL_IMAGE) != 0 ? NULL : &image, (switches & NULL_BOX) != 0 ? NULL : &box, (switches & NULL_XY) == 0);
    }
    free(pixels);
    free(chroma);
    return 0;
}

#ifdef LM_REPLAY
int main(int argc, char **argv)
{
    static uint8_t data[1 << 16];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        size_t size;
        if (file == NULL) {
            fprintf(stderr, "%s: cannot read\n", argv[i]);
            return 2;
        }
        size = fread(data, 1, sizeof data, file);
        fclose(file);
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
#endif
