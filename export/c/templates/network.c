/* ---- the machinery between kernels and layers ---- */

typedef struct lm_layer {
    const char *name;
    size_t offset; /* bytes into the arena */
    size_t row_bytes;
    int ring;
    int height;
    int width;
    int step; /* elements from pixel to pixel */
    int lane; /* first element of the layer's channels */
    int runs; /* channel runs: (first lane, count) pairs in lm_channel_runs */
    int run_at;
    int32_t macs; /* multiply-adds */
    int bytes;    /* 1: int8 codes, 4: floats */
    int factor;   /* what it multiplies: likewise */
    int moved;    /* bytes of inputs and output, each once, without padding */
    int weights;  /* bytes of weights and bias */
} lm_layer;

/* Two sums per layer, taken while the self-test runs. */
typedef struct lm_check {
    uint32_t state[LM_LAYER_COUNT];
    double weighted[LM_LAYER_COUNT];
    double size[LM_LAYER_COUNT];
    uint32_t codes[LM_LAYER_COUNT]; /* int8 layers: exact */
} lm_check;

typedef struct lm_net {
    uint8_t *arena;
    const uint8_t *face;
    lm_check *check;
} lm_net;

/* Row `y` of a map that lives in a ring (or as a whole, when ring == height). */
static float *lm_row(const lm_net *net, size_t offset, int ring, size_t row_bytes, int y)
{
    return (float *)(void *)(net->arena + offset + (size_t)(y % ring) * row_bytes);
}

/* One way to compute the network, and what it asks of the processor. */
typedef struct lm_path {
    const char *name;
    unsigned needs;
    void (*network)(const lm_net *net, float *xy);
} lm_path;

