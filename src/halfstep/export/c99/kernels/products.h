
/* Columns of 8-bit codes: what one place of a layer's output is the sum over, gathered in the order of the weights. Unsigned; signed codes
 * enter as code + 128, and the bias knows. HS_COLUMN: bytes of an entry. HS_BLOCK: columns that take part at a time. HS_CHUNK: rows. */
#define HS_CHUNK 16
#define HS_MOST_ROWS 32 /* in any chunk */
/* HS_PAD: where there are vectors, columns are filled up with zeros to whole ones, so that no entry is left over. What the zeros meet is the
 * next row of weights, or HS_SLACK behind the last. Columns then lie on the stack; -DHS_PAD=4 keeps them in the arena. */
#if defined(HS_PAD)
#elif HS_ARM
#define HS_PAD 4
#elif defined(__AVX512BW__)
#define HS_PAD 64
#elif defined(__AVX2__)
#define HS_PAD 32
#elif defined(__SSE2__) || defined(__ARM_NEON)
#define HS_PAD 16
#else
#define HS_PAD 4
#endif
#define HS_SLACK (HS_PAD - 4)
#define HS_PADDED(terms) (((terms) + HS_PAD - 1) / HS_PAD * HS_PAD)
#if HS_ARM
#define HS_COLUMN 2
#define HS_BLOCK 2
#else
#define HS_COLUMN 1
#define HS_BLOCK 4
#endif

HS_INLINE void hs_bytes_fill(uint8_t *to, int32_t code, size_t count) { memset(to, (int)code, count); }
HS_INLINE void hs_bytes_copy_u8(uint8_t *restrict to, const void *restrict from, size_t i, size_t count)
{
    memcpy(to, (const uint8_t *)from + i, count);
}
HS_INLINE void hs_bytes_copy_s8(uint8_t *restrict to, const void *restrict from, size_t i, size_t count)
{
    for (size_t j = 0; j < count; ++j)
        to[j] = (uint8_t)(((const uint8_t *)from)[i + j] ^ 128U);
}

#if HS_ARM
HS_INLINE void hs_column_fill(uint8_t *to, int32_t code, size_t count)
{
    for (size_t j = 0; j < count; ++j)
        hs_put_s16(to, j, code);
}
HS_INLINE void hs_column_copy_u8(uint8_t *restrict to, const void *restrict from, size_t i, size_t count)
{
    for (size_t j = 0; j < count; ++j)
        hs_put_s16(to, j, ((const uint8_t *)from)[i + j]);
}
HS_INLINE void hs_column_copy_s8(uint8_t *restrict to, const void *restrict from, size_t i, size_t count)
{
    for (size_t j = 0; j < count; ++j)
        hs_put_s16(to, j, ((const uint8_t *)from)[i + j] ^ 128);
}

HS_INLINE uint32_t hs_word(const void *p)
{
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

/* Entries 0 1 2 3 of every four as 0 2 1 3: the order in which SXTB16 takes four weights apart. */
HS_INLINE void hs_column_end(uint8_t *column, size_t terms)
{
    for (size_t k = 0; k < terms; k += 4) {
        const uint32_t first = hs_word(column + 2 * k), second = hs_word(column + 2 * k + 4);
        const uint32_t even = (first & 0xffffU) | second << 16, odd = first >> 16 | (second & 0xffff0000U);
        memcpy(column + 2 * k, &even, 4);
        memcpy(column + 2 * k + 4, &odd, 4);
    }
}

HS_INLINE uint32_t hs_even(uint32_t word)
{
    uint32_t pair;
    __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(word));
    return pair;
}
HS_INLINE uint32_t hs_odd(uint32_t word)
{
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}
HS_INLINE uint32_t hs_pairs(uint32_t sum, uint32_t x, uint32_t w)
{
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(x), "r"(w));
    return sum;
}

HS_INLINE uint32_t hs_dot(const uint8_t *x, const int8_t *w, size_t terms)
{
    uint32_t sum = 0;
    for (size_t k = 0; k < terms; k += 4) {
        const uint32_t weights = hs_word(w + k);
        sum = hs_pairs(sum, hs_word(x + 2 * k), hs_even(weights));
        sum = hs_pairs(sum, hs_word(x + 2 * k + 4), hs_odd(weights));
    }
    return sum;
}

/* Two columns and two rows at a time: six loads for sixteen products. */
HS_INLINE void hs_dots(uint32_t *restrict sums, const uint8_t *x, const int8_t *w, size_t terms)
{
    uint32_t a = 0, b = 0, c = 0, d = 0;
    for (size_t k = 0; k < terms; k += 4) {
        const uint32_t one = hs_word(w + k), other = hs_word(w + terms + k);
        const uint32_t x0 = hs_word(x + 2 * k), x1 = hs_word(x + 2 * k + 4);
        const uint32_t y0 = hs_word(x + 2 * (terms + k)), y1 = hs_word(x + 2 * (terms + k) + 4);
        a = hs_pairs(hs_pairs(a, x0, hs_even(one)), x1, hs_odd(one));
        b = hs_pairs(hs_pairs(b, x0, hs_even(other)), x1, hs_odd(other));
        c = hs_pairs(hs_pairs(c, y0, hs_even(one)), y1, hs_odd(one));
        d = hs_pairs(hs_pairs(d, y0, hs_even(other)), y1, hs_odd(other));
    }
    sums[0] = a;
    sums[1] = b;
    sums[HS_CHUNK] = c;
    sums[HS_CHUNK + 1] = d;
}

HS_INLINE void hs_products(uint32_t *restrict sums, const uint8_t *x, const int8_t *w, size_t num_columns, size_t num_rows, size_t terms)
{
    size_t row = 0;
    if (num_columns == 2)
        for (; row + 1 < num_rows; row += 2)
            hs_dots(sums + row, x, w + row * terms, terms);
    for (; row < num_rows; ++row)
        for (size_t column = 0; column < num_columns; ++column)
            sums[column * HS_CHUNK + row] = hs_dot(x + 2 * column * terms, w + row * terms, terms);
}
#else
HS_INLINE void hs_column_fill(uint8_t *to, int32_t code, size_t count) { hs_bytes_fill(to, code, count); }
HS_INLINE void hs_column_copy_u8(uint8_t *restrict to, const void *restrict from, size_t i, size_t count)
{
    hs_bytes_copy_u8(to, from, i, count);
}
HS_INLINE void hs_column_copy_s8(uint8_t *restrict to, const void *restrict from, size_t i, size_t count)
{
    hs_bytes_copy_s8(to, from, i, count);
}
HS_INLINE void hs_column_end(uint8_t *column, size_t terms)
{
    (void)column;
    (void)terms;
}

/* sums[column][row] = the product of a column and a row of weights; compilers make one multiply-accumulate instruction of the inner loop. */
HS_INLINE void hs_products(uint32_t *restrict sums, const uint8_t *x, const int8_t *w, size_t num_columns, size_t num_rows, size_t terms)
{
    const size_t padded = HS_PADDED(terms);
    for (size_t column = 0; column < num_columns; ++column)
        for (size_t row = 0; row < num_rows; ++row) {
            const uint8_t *restrict codes = x + column * padded;
            const int8_t *restrict weights = w + row * terms;
            uint32_t sum = 0;
            for (size_t k = 0; k < padded; ++k)
                sum += (uint32_t)((int32_t)codes[k] * (int32_t)weights[k]);
            sums[column * HS_CHUNK + row] = sum;
        }
}
#endif
