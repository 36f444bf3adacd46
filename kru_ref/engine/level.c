/* The kernels of one instruction set, in both precisions. setup.py compiles it for each of
   KRU_REF_LEVEL: 2 is AVX-512, 1 AVX2 with FMA, 0 the compiler's baseline and plain loops. */

#include <math.h>
#include <stddef.h>
#include <string.h>

typedef ptrdiff_t Py_ssize_t;
#include "simd.h"

/* Bytes that a piece of a backward sweep may take of the first-level cache. */
#define PIECE 16384

/* Rows whose products are added up in working precision before they go into a double. */
#define FEW_ROWS 1024

#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#define RESTRICT __restrict__
#else
#define INLINE __forceinline
#define RESTRICT __restrict
#endif

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, lane) __builtin_shufflevector(a, b, LANEWISE(lane))
#else
#define SHUFFLE(a, b, lane) __builtin_shuffle(a, b, (bits){LANEWISE(lane)})
#endif

/* Loops over registers, which must not stay loops. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* f(0), f(1), … for each lane of a vector. */
#define FOR_2(f, i) f(i), f(i + 1)
#define FOR_4(f, i) FOR_2(f, i), FOR_2(f, i + 2)
#define FOR_8(f, i) FOR_4(f, i), FOR_4(f, i + 4)
#define FOR_16(f, i) FOR_8(f, i), FOR_8(f, i + 8)
#define LANEWISE(f) JOIN(FOR, NLANES)(f, 0)

/* Which lane of (a, b) comes here. */
#define SWAP(i) ((i) ^ 1)
#define EVEN(i) (2 * (i))
#define ODD(i) (2 * (i) + 1)
#define LOW_ZIP(i) ((i) / 2 + (i) % 2 * NLANES)
#define HIGH_ZIP(i) ((i) / 2 + (i) % 2 * NLANES + NLANES / 2)

#define IS_EVEN(i) ((i) % 2 - 1)
#define MINUS_EVEN(i) ((i) % 2 ? 0.0 : -0.0)
#define PLUS_MINUS(i) ((i) % 2 ? 1 : -1)

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(x, SUFFIX)

#if defined(X86_LEVELS) && KRU_REF_LEVEL == 2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#define BYTES 64
#define FLOATS 16
#define DOUBLES 8
#define LEVEL avx512
#include "precisions.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif

#elif defined(X86_LEVELS) && KRU_REF_LEVEL == 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define BYTES 32
#define FLOATS 8
#define DOUBLES 4
#define LEVEL avx2
#include "precisions.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif

#elif KRU_REF_LEVEL == 0
#define BYTES 16
#define FLOATS 4
#define DOUBLES 2
#if defined(VECTORS)
#define LEVEL baseline
#include "precisions.h"
#undef LEVEL
#undef VECTORS
#endif
#define LEVEL plain
#include "precisions.h"
#endif
