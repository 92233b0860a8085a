static const uint8_t *lm_byte_row_or_null(const lm_net *net, size_t offset, int ring, size_t row_bytes, int y, int height)
{
    return y < 0 || y >= height ? NULL : lm_byte_row(net, offset, ring, row_bytes, y);
}
