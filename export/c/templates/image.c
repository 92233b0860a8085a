/* ---- the crop: what training and the Python runtime do, on any image ---- */

typedef struct lm_region {
    double corner_x; /* image pixel that crop pixel 0 is centred on */
    double corner_y;
    double step; /* image pixels per crop pixel */
} lm_region;

static double lm_truncate(double value)
{
    return value < 0.0 ? -(double)(int64_t)(-value) : (double)(int64_t)value;
}

static double lm_floor(double value)
{
    const double cut = lm_truncate(value);
    return cut > value ? cut - 1.0 : cut;
}

/* False for NaN, infinity and coordinates beyond any image. */
static int lm_sane(float value)
{
    return value >= -1e6f && value <= 1e6f;
}

static lm_status lm_box_region(const lm_box *box, lm_region *region)
{
    double side, cx, cy;
    if (!lm_sane(box->x0) || !lm_sane(box->y0) || !lm_sane(box->x1) || !lm_sane(box->y1)) {
        return LM_ERR_BOX;
    }
    if (!(box->x1 > box->x0) || !(box->y1 > box->y0)) {
        return LM_ERR_BOX;
    }
#if LM_CROP_WHOLE_PIXELS
    {
        const double x0 = lm_truncate((double)box->x0), y0 = lm_truncate((double)box->y0);
        const double w = lm_truncate((double)box->x1) - x0 + 1.0, h = lm_truncate((double)box->y1) - y0 + 1.0;
        side = lm_truncate(LM_CROP_SCALE * (w > h ? w : h));
        cx = lm_truncate(x0 + w / 2.0) + lm_truncate(LM_CROP_SHIFT_X * side);
        cy = lm_truncate(y0 + h / 2.0) + lm_truncate(LM_CROP_SHIFT_Y * side);
        cx = cx - lm_floor(side / 2.0) + (side - 1.0) / 2.0;
        cy = cy - lm_floor(side / 2.0) + (side - 1.0) / 2.0;
        side = side < 1.0 ? 1.0 : side;
    }
#else
    {
        const double w = (double)box->x1 - (double)box->x0, h = (double)box->y1 - (double)box->y0;
        side = LM_CROP_SCALE * (w > h ? w : h);
        cx = ((double)box->x0 + (double)box->x1) / 2.0 + LM_CROP_SHIFT_X * side;
        cy = ((double)box->y0 + (double)box->y1) / 2.0 + LM_CROP_SHIFT_Y * side;
    }
#endif
    if (!(side > 1e-6)) {
        return LM_ERR_BOX;
    }
    region->step = side / LM_INPUT_WIDTH;
    region->corner_x = cx - region->step * ((LM_INPUT_WIDTH - 1) / 2.0);
    region->corner_y = cy - region->step * ((LM_INPUT_HEIGHT - 1) / 2.0);
    return LM_OK;
}

/* A plane whose rows overlap, or that no address space could hold, is a mistake of the caller's. */
static int lm_plane_possible(size_t stride, size_t row, int32_t height)
{
    return stride >= row && stride <= SIZE_MAX / 2 / (size_t)height;
}

static lm_status lm_check_image(const lm_image *image)
{
    size_t row;
    if (image->data == NULL) {
        return LM_ERR_NULL;
    }
    if (image->width < 1 || image->height < 1 || image->width > LM_MAX_SIDE || image->height > LM_MAX_SIDE) {
        return LM_ERR_IMAGE;
    }
    switch (image->format) {
    case LM_BGR:
    case LM_RGB:
        row = (size_t)image->width * 3;
        break;
    case LM_GRAY:
        row = (size_t)image->width;
        break;
    case LM_NV12:
        row = (size_t)image->width;
        if (image->chroma == NULL) {
            return LM_ERR_NULL;
        }
        if (!lm_plane_possible(image->chroma_stride, ((size_t)image->width + 1) / 2 * 2, image->height)) {
            return LM_ERR_IMAGE;
        }
        break;
    default:
        return LM_ERR_FORMAT;
    }
    return lm_plane_possible(image->stride, row, image->height) ? LM_OK : LM_ERR_IMAGE;
}

static int lm_clamp_byte(int value)
{
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

/* One pixel in the network's channel order; outside the image lies the padding. */
static void lm_pixel(const lm_image *image, int32_t x, int32_t y, float *out)
{
    const uint8_t *p;
    if (x < 0 || y < 0 || x >= image->width || y >= image->height) {
        out[0] = out[1] = out[2] = (float)LM_CROP_PADDING;
        return;
    }
    p = image->data + (size_t)y * image->stride;
    if (image->format == LM_GRAY) {
        out[0] = out[1] = out[2] = (float)p[x];
    } else if (image->format == LM_NV12) {
        const uint8_t *c = image->chroma + (size_t)(y / 2) * image->chroma_stride + (size_t)(x / 2) * 2;
        const int luma = (int)p[x] * 1024 + 512, u = (int)c[0] - 128, v = (int)c[1] - 128;
        const int blue = lm_clamp_byte((luma + 1815 * u) / 1024);
        const int green = lm_clamp_byte((luma - 352 * u - 731 * v) / 1024);
        const int red = lm_clamp_byte((luma + 1436 * v) / 1024);
        out[LM_INPUT_BLUE] = (float)blue;
        out[1] = (float)green;
        out[2 - LM_INPUT_BLUE] = (float)red;
    } else {
        const int swap = (image->format == LM_BGR ? 0 : 2) != LM_INPUT_BLUE;
        p += (size_t)x * 3;
        out[0] = (float)p[swap ? 2 : 0];
        out[1] = (float)p[1];
        out[2] = (float)p[swap ? 0 : 2];
    }
}

#if defined(__GNUC__)
#define LM_APART __attribute__((noinline)) /* two callers, one copy */
#else
#define LM_APART
#endif

/* Bilinear; a tap outside the image is padding. */
static LM_APART void lm_crop(const lm_image *image, const lm_region *region, uint8_t *face)
{
    const double far_away = 4.0 * LM_MAX_SIDE;
    for (int oy = 0; oy < LM_INPUT_HEIGHT; oy++) {
        double sy = region->corner_y + region->step * oy;
        sy = sy < -far_away ? -far_away : sy > far_away ? far_away : sy;
        const double floor_y = lm_floor(sy);
        const int32_t y = (int32_t)floor_y;
        const float fy = (float)(sy - floor_y);
        for (int ox = 0; ox < LM_INPUT_WIDTH; ox++) {
            double sx = region->corner_x + region->step * ox;
            float taps[4][3];
            sx = sx < -far_away ? -far_away : sx > far_away ? far_away : sx;
            const double floor_x = lm_floor(sx);
            const int32_t x = (int32_t)floor_x;
            const float fx = (float)(sx - floor_x);
            lm_pixel(image, x, y, taps[0]);
            lm_pixel(image, x + 1, y, taps[1]);
            lm_pixel(image, x, y + 1, taps[2]);
            lm_pixel(image, x + 1, y + 1, taps[3]);
            for (int c = 0; c < 3; c++) {
                const float top = taps[0][c] + (taps[1][c] - taps[0][c]) * fx;
                const float bottom = taps[2][c] + (taps[3][c] - taps[2][c]) * fx;
                *face++ = (uint8_t)lm_clamp_byte((int)(top + (bottom - top) * fy + 0.5f));
            }
        }
    }
}
