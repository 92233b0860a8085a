/* Float kernels alone: compared with sums in double, and timed. The including file names the kernel under test:
   gemm_tested, dw_tested, input_tested, and defines the shapes. */
#include "kernels.h"

#define CANARY 1234.5f

/* Allowed: half a unit for every operation on the way, of the sum of magnitudes. */
static int beyond(float found, double exact, double magnitude, int terms)
{
    return !(fabs((double)found - exact) <= (terms + 2) * 0x1p-24 * magnitude + 1e-37);
}

static int check_gemm(const gemm_shape *s, size_t shift)
{
    lm_span runs[64];
    size_t reach = 0, k_total = 0, tail_groups = 0;
    lm_gemm_args a;
    for (int r = 0; r < s->run_count; r++) {
        const size_t end = (size_t)(s->runs[r][0] + s->runs[r][1]);
        reach = end > reach ? end : reach;
        k_total += (size_t)s->runs[r][1];
        tail_groups += s->tail == 0 ? 0 : ((size_t)s->runs[r][1] + (size_t)s->tail - 1) / (size_t)s->tail;
    }
    const size_t x_size = (size_t)(s->pixels - 1) * (size_t)s->x_step + reach + 4, lanes = (size_t)s->vectors * 16;
    float *x = (float *)room(x_size * 4, shift), *w = (float *)room((k_total + tail_groups) * lanes * 4, 0);
    float *bias = (float *)room(lanes * 4, 0), *add = (float *)room((size_t)(s->pixels * s->y_step) * 4, 0);
    float *y = (float *)room((size_t)((s->pixels + 1) * s->y_step) * 4, 0); /* and one pixel that nobody may touch */
    for (size_t i = 0; i < x_size; i++) {
        x[i] = random_float();
    }
    for (size_t i = 0; i < (k_total + tail_groups) * lanes; i++) {
        w[i] = random_float();
    }
    for (size_t i = 0; i < lanes; i++) {
        bias[i] = random_float();
    }
    for (int i = 0; i < s->pixels * s->y_step; i++) {
        add[i] = random_float();
    }
    for (int i = 0; i < (s->pixels + 1) * s->y_step; i++) {
        y[i] = CANARY;
    }
    for (int r = 0; r < s->run_count; r++) {
        runs[r].x = x + s->runs[r][0];
        runs[r].length = (size_t)s->runs[r][1];
    }
    memset(&a, 0, sizeof a);
    a.runs = runs;
    a.run_count = s->run_count;
    a.x_step = (size_t)s->x_step;
    a.k_total = k_total;
    a.w = w;
    a.bias = bias;
    a.y = y;
    a.y_step = (size_t)s->y_step;
    a.add = s->add ? add : NULL;
    a.add_step = (size_t)s->y_step;
    a.vectors = s->vectors - (s->tail > 0);
    a.tail = s->tail;
    a.pixels = s->pixels;
    a.relu = s->relu;
    a.next = w;
    a.next_lines = k_total * lanes / 16;
    const size_t panel_floats = k_total * (lanes - (s->tail > 0 ? 16 : 0));
    for (size_t i = 0, g = 0; s->tail > 0 && i < (size_t)s->run_count; i++) { /* no weights behind a run */
        for (int k = 0; k < s->runs[i][1]; k += s->tail, g++) {
            for (int j = 0; j < 16; j++) {
                float *weight = w + panel_floats + g * 16 + j;
                *weight = k + j % s->tail < s->runs[i][1] ? *weight : 0.0f;
            }
        }
    }
    gemm_tested(&a);
    const float *panel = w;
    int left = s->vectors - (s->tail > 0);
    size_t lane = 0;
    while (left > 0) {
        const int panels = (left + 3) / 4, n = (left + panels - 1) / panels;
        for (int p = 0; p < s->pixels; p++) {
            for (int i = 0; i < n * 16; i++) {
                const size_t at = lane + (size_t)i, out = (size_t)(p * s->y_step) + at;
                double exact = (double)bias[at] + (s->add ? (double)add[out] : 0.0);
                double magnitude = fabs((double)bias[at]) + (s->add ? fabs((double)add[out]) : 0.0);
                size_t k = 0;
                for (int r = 0; r < s->run_count; r++) {
                    for (size_t j = 0; j < runs[r].length; j++, k++) {
                        const double term = (double)runs[r].x[(size_t)(p * s->x_step) + j] * (double)panel[k * (size_t)n * 16 + (size_t)i];
                        exact += term;
                        magnitude += fabs(term);
                    }
                }
                exact = s->relu && exact < 0.0 ? 0.0 : exact;
                if (beyond(y[out], exact, magnitude, (int)k_total)) {
                    printf("gemm %s: pixel %d lane %zu: %.9g, exactly %.9g\n", s->name, p, at, (double)y[out], exact);
                    return 1;
                }
            }
        }
        panel += k_total * (size_t)n * 16;
        lane += (size_t)n * 16;
        left -= n;
    }
    for (int p = 0; s->tail > 0 && p < s->pixels; p++) {
        for (int c = 0; c < 16; c++) {
            const size_t at = lane + (size_t)c, out = (size_t)(p * s->y_step) + at;
            double exact = 0.0, magnitude = 0.0;
            if (c < 16 / s->tail) {
                const float *row = w + panel_floats;
                exact = (double)bias[at] + (s->add ? (double)add[out] : 0.0);
                magnitude = fabs((double)bias[at]) + (s->add ? fabs((double)add[out]) : 0.0);
                for (int r = 0; r < s->run_count; r++) {
                    for (size_t k = 0; k < runs[r].length; k++) {
                        const size_t place = k / (size_t)s->tail * 16 + (size_t)(c * s->tail) + k % (size_t)s->tail;
                        const double term = (double)runs[r].x[(size_t)(p * s->x_step) + k] * (double)row[place];
                        exact += term;
                        magnitude += fabs(term);
                    }
                    row += (runs[r].length + (size_t)s->tail - 1) / (size_t)s->tail * 16;
                }
                exact = s->relu && exact < 0.0 ? 0.0 : exact;
            }
            if (beyond(y[out], exact, magnitude, (int)k_total + s->tail)) {
                printf("gemm %s: pixel %d tail channel %d: %.9g, exactly %.9g\n", s->name, p, c, (double)y[out], exact);
                return 1;
            }
        }
    }
    for (int p = 0; p <= s->pixels; p++) {
        for (int i = p < s->pixels ? s->vectors * 16 : 0; i < s->y_step; i++) {
            if (y[p * s->y_step + i] != CANARY) {
                printf("gemm %s: writes beside its lanes\n", s->name);
                return 1;
            }
        }
    }
    if (timing) {
        double seconds;
        FASTEST(seconds, gemm_tested(&a))
        report("gemm", s->name, s->macs, seconds);
    }
    free((char *)x - shift);
    free(w);
    free(bias);
    free(add);
    free(y);
    return 0;
}

/* The first `last` lanes of the last vector go `behind` floats further left: where they lie may be written by nobody else. */
static int check_dw(const dw_shape *s, int rows, int missing, int last, int behind)
{
    const int out = (s->width + s->stride - 1) / s->stride, reads = (rows - 1) * s->stride + 3;
    const size_t lanes = (size_t)s->vectors * 16, x_row = (size_t)(s->width * s->x_step), y_row = (size_t)(out * s->y_step);
    float *x = (float *)room(x_row * 4 * (size_t)reads, 0), *w = (float *)room(lanes * 36, 0), *bias = (float *)room(lanes * 4, 0);
    const size_t before = (size_t)behind + 16; /* floats in front of the outputs */
    float *memory = (float *)room((y_row * 2 + before) * 4, 0), *y = memory + before;
    lm_dw_args a;
    for (size_t i = 0; i < x_row * (size_t)reads; i++) {
        x[i] = random_float();
    }
    for (size_t i = 0; i < lanes * 9; i++) {
        w[i] = random_float();
    }
    for (size_t i = 0; i < lanes; i++) {
        bias[i] = random_float();
    }
    for (size_t i = 0; i < 2 * y_row + before; i++) {
        memory[i] = CANARY;
    }
    memset(&a, 0, sizeof a);
    for (int k = 0; k < reads; k++) {
        const int outside = (k == 0 && (missing & 1)) || (k == reads - 1 && (missing & 2));
        a.x[k] = outside ? NULL : x + (size_t)k * x_row;
    }
    a.x_step = (size_t)s->x_step;
    a.in_width = s->width;
    a.stride = s->stride;
    a.w = w;
    a.bias = bias;
    a.y[0] = y;
    a.y[1] = y + y_row;
    a.rows = rows;
    a.y_step = (size_t)s->y_step;
    a.out_width = out;
    a.vectors = s->vectors;
    a.shift = -behind;
    a.relu = s->relu;
    dw_tested(&a);
    for (int row = 0; row < rows && behind > 0; row++) { /* brought back to where they would be else */
        for (int ox = 0; ox < out; ox++) {
            float *there = y + (size_t)row * y_row + (size_t)(ox * s->y_step) + lanes - 16, *here = there - behind;
            for (int c = 0; c < last; c++) {
                if (there[c] != CANARY) {
                    printf("dw %s: lane %d of %d is not where it belongs\n", s->name, c, last);
                    return 1;
                }
                there[c] = here[c];
                here[c] = CANARY;
            }
        }
    }
    for (size_t i = 0; i < before; i++) {
        if (memory[i] != CANARY) {
            printf("dw %s: writes before its lanes\n", s->name);
            return 1;
        }
    }
    for (int row = 0; row < rows; row++) {
        for (int ox = 0; ox < out; ox++) {
            for (size_t c = 0; c < (size_t)s->y_step; c++) {
                const float found = y[(size_t)row * y_row + (size_t)(ox * s->y_step) + c];
                double exact, magnitude;
                if (c >= lanes - 16 + (size_t)last) {
                    if (found != CANARY) {
                        printf("dw %s: writes beside its lanes\n", s->name);
                        return 1;
                    }
                    continue;
                }
                exact = (double)bias[c];
                magnitude = fabs(exact);
                for (int dy = 0; dy < 3; dy++) {
                    for (int dx = 0; dx < 3; dx++) {
                        const int ix = ox * s->stride + dx - 1;
                        const float *from = a.x[row * s->stride + dy];
                        if (from != NULL && ix >= 0 && ix < s->width) {
                            const double term = (double)from[(size_t)(ix * s->x_step) + c] * (double)w[c / 16 * 144 + (size_t)(dy * 3 + dx) * 16 + c % 16];
                            exact += term;
                            magnitude += fabs(term);
                        }
                    }
                }
                exact = s->relu && exact < 0.0 ? 0.0 : exact;
                if (beyond(found, exact, magnitude, 9)) {
                    printf("dw %s: row %d pixel %d lane %zu: %.9g, exactly %.9g\n", s->name, row, ox, c, (double)found, exact);
                    return 1;
                }
            }
        }
    }
    if (timing && missing == 0 && rows == 3 - s->stride) {
        double seconds;
        FASTEST(seconds, dw_tested(&a))
        report("dw", s->name, s->macs * rows, seconds);
    }
    free(x);
    free(w);
    free(bias);
    free(memory);
    return 0;
}

static int check_input(int width)
{
    float scale[48], shift[48];
    const size_t size = (size_t)width * 3;
    uint8_t *x = (uint8_t *)room(size, 0);
    float *y = (float *)room((size + 7) * 4, 0);
    for (int c = 0; c < 3; c++) {
        const float by = random_float(), less = random_float();
        for (int i = c; i < 48; i += 3) {
            scale[i] = by;
            shift[i] = less;
        }
    }
    for (size_t i = 0; i < size; i++) {
        x[i] = (uint8_t)random_below(256);
    }
    for (size_t i = 0; i < size + 7; i++) {
        y[i] = CANARY;
    }
    input_tested(x, width, scale, shift, y);
    for (size_t i = 0; i < size + 7; i++) {
        const int inside = i >= 3 && i < size + 3;
        const size_t from = inside ? i - 3 : 0;
        const double product = inside ? (double)x[from] * (double)scale[from % 48] : 0.0;
        const double exact = i == size + 6 ? (double)CANARY : inside ? product - (double)shift[from % 48] : 0.0;
        if (beyond(y[i], exact, inside ? fabs(product) + fabs((double)shift[from % 48]) : 0.0, 2)) {
            printf("input %d: value %zu is %.9g, exactly %.9g\n", width, i, (double)y[i], exact);
            return 1;
        }
    }
    if (timing) {
        double seconds;
        FASTEST(seconds, input_tested(x, width, scale, shift, y))
        report("input", "row", (long)size, seconds);
    }
    free(x);
    free(y);
    return 0;
}

/* A product of random extents, runs and gaps. */
static int random_gemm(void)
{
    int runs[6][2], at = 0;
    gemm_shape s = {"random", 1 + random_below(20), 1 + random_below(4), NULL, 0, 1 + random_below(9), 0, 0, 0, 0, 0, 2 * random_below(3)};
    for (int r = 0; r < s.run_count; r++) {
        runs[r][0] = at + random_below(4);
        runs[r][1] = 1 + random_below(19);
        at = runs[r][0] + runs[r][1];
    }
    s.runs = (const int (*)[2])runs;
    s.x_step = 1 + random_below(at + 4);
    s.y_step = 16 * (s.vectors + random_below(3));
    s.relu = random_below(2);
    s.add = random_below(2);
    return check_gemm(&s, (size_t)(random_below(16) * 4));
}

static int random_dw(void)
{
    dw_shape s = {"random", 1 + random_below(19), 1 + random_below(2), 0, 1 + random_below(3), 0, 0, random_below(2), 0};
    const int last = 1 + random_below(8);
    s.x_step = 16 * (s.vectors + random_below(3));
    s.y_step = 16 * (s.vectors + random_below(3));
    if (random_below(2)) { /* as in the padding of another map that lies before this one */
        s.y_step = 16 * (2 * s.vectors + random_below(2));
        return check_dw(&s, 1 + random_below(2), random_below(4), last, 16 * s.vectors - last);
    }
    return check_dw(&s, 1 + random_below(2), random_below(4), 16, 0);
}

static int check_all(long count)
{
    long bad = 0;
    for (size_t i = 0; i < sizeof gemm_shapes / sizeof *gemm_shapes; i++) {
        bad += check_gemm(&gemm_shapes[i], 0);
    }
    for (size_t i = 0; i < sizeof dw_shapes / sizeof *dw_shapes; i++) {
        for (int missing = 0; missing < 4; missing++) {
            bad += check_dw(&dw_shapes[i], 1, missing, 16, 0) + check_dw(&dw_shapes[i], 2, missing, 16, 0);
        }
    }
    bad += check_input(112) + check_input(224);
    timing = 0;
    for (long i = 0; i < count && bad == 0; i++) {
        bad += random_gemm() + random_dw() + (i % 16 == 0 ? check_input(16 * (1 + random_below(16))) : 0);
    }
    return bad != 0;
}
