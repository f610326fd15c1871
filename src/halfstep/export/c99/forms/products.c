/* One column: what the sum at a place of the output is taken over. */
static inline void @_column(uint8_t *restrict column, const void *restrict x, size_t group, size_t place, int32_t zero)
{
$column
}

static inline void @_finish(
    void *restrict y, const uint32_t *restrict sums, size_t stride, size_t num_columns, size_t num_rows, size_t channel, size_t place,
    const int32_t *restrict bias$parameters)
{
    int32_t codes[HS_MOST_ROWS]; /* all before the first is stored: vectors of 32 bits, not of the width of a code */
    for (size_t c = 0; c < num_columns; ++c) {
        for (size_t r = 0; r < num_rows; ++r)
            codes[r] = $finish;
        for (size_t r = 0; r < num_rows; ++r)
            hs_put_$y(y, (place + c) * $channels + channel + r, codes[r]);
    }
}

/* $comment */
HS_LAYER void @(
    const void *restrict x, void *restrict y, uint8_t *restrict scratch, const uint8_t *restrict weight, const int32_t *restrict bias,
    int32_t zero$parameters)
{
    enum { GROUPS = $groups, ROWS = $rows, TERMS = $terms, PLACES = $places, ROW_BYTES = $row_bytes };
#if HS_X86 && $is_large
    enum { PANEL = HS_PANEL_ROWS(ROWS, TERMS) };
    int8_t panels[PANEL * TERMS], codes[TERMS];
    uint8_t columns[HS_PLACES * TERMS];
    uint32_t sums[HS_PLACES * HS_WIDTH];
    (void)scratch;
    for (size_t group = 0; group < GROUPS; ++group)
        for (size_t first = 0; first < ROWS; first += PANEL) {
            const size_t num_rows = ROWS - first < PANEL ? ROWS - first : PANEL;
            if (num_rows % HS_LANES != 0)
                memset(panels, 0, sizeof panels);
            for (size_t row = 0; row < num_rows; ++row)
                hs_panel_row(panels, hs_unpack_$bits(codes, weight + (group * ROWS + first + row) * ROW_BYTES, TERMS), row, TERMS);
            for (size_t place = 0; place < PLACES; place += HS_PLACES) {
                const size_t num_columns = PLACES - place < HS_PLACES ? PLACES - place : HS_PLACES;
                for (size_t c = 0; c < num_columns; ++c)
                    @_column(columns + c * TERMS, x, group, place + c, zero);
                for (size_t row = 0; row < num_rows; row += HS_WIDTH) {
                    const size_t some = num_rows - row < HS_WIDTH ? num_rows - row : HS_WIDTH;
                    hs_panel_products(sums, columns, panels + row * TERMS, num_columns, some, TERMS);
                    @_finish(y, sums, HS_WIDTH, num_columns, some, group * ROWS + first + row, place, bias$names);
                }
            }
        }
#else
    enum { TILE = $tile, UNPACKED = $unpacked, COLUMN = HS_COLUMN * HS_PADDED(TERMS) }; /* UNPACKED: rows of weights at a time */
    uint32_t sums[HS_BLOCK * HS_CHUNK];
#if HS_PAD > 4
    uint8_t columns[HS_BLOCK * COLUMN];
    int8_t tile[UNPACKED * TERMS + HS_SLACK];
    (void)scratch;
    memset(columns, 0, sizeof columns);
#else
    uint8_t *const columns = scratch;
    int8_t *const tile = (int8_t *)(scratch + HS_BLOCK * COLUMN);
#endif
    for (size_t group = 0; group < GROUPS; ++group)
        for (size_t first = 0; first < ROWS; first += TILE) {
            const size_t num_rows = ROWS - first < TILE ? ROWS - first : TILE;
            const int8_t *rows = hs_unpack_$bits(tile, weight + (group * ROWS + first) * ROW_BYTES, num_rows * TERMS);
            for (size_t place = 0; place < PLACES; place += HS_BLOCK) {
                const size_t num_columns = PLACES - place < HS_BLOCK ? PLACES - place : HS_BLOCK;
                for (size_t c = 0; c < num_columns; ++c)
                    @_column(columns + c * COLUMN, x, group, place + c, zero);
                for (size_t row = 0; row < num_rows; row += HS_CHUNK) {
                    const size_t some = num_rows - row < HS_CHUNK ? num_rows - row : HS_CHUNK;
                    hs_products(sums, columns, rows + row * TERMS, num_columns, some, TERMS);
                    @_finish(y, sums, HS_CHUNK, num_columns, some, group * ROWS + first + row, place, bias$names);
                }
            }
        }
#endif
}
