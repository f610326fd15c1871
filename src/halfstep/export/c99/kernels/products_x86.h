
#if HS_X86
#include <immintrin.h>

/* Rows side by side in a vector of 32-bit sums, four codes of a column at a time against four weights of every row. A panel holds the weights
 * of HS_LANES rows in that order: [terms / 4][HS_LANES][4]. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define HS_LANES 16
typedef __m512i hs_vector;
HS_INLINE hs_vector hs_load(const void *p) { return _mm512_loadu_si512(p); }
HS_INLINE void hs_store(void *p, hs_vector v) { _mm512_storeu_si512(p, v); }
HS_INLINE hs_vector hs_every(int32_t v) { return _mm512_set1_epi32(v); }
HS_INLINE hs_vector hs_add_products(hs_vector sum, hs_vector x, hs_vector w) { return _mm512_dpbusd_epi32(sum, x, w); }
#else
#define HS_LANES 8
typedef __m256i hs_vector;
HS_INLINE hs_vector hs_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
HS_INLINE void hs_store(void *p, hs_vector v) { _mm256_storeu_si256((__m256i *)p, v); }
HS_INLINE hs_vector hs_every(int32_t v) { return _mm256_set1_epi32(v); }
#if defined(__AVXVNNI__)
HS_INLINE hs_vector hs_add_products(hs_vector sum, hs_vector x, hs_vector w) { return _mm256_dpbusd_avx_epi32(sum, x, w); }
#else
/* In 16 bits, even and odd entries apart: the 8-bit instruction of AVX2 saturates. */
HS_INLINE hs_vector hs_add_products(hs_vector sum, hs_vector x, hs_vector w)
{
    const hs_vector even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
    const hs_vector odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
#endif
#endif
#define HS_WIDTH (2 * HS_LANES) /* rows of sums at a time */
#define HS_PLACES 8             /* columns of sums at a time */
#define HS_MOST_PANEL_BYTES 147456 /* of weights, on the stack */
#define HS_UP(rows) (((rows) + HS_LANES - 1) / HS_LANES * HS_LANES)
/* How many rows of weights lie in panels at a time: all, or as many as the stack is asked for. */
#define HS_PANEL_ROWS(rows, terms) \
    (HS_UP(rows) * (terms) <= HS_MOST_PANEL_BYTES ? HS_UP(rows) : HS_MOST_PANEL_BYTES / (terms) / HS_WIDTH * HS_WIDTH)

/* Row ``row`` of weights into its place in the panels. */
HS_INLINE void hs_panel_row(int8_t *restrict panels, const int8_t *restrict weights, size_t row, size_t terms)
{
    int8_t *to = panels + row / HS_LANES * HS_LANES * terms + row % HS_LANES * 4;
    for (size_t k = 0; k < terms / 4; ++k)
        memcpy(to + k * 4 * HS_LANES, weights + 4 * k, 4);
}

HS_INLINE hs_vector hs_four(const uint8_t *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return hs_every(four);
}

#define HS_TIMES_1(M) M(0)
#define HS_TIMES_2(M) HS_TIMES_1(M) M(1)
#define HS_TIMES_4(M) HS_TIMES_2(M) M(2) M(3)
#define HS_TIMES_8(M) HS_TIMES_4(M) M(4) M(5) M(6) M(7)
#define HS_ZERO_ONE(p) hs_vector a##p = hs_every(0);
#define HS_ZERO_TWO(p) HS_ZERO_ONE(p) hs_vector b##p = hs_every(0);
#define HS_STEP_ONE(p) a##p = hs_add_products(a##p, hs_four(x + p * terms + k), w);
#define HS_STEP_TWO(p) \
    { \
        const hs_vector four = hs_four(x + p * terms + k); \
        a##p = hs_add_products(a##p, four, w); \
        b##p = hs_add_products(b##p, four, v); \
    }
#define HS_STORE_ONE(p) hs_store(sums + p * HS_WIDTH, a##p);
#define HS_STORE_TWO(p) HS_STORE_ONE(p) hs_store(sums + p * HS_WIDTH + HS_LANES, b##p);

#define HS_DEFINE(places) \
    HS_INLINE void hs_one_by_##places(uint32_t *restrict sums, const uint8_t *restrict x, const int8_t *restrict panels, size_t terms) \
    { \
        HS_TIMES_##places(HS_ZERO_ONE) \
        for (size_t k = 0; k < terms; k += 4) { \
            const hs_vector w = hs_load(panels + k * HS_LANES); \
            HS_TIMES_##places(HS_STEP_ONE) \
        } \
        HS_TIMES_##places(HS_STORE_ONE) \
    } \
    HS_INLINE void hs_two_by_##places(uint32_t *restrict sums, const uint8_t *restrict x, const int8_t *restrict panels, size_t terms) \
    { \
        HS_TIMES_##places(HS_ZERO_TWO) \
        for (size_t k = 0; k < terms; k += 4) { \
            const hs_vector w = hs_load(panels + k * HS_LANES), v = hs_load(panels + (terms + k) * HS_LANES); \
            HS_TIMES_##places(HS_STEP_TWO) \
        } \
        HS_TIMES_##places(HS_STORE_TWO) \
    }
HS_DEFINE(1)
HS_DEFINE(2)
HS_DEFINE(4)
HS_DEFINE(8)

#define HS_SUM(places) \
    for (; column + places <= num_columns; column += places) \
        if (num_rows > HS_LANES) \
            hs_two_by_##places(sums + column * HS_WIDTH, x + column * terms, panels, terms); \
        else \
            hs_one_by_##places(sums + column * HS_WIDTH, x + column * terms, panels, terms);

/* sums[column][row] for up to HS_WIDTH rows whose panels follow each other. */
HS_INLINE void hs_panel_products(
    uint32_t *restrict sums, const uint8_t *restrict x, const int8_t *restrict panels, size_t num_columns, size_t num_rows, size_t terms)
{
    size_t column = 0;
    HS_SUM(8)
    HS_SUM(4)
    HS_SUM(2)
    HS_SUM(1)
}
#endif
