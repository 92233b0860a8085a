/* ---- the self-test's view of a layer ---- */

static void lm_check_rows(const lm_net *net, int index, int from, int to)
{
    const lm_layer *layer = &lm_layers[index];
    lm_check *check = net->check;
    uint32_t state = check->state[index];
    if (lm_pool_rows[index] > 0) { /* a pool is read when its last row has come */
        if (to < lm_pool_rows[index]) {
            return;
        }
        from = 0;
        to = 1;
    }
    for (int y = from; y < to; y++) {
        const void *row = lm_row(net, layer->offset, layer->ring, layer->row_bytes, y);
        for (int x = 0; x < layer->width; x++) {
            for (int r = 0; r < layer->runs; r++) {
                const int16_t *run = lm_channel_runs[layer->run_at + r];
                for (int c = 0; c < run[1]; c++) {
                    const size_t at = (size_t)x * (size_t)layer->step + (size_t)(layer->lane + run[0] + c);
                    double value;
                    state = state * 1664525u + 1013904223u;
                    if (layer->bytes == 1) {
                        const int code = LM_CODE(((const uint8_t *)row)[at]);
                        check->codes[index] += state * (uint32_t)code;
                        continue;
                    }
                    value = (double)((const float *)row)[at];
                    check->weighted[index] += value * ((double)(state >> 16) / 32768.0 - 1.0);
                    check->size[index] += value < 0.0 ? -value : value;
                }
            }
        }
    }
    check->state[index] = state;
}
