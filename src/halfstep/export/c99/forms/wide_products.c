/* One column: what the sum at a place of the output is taken over. */
static inline void @_column(uint8_t *restrict column, const void *restrict x, size_t group, size_t place, int32_t zero)
{
$column
}

/* $comment */
HS_LAYER void @(
    const void *restrict x, void *restrict y, uint8_t *restrict scratch, const $weight_type *restrict weight, const int32_t *restrict bias,
    int32_t zero$parameters)
{
    enum { GROUPS = $groups, ROWS = $rows, TERMS = $terms, PLACES = $places, TILE = $tile };
    for (size_t group = 0; group < GROUPS; ++group)
        for (size_t first = 0; first < ROWS; first += TILE) {
            const size_t num_rows = ROWS - first < TILE ? ROWS - first : TILE;
            $unpack
            for (size_t place = 0; place < PLACES; ++place) {
                @_column(scratch, x, group, place, zero);
                for (size_t row = 0; row < num_rows; ++row) {
                    const size_t channel = group * ROWS + first + row;
                    uint32_t sum = (uint32_t)bias[channel];
                    for (size_t k = 0; k < TERMS; ++k)
                        sum += (uint32_t)hs_get_s32(scratch, k) * (uint32_t)rows[row * TERMS + k];
                    hs_put_$y(y, place * $channels + channel, $finish);
                }
            }
        }
}
