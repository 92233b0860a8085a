/* What both kernel harnesses share: random numbers, shapes, memory with canaries, a clock. */
#ifndef KERNELS_H
#define KERNELS_H
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct gemm_shape {
    const char *name;
    int pixels, run_count;
    const int (*runs)[2]; /* first element, length */
    int x_step, vectors, y_step, relu, add, to_float;
    long macs;
    int tail; /* inputs that share the last vector; `vectors` counts it */
} gemm_shape;

typedef struct dw_shape {
    const char *name;
    int width, stride, x_step, vectors, lanes, y_step, relu;
    long macs;
} dw_shape;

typedef struct row_shape {
    const char *name;
    int pixels, lanes, step;
} row_shape;

static uint64_t random_state = 1;

static uint32_t random_word(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static int random_below(int limit)
{
    return (int)((uint64_t)random_word() * (uint64_t)limit >> 32);
}

static float random_float(void)
{
    return (float)random_word() * 0x1p-31f - 1.0f;
}

/* Zeroed memory at a multiple of 64, then moved by `shift` bytes. Never freed: the process is short. */
static void *room(size_t bytes, size_t shift)
{
    void *memory = aligned_alloc(64, (bytes + 4096 + 63) / 64 * 64);
    if (memory == NULL) {
        printf("no memory\n");
        exit(2);
    }
    memset(memory, 0, (bytes + 4096 + 63) / 64 * 64);
    return (char *)memory + shift;
}

/* Of all int8 results: equal on every machine that stores codes alike (LM_ZERO). */
static uint32_t digest = 2166136261u;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of the fastest of many calls. */
#define FASTEST(result, call)                                                         \
    {                                                                                 \
        double spent = 0.0, start, best = 1e9;                                        \
        int calls = 1;                                                                \
        for (int round = 0; round < 60 && spent < 0.05; round++) {                    \
            start = now();                                                            \
            for (int i = 0; i < calls; i++) {                                         \
                call;                                                                 \
            }                                                                         \
            const double each = now() - start;                                        \
            spent += each;                                                            \
            best = each / calls < best ? each / calls : best;                         \
            if (round == 0) {                                                         \
                calls = each < 2e-5 ? 1 + (int)(2e-5 / (each + 1e-9)) : 1;            \
            }                                                                         \
        }                                                                             \
        result = best;                                                                \
    }
#endif
