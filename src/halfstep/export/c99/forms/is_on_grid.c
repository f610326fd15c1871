/* Whether all codes lie within bounds. */
HS_LAYER int @(const void *restrict x, size_t count, int32_t low, int32_t high)
{
    int wrong = 0;
    for (size_t i = 0; i < count; ++i)
        wrong |= hs_get_$x(x, i) < low || hs_get_$x(x, i) > high;
    return !wrong;
}
