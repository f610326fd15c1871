/* $comment */
HS_LAYER void @(const void *restrict x, void *restrict y, int32_t zero$parameters)
{
    enum { CHANNELS = $channels, CHUNK = 32 };
    for (size_t place = 0; place < $places; ++place) {
$place
        const size_t divisor = $divisor;
        (void)divisor;
        for (size_t first = 0; first < CHANNELS; first += CHUNK) {
            const size_t some = CHANNELS - first < CHUNK ? CHANNELS - first : CHUNK;
            int32_t sums[CHUNK] = {0};
$taps
            for (size_t c = 0; c < some; ++c)
                hs_put_$y(y, place * CHANNELS + first + c, $finish);
        }
    }
}
