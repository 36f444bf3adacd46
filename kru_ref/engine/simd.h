/* What a set of kernels is: one for each instruction set and precision. And the choice between
   them, but for level.c, which makes those of one. */

#include <stdint.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#if defined(__GNUC__) && !defined(KRU_REF_PLAIN_C)
#define VECTORS
#if defined(__x86_64__)
#define X86_LEVELS
#endif
#endif

/* What the entries of a matrix are; see kernels.h. */
enum { REALS, COMPLEXES, PAIRS, BUTTERFLIES };

/* What makes a time step: the activation of a simple cell, or a gated cell. */
enum { MODRELU, TANH, RELU, IDENTITY, LSTM, GRU, N_KINDS };

typedef struct {
    const char *name;
    int n_gates;      /* matrices W_k, each with its rows of U */
    int n_states;     /* h, or h and c */
    int n_kept;       /* arrays that a step keeps of its gates */
    int n_d;     /* gradients that its adjoint returns; the first n_gates are those of U_k x */
    int d_of_W[4];  /* which of them is that of W_k h */
} Kind;

static const Kind kinds[N_KINDS] = {
    [MODRELU] = {"modrelu", 1, 1, 0, 1, {0}},
    [TANH] = {"tanh", 1, 1, 0, 1, {0}},
    [RELU] = {"relu", 1, 1, 0, 1, {0}},
    [IDENTITY] = {"identity", 1, 1, 0, 1, {0}},
    [LSTM] = {"lstm", 4, 2, 4, 4, {0, 1, 2, 3}},
    [GRU] = {"gru", 3, 1, 4, 4, {0, 1, 3}},
};

/* A factor W (P, Q) and what it is applied to: x (left, Q, right, E) becomes y (left, P, right, E),
   as in kronecker.py. E elements lie side by side; R = right E. */
typedef struct {
    int mode;
    Py_ssize_t P, Q;
    const void *W;
    Py_ssize_t left, right, E;
} Sweep;

/* k factors of 2×2 on x (left, 2^k, right, E), which must have vectors. entries are of each factor
   u, Re v, Im v and a number that is not used here. Number j is read from j ^ exchanged. D and L,
   or NULL, have an entry for each row of the run of factors that the group is part of: `lefts` of
   its numbers lie left of the group, `rights` right of it, each `same` neighbouring rows. */
typedef struct {
    int mode, k;
    const void *entries;
    int exchanged;
    Py_ssize_t left, right, E;
    const void *D, *L;
    Py_ssize_t lefts, rights, same;
    Py_ssize_t apart; /* from the entry of one j to that of the next: rights DIAGONAL(mode) */
} Butterflies;

/* Elements of an entry of a diagonal: of a complex one re, 0, -im, im. */
#define DIAGONAL(mode) ((mode) == COMPLEXES ? 4 : 1)

/* Where the entries for a left index and a row to its right begin. */
#define DIAGONAL_ENTRY(s, l, r)                                                            \
    ((((l) % (s).lefts << (s).k) * (s).rights + (r) / (s).same) * DIAGONAL((s).mode))

typedef struct {
    Py_ssize_t lanes;
    void (*sweep)(const Sweep *s, const void *x, Py_ssize_t x_row, void *y, Py_ssize_t y_row);
    void (*accumulate)(const Sweep *s, const void *dy, Py_ssize_t dy_left, const void *x,
                       Py_ssize_t x_left, void *G);
    void (*sweep_backward)(const Sweep *adjoint, const void *dy, const void *x, void *dx, void *G);
    void (*fold)(int mode, Py_ssize_t n, void *G, double *sums);
    void (*butterflies)(const Butterflies *s, const void *x, Py_ssize_t x_row, void *y,
                        Py_ssize_t y_row);
    void (*butterflies_backward)(const Butterflies *s, const void *dy, const void *x, void *dx,
                                 void *G);
    void (*row_sweep)(Py_ssize_t K, Py_ssize_t J, const void *A, const void *x, void *y,
                      Py_ssize_t left);
    void (*row_accumulate)(Py_ssize_t K, Py_ssize_t J, const void *x, const void *dy,
                           Py_ssize_t left, double *dA);
    void (*activate)(int kind, int parts, Py_ssize_t rows, Py_ssize_t n, const void *z,
                     const void *u, const void *b, void *h, Py_ssize_t h_row);
    void (*activate_backward)(int kind, int parts, Py_ssize_t n, const void *through_W,
                              const void *from_loss, const void *h, const void *b, void *dz,
                              void *db);
    void (*open_gates)(int kind, Py_ssize_t n, const void *a, const void *wh, const void *b_h,
                       const void *before, void *gates, void *c, void *h);
    void (*open_gates_backward)(int kind, Py_ssize_t n, const void *from_loss,
                                const void *through_W, const void *gates, const void *c,
                                const void *before, const void *past, void *d, void *dpast);
    void (*copy)(Py_ssize_t rows, Py_ssize_t n, const void *x, Py_ssize_t x_row, void *to,
                 Py_ssize_t to_row);
    void (*spread)(int parts, Py_ssize_t rows, Py_ssize_t width, const void *x, Py_ssize_t B,
                   void *to, Py_ssize_t R);
    void (*gather)(int parts, Py_ssize_t rows, Py_ssize_t width, const void *x, Py_ssize_t R,
                   const void *c, void *y, Py_ssize_t B);
    void (*look_up)(int parts, Py_ssize_t N, Py_ssize_t D, Py_ssize_t width, const void *U,
                    const int64_t *labels, void *u, Py_ssize_t R);
    void (*look_up_backward)(int parts, Py_ssize_t N, Py_ssize_t width, const void *dz,
                             Py_ssize_t R, const int64_t *labels, double *dUT);
    void (*diagonal)(Py_ssize_t N, Py_ssize_t n, const void *lam, const void *x, Py_ssize_t x_row,
                     void *y, Py_ssize_t y_row);
    void (*diagonal_backward)(Py_ssize_t N, Py_ssize_t n, const void *adjoint, const void *dy,
                              const void *x, void *dx, void *G);
} Kernels;

#if defined(__GNUC__)
#pragma GCC visibility push(hidden)
#endif
extern const Kernels kernels_avx512_float, kernels_avx512_double, kernels_avx2_float,
    kernels_avx2_double, kernels_baseline_float, kernels_baseline_double, kernels_plain_float,
    kernels_plain_double;
#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifndef KRU_REF_LEVEL

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

/* A level below 0 is that of plain loops, for rows that fill no vector. */
static const Kernels *kernels_for(int level, int is_double)
{
#if defined(X86_LEVELS)
    if (level == 2)
        return is_double ? &kernels_avx512_double : &kernels_avx512_float;
    if (level == 1)
        return is_double ? &kernels_avx2_double : &kernels_avx2_float;
#endif
#if defined(VECTORS)
    if (level >= 0)
        return is_double ? &kernels_baseline_double : &kernels_baseline_float;
#endif
    return is_double ? &kernels_plain_double : &kernels_plain_float;
}

#endif
