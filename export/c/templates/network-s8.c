/* The same for int8 maps. */
static uint8_t *lm_byte_row(const lm_net *net, size_t offset, int ring, size_t row_bytes, int y)
{
    return net->arena + offset + (size_t)(y % ring) * row_bytes;
}
