/* How long one face takes:  bench [RUNS] [--layers]
   --layers: a roofline. What this machine can multiply and read at best is measured between the runs, so that both see the same clock.
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
static uint64_t layer_start, layer_time[512], layer_calls[512];
#define LM_PROFILE_BEGIN(layer)        \
    if (profiling) {                   \
        layer_start = nanoseconds();   \
    }
#define LM_PROFILE_END(layer)                                \
    if (profiling) {                                         \
        layer_time[layer] += nanoseconds() - layer_start;    \
        layer_calls[layer]++;                                \
    }
#include "landmarks.c"
#include "peak.h"

#define MAX_RUNS 100000

static unsigned char memory[LM_ARENA_BYTES + LM_ARENA_ALIGN];
static uint8_t face[LM_INPUT_WIDTH * LM_INPUT_HEIGHT * LM_INPUT_CHANNELS];

static int by_size(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

#define BUFFER ((size_t)32 << 20)

static unsigned char buffer[BUFFER + LM_ARENA_ALIGN];

/* Nanoseconds that reading the clock twice takes; part of every measured call. */
static double clock_cost(void)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 1000; i++) {
        const uint64_t start = nanoseconds(), took = nanoseconds() - start;
        best = took < best ? took : best;
    }
    return (double)best;
}

/* Multiply-adds per nanosecond, `best` or better. */
static double peak_rate(const peak_loop *loop, double best)
{
    const uint64_t start = nanoseconds();
    loop->run();
    const double rate = loop->macs / (double)(nanoseconds() - start);
    return rate > best ? rate : best;
}

/* Bytes per nanosecond when `bytes` are read over and over. */
static double read_rate(size_t bytes)
{
    double best = 0.0;
    for (int i = 0; i < (bytes < BUFFER ? 100 : 8); i++) {
        size_t done = 0;
        const uint64_t start = nanoseconds();
        do {
            peak_read((const unsigned char *)lm_align(buffer), bytes);
            done += bytes;
        } while (done < (size_t)1 << 20);
        const double rate = (double)done / (double)(nanoseconds() - start);
        best = i > 1 && rate > best ? rate : best;
    }
    return best;
}

static void layers(lm_ctx *ctx, int runs)
{
    static const size_t sizes[] = {16 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20, BUFFER};
    static double best[LM_LAYER_COUNT];
    const peak_loop *loops[2] = {peak_of(lm_isa(), 0), peak_of(lm_isa(), 1)};
    const double clock = clock_cost();
    double peak[2] = {0.0, 0.0}, total = 0.0, floor = 0.0, macs = 0.0, lost = -1e30, all_weights = 0.0;
    double near = 1.0, far = 1.0; /* rates of the memory that holds all maps, and of that which holds the weights too */
    float xy[2 * LM_POINTS];
    int any[2] = {0, 0}, worst = 0;
    memset(buffer, 1, sizeof buffer);
    for (int r = 0; r < runs; r++) {
        memset(layer_time, 0, sizeof layer_time);
        memset(layer_calls, 0, sizeof layer_calls);
        profiling = 1;
        lm_run(ctx, face, xy);
        profiling = 0;
        for (int i = 0; i < LM_LAYER_COUNT; i++) {
            double took = (double)layer_time[i] - clock * (double)layer_calls[i];
            took = took > 1.0 ? took : 1.0;
            best[i] = r == 0 || took < best[i] ? took : best[i];
        }
        for (int k = 0; k < 2; k++) {
            peak[k] = peak_rate(loops[k], peak[k]);
        }
    }
    for (int i = 0; i < LM_LAYER_COUNT; i++) {
        any[lm_layers[i].factor == 1] |= lm_layers[i].macs > 0;
        all_weights += lm_layers[i].weights;
        macs += lm_layers[i].macs;
        total += best[i];
    }
    for (int k = 0; k < 2; k++) {
        if (any[k]) {
            printf("peak of %s arithmetic: %.1f %s (%s, registers only)\n", k ? "int8" : "fp32", 2.0 * peak[k], k ? "GOP/s" : "GFLOP/s",
                   loops[k]->how);
        }
    }
    printf("reading:");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const double rate = read_rate(sizes[i]);
        near = i == 0 || sizes[i - 1] < LM_ARENA_BYTES ? rate : near;
        far = i == 0 || (double)sizes[i - 1] < LM_ARENA_BYTES + all_weights ? rate : far;
        printf(" %d KB at %.1f GB/s%s", (int)(sizes[i] >> 10), rate, i + 1 < sizeof sizes / sizeof *sizes ? "," : "\n");
    }
    printf("%5s %-38s %8s %6s %9s %7s %5s %8s %6s %-8s %4s %6s\n", "layer", "what", "us", "share", "mult-adds", "GOP/s", "peak", "bytes",
           "GB/s", "limit", "of", "lost");
    for (int i = 0; i < LM_LAYER_COUNT; i++) {
        const lm_layer *layer = &lm_layers[i];
        const double multiply = (double)layer->macs / peak[layer->factor == 1], fetch = (double)layer->moved / near + (double)layer->weights / far;
        const int bytes = layer->moved + layer->weights;
        const double least = multiply > fetch ? multiply : fetch;
        floor += least;
        worst = best[i] - least > lost ? i : worst;
        lost = best[i] - least > lost ? best[i] - least : lost;
        printf("%5d %-38s %8.2f %5.1f%% %9d %7.1f %4.0f%% %8d %6.1f %-8s %3.0f%% %6.2f\n", i, lm_layer_name(i), best[i] * 1e-3,
               100.0 * best[i] / total, (int)layer->macs, 2.0 * (double)layer->macs / best[i], 100.0 * multiply / best[i], bytes,
               (double)bytes / best[i], multiply > fetch ? "multiply" : "memory", 100.0 * least / best[i], (best[i] - least) * 1e-3);
    }
    printf("%5s %-38s %8.2f 100.0%% %9.0f %7.1f %4s %8s %6s %-8s %3.0f%% %6.2f\n", "all", "", total * 1e-3, macs, 2.0 * macs / total, "", "", "",
           "", 100.0 * floor / total, (total - floor) * 1e-3);
    printf("limit, the longer of two: multiply-adds at the peak; or bytes, the maps' at %.1f GB/s (all maps together), the weights' at %.1f GB/s "
           "(all weights as well).\nlost: us beyond the limit; above 100 %%: bytes came from nearer than that.\nnext bottleneck: layer %d, %s\n",
           near, far, worst, lm_layer_name(worst));
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
