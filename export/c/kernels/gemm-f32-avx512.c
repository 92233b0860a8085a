/* Matrix product for AVX-512: tiles of 1..8 pixels by 1..4 vectors, weights in registers, pixels broadcast from memory. */
#include "kernel.h"
#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" /* a false alarm in the compiler's own header, in C++ only */
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define LM_EACH_1(X) X(0)
#define LM_EACH_2(X) LM_EACH_1(X) X(1)
#define LM_EACH_3(X) LM_EACH_2(X) X(2)
#define LM_EACH_4(X) LM_EACH_3(X) X(3)
#define LM_EACH_5(X) LM_EACH_4(X) X(4)
#define LM_EACH_6(X) LM_EACH_5(X) X(5)
#define LM_EACH_7(X) LM_EACH_6(X) X(6)
#define LM_EACH_8(X) LM_EACH_7(X) X(7)

/* Each of these exists for 1..4 vectors: start an accumulator, add the addend, load weights, multiply, store. */
#define LM_BIAS(i, v) __m512 s##i##_##v = _mm512_loadu_ps(bias + v * 16);
#define LM_BIAS_1(i) LM_BIAS(i, 0)
#define LM_BIAS_2(i) LM_BIAS_1(i) LM_BIAS(i, 1)
#define LM_BIAS_3(i) LM_BIAS_2(i) LM_BIAS(i, 2)
#define LM_BIAS_4(i) LM_BIAS_3(i) LM_BIAS(i, 3)
#define LM_PLUS(i, v) s##i##_##v = _mm512_add_ps(s##i##_##v, _mm512_loadu_ps(add + v * 16));
#define LM_PLUS_1(i) LM_PLUS(i, 0) add += add_step;
#define LM_PLUS_2(i) LM_PLUS(i, 1) LM_PLUS_1(i)
#define LM_PLUS_3(i) LM_PLUS(i, 2) LM_PLUS_2(i)
#define LM_PLUS_4(i) LM_PLUS(i, 3) LM_PLUS_3(i)
#define LM_W_1 const __m512 w0 = _mm512_loadu_ps(w);
#define LM_W_2 LM_W_1 const __m512 w1 = _mm512_loadu_ps(w + 16);
#define LM_W_3 LM_W_2 const __m512 w2 = _mm512_loadu_ps(w + 32);
#define LM_W_4 LM_W_3 const __m512 w3 = _mm512_loadu_ps(w + 48);
#if defined(__GNUC__) /* compilers that may choose keep the sums in memory */
#define LM_MUL(i, v) __asm__("vfmadd231ps %2, %1, %0" : "+v"(s##i##_##v) : "v"(x), "v"(w##v));
#else
#define LM_MUL(i, v) s##i##_##v = _mm512_fmadd_ps(x, w##v, s##i##_##v);
#endif
#define LM_X(i) const __m512 x = _mm512_set1_ps(x##i[k]);
#define LM_FMA_1(i) { LM_X(i) LM_MUL(i, 0) }
#define LM_FMA_2(i) { LM_X(i) LM_MUL(i, 0) LM_MUL(i, 1) }
#define LM_FMA_3(i) { LM_X(i) LM_MUL(i, 0) LM_MUL(i, 1) LM_MUL(i, 2) }
#define LM_FMA_4(i) { LM_X(i) LM_MUL(i, 0) LM_MUL(i, 1) LM_MUL(i, 2) LM_MUL(i, 3) }
#define LM_PUT(i, v) _mm512_storeu_ps(y + v * 16, _mm512_max_ps(_mm512_set1_ps(t->low), s##i##_##v)); /* keeps NaN */
#define LM_PUT_1(i) LM_PUT(i, 0) y += y_step;
#define LM_PUT_2(i) LM_PUT(i, 1) LM_PUT_1(i)
#define LM_PUT_3(i) LM_PUT(i, 2) LM_PUT_2(i)
#define LM_PUT_4(i) LM_PUT(i, 3) LM_PUT_3(i)
#define LM_POINT(i) const float *x##i = base + (size_t)i * x_step;

/* `count` tiles of M pixels, one behind the other. Bias and lower limit are read when needed: kept in registers they would
   push the weights out. */
#define LM_TILE(M, N)                                                                                                  \
    static LM_TARGET_AVX512 void lm_tile_##M##_##N(const lm_gemm_args *a, const lm_tiles *t)                           \
    {                                                                                                                  \
        const size_t x_step = a->x_step, y_step = a->y_step, add_step = a->add_step, next_step = t->next_step;         \
        const float *bias = a->bias + t->lane, *next = t->next;                                                        \
        const float *add = a->add == NULL ? NULL : a->add + t->pixel * add_step + t->lane;                             \
        float *y = a->y + t->pixel * y_step + t->lane;                                                                 \
        size_t pixel = t->pixel;                                                                                       \
        for (int tile = 0; tile < t->count; tile++) {                                                                  \
            const float *w = t->w;                                                                                     \
            LM_EACH_##M(LM_BIAS_##N)                                                                                   \
            if (add != NULL) {                                                                                         \
                LM_EACH_##M(LM_PLUS_##N)                                                                               \
            }                                                                                                          \
            for (int r = 0; r < a->run_count; r++) {                                                                   \
                const float *base = a->runs[r].x + pixel * x_step;                                                     \
                const size_t length = a->runs[r].length;                                                               \
                LM_EACH_##M(LM_POINT)                                                                                  \
                for (size_t k = 0; k < length; k++) {                                                                  \
                    LM_W_##N LM_EACH_##M(LM_FMA_##N)                                                                   \
                    w += N * 16;                                                                                       \
                    _mm_prefetch((const char *)next, _MM_HINT_T1);                                                     \
                    next += next_step;                                                                                 \
                }                                                                                                      \
            }                                                                                                          \
            LM_EACH_##M(LM_PUT_##N)                                                                                    \
            pixel += M;                                                                                                \
        }                                                                                                              \
    }

typedef struct lm_tiles {
    const float *w;
    const float *next;
    size_t next_step;
    size_t lane;
    size_t pixel;
    float low;
    int count;
} lm_tiles;

LM_TILE(1, 1) LM_TILE(2, 1) LM_TILE(3, 1) LM_TILE(4, 1) LM_TILE(5, 1) LM_TILE(6, 1) LM_TILE(7, 1) LM_TILE(8, 1)
LM_TILE(1, 2) LM_TILE(2, 2) LM_TILE(3, 2) LM_TILE(4, 2) LM_TILE(5, 2) LM_TILE(6, 2) LM_TILE(7, 2) LM_TILE(8, 2)
LM_TILE(1, 3) LM_TILE(2, 3) LM_TILE(3, 3) LM_TILE(4, 3) LM_TILE(5, 3) LM_TILE(6, 3) LM_TILE(7, 3) LM_TILE(8, 3)
LM_TILE(1, 4) LM_TILE(2, 4) LM_TILE(3, 4) LM_TILE(4, 4) LM_TILE(5, 4) LM_TILE(6, 4)

typedef void (*lm_tile_fn)(const lm_gemm_args *a, const lm_tiles *t);

static LM_TARGET_AVX512 void lm_gemm_avx512(const lm_gemm_args *a)
{
    static const lm_tile_fn kernels[4][9] = {
        {NULL, lm_tile_1_1, lm_tile_2_1, lm_tile_3_1, lm_tile_4_1, lm_tile_5_1, lm_tile_6_1, lm_tile_7_1, lm_tile_8_1},
        {NULL, lm_tile_1_2, lm_tile_2_2, lm_tile_3_2, lm_tile_4_2, lm_tile_5_2, lm_tile_6_2, lm_tile_7_2, lm_tile_8_2},
        {NULL, lm_tile_1_3, lm_tile_2_3, lm_tile_3_3, lm_tile_4_3, lm_tile_5_3, lm_tile_6_3, lm_tile_7_3, lm_tile_8_3},
        {NULL, lm_tile_1_4, lm_tile_2_4, lm_tile_3_4, lm_tile_4_4, lm_tile_5_4, lm_tile_6_4, NULL, NULL},
    };
    const float *next = a->next;
    size_t lines = a->next_lines;
    int left = a->vectors;
    lm_tiles t;
    t.w = a->w;
    t.lane = 0;
    t.low = a->relu ? 0.0f : -INFINITY;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        const int limit = n == 4 ? 6 : 8;
        const int tiles = (a->pixels + limit - 1) / limit; /* of nearly equal size: no slow remainder */
        const int m = a->pixels / tiles, larger = a->pixels % tiles;
        t.pixel = 0;
        for (int part = 0; part < 2; part++) {
            const int size = part == 0 ? m + 1 : m;
            t.count = part == 0 ? larger : tiles - larger;
            if (t.count > 0) {
                const size_t wanted = a->k_total * (size_t)t.count; /* one cache line per step */
                const int fetch = lines >= wanted;
                t.next = fetch ? next : t.w;
                t.next_step = fetch ? 16 : 0;
                next += fetch ? wanted * 16 : 0;
                lines -= fetch ? wanted : 0;
                kernels[n - 1][size](a, &t);
                t.pixel += (size_t)(size * t.count);
            }
        }
        t.w += a->k_total * (size_t)n * 16;
        t.lane += (size_t)n * 16;
        left -= n;
    }
}
