/* One convolution block in training: depthwise convolution, batch norms of up to three branches, their sum, ReLU.
 *
 * All images are float32 with channels innermost (N, H, W, C). With z the convolution's output and x the second input,
 *     y = relu(BN0(z) + BNs(s * x) + BNk(x))
 * where the scale branch (s, BNs) and the skip (BNk) may be absent. Every BN is an affine map per channel once the
 * moments of z and x over the batch are known, so that y = relu(a z + b x + c). Sums run over rows of width * channels
 * numbers at a time, are kept per channel in double, and always in the same order: results do not depend on threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t images, height, width, channels; /* of the output */
    int64_t stride;                          /* 1, or 2: x is met at every second pixel of a map of twice the size */
} shape;

/* One BN: parameters and running statistics. */
typedef struct {
    const float *gamma, *beta;
    float *running_mean, *running_var;
    int64_t *seen;
    double momentum, eps;
} norm;

/* Sixteen numbers that may lie anywhere; compilers split them where registers are shorter. */
typedef float lanes __attribute__((vector_size(64), aligned(4)));
enum { LANES = 16 };

enum { SUM_Z, SUM_ZZ, SUM_X, SUM_XX, FORWARD_SUMS };
enum { SUM_G, SUM_GZ, SUM_GX, BACKWARD_SUMS };

static void *floats(int64_t count) { return calloc((size_t)(count > 0 ? count : 1), sizeof(float)); }

/* Add a row of accumulators (width * channels) to sums per channel, and clear it. */
static void fold(float *restrict row, int64_t width, int64_t channels, double *restrict sums)
{
    for (int64_t w = 0; w < width; w++)
        for (int64_t c = 0; c < channels; c++)
            sums[c] += row[w * channels + c];
    memset(row, 0, sizeof(float) * (size_t)(width * channels));
}

static void spread(const float *restrict value, int64_t width, int64_t channels, float *restrict row)
{
    for (int64_t w = 0; w < width; w++)
        memcpy(row + w * channels, value, sizeof(float) * (size_t)channels);
}

/* Row y of image n of the second input, as the output meets it: a plain row, or every second pixel gathered. */
static const float *met_row(const float *x, const shape *s, int64_t n, int64_t y, float *restrict scratch)
{
    const int64_t c = s->channels, w = s->width;
    if (s->stride == 1)
        return x + (n * s->height + y) * w * c;
    const float *row = x + ((n * s->height + y) * 2) * (2 * w) * c;
    for (int64_t i = 0; i < w; i++)
        memcpy(scratch + i * c, row + 2 * i * c, sizeof(float) * (size_t)c);
    return scratch;
}

/* An image with a border of zeros one pixel wide. */
static void padded(const float *image, int64_t height, int64_t width, int64_t channels, float *restrict out)
{
    const int64_t length = width * channels, stride = length + 2 * channels;
    memset(out, 0, sizeof(float) * (size_t)stride);
    for (int64_t y = 0; y < height; y++) {
        float *row = out + (y + 1) * stride;
        memset(row, 0, sizeof(float) * (size_t)channels);
        memcpy(row + channels, image + y * length, sizeof(float) * (size_t)length);
        memset(row + channels + length, 0, sizeof(float) * (size_t)channels);
    }
    memset(out + (height + 1) * stride, 0, sizeof(float) * (size_t)stride);
}

/* Even and odd pixels of a row apart: even[i] = row[2i], odd[i] = row[2i + 1]; each of `width` pixels. */
static void deal(const float *restrict row, int64_t width, int64_t c, float *restrict even, float *restrict odd)
{
    for (int64_t i = 0; i < width; i++)
        for (int64_t j = 0; j < c; j++) {
            even[i * c + j] = row[2 * i * c + j];
            odd[i * c + j] = row[(2 * i + 1) * c + j];
        }
}

typedef struct {
    float *taps;   /* 9 rows of width * channels: the kernels, one row per tap */
    float *image;  /* an image with its border */
    float *halves; /* rows dealt into even and odd pixels */
    float *of_z;   /* backward: an image of gradients */
    float *sums;   /* backward: 9 rows of gradients of taps */
} depthwise;

enum { IMAGES_PER_FOLD = 8 };

static void depthwise_free(depthwise *plan)
{
    free(plan->taps);
    free(plan->image);
    free(plan->halves);
    free(plan->of_z);
    free(plan->sums);
}

static int depthwise_plan(const shape *s, const float *kernels, depthwise *plan)
{
    const int64_t c = s->channels, w = s->width, tall = s->height * s->stride, wide = w * s->stride;
    const int64_t length = w * c;
    plan->taps = floats(9 * length);
    plan->image = floats((tall + 2) * (wide + 2) * c);
    plan->halves = floats(6 * (w + 1) * c);
    plan->of_z = floats(s->height * w * c);
    plan->sums = floats(9 * length);
    if (!plan->taps || !plan->image || !plan->halves || !plan->of_z || !plan->sums)
        return 0;
    for (int64_t t = 0; t < 9; t++)
        for (int64_t i = 0; i < length; i++)
            plan->taps[t * length + i] = kernels[(i % c) * 9 + t];
    return 1;
}

/* out = sum over the nine taps of k t. */
static void nine(const float *restrict k, int64_t length, const float *const *tap, float *restrict out)
{
    const float *restrict t0 = tap[0], *restrict t1 = tap[1], *restrict t2 = tap[2], *restrict t3 = tap[3];
    const float *restrict t4 = tap[4], *restrict t5 = tap[5], *restrict t6 = tap[6], *restrict t7 = tap[7];
    const float *restrict t8 = tap[8];
    for (int64_t i = 0; i < length; i++)
        out[i] = k[i] * t0[i] + k[length + i] * t1[i] + k[2 * length + i] * t2[i] + k[3 * length + i] * t3[i] +
                 k[4 * length + i] * t4[i] + k[5 * length + i] * t5[i] + k[6 * length + i] * t6[i] +
                 k[7 * length + i] * t7[i] + k[8 * length + i] * t8[i];
}

#define LOAD(from) (*(const lanes *)(from))

/* Columns of sixteen numbers, walked down the image (stride 1): the kernels stay in registers, and so do the gradients
 * of the kernels where x is given. `flip` turns the kernels by half a turn, as the way back needs it. `out` is added to
 * where x is given, else set. Returns how many numbers of each row were done. */
static int64_t columns(const float *taps, const float *image, int64_t height, int64_t length, int64_t channels,
                       int flip, const float *x, float *sums, float *out)
{
    const int64_t wide = length + 2 * channels;
    int64_t at = 0;
    for (; at + LANES <= length; at += LANES) {
        lanes k[9], acc[9], above[3], here[3];
        for (int t = 0; t < 9; t++) {
            k[t] = LOAD(taps + (flip ? 8 - t : t) * length + at);
            acc[t] = (lanes){0};
        }
        for (int t = 0; t < 3; t++) {
            above[t] = LOAD(image + at + t * channels);
            here[t] = LOAD(image + wide + at + t * channels);
        }
        for (int64_t y = 0; y < height; y++) {
            const float *const from = image + (y + 2) * wide + at;
            const lanes below0 = LOAD(from), below1 = LOAD(from + channels), below2 = LOAD(from + 2 * channels);
            lanes sum = k[0] * above[0] + k[1] * above[1] + k[2] * above[2];
            sum += k[3] * here[0] + k[4] * here[1] + k[5] * here[2];
            sum += k[6] * below0 + k[7] * below1 + k[8] * below2;
            if (x) {
                const lanes v = LOAD(x + y * length + at);
                acc[0] += v * above[0];
                acc[1] += v * above[1];
                acc[2] += v * above[2];
                acc[3] += v * here[0];
                acc[4] += v * here[1];
                acc[5] += v * here[2];
                acc[6] += v * below0;
                acc[7] += v * below1;
                acc[8] += v * below2;
                sum += LOAD(out + y * length + at);
            }
            *(lanes *)(out + y * length + at) = sum;
            above[0] = here[0];
            above[1] = here[1];
            above[2] = here[2];
            here[0] = below0;
            here[1] = below1;
            here[2] = below2;
        }
        if (x)
            for (int t = 0; t < 9; t++) {
                float *const to = sums + (flip ? 8 - t : t) * length + at;
                *(lanes *)to = LOAD(to) + acc[t];
            }
    }
    return at;
}

/* The numbers of each row that `columns` left. */
static void last_columns(const float *taps, const float *image, int64_t height, int64_t length, int64_t channels,
                         int64_t at, int flip, const float *x, float *sums, float *out)
{
    const int64_t wide = length + 2 * channels, rest = length - at;
    for (int64_t y = 0; y < height; y++)
        for (int t = 0; t < 9; t++) {
            const int64_t tap = flip ? 8 - t : t;
            const float *restrict d = image + (y + t / 3) * wide + (t % 3) * channels + at;
            const float *restrict k = taps + tap * length + at;
            float *restrict to = out + y * length + at;
            for (int64_t i = 0; i < rest; i++)
                to[i] = (t || x ? to[i] : 0.0f) + k[i] * d[i];
            if (x) {
                const float *restrict v = x + y * length + at;
                float *restrict sum = sums + tap * length + at;
                for (int64_t i = 0; i < rest; i++)
                    sum[i] += v[i] * d[i];
            }
        }
}

/* z of one image. */
static void depthwise_image(const shape *s, const depthwise *plan, const float *x, float *z)
{
    const int64_t c = s->channels, ow = s->width, length = ow * c, plane = (ow + 1) * c;
    const int64_t wide = (ow * s->stride + 2) * c;
    padded(x, s->height * s->stride, ow * s->stride, c, plan->image);
    if (s->stride == 1) {
        const int64_t at = columns(plan->taps, plan->image, s->height, length, c, 0, NULL, NULL, z);
        last_columns(plan->taps, plan->image, s->height, length, c, at, 0, NULL, NULL, z);
        return;
    }
    const float *tap[9];
    for (int64_t y = 0; y < s->height; y++) {
        for (int64_t row = 0; row < 3; row++) { /* padded columns 2i, 2i + 1, 2i + 2 */
            float *even = plan->halves + 2 * row * plane, *odd = even + plane;
            deal(plan->image + (2 * y + row) * wide, ow + 1, c, even, odd);
            tap[3 * row] = even;
            tap[3 * row + 1] = odd;
            tap[3 * row + 2] = even + c;
        }
        nine(plan->taps, length, tap, z + y * length);
    }
}

/* sums += x d; out += k d, for one tap. */
static void meet(const float *restrict k, const float *restrict x, const float *restrict d, int64_t length,
                 float *restrict sums, float *restrict out)
{
    for (int64_t i = 0; i < length; i++) {
        sums[i] += x[i] * d[i];
        out[i] += k[i] * d[i];
    }
}

/* Gradients through the convolution of one image: of_x is added to, the kernels' go to plan->sums. */
static void depthwise_image_backward(const shape *s, const depthwise *plan, const float *x, float *of_x)
{
    const int64_t c = s->channels, ow = s->width, length = ow * c, wide = (ow + 2) * c;
    float *const k = plan->taps, *const acc = plan->sums, *const halves = plan->halves;
    padded(plan->of_z, s->height, ow, c, plan->image);
    if (s->stride == 1) {
        const int64_t at = columns(k, plan->image, s->height, length, c, 1, x, acc, of_x);
        last_columns(k, plan->image, s->height, length, c, at, 1, x, acc, of_x);
        return;
    }
    for (int64_t y = 0; y < 2 * s->height; y++) {
        float *dx = of_x + y * 2 * length;
        float *const x_even = halves, *const dx_even = halves + 2 * length;
        deal(x + y * 2 * length, ow, c, x_even, x_even + length);
        deal(dx, ow, c, dx_even, dx_even + length);
        for (int64_t t = 0; t < 9; t++) {
            const int64_t up = y + 1 - t / 3, column = t % 3; /* up = 2 x output row */
            if (up % 2 || up < 0 || up / 2 >= s->height)
                continue;
            /* odd pixel 2i + 1 meets output i by column 2, output i + 1 by column 0; even pixels meet by column 1 */
            const float *d = plan->image + (up / 2 + 1) * wide + (column == 0 ? 2 * c : c);
            const int64_t odd = column == 1 ? 0 : length;
            meet(k + t * length, x_even + odd, d, length, acc + t * length, dx_even + odd);
        }
        for (int64_t i = 0; i < ow; i++)
            for (int64_t j = 0; j < c; j++) {
                dx[2 * i * c + j] = dx_even[i * c + j];
                dx[(2 * i + 1) * c + j] = dx_even[length + i * c + j];
            }
    }
}

/* Adds the sums of u and u^2 over one image to `first` and `second`, per channel. The squares are taken around the
 * image's own mean, so that a large mean does not eat the variance. `rows` holds 3 rows, `image` 2 C doubles. */
static void image_moments(const shape *s, const float *u, int64_t stride, float *restrict rows,
                          double *restrict image, double *restrict first, double *restrict second)
{
    const int64_t c = s->channels, length = s->width * c;
    const double count = (double)(s->height * s->width);
    shape met = *s;
    met.stride = stride;
    float *const acc = rows, *const mean = rows + length, *const scratch = rows + 2 * length;
    memset(image, 0, sizeof(double) * (size_t)(2 * c));
    for (int64_t y = 0; y < s->height; y++) {
        const float *restrict row = met_row(u, &met, 0, y, scratch);
        for (int64_t i = 0; i < length; i++)
            acc[i] += row[i];
    }
    fold(acc, s->width, c, image);
    for (int64_t i = 0; i < c; i++)
        mean[i] = (float)(image[i] / count);
    for (int64_t w = 1; w < s->width; w++)
        memcpy(mean + w * c, mean, sizeof(float) * (size_t)c);
    for (int64_t y = 0; y < s->height; y++) {
        const float *restrict row = met_row(u, &met, 0, y, scratch);
        for (int64_t i = 0; i < length; i++) {
            const float v = row[i] - mean[i];
            acc[i] += v * v;
        }
    }
    fold(acc, s->width, c, image + c);
    for (int64_t i = 0; i < c; i++) { /* sum (u - m)^2 = sum u^2 - 2 m sum u + n m^2 */
        first[i] += image[i];
        second[i] += image[c + i] + 2 * (double)mean[i] * image[i] - count * (double)mean[i] * (double)mean[i];
    }
}

/* Sums of z and z^2, and of x and x^2 where x is given, per channel; z is first made from x where kernels are given
 * (depthwise, 3 x 3, zeros around). Returns 0 when memory is out. */
int block_moments(const shape *s, float *z, const float *x, int with_x, const float *kernels, double *sums)
{
    const int64_t c = s->channels, pixels = s->height * s->width, all = pixels * s->stride * s->stride;
    float *rows = floats(3 * s->width * c);
    double *image = calloc((size_t)(2 * c), sizeof(double));
    depthwise plan = {0};
    const int fine = rows && image && (!kernels || depthwise_plan(s, kernels, &plan));
    memset(sums, 0, sizeof(double) * (size_t)(FORWARD_SUMS * c));
    for (int64_t n = 0; fine && n < s->images; n++) {
        float *const z_image = z + n * pixels * c;
        const float *const x_image = x ? x + n * all * c : NULL;
        if (kernels)
            depthwise_image(s, &plan, x_image, z_image);
        image_moments(s, z_image, 1, rows, image, sums + SUM_Z * c, sums + SUM_ZZ * c);
        if (with_x)
            image_moments(s, x_image, s->stride, rows, image, sums + SUM_X * c, sums + SUM_XX * c);
    }
    free(rows);
    free(image);
    depthwise_free(&plan);
    return fine;
}

static void keep(const norm *bn, int64_t c, double mean, double variance, double count)
{
    const double unbiased = variance * (count / (count > 1 ? count - 1 : 1));
    bn->running_mean[c] += (float)(bn->momentum * (mean - bn->running_mean[c]));
    bn->running_var[c] += (float)(bn->momentum * (unbiased - bn->running_var[c]));
}

/* Means and variances (4 rows of C: mean z, var z, mean x, var x) -> rows a, b, c; running statistics move along.
 * `skip` and `scale` may be NULL; `weight` is the scale branch's. */
void block_affine(int64_t channels, double count, const double *moments, const norm *conv, const norm *scale,
                  const float *weight, const norm *skip, float *affine)
{
    const norm *all[3] = {conv, scale, skip};
    for (int i = 0; i < 3; i++)
        if (all[i])
            *all[i]->seen += 1;
    for (int64_t c = 0; c < channels; c++) {
        const double mz = moments[c], vz = moments[channels + c];
        const double mx = moments[2 * channels + c], vx = moments[3 * channels + c];
        const double a = conv->gamma[c] / sqrt(vz + conv->eps);
        double b = 0, shift = conv->beta[c] - a * mz;
        keep(conv, c, mz, vz, count);
        if (scale) {
            const double w = weight[c];
            b += w * scale->gamma[c] / sqrt(w * w * vx + scale->eps);
            shift += scale->beta[c];
            keep(scale, c, w * mx, w * w * vx, count);
        }
        if (skip) {
            b += skip->gamma[c] / sqrt(vx + skip->eps);
            shift += skip->beta[c];
            keep(skip, c, mx, vx, count);
        }
        affine[c] = (float)a;
        affine[channels + c] = (float)b;
        affine[2 * channels + c] = (float)(shift - b * mx);
    }
}

/* y = relu(a z + b x + c); x may be NULL. */
int block_apply(const shape *s, const float *z, const float *x, const float *affine, int relu, float *y)
{
    const int64_t c = s->channels, length = s->width * c;
    float *rows = floats(4 * length);
    if (!rows)
        return 0;
    float *const a = rows, *const b = rows + length, *const d = rows + 2 * length, *const scratch = rows + 3 * length;
    spread(affine, s->width, c, a);
    spread(affine + c, s->width, c, b);
    spread(affine + 2 * c, s->width, c, d);
    const float low = relu ? 0.0f : -INFINITY;
    for (int64_t n = 0; n < s->images; n++)
        for (int64_t r = 0; r < s->height; r++) {
            const float *restrict zr = z + (n * s->height + r) * length;
            float *restrict yr = y + (n * s->height + r) * length;
            if (x) {
                const float *restrict xr = met_row(x, s, n, r, scratch);
                for (int64_t i = 0; i < length; i++) {
                    const float v = a[i] * zr[i] + b[i] * xr[i] + d[i];
                    yr[i] = v < low ? low : v;
                }
            } else {
                for (int64_t i = 0; i < length; i++) {
                    const float v = a[i] * zr[i] + d[i];
                    yr[i] = v < low ? low : v;
                }
            }
        }
    free(rows);
    return 1;
}

/* Sums over the batch of g, g z and g x, where g is the gradient behind the ReLU. */
int block_gradient_sums(const shape *s, const float *of_y, const float *y, const float *z, const float *x, int relu,
                        double *sums)
{
    const int64_t c = s->channels, length = s->width * c;
    float *rows = floats(4 * length);
    if (!rows)
        return 0;
    float *const sg = rows, *const sgz = rows + length, *const sgx = rows + 2 * length,
                 *const scratch = rows + 3 * length;
    const float low = relu ? 0.0f : -INFINITY;
    memset(sums, 0, sizeof(double) * (size_t)(BACKWARD_SUMS * c));
    for (int64_t n = 0; n < s->images; n++) {
        for (int64_t r = 0; r < s->height; r++) {
            const int64_t at = (n * s->height + r) * length;
            const float *restrict gr = of_y + at, *restrict yr = y + at, *restrict zr = z + at;
            if (x) {
                const float *restrict xr = met_row(x, s, n, r, scratch);
                for (int64_t i = 0; i < length; i++) {
                    const float g = yr[i] > low ? gr[i] : 0.0f;
                    sg[i] += g;
                    sgz[i] += g * zr[i];
                    sgx[i] += g * xr[i];
                }
            } else {
                for (int64_t i = 0; i < length; i++) {
                    const float g = yr[i] > low ? gr[i] : 0.0f;
                    sg[i] += g;
                    sgz[i] += g * zr[i];
                }
            }
        }
        fold(sg, s->width, c, sums + SUM_G * c);
        fold(sgz, s->width, c, sums + SUM_GZ * c);
        if (x)
            fold(sgx, s->width, c, sums + SUM_GX * c);
    }
    free(rows);
    return 1;
}

/* Sums of g, g z, g x over the whole batch -> six rows: dz = p0 g + p1 z + p2, the direct part of dx = p3 g + p4 x + p5;
 * and rows of gradients: gamma, beta of the convolution, of the scale branch, of the skip, and the scale's weight.
 * Parameters' gradients are this process's share: it keeps `own` of those of the whole batch. */
void block_slopes(int64_t channels, double count, const double *moments, const double *sums, double own,
                  const norm *conv, const norm *scale, const float *weight, const norm *skip, float *of_parameters,
                  float *slopes)
{
    for (int64_t c = 0; c < channels; c++) {
        const double mz = moments[c], vz = moments[channels + c];
        const double mx = moments[2 * channels + c], vx = moments[3 * channels + c];
        const double g = sums[SUM_G * channels + c];
        const double gz = sums[SUM_GZ * channels + c] - mz * g, gx = sums[SUM_GX * channels + c] - mx * g;
        const double inverse = 1 / sqrt(vz + conv->eps), a = conv->gamma[c] * inverse;
        const double p1 = -a * inverse * inverse * gz / count;
        double b = 0, p4 = 0;
        of_parameters[c] = (float)(own * inverse * gz);
        of_parameters[channels + c] = (float)(own * g);
        if (scale) {
            const double w = weight[c], i = 1 / sqrt(w * w * vx + scale->eps), bs = scale->gamma[c] * i;
            const double h = i * w * gx / count;
            of_parameters[2 * channels + c] = (float)(own * i * w * gx);
            of_parameters[3 * channels + c] = (float)(own * g);
            of_parameters[6 * channels + c] = (float)(own * bs * (gx - w * count * vx * i * h));
            b += w * bs;
            p4 -= w * w * bs * i * h;
        }
        if (skip) {
            const double i = 1 / sqrt(vx + skip->eps), bk = skip->gamma[c] * i;
            of_parameters[4 * channels + c] = (float)(own * i * gx);
            of_parameters[5 * channels + c] = (float)(own * g);
            b += bk;
            p4 -= bk * i * i * gx / count;
        }
        slopes[c] = (float)a;
        slopes[channels + c] = (float)p1;
        slopes[2 * channels + c] = (float)(-a * g / count - p1 * mz);
        slopes[3 * channels + c] = (float)b;
        slopes[4 * channels + c] = (float)p4;
        slopes[5 * channels + c] = (float)(-b * g / count - p4 * mx);
    }
}

/* The affine gradients of block_slopes written out: of_z, and of_x where x is given (stride 1 only). */
int block_gradients(const shape *s, const float *of_y, const float *y, const float *z, const float *x, int relu,
                    const float *slopes, float *of_z, float *of_x)
{
    const int64_t c = s->channels, length = s->width * c;
    float *p = floats(6 * length);
    if (!p)
        return 0;
    for (int64_t k = 0; k < 6; k++)
        spread(slopes + k * c, s->width, c, p + k * length);
    const float *const p0 = p, *const p1 = p + length, *const p2 = p + 2 * length, *const p3 = p + 3 * length,
                       *const p4 = p + 4 * length, *const p5 = p + 5 * length;
    const float low = relu ? 0.0f : -INFINITY;
    for (int64_t r = 0; r < s->images * s->height; r++) {
        const float *restrict gr = of_y + r * length, *restrict yr = y + r * length, *restrict zr = z + r * length;
        float *restrict dz = of_z + r * length;
        if (x) {
            const float *restrict xr = x + r * length;
            float *restrict dx = of_x + r * length;
            for (int64_t i = 0; i < length; i++) {
                const float g = yr[i] > low ? gr[i] : 0.0f;
                dz[i] = p0[i] * g + p1[i] * zr[i] + p2[i];
                dx[i] = p3[i] * g + p4[i] * xr[i] + p5[i];
            }
        } else {
            for (int64_t i = 0; i < length; i++) {
                const float g = yr[i] > low ? gr[i] : 0.0f;
                dz[i] = p0[i] * g + p1[i] * zr[i] + p2[i];
            }
        }
    }
    free(p);
    return 1;
}

/* The direct part of of_x for stride 2, at the pixels that the output meets. */
static void direct_gradients(const shape *s, const float *of_y, const float *y, const float *x, int relu,
                             const float *slopes, float *of_x)
{
    const int64_t c = s->channels, length = s->width * c;
    const float low = relu ? 0.0f : -INFINITY;
    for (int64_t r = 0; r < s->images * s->height; r++)
        for (int64_t w = 0; w < s->width; w++) {
            const float *restrict gr = of_y + r * length + w * c, *restrict yr = y + r * length + w * c;
            const float *restrict xr = x + (r * 4 * s->width + 2 * w) * c;
            float *restrict dx = of_x + (r * 4 * s->width + 2 * w) * c;
            for (int64_t i = 0; i < c; i++) {
                const float g = yr[i] > low ? gr[i] : 0.0f;
                dx[i] = slopes[3 * c + i] * g + slopes[4 * c + i] * xr[i] + slopes[5 * c + i];
            }
        }
}

/* Everything behind block_slopes for a depthwise block, image by image: of_x, and of_kernels (C, 3, 3). `direct` is 0
 * where x is met by the convolution alone. */
int depthwise_backward(const shape *s, const float *of_y, const float *y, const float *z, const float *x, int direct,
                       int relu, const float *slopes, const float *kernels, float *of_x, float *of_kernels)
{
    const int64_t c = s->channels, size = s->height * s->width * c, all = size * s->stride * s->stride;
    depthwise plan = {0};
    double *sums = calloc((size_t)(9 * c), sizeof(double));
    shape one = *s;
    one.images = 1;
    int fine = sums && depthwise_plan(s, kernels, &plan);
    for (int64_t n = 0; fine && n < s->images; n++) {
        const float *const g = of_y + n * size, *const out = y + n * size, *const x_image = x + n * all;
        float *const dx = of_x + n * all;
        const int at_once = direct && s->stride == 1;
        fine = block_gradients(&one, g, out, z + n * size, at_once ? x_image : NULL, relu, slopes, plan.of_z, dx);
        if (!at_once)
            memset(dx, 0, sizeof(float) * (size_t)all);
        if (direct && !at_once)
            direct_gradients(&one, g, out, x_image, relu, slopes, dx);
        depthwise_image_backward(s, &plan, x_image, dx);
        if (n % IMAGES_PER_FOLD == IMAGES_PER_FOLD - 1 || n == s->images - 1)
            for (int64_t t = 0; t < 9; t++)
                fold(plan.sums + t * s->width * c, s->width, c, sums + t * c);
    }
    for (int64_t i = 0; fine && i < c; i++)
        for (int64_t t = 0; t < 9; t++)
            of_kernels[i * 9 + t] = (float)sums[t * c + i];
    depthwise_free(&plan);
    free(sums);
    return fine;
}
