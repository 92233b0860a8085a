/* Matrix product of codes for AVX-512 VNNI: tiles of 1..8 pixels by 1..4 vectors of 16 sums, four products per lane and step. */
#include "kernel-s8.h"
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

#if defined(__GNUC__)
#define LM_ALONE_512(value) __asm__("" : "+v"(value))
#else
#define LM_ALONE_512(value) { volatile __m512 lm_kept = (value); (value) = lm_kept; }
#endif

/* sum += four products per lane. Compilers that may choose copy the sums around. */
#if defined(__GNUC__)
#define LM_SUM_PRODUCTS(sum, x, w) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
#else
#define LM_SUM_PRODUCTS(sum, x, w) sum = _mm512_dpbusd_epi32(sum, x, w);
#endif

#define LM_START(i, v) __m512i s##i##_##v = _mm512_loadu_si512((const void *)(bias + v * 16));
#define LM_START_1(i) LM_START(i, 0)
#define LM_START_2(i) LM_START_1(i) LM_START(i, 1)
#define LM_START_3(i) LM_START_2(i) LM_START(i, 2)
#define LM_START_4(i) LM_START_3(i) LM_START(i, 3)
#define LM_W(v) const __m512i w##v = _mm512_loadu_si512((const void *)(w + v * 64));
#define LM_W_1 LM_W(0)
#define LM_W_2 LM_W_1 LM_W(1)
#define LM_W_3 LM_W_2 LM_W(2)
#define LM_W_4 LM_W_3 LM_W(3)
#define LM_DOT(i, v) LM_SUM_PRODUCTS(s##i##_##v, x, w##v)
#define LM_X(i) const __m512i x = _mm512_set1_epi32(lm_load_4(x##i + k));
#define LM_DOT_1(i) { LM_X(i) LM_DOT(i, 0) }
#define LM_DOT_2(i) { LM_X(i) LM_DOT(i, 0) LM_DOT(i, 1) }
#define LM_DOT_3(i) { LM_X(i) LM_DOT(i, 0) LM_DOT(i, 1) LM_DOT(i, 2) }
#define LM_DOT_4(i) { LM_X(i) LM_DOT(i, 0) LM_DOT(i, 1) LM_DOT(i, 2) LM_DOT(i, 3) }
#define LM_POINT(i) const uint8_t *x##i = base + (size_t)i * x_step;
#define LM_KEEP(i, v, n) _mm512_store_si512((void *)(sums + (i * n + v) * 16), s##i##_##v);
#define LM_KEEP_1(i) LM_KEEP(i, 0, 1)
#define LM_KEEP_2(i) LM_KEEP(i, 0, 2) LM_KEEP(i, 1, 2)
#define LM_KEEP_3(i) LM_KEEP(i, 0, 3) LM_KEEP(i, 1, 3) LM_KEEP(i, 2, 3)
#define LM_KEEP_4(i) LM_KEEP(i, 0, 4) LM_KEEP(i, 1, 4) LM_KEEP(i, 2, 4) LM_KEEP(i, 3, 4)

#if defined(__GNUC__)
#define LM_FORCE_INLINE static inline __attribute__((always_inline))
#define LM_BESIDE static __attribute__((noinline))
#else
#define LM_FORCE_INLINE static inline
#define LM_BESIDE static
#endif

LM_FORCE_INLINE LM_TARGET_AVX512 int32_t lm_load_4(const uint8_t *p)
{
    int32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* Where the results of the next pixel go. */
typedef struct lm_qput {
    const float *scale;
    uint8_t *y;
    float *y_float;
    size_t y_step;
    const uint8_t *add;
    size_t add_step;
    float add_scale;
    int low;
} lm_qput;

LM_FORCE_INLINE LM_TARGET_AVX512 __m512 lm_scaled(const lm_qput *put, const int32_t *sums, int v)
{
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512((const void *)(sums + v * 16))), _mm512_loadu_ps(put->scale + v * 16));
    if (put->add != NULL) {
        const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(put->add + v * 16));
        const __m512i codes = _mm512_cvtepi8_epi32(_mm_xor_si128(bytes, _mm_set1_epi8(-128)));
        __m512 other = _mm512_mul_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(put->add_scale));
        LM_ALONE_512(value);
        LM_ALONE_512(other);
        value = _mm512_add_ps(value, other);
    }
    return value;
}

/* Sums of `pixels` pixels, n vectors each, become codes (or floats). Codes are stored 64 at a time: what follows in the run is
   written later. */
LM_FORCE_INLINE LM_TARGET_AVX512 void lm_put(lm_qput *put, const int32_t *sums, int pixels, int n)
{
    const __m512 least = _mm512_set1_ps(put->low == 0 ? 0.0f : -INFINITY);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i low = _mm512_set1_epi8((char)put->low), flip = _mm512_set1_epi8(-128);
    for (int p = 0; p < pixels; p++) {
        const __m512 f0 = lm_scaled(put, sums, 0), f1 = n > 1 ? lm_scaled(put, sums, 1) : f0;
        const __m512 f2 = n > 2 ? lm_scaled(put, sums, 2) : f0, f3 = n > 3 ? lm_scaled(put, sums, 3) : f0;
        sums += n * 16;
        if (put->y_float != NULL) {
            _mm512_storeu_ps(put->y_float, _mm512_max_ps(least, f0));
            if (n > 1) {
                _mm512_storeu_ps(put->y_float + 16, _mm512_max_ps(least, f1));
            }
            if (n > 2) {
                _mm512_storeu_ps(put->y_float + 32, _mm512_max_ps(least, f2));
            }
            if (n > 3) {
                _mm512_storeu_ps(put->y_float + 48, _mm512_max_ps(least, f3));
            }
            put->y_float += put->y_step;
        } else {
            const __m512i a = _mm512_packs_epi32(_mm512_cvtps_epi32(f0), _mm512_cvtps_epi32(f1));
            const __m512i b = n > 2 ? _mm512_packs_epi32(_mm512_cvtps_epi32(f2), _mm512_cvtps_epi32(f3)) : a;
            const __m512i codes = _mm512_max_epi8(_mm512_permutexvar_epi32(order, _mm512_packs_epi16(a, b)), low);
            _mm512_storeu_si512((void *)put->y, _mm512_xor_si512(codes, flip));
            put->y += put->y_step;
            if (put->add != NULL) {
                put->add += put->add_step;
            }
        }
    }
}

/* For tiles whose sums the constants of lm_put would push out of the registers. */
LM_BESIDE LM_UNUSED LM_TARGET_AVX512 void lm_put_4(lm_qput *put, const int32_t *sums, int pixels, int n)
{
    (void)n;
    lm_put(put, sums, pixels, 4);
}

typedef struct lm_qtiles {
    const int8_t *w;
    size_t lane;
    size_t pixel;
    int count;
} lm_qtiles;

/* `count` tiles of M pixels, one behind the other. */
#define LM_TILE(M, N, PUT)                                                                                                 \
    static LM_TARGET_AVX512 void lm_qtile_##M##_##N(const lm_qgemm_args *a, const lm_qtiles *t)                    \
    {                                                                                                                  \
        const size_t x_step = a->x_step;                                                                               \
        const int32_t *bias = a->bias + t->lane;                                                                       \
        int32_t LM_ALIGNED sums[M * N * 16];                                                                           \
        size_t pixel = t->pixel;                                                                                       \
        lm_qput put;                                                                                                   \
        put.scale = a->scale + t->lane;                                                                                \
        put.y = a->y == NULL ? NULL : a->y + pixel * a->y_step + t->lane;                                              \
        put.y_float = a->y_float == NULL ? NULL : a->y_float + pixel * a->y_step + t->lane;                            \
        put.y_step = a->y_step;                                                                                        \
        put.add = a->add == NULL ? NULL : a->add + pixel * a->add_step + t->lane;                                      \
        put.add_step = a->add_step;                                                                                    \
        put.add_scale = a->add_scale;                                                                                  \
        put.low = a->low;                                                                                              \
        for (int tile = 0; tile < t->count; tile++) {                                                                  \
            const int8_t *w = t->w;                                                                                    \
            LM_EACH_##M(LM_START_##N)                                                                                  \
            for (int r = 0; r < a->run_count; r++) {                                                                   \
                const uint8_t *base = a->runs[r].x + pixel * x_step;                                                   \
                const size_t length = a->runs[r].groups * 4;                                                           \
                LM_EACH_##M(LM_POINT)                                                                                  \
                for (size_t k = 0; k < length; k += 4) {                                                               \
                    LM_W_##N LM_EACH_##M(LM_DOT_##N)                                                                   \
                    w += N * 64;                                                                                       \
                }                                                                                                      \
            }                                                                                                          \
            LM_EACH_##M(LM_KEEP_##N)                                                                                   \
            PUT(&put, sums, M, N);                                                                                     \
            pixel += M;                                                                                                \
        }                                                                                                              \
    }

LM_TILE(1, 1, lm_put) LM_TILE(2, 1, lm_put) LM_TILE(4, 1, lm_put) LM_TILE(7, 1, lm_put) LM_TILE(8, 1, lm_put)
LM_TILE(1, 2, lm_put) LM_TILE(2, 2, lm_put) LM_TILE(4, 2, lm_put) LM_TILE(7, 2, lm_put) LM_TILE(8, 2, lm_put)
LM_TILE(1, 3, lm_put) LM_TILE(2, 3, lm_put) LM_TILE(4, 3, lm_put) LM_TILE(7, 3, lm_put) LM_TILE(8, 3, lm_put)
LM_TILE(1, 4, lm_put) LM_TILE(2, 4, lm_put) LM_TILE(3, 4, lm_put) LM_TILE(4, 4, lm_put) LM_TILE(5, 4, lm_put_4) LM_TILE(6, 4, lm_put)

typedef void (*lm_qtile_fn)(const lm_qgemm_args *a, const lm_qtiles *t);

/* Pixels of the next tiles, and how many of them: few sizes, chosen so that the rows of real nets leave no slow remainder. */
static int lm_qtile_size(int vectors, int left, int *count)
{
    int size;
    if (vectors == 4) { /* of nearly equal size */
        const int tiles = (left + 5) / 6;
        size = (left + tiles - 1) / tiles;
        *count = left % tiles == 0 ? tiles : left % tiles;
        return size;
    }
    size = left >= 8 && (left % 8 == 0 || left % 7 != 0) ? 8 : left >= 7 ? 7 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    *count = left / size;
    return size;
}

static LM_TARGET_AVX512 void lm_qgemm_avx512vnni(const lm_qgemm_args *a)
{
    static const lm_qtile_fn kernels[4][9] = {
        {NULL, lm_qtile_1_1, lm_qtile_2_1, NULL, lm_qtile_4_1, NULL, NULL, lm_qtile_7_1, lm_qtile_8_1},
        {NULL, lm_qtile_1_2, lm_qtile_2_2, NULL, lm_qtile_4_2, NULL, NULL, lm_qtile_7_2, lm_qtile_8_2},
        {NULL, lm_qtile_1_3, lm_qtile_2_3, NULL, lm_qtile_4_3, NULL, NULL, lm_qtile_7_3, lm_qtile_8_3},
        {NULL, lm_qtile_1_4, lm_qtile_2_4, lm_qtile_3_4, lm_qtile_4_4, lm_qtile_5_4, lm_qtile_6_4, NULL, NULL},
    };
    int left = a->vectors;
    lm_qtiles t;
    t.w = a->w;
    t.lane = 0;
    while (left > 0) {
        const int panels = (left + 3) / 4;
        const int n = (left + panels - 1) / panels;
        t.pixel = 0;
        for (int pixels = a->pixels; pixels > 0;) {
            const int size = lm_qtile_size(n, pixels, &t.count);
            kernels[n - 1][size](a, &t);
            t.pixel += (size_t)(size * t.count);
            pixels -= size * t.count;
        }
        t.w += a->groups * (size_t)n * 64;
        t.lane += (size_t)n * 16;
        left -= n;
    }
}
