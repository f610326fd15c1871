
/* 2^30 2^(-x / 2^16) from two tables of 256 entries, x at most 2^21 - 1. */
HS_INLINE uint32_t hs_power(uint32_t x, const uint32_t *restrict coarse, const uint32_t *restrict fine)
{
    const uint32_t f = x & 65535U;
    return (uint32_t)(((uint64_t)coarse[f >> 8] * fine[f & 255U]) >> (30 + (x >> 16)));
}

/* The root of 4^k v, 31 bits of it, for v from 1 to 2^62 - 1. */
HS_INLINE uint64_t hs_root(uint64_t v, unsigned *k)
{
    uint64_t root = UINT64_C(1) << 31;
    *k = 0;
    for (unsigned bits = 32; bits > 1; bits /= 2)
        if (v < UINT64_C(1) << (62 - bits)) {
            v <<= bits;
            *k += bits / 2;
        }
    for (int step = 0; step < 5; ++step)
        root = (root + v / root) >> 1;
    return root;
}
