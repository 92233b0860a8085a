/* Int8 kernels alone: compared byte for byte with the plain C of the same kernel, on random numbers and on corners, and timed.
   The including file names the kernels under test: qgemm_tested, qdw_tested, qpool_tested, qinput_tested, qadd_tested,
   product_tested, ordered_tested, and defines the shapes. */
#include "kernels.h"

#define CANARY 0x5a

enum { NOISE, LARGEST, TIES, CORNERS };

static int no_negative; /* input codes as an activation leaves them */

static uint8_t random_code(int corner)
{
    static const int extremes[4] = {-128, 127, -127, 0};
    const int code = corner == LARGEST ? -128 + 255 * random_below(2)
                     : corner == CORNERS ? extremes[random_below(4)]
                     : corner == TIES ? random_below(5) - 2 : random_below(256) - 128;
    return LM_BYTE(no_negative && code < 0 ? ~code : code);
}

static int8_t random_weight(int corner)
{
    return (int8_t)(corner == LARGEST ? -127 + 254 * random_below(2) : corner == TIES ? random_below(3) - 1 : random_below(255) - 127);
}

/* Multipliers that spread sums over the codes, clamp nearly all of them, or put many on the edge between two codes. */
static float random_scale(int corner, int terms)
{
    return corner == TIES ? 0.5f : corner == CORNERS ? (random_below(2) ? 0x1p-24f : 0.75f)
                                          : (1.5f + random_float()) * 0.008f / (float)(terms + 4);
}

static int differs(const char *what, const char *name, const void *found, const void *wanted, size_t bytes)
{
    if (memcmp(found, wanted, bytes) == 0) {
        for (size_t i = 0; i < bytes; i++) {
            digest = (digest ^ ((const uint8_t *)found)[i]) * 16777619u;
        }
        return 0;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (((const uint8_t *)found)[i] != ((const uint8_t *)wanted)[i]) {
            printf("%s %s: byte %zu is %d, the reference says %d\n", what, name, i, ((const uint8_t *)found)[i], ((const uint8_t *)wanted)[i]);
            break;
        }
    }
    return 1;
}

static int check_qgemm(const gemm_shape *s, int corner, size_t shift)
{
    const int positive = no_negative;
    lm_bytes runs[64];
    lm_qgemm_args a, b;
    size_t reach = 0, groups = 0;
    int bad;
    for (int r = 0; r < s->run_count; r++) {
        const size_t end = (size_t)s->runs[r][0] + ((size_t)s->runs[r][1] + 3) / 4 * 4;
        reach = end > reach ? end : reach;
        groups += ((size_t)s->runs[r][1] + 3) / 4;
    }
    const size_t x_size = (size_t)(s->pixels - 1) * (size_t)s->x_step + reach, lanes = (size_t)s->vectors * 16;
    const size_t element = s->to_float ? 4 : 1, y_size = (size_t)s->pixels * (size_t)s->y_step * element;
    uint8_t *x = (uint8_t *)room(x_size, shift), *y = (uint8_t *)room(y_size, 0), *z = (uint8_t *)room(y_size, 0);
    uint8_t *add = (uint8_t *)room((size_t)s->pixels * (size_t)s->y_step, 0);
    int8_t *w = (int8_t *)room(groups * lanes * 4, 0);
    int32_t *bias = (int32_t *)room(lanes * 4, 0);
    float *scale = (float *)room(lanes * 4, 0);
    for (size_t i = 0; i < x_size; i++) {
        x[i] = random_code(corner);
    }
    no_negative = 0;
    for (size_t i = 0; i < (size_t)s->pixels * (size_t)s->y_step; i++) {
        add[i] = random_code(corner);
    }
    no_negative = positive;
    for (size_t i = 0; i < groups * lanes * 4; i++) {
        w[i] = random_weight(corner);
    }
    for (size_t i = 0; i < lanes; i++) {
        bias[i] = corner == LARGEST ? (random_below(2) ? 1 << 30 : -(1 << 30)) : random_below(4001) - 2000;
        scale[i] = random_scale(corner, (int)groups * 4);
    }
    memset(y, CANARY, y_size);
    memset(z, CANARY, y_size);
    for (int r = 0; r < s->run_count; r++) {
        runs[r].x = x + s->runs[r][0];
        runs[r].groups = ((size_t)s->runs[r][1] + 3) / 4;
    }
    memset(&a, 0, sizeof a);
    a.runs = runs;
    a.run_count = s->run_count;
    a.x_step = (size_t)s->x_step;
    a.groups = groups;
    a.w = w;
    a.bias = bias;
    a.scale = scale;
    a.y = s->to_float ? NULL : y;
    a.y_float = s->to_float ? (float *)(void *)y : NULL;
    a.y_step = (size_t)s->y_step;
    a.add = s->add ? add : NULL;
    a.add_step = (size_t)s->y_step;
    a.add_scale = corner == TIES ? 0.5f : 0.7f;
    a.vectors = s->vectors;
    a.pixels = s->pixels;
    a.low = s->relu ? 0 : -128;
    a.positive = no_negative;
    b = a;
    b.y = s->to_float ? NULL : z;
    b.y_float = s->to_float ? (float *)(void *)z : NULL;
    qgemm_tested(&a);
    lm_qgemm_scalar(&b);
    bad = 0;
    for (int p = 0; p < s->pixels && !bad; p++) { /* a store may fill the run, never more */
        const size_t at = (size_t)p * (size_t)s->y_step * element, used = lanes * element, room_of_run = s->to_float ? used : (lanes + 63) / 64 * 64;
        bad = differs("qgemm", s->name, y + at, z + at, used);
        for (size_t i = room_of_run; i < (size_t)s->y_step * element && !bad; i++) {
            if (y[at + i] != CANARY) {
                printf("qgemm %s: writes beside its run\n", s->name);
                bad = 1;
            }
        }
    }
    if (timing && corner == NOISE) {
        double seconds;
        FASTEST(seconds, qgemm_tested(&a))
        report("qgemm", s->name, s->macs, seconds);
    }
    free(x - shift);
    free(y);
    free(z);
    free(add);
    free(w);
    free(bias);
    free(scale);
    return bad;
}

static int check_qdw(const dw_shape *s, int corner, int missing)
{
    const int out = (s->width + s->stride - 1) / s->stride, blocks = s->lanes / 64;
    const size_t lanes = (size_t)s->lanes, x_row = (size_t)s->width * (size_t)s->x_step, y_row = (size_t)out * (size_t)s->y_step;
    uint8_t *x = (uint8_t *)room(x_row * 3, 0), *y = (uint8_t *)room(y_row, 0), *z = (uint8_t *)room(y_row, 0);
    int8_t *w = (int8_t *)room((size_t)blocks * 768, 0);
    int32_t *bias = (int32_t *)room(lanes * 4, 0);
    float *scale = (float *)room(lanes * 4, 0);
    lm_qdw_args a, b;
    int bad;
    for (size_t i = 0; i < x_row * 3; i++) {
        x[i] = random_code(corner);
    }
    for (size_t i = 0; i < (size_t)blocks * 768; i++) {
        w[i] = i % 4 == 3 ? (int8_t)0 : random_weight(corner);
    }
    for (size_t i = 0; i < lanes; i++) {
        bias[i] = corner == LARGEST ? (random_below(2) ? 1 << 30 : -(1 << 30)) : random_below(4001) - 2000;
        scale[i] = random_scale(corner, 9);
    }
    memset(y, CANARY, y_row);
    memset(z, CANARY, y_row);
    memset(&a, 0, sizeof a);
    for (int k = 0; k < 3; k++) {
        a.x[k] = (k == 0 && (missing & 1)) || (k == 2 && (missing & 2)) ? NULL : x + (size_t)k * x_row;
    }
    a.x_step = (size_t)s->x_step;
    a.in_width = s->width;
    a.stride = s->stride;
    a.w = w;
    a.bias = bias;
    a.scale = scale;
    a.y = y;
    a.y_step = (size_t)s->y_step;
    a.out_width = out;
    a.blocks = blocks;
    a.low = s->relu ? 0 : -128;
    a.positive = no_negative;
    b = a;
    b.y = z;
    qdw_tested(&a);
    lm_qdw_scalar(&b);
    bad = differs("qdw", s->name, y, z, y_row);
    if (timing && corner == NOISE && missing == 0) {
        double seconds;
        FASTEST(seconds, qdw_tested(&a))
        report("qdw", s->name, s->macs, seconds);
    }
    free(x);
    free(y);
    free(z);
    free(w);
    free(bias);
    free(scale);
    return bad;
}

static int check_qpool(const row_shape *s, int corner)
{
    const size_t size = (size_t)s->pixels * (size_t)s->step, lanes = (size_t)s->lanes;
    uint8_t *x = (uint8_t *)room(size, 0);
    float *y = (float *)room(lanes * 4, 0), *z = (float *)room(lanes * 4, 0);
    int bad = 0;
    for (int row = 0; row < 3; row++) {
        for (size_t i = 0; i < size; i++) {
            x[i] = random_code(corner);
        }
        qpool_tested(x, (size_t)s->step, s->pixels, s->lanes, y, row == 0, row == 2, 0.0123f);
        lm_qpool_row_scalar(x, (size_t)s->step, s->pixels, s->lanes, z, row == 0, row == 2, 0.0123f);
        bad += differs("qpool", s->name, y, z, lanes * 4);
    }
    if (timing && corner == NOISE) {
        double seconds;
        FASTEST(seconds, qpool_tested(x, (size_t)s->step, s->pixels, s->lanes, y, 0, 1, 0.0123f))
        report("qpool", s->name, (long)s->pixels * s->lanes, seconds);
    }
    free(x);
    free(y);
    free(z);
    return bad != 0;
}

static int check_qadd(const row_shape *s, int corner)
{
    const size_t size = (size_t)s->pixels * (size_t)s->step;
    uint8_t *one = (uint8_t *)room(size, 0), *two = (uint8_t *)room(size, 0), *y = (uint8_t *)room(size, 0), *z = (uint8_t *)room(size, 0);
    const float left = corner == TIES ? 0.5f : 0.9f + random_float() * 0.5f, right = corner == TIES ? 0.5f : 0.9f + random_float() * 0.5f;
    const int low = random_below(2) ? 0 : -128;
    int bad;
    for (size_t i = 0; i < size; i++) {
        one[i] = random_code(corner);
        two[i] = random_code(corner);
    }
    memset(y, CANARY, size);
    memset(z, CANARY, size);
    qadd_tested(one, (size_t)s->step, left, two, (size_t)s->step, right, y, (size_t)s->step, s->pixels, s->lanes, low);
    lm_qadd_row_scalar(one, (size_t)s->step, left, two, (size_t)s->step, right, z, (size_t)s->step, s->pixels, s->lanes, low);
    bad = differs("qadd", s->name, y, z, size);
    if (timing && corner == NOISE) {
        double seconds;
        FASTEST(seconds, qadd_tested(one, (size_t)s->step, left, two, (size_t)s->step, right, y, (size_t)s->step, s->pixels, s->lanes, low))
        report("qadd", s->name, (long)s->pixels * s->lanes, seconds);
    }
    free(one);
    free(two);
    free(y);
    free(z);
    return bad;
}

static int check_qinput(int width)
{
    int32_t factor[48], shift[48];
    const size_t size = (size_t)width * 3;
    uint8_t *x = (uint8_t *)room(size, 0), *y = (uint8_t *)room(size + 22, 0), *z = (uint8_t *)room(size + 22, 0);
    int bad;
    for (int c = 0; c < 3; c++) { /* as exported: |byte * factor + shift| stays below 2^30 */
        const int32_t f = random_below(1 << 20) - (1 << 19), b = random_below(1 << 28) - (1 << 27) + (1 << 30);
        for (int i = c; i < 48; i += 3) {
            factor[i] = f;
            shift[i] = b;
        }
    }
    for (size_t i = 0; i < size; i++) {
        x[i] = (uint8_t)random_below(256);
    }
    qinput_tested(x, width, factor, shift, y);
    lm_qinput_row_scalar(x, width, factor, shift, z);
    bad = differs("qinput", "row", y, z, size + 22);
    if (timing) {
        double seconds;
        FASTEST(seconds, qinput_tested(x, width, factor, shift, y))
        report("qinput", "row", (long)size, seconds);
    }
    free(x);
    free(y);
    free(z);
    return bad;
}

static int check_product(void)
{
    const float *x[3];
    int lengths[3], total = 0;
    const int runs = 1 + random_below(3), vectors = 1 + random_below(14);
    const size_t lanes = (size_t)vectors * 16;
    float *memory = (float *)room(3 * 200 * 4, 0);
    int bad;
    for (int r = 0; r < runs; r++) {
        x[r] = memory + 200 * r;
        lengths[r] = 1 + random_below(200);
        total += lengths[r];
    }
    for (int i = 0; i < 600; i++) {
        memory[i] = random_float();
    }
    float *w = (float *)room((size_t)total * lanes * 4, 0), *bias = (float *)room(lanes * 4, 0);
    float *y = (float *)room(lanes * 4, 0), *z = (float *)room(lanes * 4, 0);
    for (size_t i = 0; i < (size_t)total * lanes; i++) {
        w[i] = random_float();
    }
    for (size_t i = 0; i < lanes; i++) {
        bias[i] = random_float();
    }
    const int relu = random_below(2);
    product_tested(x, lengths, runs, total, w, bias, y, vectors, relu);
    lm_ordered_product_scalar(x, lengths, runs, total, w, bias, z, vectors, relu);
    bad = differs("product", "random", y, z, lanes * 4);
    if (timing) {
        double seconds;
        FASTEST(seconds, product_tested(x, lengths, runs, total, w, bias, y, vectors, relu))
        report("product", "random", (long)total * vectors * 16, seconds);
    }
    free(memory);
    free(w);
    free(bias);
    free(y);
    free(z);
    return bad;
}

/* Values whose products and sums round differently when they are fused or added in another order. */
static float uneven_float(void)
{
    return random_float() * (float)(1 << random_below(12));
}

static int check_ordered(void)
{
    int32_t at[300];
    lm_ordered_args a, b;
    const int vectors = 1 + random_below(4), pixels = 1 + random_below(15), reach = 40 + random_below(400);
    const size_t lanes = (size_t)vectors * 16, y_step = lanes + 16 * (size_t)random_below(2);
    const size_t x_size = (size_t)pixels * (size_t)reach, y_size = (size_t)pixels * y_step;
    float *x = (float *)room(x_size * 4, 0), *bias = (float *)room(lanes * 4, 0);
    float *y = (float *)room(y_size * 4, 0), *z = (float *)room(y_size * 4, 0);
    int bad;
    memset(&a, 0, sizeof a);
    a.k_total = 1 + random_below(300);
    float *w = (float *)room((size_t)a.k_total * lanes * 4, 0);
    for (int k = 0; k < a.k_total; k++) {
        at[k] = random_below(reach);
    }
    for (size_t i = 0; i < x_size; i++) {
        x[i] = uneven_float();
    }
    for (size_t i = 0; i < (size_t)a.k_total * lanes; i++) {
        w[i] = uneven_float();
    }
    for (size_t i = 0; i < lanes; i++) {
        bias[i] = uneven_float();
    }
    memset(y, CANARY, y_size * 4);
    memset(z, CANARY, y_size * 4);
    a.x = x;
    a.at = at;
    a.x_step = (size_t)reach;
    a.w = w;
    a.bias = bias;
    a.y = y;
    a.y_step = y_step;
    a.vectors = vectors;
    a.pixels = pixels;
    a.relu = random_below(2);
    b = a;
    b.y = z;
    ordered_tested(&a);
    lm_ordered_scalar(&b);
    bad = differs("ordered", "random", y, z, y_size * 4);
    if (timing) {
        double seconds;
        FASTEST(seconds, ordered_tested(&a))
        report("ordered", "random", (long)a.k_total * pixels * (long)lanes, seconds);
    }
    free(x);
    free(w);
    free(bias);
    free(y);
    free(z);
    return bad;
}

/* A product of random extents, runs and gaps. */
static int random_qgemm(int corner)
{
    int runs[6][2], at = 0;
    gemm_shape s = {"random", 1 + random_below(14), 1 + random_below(4), NULL, 0, 1 + random_below(9), 0, 0, 0, 0, 0, 0};
    for (int r = 0; r < s.run_count; r++) {
        runs[r][0] = at + random_below(4);
        runs[r][1] = 1 + random_below(19);
        at = runs[r][0] + (runs[r][1] + 3) / 4 * 4;
    }
    s.runs = (const int (*)[2])runs;
    s.x_step = 1 + random_below(at + 4);
    s.y_step = 64 * ((s.vectors + 3) / 4 + random_below(2));
    s.relu = random_below(2);
    s.to_float = random_below(4) == 0;
    s.add = !s.to_float && random_below(3) == 0;
    return check_qgemm(&s, corner, (size_t)random_below(64));
}

static int random_qdw(int corner)
{
    dw_shape s = {"random", 1 + random_below(19), 1 + random_below(2), 0, 0, 64 * (1 + random_below(3)), 0, random_below(2), 0};
    s.vectors = s.lanes / 16;
    s.x_step = s.lanes + 64 * random_below(3);
    s.y_step = s.lanes + 64 * random_below(3);
    return check_qdw(&s, corner, random_below(4));
}

static int random_rows(int corner)
{
    row_shape s = {"random", 1 + random_below(12), 16 * (1 + random_below(12)), 0};
    s.step = (s.lanes + 63) / 64 * 64 + 64 * random_below(2);
    if (random_below(200) == 0) { /* long rows: sums in 16 bits must not run over */
        s.pixels = 250 + random_below(600);
    }
    return check_qpool(&s, corner) + check_qadd(&s, corner);
}

static int check_all(long count)
{
    long bad = 0;
    for (size_t i = 0; i < sizeof gemm_shapes / sizeof *gemm_shapes; i++) {
        for (int corner = NOISE; corner <= CORNERS; corner++) {
            bad += check_qgemm(&gemm_shapes[i], corner, 0);
            no_negative = 1;
            bad += check_qgemm(&gemm_shapes[i], corner, 0);
            no_negative = 0;
        }
    }
    for (size_t i = 0; i < sizeof dw_shapes / sizeof *dw_shapes; i++) {
        for (int corner = NOISE; corner <= CORNERS; corner++) {
            for (int missing = 0; missing < 4; missing++) {
                bad += check_qdw(&dw_shapes[i], corner, missing);
                no_negative = 1;
                bad += check_qdw(&dw_shapes[i], corner, missing);
                no_negative = 0;
            }
        }
    }
    for (size_t i = 0; i < sizeof pool_shapes / sizeof *pool_shapes; i++) {
        bad += check_qpool(&pool_shapes[i], NOISE) + check_qpool(&pool_shapes[i], LARGEST);
    }
    for (size_t i = 0; i < sizeof add_shapes / sizeof *add_shapes; i++) {
        bad += check_qadd(&add_shapes[i], NOISE) + check_qadd(&add_shapes[i], TIES);
    }
    bad += check_qinput(112) + check_qinput(224) + check_product() + check_ordered();
    timing = 0;
    for (long i = 0; i < count && bad == 0; i++) {
        const int corner = random_below(4);
        no_negative = random_below(2);
        bad += random_qgemm(corner) + random_qdw(corner);
        no_negative = 0;
        bad += i % 4 == 0 ? random_rows(corner) : 0;
        bad += i % 16 == 0 ? check_qinput(16 * (1 + random_below(16))) + check_product() + check_ordered() : 0;
    }
    return bad != 0;
}
