/* Codes are equal on every machine. Float builds differ in the last bits; a wrong layer differs in the first. NaN is wrong. */
static int lm_layer_right(const lm_check *check, int index)
{
    const double scale = (double)lm_expected[index][1];
    const double off = check->weighted[index] - (double)lm_expected[index][0], grown = check->size[index] - scale;
    const double limit = scale * 1e-4 + 1e-6;
    if (lm_layers[index].bytes == 1) {
        return check->codes[index] == lm_expected_codes[index];
    }
    return off <= limit && off >= -limit && grown <= limit && grown >= -limit;
}
