/* How long one face takes:  bench [RUNS] [--layers]
   Compile this file alone (it includes landmarks.c):  cc -O3 -march=native -I.. bench.c -o bench */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int profiling;
static uint64_t layer_start, layer_time[512];
#define LM_PROFILE_BEGIN(layer)        \
    if (profiling) {                   \
        layer_start = nanoseconds();   \
    }
#define LM_PROFILE_END(layer)                                \
    if (profiling) {                                         \
        layer_time[layer] += nanoseconds() - layer_start;    \
    }
#include "landmarks.c"

#define MAX_RUNS 100000

static unsigned char memory[LM_ARENA_BYTES + LM_ARENA_ALIGN];
static uint8_t face[LM_INPUT_WIDTH * LM_INPUT_HEIGHT * LM_INPUT_CHANNELS];

static int by_size(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void layers(lm_ctx *ctx, int runs)
{
    static uint64_t best[LM_LAYER_COUNT];
    float xy[2 * LM_POINTS];
    double fastest = 0.0, total = 0.0;
    memset(best, 0xff, sizeof best);
    profiling = 1;
    for (int r = 0; r < runs; r++) {
        memset(layer_time, 0, sizeof layer_time);
        lm_run(ctx, face, xy);
        for (int i = 0; i < LM_LAYER_COUNT; i++) {
            best[i] = layer_time[i] < best[i] ? layer_time[i] : best[i];
        }
    }
    profiling = 0;
    for (int i = 0; i < LM_LAYER_COUNT; i++) {
        const double rate = best[i] > 0 ? 2.0 * (double)lm_layers[i].macs / (double)best[i] : 0.0;
        fastest = rate > fastest ? rate : fastest;
        total += (double)best[i];
    }
    printf("%5s %-40s %9s %7s %9s %6s\n", "layer", "what", "us", "share", "GFLOP/s", "best");
    for (int i = 0; i < LM_LAYER_COUNT; i++) {
        const double rate = best[i] > 0 ? 2.0 * (double)lm_layers[i].macs / (double)best[i] : 0.0;
        printf("%5d %-40s %9.1f %6.1f%% %9.1f %5.0f%%\n", i, lm_layer_name(i), (double)best[i] * 1e-3, 100.0 * (double)best[i] / total, rate,
               100.0 * rate / fastest);
    }
    printf("best = against the fastest layer of this run\n");
}

int main(int argc, char **argv)
{
    static uint64_t samples[MAX_RUNS];
    lm_ctx ctx;
    float xy[2 * LM_POINTS];
    int runs = 1000, per_layer = 0;
    uint64_t start, first;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--layers") == 0) {
            per_layer = 1;
        } else {
            runs = atoi(argv[i]);
        }
    }
    if (runs < 1 || runs > MAX_RUNS) {
        fprintf(stderr, "usage: %s [RUNS 1..%d] [--layers]\n", argv[0], MAX_RUNS);
        return 2;
    }
    lm_test_face(face);
    start = nanoseconds();
    if (lm_init(&ctx, lm_align(memory), LM_ARENA_BYTES) != LM_OK || lm_run(&ctx, face, xy) != LM_OK) {
        return 1;
    }
    first = nanoseconds() - start;
    for (int i = 0; i < runs; i++) {
        start = nanoseconds();
        lm_run(&ctx, face, xy);
        samples[i] = nanoseconds() - start;
    }
    qsort(samples, (size_t)runs, sizeof samples[0], by_size);
    printf("%s %s: min %.1f  p50 %.1f  p95 %.1f  p99 %.1f us; first run %.1f us; %d bytes of memory\n", lm_isa(), LM_PRECISION,
           (double)samples[0] * 1e-3, (double)samples[runs / 2] * 1e-3, (double)samples[runs * 95 / 100] * 1e-3,
           (double)samples[runs * 99 / 100] * 1e-3, (double)first * 1e-3, LM_ARENA_BYTES);
    if (per_layer) {
        layers(&ctx, runs < 200 ? runs : 200);
    }
    return 0;
}
