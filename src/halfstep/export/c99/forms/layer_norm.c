/* $comment */
HS_LAYER void @(void *restrict y, const void *restrict x, const int32_t *restrict weight,
    const int32_t *restrict bias, int64_t epsilon, int32_t zero, unsigned bias_shift, unsigned shift, int32_t offset,
    int32_t low, int32_t high)
{
    const int64_t half = (int64_t)((UINT64_C(1) << shift) >> 1);
    for (size_t group = 0; group < $groups; ++group) {
        const size_t first = group * $count;
        int64_t sum = 0, squares = 0;
        for (size_t i = 0; i < $count; ++i) {
            const int64_t code = hs_get_$x(x, first + i) - zero;
            sum += code;
            squares += code * code;
        }
        $centre
        unsigned k;
        const uint64_t root = hs_root((uint64_t)($count * squares - sum * sum) * (UINT64_C(1) << $twice_guard) + (uint64_t)epsilon, &k);
        const int64_t inverse = (int64_t)((UINT64_C(1) << 61) / root);
        const unsigned rest = $rest - k;
        for (size_t i = 0; i < $count; ++i) {
            const int64_t centred = $count * (int64_t)(hs_get_$x(x, first + i) - zero) - sum;
            const int64_t normalized = hs_shift_64(centred * inverse + ((int64_t)1 << (rest - 1)), rest);
            const size_t place = $place;
            const int64_t total = normalized * weight[place] + bias[place] * ((int64_t)1 << bias_shift) + half;
            hs_put_$y(y, first + i, hs_clamp_64(hs_shift_64(total, shift) + offset, low, high));
        }
    }
}
