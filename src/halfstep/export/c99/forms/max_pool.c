/* $comment */
HS_LAYER void @(const void *restrict x, void *restrict y)
{
    enum { CHANNELS = $channels, CHUNK = 32 };
    for (size_t place = 0; place < $places; ++place) {
$place
        for (size_t first = 0; first < CHANNELS; first += CHUNK) {
            const size_t some = CHANNELS - first < CHUNK ? CHANNELS - first : CHUNK;
            $type best[CHUNK];
            for (size_t c = 0; c < some; ++c)
                best[c] = $least;
$taps
            for (size_t c = 0; c < some; ++c)
                hs_put_$y(y, place * CHANNELS + first + c, best[c]);
        }
    }
}
