/* One set of kernels for each instruction set and precision, and the choice between them. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

typedef struct {
    Py_ssize_t lanes;
    void (*sweep)(int planes, Py_ssize_t P, Py_ssize_t Q, const void *W, const void *x,
                  Py_ssize_t x_stride, void *y, Py_ssize_t y_stride, Py_ssize_t left,
                  Py_ssize_t R, Py_ssize_t r0, Py_ssize_t r1);
    void (*accumulate)(int planes, Py_ssize_t P, Py_ssize_t Q, const void *dy,
                       Py_ssize_t dy_stride, const void *x, Py_ssize_t x_stride, Py_ssize_t left,
                       Py_ssize_t R, Py_ssize_t r0, Py_ssize_t r1, void *G);
    void (*fold)(Py_ssize_t n, void *G, double *sums);
    void (*activate)(int kind, int planes, Py_ssize_t n, const void *z, const void *u,
                     const void *b, void *h);
    void (*activate_backward)(int kind, int planes, Py_ssize_t n, const void *g,
                              const void *direct, const void *h, const void *b, void *dz,
                              void *db);
    void (*split)(int planes, Py_ssize_t rows, Py_ssize_t width, const void *array, Py_ssize_t B,
                  void *planar, Py_ssize_t stride, Py_ssize_t row_stride);
    void (*join)(int planes, Py_ssize_t rows, Py_ssize_t width, const void *planar,
                 Py_ssize_t stride, void *array, Py_ssize_t B);
    void (*look_up)(int planes, Py_ssize_t N, Py_ssize_t D, Py_ssize_t width, const void *U,
                    const int64_t *labels, void *u, Py_ssize_t stride);
    void (*look_up_backward)(int planes, Py_ssize_t N, Py_ssize_t width, const void *dz,
                             Py_ssize_t stride, const int64_t *labels, void *dUT);
} Kernels;

enum { MODRELU, TANH_KIND, RELU, IDENTITY };

#if defined(__GNUC__)
#define VECTORS
#define INLINE inline __attribute__((always_inline))
#define RESTRICT __restrict__
#else
#define INLINE __forceinline
#define RESTRICT __restrict
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(x) JOIN(x, SUFFIX)

#if defined(__GNUC__) && defined(__x86_64__)
#define X86_LEVELS

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#define BYTES 64
#define LEVEL avx512
#include "precisions.h"
#undef BYTES
#undef LEVEL
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define BYTES 32
#define LEVEL avx2
#include "precisions.h"
#undef BYTES
#undef LEVEL
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#if defined(VECTORS)
#define BYTES 16
#else
#define BYTES sizeof(REAL)
#endif
#define LEVEL baseline
#include "precisions.h"
#undef BYTES
#undef LEVEL

/* The best of "avx512", "avx2" and "baseline" that this processor has: 2, 1 or 0. */
static int best_level(void)
{
#if defined(X86_LEVELS)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 1;
#endif
    return 0;
}

static int openmp_threads(void)
{
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static const Kernels *kernels_for(int level, int is_double)
{
#if defined(X86_LEVELS)
    if (level == 2)
        return is_double ? &kernels_avx512_double : &kernels_avx512_float;
    if (level == 1)
        return is_double ? &kernels_avx2_double : &kernels_avx2_float;
#endif
    return is_double ? &kernels_baseline_double : &kernels_baseline_float;
}
