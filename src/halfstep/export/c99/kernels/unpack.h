
/* Packed weights: a stream of bits, the first code in the lowest bits, in two's complement. count: a multiple of 4, of 8 at 3 bits. */
HS_INLINE int8_t hs_sign(unsigned code, unsigned top) { return (int8_t)((int)(code ^ top) - (int)top); }

HS_INLINE const int8_t *hs_unpack_2(int8_t *restrict to, const uint8_t *restrict from, size_t count)
{
    for (size_t i = 0; i < count / 4; ++i) {
        const unsigned bits = from[i];
        to[4 * i] = hs_sign(bits & 3U, 2U);
        to[4 * i + 1] = hs_sign(bits >> 2 & 3U, 2U);
        to[4 * i + 2] = hs_sign(bits >> 4 & 3U, 2U);
        to[4 * i + 3] = hs_sign(bits >> 6, 2U);
    }
    return to;
}

HS_INLINE const int8_t *hs_unpack_3(int8_t *restrict to, const uint8_t *restrict from, size_t count)
{
    for (size_t i = 0; i < count / 8; ++i) {
        const uint32_t bits = from[3 * i] | (uint32_t)from[3 * i + 1] << 8 | (uint32_t)from[3 * i + 2] << 16;
        for (unsigned j = 0; j < 8; ++j)
            to[8 * i + j] = hs_sign((unsigned)(bits >> (3 * j)) & 7U, 4U);
    }
    return to;
}

HS_INLINE const int8_t *hs_unpack_4(int8_t *restrict to, const uint8_t *restrict from, size_t count)
{
    for (size_t i = 0; i < count / 2; ++i) {
        const unsigned bits = from[i];
        to[2 * i] = hs_sign(bits & 15U, 8U);
        to[2 * i + 1] = hs_sign(bits >> 4, 8U);
    }
    return to;
}

/* Weights of 8 bits are read where they lie. */
HS_INLINE const int8_t *hs_unpack_8(int8_t *restrict to, const uint8_t *restrict from, size_t count)
{
    (void)to;
    (void)count;
    return (const int8_t *)from;
}
