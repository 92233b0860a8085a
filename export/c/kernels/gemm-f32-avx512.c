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
#define LM_EACH_9(X) LM_EACH_8(X) X(8)
#define LM_EACH_10(X) LM_EACH_9(X) X(9)
#define LM_EACH_11(X) LM_EACH_10(X) X(10)
#define LM_EACH_12(X) LM_EACH_11(X) X(11)
#define LM_EACH_13(X) LM_EACH_12(X) X(12)
#define LM_EACH_14(X) LM_EACH_13(X) X(13)

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

/* Values of a tile's pixels, `step` bytes apart, p + 0 .. p + 13 steps. A pointer for each would not fit the registers, and compilers
   would move them in and out between the multiply-adds, so the addresses are spelled out: two pointers and three distances. */
#if defined(__GNUC__)
#define LM_PLACES                                                                                                      \
    const float *p = base, *q = base + 7 * x_step;                                                                     \
    const size_t step = x_step * sizeof(float), step3 = 3 * step, step5 = 5 * step;                                    \
    (void)q, (void)step, (void)step3, (void)step5;
#define LM_STEP(n) p += n, q += n
#define LM_READ(x, load, where, from, by)                                                                              \
    __m512 x;                                                                                                          \
    __asm__(load " " where ", %0" : "=v"(x) : "r"(from), "r"(by), "m"(*(const float(*)[1 << 16])from));
#define LM_READ_0(x, load) LM_READ(x, load, "(%1)", p, step)
#define LM_READ_1(x, load) LM_READ(x, load, "(%1,%2)", p, step)
#define LM_READ_2(x, load) LM_READ(x, load, "(%1,%2,2)", p, step)
#define LM_READ_3(x, load) LM_READ(x, load, "(%1,%2)", p, step3)
#define LM_READ_4(x, load) LM_READ(x, load, "(%1,%2,4)", p, step)
#define LM_READ_5(x, load) LM_READ(x, load, "(%1,%2)", p, step5)
#define LM_READ_6(x, load) LM_READ(x, load, "(%1,%2,2)", p, step3)
#define LM_READ_7(x, load) LM_READ(x, load, "(%1)", q, step)
#define LM_READ_8(x, load) LM_READ(x, load, "(%1,%2)", q, step)
#define LM_READ_9(x, load) LM_READ(x, load, "(%1,%2,2)", q, step)
#define LM_READ_10(x, load) LM_READ(x, load, "(%1,%2)", q, step3)
#define LM_READ_11(x, load) LM_READ(x, load, "(%1,%2,4)", q, step)
#define LM_READ_12(x, load) LM_READ(x, load, "(%1,%2)", q, step5)
#define LM_READ_13(x, load) LM_READ(x, load, "(%1,%2,2)", q, step3)
#define LM_X(i) LM_READ_##i(x, "vbroadcastss")
#define LM_X_PAIR(i) LM_READ_##i(x, "vbroadcastsd")
#define LM_X_QUAD(i) LM_READ_##i(x, "vbroadcastf32x4")
#else
static LM_TARGET_AVX512 double lm_load_pair(const float *p)
{
    double pair;
    memcpy(&pair, p, sizeof pair);
    return pair;
}
#define LM_PLACES const float *p = base;
#define LM_STEP(n) p += n
#define LM_X(i) const __m512 x = _mm512_set1_ps(p[i * x_step]);
#define LM_X_PAIR(i) const __m512 x = _mm512_castpd_ps(_mm512_set1_pd(lm_load_pair(p + i * x_step)));
#define LM_X_QUAD(i) const __m512 x = _mm512_broadcast_f32x4(_mm_loadu_ps(p + i * x_step));
#endif
#define LM_FMA_1(i) { LM_X(i) LM_MUL(i, 0) }
#define LM_FMA_2(i) { LM_X(i) LM_MUL(i, 0) LM_MUL(i, 1) }
#define LM_FMA_3(i) { LM_X(i) LM_MUL(i, 0) LM_MUL(i, 1) LM_MUL(i, 2) }
#define LM_FMA_4(i) { LM_X(i) LM_MUL(i, 0) LM_MUL(i, 1) LM_MUL(i, 2) LM_MUL(i, 3) }
#define LM_PUT(i, v) _mm512_storeu_ps(y + v * 16, _mm512_max_ps(_mm512_set1_ps(t->low), s##i##_##v)); /* keeps NaN */
#define LM_PUT_1(i) LM_PUT(i, 0) y += y_step;
#define LM_PUT_2(i) LM_PUT(i, 1) LM_PUT_1(i)
#define LM_PUT_3(i) LM_PUT(i, 2) LM_PUT_2(i)
#define LM_PUT_4(i) LM_PUT(i, 3) LM_PUT_3(i)

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
                LM_PLACES                                                                                              \
                for (size_t k = 0; k < length; k++) {                                                                  \
                    LM_W_##N LM_EACH_##M(LM_FMA_##N)                                                                   \
                    LM_STEP(1);                                                                                        \
                    w += N * 16;                                                                                       \
                    if (N > 1) { /* with one vector every load counts */                                               \
                        _mm_prefetch((const char *)next, _MM_HINT_T1);                                                 \
                        next += next_step;                                                                             \
                    }                                                                                                  \
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

LM_TILE(1, 1) LM_TILE(2, 1) LM_TILE(4, 1) LM_TILE(7, 1) LM_TILE(14, 1)
LM_TILE(1, 2) LM_TILE(2, 2) LM_TILE(4, 2) LM_TILE(7, 2) LM_TILE(14, 2)
LM_TILE(1, 3) LM_TILE(2, 3) LM_TILE(4, 3) LM_TILE(7, 3) LM_TILE(8, 3)
LM_TILE(1, 4) LM_TILE(2, 4) LM_TILE(3, 4) LM_TILE(4, 4) LM_TILE(5, 4) LM_TILE(6, 4)

/* Tiles of 14 pixels by one vector, where loads and instructions are what counts: a model's own pixel steps, written into the
   addresses, let each multiply-add read its pixel itself. Which steps a model has is known where its source is written. */
#ifndef LM_NEAR_STEPS
#define LM_NEAR_STEPS(X)
#endif
#if defined(__GNUC__)
#define LM_NEAR(i, S)                                                                                                  \
    __asm__("vfmadd231ps %c3(%2)%{1to16%}, %1, %0"                                                                     \
            : "+v"(s##i##_0) : "v"(w0), "r"(p), "i"((i) * (S) * 4), "m"(*(const float(*)[1 << 16])p));
#else
#define LM_NEAR(i, S) s##i##_0 = _mm512_fmadd_ps(_mm512_set1_ps(p[(i) * (S)]), w0, s##i##_0);
#endif
#define LM_NEAR_14(S)                                                                                                  \
    LM_NEAR(0, S) LM_NEAR(1, S) LM_NEAR(2, S) LM_NEAR(3, S) LM_NEAR(4, S) LM_NEAR(5, S) LM_NEAR(6, S)                  \
    LM_NEAR(7, S) LM_NEAR(8, S) LM_NEAR(9, S) LM_NEAR(10, S) LM_NEAR(11, S) LM_NEAR(12, S) LM_NEAR(13, S)
#define LM_NEAR_TILE(S)                                                                                                \
    static LM_TARGET_AVX512 void lm_near_##S(const lm_gemm_args *a, const lm_tiles *t)                                 \
    {                                                                                                                  \
        const size_t y_step = a->y_step, add_step = a->add_step;                                                       \
        const float *bias = a->bias + t->lane;                                                                         \
        const float *add = a->add == NULL ? NULL : a->add + t->pixel * add_step + t->lane;                             \
        float *y = a->y + t->pixel * y_step + t->lane;                                                                 \
        size_t pixel = t->pixel;                                                                                       \
        for (int tile = 0; tile < t->count; tile++) {                                                                  \
            const float *w = t->w;                                                                                     \
            LM_EACH_14(LM_BIAS_1)                                                                                      \
            if (add != NULL) {                                                                                         \
                LM_EACH_14(LM_PLUS_1)                                                                                  \
            }                                                                                                          \
            for (int r = 0; r < a->run_count; r++) {                                                                   \
                const float *p = a->runs[r].x + pixel * S;                                                             \
                const size_t length = a->runs[r].length;                                                               \
                for (size_t k = 0; k < length; k++) {                                                                  \
                    LM_W_1 LM_NEAR_14(S)                                                                               \
                    p++;                                                                                               \
                    w += 16;                                                                                           \
                }                                                                                                      \
            }                                                                                                          \
            LM_EACH_14(LM_PUT_1)                                                                                       \
            pixel += 14;                                                                                               \
        }                                                                                                              \
    }
LM_NEAR_STEPS(LM_NEAR_TILE)

#define LM_ZERO_ALL(i) __m512 s##i##_0 = _mm512_setzero_ps();
#define LM_PAIR_ALL(i) { LM_X_PAIR(i) LM_MUL(i, 0) }
#define LM_QUAD_ALL(i) { LM_X_QUAD(i) LM_MUL(i, 0) }
#define LM_KEEP_ALL(i) _mm512_storeu_ps(sums + i * 16, s##i##_0);

#define LM_TAIL_PUT(i, lanes_of_it)                                                                                    \
    if (i < left) {                                                                                                    \
        __m512 own = lanes_of_it;                                                                                      \
        if (add != NULL) {                                                                                             \
            own = _mm512_add_ps(own, _mm512_maskz_loadu_ps(mask, add + (size_t)i * a->add_step));                      \
        }                                                                                                              \
        _mm512_storeu_ps(y + (size_t)i * y_step, _mm512_max_ps(low, own));                                             \
    }
#define LM_QUARTER(i) _mm512_zextps128_ps512(_mm512_extractf32x4_ps(all, i))

/* Neighbours that belong to one output are added up, for two (four) pixels at once: their outputs fill a vector, half (a quarter) each.
   Apart from the tiles, which would all repeat it. `sums` may be read up to the next multiple of four pixels. */
LM_ONE_COPY static LM_TARGET_AVX512 void lm_tail_end(const lm_gemm_args *a, const lm_tiles *t, size_t pixel, const float *sums, int pixels)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i even = _mm512_slli_epi32(lanes, 1), odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512 low = _mm512_set1_ps(t->low);
    const __m512 bias = _mm512_loadu_ps(a->bias + t->lane);
    const float *add = a->add == NULL ? NULL : a->add + pixel * a->add_step + t->lane;
    const size_t y_step = a->y_step;
    float *y = a->y + pixel * y_step + t->lane;
    const int together = a->tail;
    const __mmask16 mask = (__mmask16)((1u << 16 / together) - 1);
    const __m512 repeated = together == 2 ? _mm512_shuffle_f32x4(bias, bias, 0x44) : _mm512_shuffle_f32x4(bias, bias, 0);
    for (int left = pixels; left > 0; left -= together) {
        const __m512 s0 = _mm512_loadu_ps(sums), s1 = _mm512_loadu_ps(sums + 16);
        __m512 all = _mm512_add_ps(_mm512_permutex2var_ps(s0, even, s1), _mm512_permutex2var_ps(s0, odd, s1));
        if (together == 4) {
            const __m512 s2 = _mm512_loadu_ps(sums + 32), s3 = _mm512_loadu_ps(sums + 48);
            const __m512 more = _mm512_add_ps(_mm512_permutex2var_ps(s2, even, s3), _mm512_permutex2var_ps(s2, odd, s3));
            all = _mm512_add_ps(_mm512_permutex2var_ps(all, even, more), _mm512_permutex2var_ps(all, odd, more));
            all = _mm512_add_ps(all, repeated);
            LM_TAIL_PUT(0, LM_QUARTER(0))
            LM_TAIL_PUT(1, LM_QUARTER(1))
            LM_TAIL_PUT(2, LM_QUARTER(2))
            LM_TAIL_PUT(3, LM_QUARTER(3))
        } else {
            all = _mm512_add_ps(all, repeated);
            LM_TAIL_PUT(0, _mm512_zextps256_ps512(_mm512_castps512_ps256(all)))
            LM_TAIL_PUT(1, _mm512_maskz_shuffle_f32x4(0xff, all, all, 0xee))
        }
        sums += 16 * together;
        y += (size_t)together * y_step;
        add = add == NULL ? NULL : add + (size_t)together * a->add_step;
    }
}

/* `count` tiles of M pixels of the tail: every vector of weights serves GROUP inputs. */
#define LM_TAIL(M, GROUP, ALL)                                                                                         \
    static LM_TARGET_AVX512 void lm_tail_##M##_##GROUP(const lm_gemm_args *a, const lm_tiles *t)                       \
    {                                                                                                                  \
        const size_t x_step = a->x_step;                                                                               \
        float sums[(M + 3) / 4 * 64];                                                                                  \
        size_t pixel = t->pixel;                                                                                       \
        for (int tile = 0; tile < t->count; tile++) {                                                                  \
            const float *w = t->w;                                                                                     \
            LM_EACH_##M(LM_ZERO_ALL)                                                                                   \
            for (int r = 0; r < a->run_count; r++) {                                                                   \
                const float *base = a->runs[r].x + pixel * x_step;                                                     \
                const size_t length = a->runs[r].length;                                                               \
                LM_PLACES                                                                                              \
                for (size_t k = 0; k < length; k += GROUP) {                                                           \
                    const __m512 w0 = _mm512_loadu_ps(w);                                                              \
                    LM_EACH_##M(ALL)                                                                                   \
                    LM_STEP(GROUP);                                                                                    \
                    w += 16;                                                                                           \
                }                                                                                                      \
            }                                                                                                          \
            LM_EACH_##M(LM_KEEP_ALL)                                                                                   \
            lm_tail_end(a, t, pixel, sums, M);                                                                         \
            pixel += M;                                                                                                \
        }                                                                                                              \
    }

LM_TAIL(1, 2, LM_PAIR_ALL) LM_TAIL(2, 2, LM_PAIR_ALL) LM_TAIL(4, 2, LM_PAIR_ALL)
LM_TAIL(7, 2, LM_PAIR_ALL) LM_TAIL(14, 2, LM_PAIR_ALL)
LM_TAIL(1, 4, LM_QUAD_ALL) LM_TAIL(2, 4, LM_QUAD_ALL) LM_TAIL(4, 4, LM_QUAD_ALL)
LM_TAIL(7, 4, LM_QUAD_ALL) LM_TAIL(14, 4, LM_QUAD_ALL)

typedef void (*lm_tile_fn)(const lm_gemm_args *a, const lm_tiles *t);

#define LM_NEAR_CASE(S)                                                                                                \
    case S:                                                                                                            \
        return lm_near_##S;
static lm_tile_fn lm_near_tile(size_t x_step)
{
    switch (x_step) {
        LM_NEAR_STEPS(LM_NEAR_CASE)
    default:
        return lm_tile_14_1;
    }
}

/* Pixels of the next tiles, and how many of them: few sizes, chosen so that the rows of real nets leave no slow remainder. */
static int lm_tile_size(int vectors, int left, int *count)
{
    int size = 1;
    if (vectors == 4) { /* of nearly equal size */
        const int tiles = (left + 5) / 6;
        size = (left + tiles - 1) / tiles;
        *count = left % tiles == 0 ? tiles : left % tiles;
        return size;
    }
    if (vectors == 3 && left >= 8 && (left % 8 == 0 || left % 7 != 0)) {
        size = 8;
    } else if (vectors != 3 && left >= 14) {
        size = 14;
    } else {
        size = left >= 7 ? 7 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    }
    *count = left / size;
    return size;
}

static LM_TARGET_AVX512 void lm_gemm_avx512(const lm_gemm_args *a)
{
    static const lm_tile_fn kernels[4][15] = {
        {NULL, lm_tile_1_1, lm_tile_2_1, NULL, lm_tile_4_1, NULL, NULL, lm_tile_7_1, NULL, NULL, NULL, NULL, NULL, NULL, lm_tile_14_1},
        {NULL, lm_tile_1_2, lm_tile_2_2, NULL, lm_tile_4_2, NULL, NULL, lm_tile_7_2, NULL, NULL, NULL, NULL, NULL, NULL, lm_tile_14_2},
        {NULL, lm_tile_1_3, lm_tile_2_3, NULL, lm_tile_4_3, NULL, NULL, lm_tile_7_3, lm_tile_8_3, NULL, NULL, NULL, NULL, NULL, NULL},
        {NULL, lm_tile_1_4, lm_tile_2_4, lm_tile_3_4, lm_tile_4_4, lm_tile_5_4, lm_tile_6_4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL},
    };
    static const lm_tile_fn tails[2][15] = {
        {NULL, lm_tail_1_2, lm_tail_2_2, NULL, lm_tail_4_2, NULL, NULL, lm_tail_7_2, NULL, NULL, NULL, NULL, NULL, NULL, lm_tail_14_2},
        {NULL, lm_tail_1_4, lm_tail_2_4, NULL, lm_tail_4_4, NULL, NULL, lm_tail_7_4, NULL, NULL, NULL, NULL, NULL, NULL, lm_tail_14_4},
    };
    const float *next = a->next;
    size_t lines = a->next_lines;
    int left = a->vectors;
    lm_tiles t;
    t.w = a->w;
    t.lane = 0;
    t.low = a->relu ? 0.0f : -INFINITY;
    while (left > 0 || (left == 0 && a->tail != 0)) {
        const int panels = (left + 3) / 4;
        const int n = left > 0 ? (left + panels - 1) / panels : 1;
        const lm_tile_fn *sizes = left > 0 ? kernels[n - 1] : tails[a->tail / 2 - 1];
        t.pixel = 0;
        for (int pixels = a->pixels; pixels > 0;) {
            const int size = lm_tile_size(n, pixels, &t.count);
            const size_t wanted = a->k_total * (size_t)t.count; /* one cache line per step */
            const int fetch = left > 0 && n > 1 && lines >= wanted;
            t.next = fetch ? next : t.w;
            t.next_step = fetch ? 16 : 0;
            next += fetch ? wanted * 16 : 0;
            lines -= fetch ? wanted : 0;
            (left == 1 && size == 14 ? lm_near_tile(a->x_step) : sizes[size])(a, &t);
            t.pixel += (size_t)(size * t.count);
            pixels -= size * t.count;
        }
        t.w += a->k_total * (size_t)n * 16;
        t.lane += (size_t)n * 16;
        left = left > 0 ? left - n : -1;
    }
}
