/* $comment */
HS_LAYER void @(
    const void *restrict x, void *restrict y, uint8_t *restrict scratch, const $weight_type *restrict weight, const int32_t *restrict bias,
    int32_t zero$parameters)
{
    enum { CHANNELS = $channels, CHUNK = 32 };
    $unpack
    for (size_t place = 0; place < $places; ++place) {
$place
        for (size_t first = 0; first < CHANNELS; first += CHUNK) {
            const size_t some = CHANNELS - first < CHUNK ? CHANNELS - first : CHUNK;
            uint32_t sums[CHUNK];
            for (size_t c = 0; c < some; ++c)
                sums[c] = (uint32_t)bias[first + c];
$taps
            for (size_t c = 0; c < some; ++c)
                hs_put_$y(y, place * CHANNELS + first + c, $finish);
        }
    }
}
