/* What every kernel shares. Maps are NHWC; a pixel is a run of lanes, 16 floats at a time, so that vectors never need a tail. */
#ifndef LM_KERNEL_H
#define LM_KERNEL_H
#include <stddef.h>
#include <stdint.h>
#include <math.h> /* INFINITY only: nothing to link */
#include <string.h>

#ifndef LM_VECTOR
#define LM_VECTOR 16
#endif

#if defined(__GNUC__) /* a vector of any machine, made of what it has: loops over 16 floats do not become vectors by themselves */
typedef float lm_floats __attribute__((vector_size(4 * LM_VECTOR)));
typedef int32_t lm_masks __attribute__((vector_size(4 * LM_VECTOR)));
#endif

/* One copy of a function for all its callers, where a compiler would make one for each: code size. */
#if defined(__clang__)
#define LM_ONE_COPY __attribute__((noinline))
#elif defined(__GNUC__)
#define LM_ONE_COPY __attribute__((noinline, noclone))
#else
#define LM_ONE_COPY
#endif

/* A run of input channels; the same run of the next pixel lies x_step further on. */
typedef struct lm_span {
    const float *x;
    size_t length;
} lm_span;

/* Matrix product of pixels and packed weights: y[p][n] = act(bias[n] + add[p][n] + sum_k x[p][k] * w[k][n]).
   The k of one pixel lie in runs. Weights are packed in panels of 1..4 vectors: [panel][k][16 * vectors].
   When the outputs end in a vector of few channels, `tail` inputs at a time share it: behind the panels follow, for every run,
   [k / tail][16], where lane i belongs to input k + i % tail and output i / tail. What lies behind a run must be finite then. */
typedef struct lm_gemm_args {
    const lm_span *runs;
    int run_count;
    size_t x_step;
    size_t k_total;
    const float *w;
    const float *bias;
    float *y;
    size_t y_step;
    const float *add; /* NULL: nothing to add */
    size_t add_step;
    int vectors; /* the tail not counted */
    int tail;    /* 0: none; 2: at most 8 channels; 4: at most 4 */
    int pixels;
    int relu;
    const float *next; /* weights that will be read soon: fetched into the cache meanwhile */
    size_t next_lines;
} lm_gemm_args;

/* One or two output rows of a 3x3 depthwise convolution, padding 1. Row y of the output reads x[y * stride + 0..2].
   A row outside the map is NULL. Weights: [vector][tap][16]. With a `shift` the last vector is written in part, and elsewhere: its
   first `shift` modulo 16 lanes, `shift` floats from where it would follow the others. */
typedef struct lm_dw_args {
    const float *x[5];
    size_t x_step;
    int in_width;
    int stride;
    const float *w;
    const float *bias;
    float *y[2];
    int rows;
    size_t y_step;
    int out_width;
    int vectors;
    ptrdiff_t shift;
    int relu;
} lm_dw_args;

#endif
