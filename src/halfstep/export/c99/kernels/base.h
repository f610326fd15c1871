/* What every exported network stands on: codes in memory, rounding shifts, packed weights, sums of products. C99, no float, no heap.
 *
 * Codes of more than 8 bits are read and written with memcpy: memory of any alignment will do, and it may hold anything before.
 * Products are summed modulo 2^32. The true sum of every layer was proven to fit 32 bits, so nothing is lost.
 */
#ifndef HALFSTEP_KERNELS_H
#define HALFSTEP_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define HS_INLINE static inline __attribute__((always_inline))
#else
#define HS_INLINE static inline
#endif
/* Of a layer: one copy of its code, however many layers share it. */
#if defined(__clang__)
#define HS_LAYER static __attribute__((noinline))
#elif defined(__GNUC__)
#define HS_LAYER static __attribute__((noinline, noclone))
#else
#define HS_LAYER static
#endif

/* HALFSTEP_SIMD picks hand-written sums of products where there are some for the processor; the codes stay the same. */
#if defined(HALFSTEP_SIMD) && defined(__AVX2__)
#define HS_X86 1
#else
#define HS_X86 0
#endif
#if defined(HALFSTEP_SIMD) && defined(__ARM_FEATURE_DSP) && defined(__ARMEL__)
#define HS_ARM 1
#else
#define HS_ARM 0
#endif

HS_INLINE int32_t hs_get_u8(const void *p, size_t i) { return ((const uint8_t *)p)[i]; }
HS_INLINE int32_t hs_get_s8(const void *p, size_t i) { return ((const int8_t *)p)[i]; }

HS_INLINE int32_t hs_get_u16(const void *p, size_t i)
{
    uint16_t code;
    memcpy(&code, (const uint8_t *)p + 2 * i, 2);
    return code;
}

HS_INLINE int32_t hs_get_s16(const void *p, size_t i)
{
    int16_t code;
    memcpy(&code, (const uint8_t *)p + 2 * i, 2);
    return code;
}

HS_INLINE int32_t hs_get_s32(const void *p, size_t i)
{
    int32_t code;
    memcpy(&code, (const uint8_t *)p + 4 * i, 4);
    return code;
}

HS_INLINE void hs_put_u8(void *p, size_t i, int32_t v) { ((uint8_t *)p)[i] = (uint8_t)v; }
HS_INLINE void hs_put_s8(void *p, size_t i, int32_t v) { ((int8_t *)p)[i] = (int8_t)v; }

HS_INLINE void hs_put_u16(void *p, size_t i, int32_t v)
{
    const uint16_t code = (uint16_t)v;
    memcpy((uint8_t *)p + 2 * i, &code, 2);
}

HS_INLINE void hs_put_s16(void *p, size_t i, int32_t v)
{
    const int16_t code = (int16_t)v;
    memcpy((uint8_t *)p + 2 * i, &code, 2);
}

HS_INLINE void hs_put_s32(void *p, size_t i, int32_t v) { memcpy((uint8_t *)p + 4 * i, &v, 4); }

/* A sum modulo 2^32 as the number it stands for. */
HS_INLINE int32_t hs_signed(uint32_t v)
{
    int32_t number;
    memcpy(&number, &v, 4);
    return number;
}

/* floor(v / 2^shift). C leaves >> of negative numbers to the compiler; where it is not the arithmetic shift, it is made of one that is. */
HS_INLINE int32_t hs_shift_32(int32_t v, unsigned shift) { return v >= 0 || (-1 >> 1) == -1 ? v >> shift : ~(~v >> shift); }
HS_INLINE int64_t hs_shift_64(int64_t v, unsigned shift) { return v >= 0 || (-1 >> 1) == -1 ? v >> shift : ~(~v >> shift); }

/* round(v * multiplier / 2^shift), a half up: in 32 bits where everything was proven to fit them, else in 64. */
HS_INLINE int32_t hs_rescale_32(int32_t v, int32_t multiplier, unsigned shift)
{
    return hs_shift_32(v * multiplier + (int32_t)((UINT32_C(1) << shift) >> 1), shift);
}

HS_INLINE int64_t hs_rescale_64(int64_t v, int32_t multiplier, unsigned shift)
{
    return hs_shift_64(v * multiplier + (int64_t)((UINT64_C(1) << shift) >> 1), shift);
}

HS_INLINE int32_t hs_clamp_32(int32_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : v; }
HS_INLINE int32_t hs_clamp_64(int64_t v, int32_t low, int32_t high) { return (int32_t)(v < low ? low : v > high ? high : v); }

/* From an accumulator to a code. 32: all in 32 bits. mixed: the product alone in 64 bits, shift 1 or more; rounding is left to the last bit,
 * floor((p + 2^(s - 1)) / 2^s) = floor((floor(p / 2^(s - 1)) + 1) / 2). 64: all in 64 bits. */
HS_INLINE int32_t hs_finish_32(int32_t v, int32_t multiplier, unsigned shift, int32_t zero, int32_t low, int32_t high)
{
    return hs_clamp_32(hs_rescale_32(v, multiplier, shift) + zero, low, high);
}

HS_INLINE int32_t hs_finish_mixed(int32_t v, int32_t multiplier, unsigned shift, int32_t zero, int32_t low, int32_t high)
{
    const int32_t doubled = (int32_t)hs_shift_64((int64_t)v * multiplier, shift - 1);
    return hs_clamp_32(hs_shift_32(doubled + 1, 1) + zero, low, high);
}

HS_INLINE int32_t hs_finish_64(int64_t v, int32_t multiplier, unsigned shift, int32_t zero, int32_t low, int32_t high)
{
    return hs_clamp_64(hs_rescale_64(v, multiplier, shift) + zero, low, high);
}
