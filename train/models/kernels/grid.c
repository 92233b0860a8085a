/* Rounding to an int8 grid, with gradients straight through: y = clamp(rne(x / step), low, high) * step.
 *
 * Inside the range the gradient passes to x, and the step learns from the rounding error; outside x gets nothing and the
 * step learns from the limit (LSQ). Tensors are dense float32 in any order of memory; sums run in one fixed order, in
 * lanes of float over blocks and in double over the blocks.
 */
#include <stdint.h>

enum { LANES = 16, BLOCK = 64 };

/* Adding and taking away 1.5 * 2^23 rounds what lies within +-2^22 to whole numbers, ties to even. */
static float whole(float value) { return (value + 12582912.0f) - 12582912.0f; }

static float between(float value, float low, float high)
{
    value = value < low ? low : value;
    return value > high ? high : value;
}

int grid_forward(int64_t count, const float *restrict x, const float *restrict step, double low, double high,
                 float *restrict y)
{
    const float s = *step, least = (float)low, most = (float)high;
    for (int64_t i = 0; i < count; i++)
        y[i] = whole(between(x[i] / s, least, most)) * s;
    return 1;
}

/* Gradient of one value to x, and what it adds to the gradient of the step. */
static inline float slope(float x, float g, float s, float least, float most, float *restrict to_step)
{
    const float v = x / s, cut = between(v, least, most), whole_cut = whole(cut);
    const int inside = v >= least && v <= most;
    *to_step = (inside ? whole_cut - v : whole_cut) * g;
    return inside ? g : 0.0f;
}

int grid_backward(int64_t count, const float *restrict x, const float *restrict g, const float *restrict step,
                  double low, double high, float *restrict to_x, float *restrict to_step)
{
    const float s = *step, least = (float)low, most = (float)high;
    double total = 0;
    int64_t i = 0;
    while (i + LANES <= count) {
        float lane[LANES] = {0};
        for (int64_t stop = i + LANES * BLOCK; i + LANES <= count && i < stop; i += LANES)
            for (int64_t k = 0; k < LANES; k++) {
                float part;
                to_x[i + k] = slope(x[i + k], g[i + k], s, least, most, &part);
                lane[k] += part;
            }
        for (int64_t k = 0; k < LANES; k++)
            total += (double)lane[k];
    }
    for (; i < count; i++) {
        float part;
        to_x[i] = slope(x[i], g[i], s, least, most, &part);
        total += (double)part;
    }
    *to_step = (float)total;
    return 1;
}

/* Rows of weights counted in units, rounded to a step per row: y = clamp(rne(v * unit / step)) * step. */
int grid_rows_forward(int64_t rows, int64_t length, const float *restrict v, const float *restrict unit,
                      const float *restrict step, double limit, float *restrict y)
{
    const float most = (float)limit;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = r * length; i < (r + 1) * length; i++)
            y[i] = whole(between(v[i] * unit[r] / step[r], -most, most)) * step[r];
    return 1;
}

int grid_rows_backward(int64_t rows, int64_t length, const float *restrict v, const float *restrict g,
                       const float *restrict unit, const float *restrict step, double limit, float *restrict to_v,
                       float *restrict to_step)
{
    const float most = (float)limit;
    for (int64_t r = 0; r < rows; r++) {
        double total = 0;
        for (int64_t i = r * length; i < (r + 1) * length; i++) {
            float part;
            to_v[i] = slope(v[i] * unit[r], g[i], step[r], -most, most, &part) * unit[r];
            total += (double)part;
        }
        to_step[r] = (float)total;
    }
    return 1;
}
