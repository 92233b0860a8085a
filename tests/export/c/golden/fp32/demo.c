/* Landmarks of one face in a photo:  demo IN.ppm X0 Y0 X1 Y1 OUT.ppm   (a binary PPM; the box in pixels)
   Without arguments: self-test and speed. */
#include "landmarks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_PIXELS (64u << 20)

static unsigned char memory[LM_ARENA_BYTES + LM_ARENA_ALIGN];

/* Next number of a PPM header; comments are skipped. 0 when there is none. */
static unsigned header_number(FILE *file)
{
    unsigned value = 0;
    int c = fgetc(file);
    while (c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '#') {
        if (c == '#') {
            while (c != '\n' && c != EOF) {
                c = fgetc(file);
            }
        }
        c = fgetc(file);
    }
    while (c >= '0' && c <= '9' && value < 1000000) {
        value = value * 10 + (unsigned)(c - '0');
        c = fgetc(file);
    }
    return value;
}

static uint8_t *read_ppm(const char *path, lm_image *image)
{
    uint8_t *pixels = NULL;
    FILE *file = fopen(path, "rb");
    unsigned width, height, depth;
    if (file == NULL || fgetc(file) != 'P' || fgetc(file) != '6') {
        fprintf(stderr, "%s: not a binary PPM (P6)\n", path);
    } else {
        width = header_number(file);
        height = header_number(file);
        depth = header_number(file);
        if (width == 0 || height == 0 || width > LM_MAX_SIDE || height > LM_MAX_SIDE || depth != 255 || width > MAX_PIXELS / height) {
            fprintf(stderr, "%s: size or depth is not supported\n", path);
        } else {
            pixels = (uint8_t *)malloc((size_t)width * height * 3);
            if (pixels == NULL || fread(pixels, 3, (size_t)width * height, file) != (size_t)width * height) {
                fprintf(stderr, "%s: the file is cut short\n", path);
                free(pixels);
                pixels = NULL;
            }
            memset(image, 0, sizeof *image);
            image->data = pixels;
            image->width = (int32_t)width;
            image->height = (int32_t)height;
            image->stride = (size_t)width * 3;
            image->format = LM_RGB;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return pixels;
}

static void draw(uint8_t *pixels, const lm_image *image, float fx, float fy)
{
    for (int dy = -1; dy <= 1; dy++) {
        for (int dx = -1; dx <= 1; dx++) {
            const double x = (double)fx + dx + 0.5, y = (double)fy + dy + 0.5;
            if (x >= 0 && y >= 0 && x < image->width && y < image->height) {
                uint8_t *p = pixels + (size_t)y * image->stride + (size_t)x * 3;
                p[0] = 0;
                p[1] = 255;
                p[2] = 0;
            }
        }
    }
}

static int annotate(lm_ctx *ctx, char **argv)
{
    lm_image image;
    lm_box box;
    float xy[2 * LM_POINTS];
    lm_status status;
    FILE *file;
    size_t written;
    uint8_t *pixels = read_ppm(argv[1], &image);
    if (pixels == NULL) {
        return 2;
    }
    box.x0 = (float)atof(argv[2]);
    box.y0 = (float)atof(argv[3]);
    box.x1 = (float)atof(argv[4]);
    box.y1 = (float)atof(argv[5]);
    status = lm_run_image(ctx, &image, &box, xy);
    if (status != LM_OK) {
        fprintf(stderr, "%s\n", lm_status_text(status));
        free(pixels);
        return 2;
    }
    for (int i = 0; i < LM_POINTS; i++) {
        printf("%.3f %.3f\n", (double)xy[2 * i], (double)xy[2 * i + 1]);
        draw(pixels, &image, xy[2 * i], xy[2 * i + 1]);
    }
    file = fopen(argv[6], "wb");
    if (file == NULL) {
        fprintf(stderr, "%s: cannot write\n", argv[6]);
        free(pixels);
        return 2;
    }
    fprintf(file, "P6\n%d %d\n255\n", (int)image.width, (int)image.height);
    written = fwrite(pixels, 3, (size_t)image.width * (size_t)image.height, file);
    free(pixels);
    return fclose(file) == 0 && written == (size_t)image.width * (size_t)image.height ? 0 : 2;
}

static int show_off(lm_ctx *ctx)
{
    static uint8_t face[LM_INPUT_WIDTH * LM_INPUT_HEIGHT * LM_INPUT_CHANNELS];
    float xy[2 * LM_POINTS];
    int layer, runs = 0;
    clock_t start;
    const lm_status status = lm_selftest(ctx, &layer);
    if (status != LM_OK) {
        printf("%s (layer %d: %s)\n", lm_status_text(status), layer, lm_layer_name(layer));
        return 1;
    }
    start = clock();
    while (clock() - start < CLOCKS_PER_SEC / 4) {
        lm_run(ctx, face, xy);
        runs++;
    }
    printf("%s %s: self-test ok, %.3f ms per face, %d bytes of memory\n", lm_isa(), LM_PRECISION,
           1e3 * (double)(clock() - start) / CLOCKS_PER_SEC / runs, LM_ARENA_BYTES);
    return 0;
}

int main(int argc, char **argv)
{
    lm_ctx ctx;
    const lm_status status = lm_init(&ctx, lm_align(memory), LM_ARENA_BYTES);
    if (status != LM_OK) {
        fprintf(stderr, "%s\n", lm_status_text(status));
        return 2;
    }
    if (argc == 1) {
        return show_off(&ctx);
    }
    if (argc != 7) {
        fprintf(stderr, "usage: %s [IN.ppm X0 Y0 X1 Y1 OUT.ppm]\n", argv[0]);
        return 2;
    }
    return annotate(&ctx, argv);
}
