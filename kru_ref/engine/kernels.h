/* The innermost loops, on vectors of REAL that are BYTES long.

   Included by level.c once for each precision, with NAME(x) a name of
   its own for each. Arrays are flat; a complex number is two neighbouring elements, real part
   first. R counts elements. A sweep maps (left, Q, R) to (left, P, R), as in kronecker.py;
   its R is at least LANES. The NumPy line stands above each loop.

   What the entries of a matrix are:
     REALS      one element each;
     COMPLEXES  two, a complex number;
     BUTTERFLIES  two, of fold() alone;
     PAIRS      two, one for the real parts of what is multiplied, one for the imaginary parts:
                what U, V and their transposes do between real and complex vectors.          */

#define ENTRY(mode) ((mode) == REALS ? 1 : 2)

#ifdef VECTORS
#define LANES ((Py_ssize_t)NLANES)
#define vec NAME(vec)
#define bits NAME(bits)
typedef REAL vec __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER bits __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
#define WHERE(condition, yes, no) \
    ((vec)(((bits)(condition) & (bits)(yes)) | (~(bits)(condition) & (bits)(no))))
#define EVENS(a, b) SHUFFLE(a, b, EVEN)
#define ODDS(a, b) SHUFFLE(a, b, ODD)
#define FIRST_PAIRS(re, im) SHUFFLE(re, im, LOW_ZIP)
#define LAST_PAIRS(re, im) SHUFFLE(re, im, HIGH_ZIP)
#define SWAPPED(v) SHUFFLE(v, v, SWAP)
#define TIMES_I(v) ((vec)((bits)SWAPPED(v) ^ (bits)(vec){LANEWISE(MINUS_EVEN)}))
#else /* a compiler without vector types: vectors of one lane, and plain loops */
#define LANES ((Py_ssize_t)1)
typedef REAL NAME(vec);
#define vec NAME(vec)
#define WHERE(condition, yes, no) ((condition) ? (yes) : (no))
#define EVENS(a, b) (a)
#define ODDS(a, b) (b)
#define FIRST_PAIRS(re, im) (re)
#define LAST_PAIRS(re, im) (im)
#endif
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, value) (*(vec *)(p) = (value))

static INLINE vec NAME(filled)(REAL value)
{
    vec v = {0};
    return v + value;
}

#ifdef VECTORS

/* (w[0], w[1]) again and again */
static INLINE vec NAME(pair)(const REAL *w)
{
    if (sizeof(REAL) == 8)
        return WHERE(((bits){LANEWISE(IS_EVEN)}), NAME(filled)(w[0]), NAME(filled)(w[1]));
    typedef int64_t pairs __attribute__((vector_size(BYTES)));
    int64_t both; /* two floats at a time: one instruction */
    memcpy(&both, w, sizeof both);
    return (vec)((pairs){0} + both);
}

/* rows ≤ 8 of y = W x for one or two vectors of columns; rows of x and y are X and Y apart */
static INLINE void NAME(tile)(int mode, int rows, int vectors, Py_ssize_t Q, const REAL *W,
                              const REAL *x, Py_ssize_t X, REAL *y, Py_ssize_t Y)
{
    vec sum[8][2] = {0};
    for (Py_ssize_t q = 0; q < Q; q++) {
        vec xv[2], ix[2];
        for (int v = 0; v < vectors; v++) {
            xv[v] = LOAD(x + q * X + v * LANES);
            ix[v] = mode == COMPLEXES ? TIMES_I(xv[v]) : xv[v];
        }
        for (int p = 0; p < rows; p++) {
            const REAL *w = W + (p * Q + q) * ENTRY(mode);
            vec re = mode == PAIRS ? NAME(pair)(w) : NAME(filled)(w[0]);
            for (int v = 0; v < vectors; v++)
                sum[p][v] += re * xv[v];
            if (mode == COMPLEXES)
                for (int v = 0; v < vectors; v++)
                    sum[p][v] += w[1] * ix[v];
        }
    }
    for (int p = 0; p < rows; p++)
        for (int v = 0; v < vectors; v++)
            STORE(y + p * Y + v * LANES, sum[p][v]);
}

/* all rows of y = W x for one or two vectors of columns: 8 at a time where the sums fit the
   registers, then 4, then what remains */
static INLINE void NAME(tiles)(int mode, int vectors, Py_ssize_t P, Py_ssize_t Q, const REAL *W,
                               const REAL *x, Py_ssize_t X, REAL *y, Py_ssize_t Y)
{
#define TILE(rows) NAME(tile)(mode, rows, vectors, Q, W + p * Q * ENTRY(mode), x, X, y + p * Y, Y)
    Py_ssize_t p = 0;
    for (; BYTES == 64 && p + 8 <= P; p += 8)
        TILE(8);
    for (; p + 4 <= P; p += 4)
        TILE(4);
    if (P - p == 3)
        TILE(3);
    if (P - p == 2)
        TILE(2);
    if (P - p == 1)
        TILE(1);
#undef TILE
}

/* n ≥ LANES columns of one left index; the last vectors overlap those before them */
static INLINE void NAME(columns)(int mode, Py_ssize_t P, Py_ssize_t Q, const REAL *W,
                                 const REAL *x, Py_ssize_t X, REAL *y, Py_ssize_t Y, Py_ssize_t n)
{
    Py_ssize_t r = 0;
    for (; r + 2 * LANES <= n; r += 2 * LANES)
        NAME(tiles)(mode, 2, P, Q, W, x + r, X, y + r, Y);
    for (; r < n; r += LANES) {
        Py_ssize_t start = r + LANES <= n ? r : n - LANES;
        NAME(tiles)(mode, 1, P, Q, W, x + start, X, y + start, Y);
    }
}

/* the lanes of an overlapping last vector of n columns that are new: 1 there, 0 elsewhere */
static INLINE vec NAME(new_lanes)(Py_ssize_t n)
{
    REAL lane[NLANES];
    for (Py_ssize_t i = 0; i < LANES; i++)
        lane[i] = i >= LANES - n % LANES;
    return LOAD(lane);
}

/* prows × qcols ≤ 4 × 4 entries of G += dy conj(x)^T, complex ones ≤ 4 × 2, lane by lane, over
   n ≥ LANES columns of `left` indices */
static INLINE void NAME(gram)(Sweep s, int prows, int qcols, const REAL *dy, Py_ssize_t dy_left,
                              const REAL *x, Py_ssize_t x_left, Py_ssize_t n, vec *G)
{
    int mode = s.mode;
    Py_ssize_t Q = s.Q, PQ = s.P * s.Q, R = s.right * s.E;
    vec re[4][4], im[4][4], last = NAME(new_lanes)(n);
    for (int p = 0; p < prows; p++)
        for (int q = 0; q < qcols; q++) {
            re[p][q] = G[p * Q + q];
            im[p][q] = mode == COMPLEXES ? G[PQ + p * Q + q] : re[p][q];
        }
    for (Py_ssize_t l = 0; l < s.left; l++)
        for (Py_ssize_t start = 0; start < n; start += LANES) {
            int overlap = start + LANES > n;
            Py_ssize_t r = overlap ? n - LANES : start;
            vec xv[4], ix[4];
            for (int q = 0; q < qcols; q++) {
                xv[q] = LOAD(x + l * x_left + q * R + r);
                if (overlap)
                    xv[q] *= last;
                ix[q] = mode == COMPLEXES ? TIMES_I(xv[q]) : xv[q];
            }
            for (int p = 0; p < prows; p++) {
                vec d = LOAD(dy + l * dy_left + p * R + r);
                for (int q = 0; q < qcols; q++) {
                    re[p][q] += d * xv[q];
                    if (mode == COMPLEXES)
                        im[p][q] += d * ix[q];
                }
            }
        }
    for (int p = 0; p < prows; p++)
        for (int q = 0; q < qcols; q++) {
            G[p * Q + q] = re[p][q];
            if (mode == COMPLEXES)
                G[PQ + p * Q + q] = im[p][q];
        }
}

/* as many entries at a time as accumulators fit the registers */
#define GRAM_ROWS (BYTES == 64 ? 4 : 2)

/* G += dy conj(x)^T, lane by lane, over n ≥ LANES of the R columns of all left indices */
static INLINE void NAME(grams)(Sweep s, const REAL *dy, Py_ssize_t dy_left, const REAL *x,
                               Py_ssize_t x_left, Py_ssize_t n, vec *G)
{
    Py_ssize_t P = s.P, Q = s.Q, R = s.right * s.E, q = 0;
#define GRAM(prows, qcols)                                                                  \
    NAME(gram)(s, prows, qcols, dy + p * R, dy_left, x + q * R, x_left, n, G + p * Q + q)
#define GRAMS(qcols)                                                                        \
    do {                                                                                    \
        Py_ssize_t p = 0;                                                                   \
        for (; p + GRAM_ROWS <= P; p += GRAM_ROWS)                                          \
            GRAM(GRAM_ROWS, qcols);                                                         \
        for (; p < P; p++)                                                                  \
            GRAM(1, qcols);                                                                 \
    } while (0)
    for (; s.mode != COMPLEXES && q + 4 <= Q; q += 4)
        GRAMS(4);
    for (; q + 2 <= Q; q += 2)
        GRAMS(2);
    if (q < Q)
        GRAMS(1);
#undef GRAM
#undef GRAMS
}

/* the sum of all lanes, or of the even and of the odd ones, by halves */
static INLINE void NAME(fold_lanes)(REAL *lane, int kept)
{
    for (int half = LANES / 2; half >= kept; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] += lane[j + half];
}

/* sums += G.sum(axis=lanes), these in double precision; G = 0. For PAIRS even and odd lanes
   apart; for BUTTERFLIES imaginary parts are the odd lanes less the even ones. */
static void NAME(fold)(int mode, Py_ssize_t n, void *G, double *sums)
{
    REAL *lane = G;
    if (mode == PAIRS)
        for (Py_ssize_t i = 0; i < n; i++, lane += LANES) {
            NAME(fold_lanes)(lane, 2);
            sums[2 * i] += lane[0];
            sums[2 * i + 1] += lane[1];
        }
    else
        for (Py_ssize_t part = 0; part < ENTRY(mode); part++)
            for (Py_ssize_t i = 0; i < n; i++, lane += LANES) {
                NAME(fold_lanes)(lane, 2);
                sums[ENTRY(mode) * i + part] +=
                    mode == BUTTERFLIES && part ? lane[1] - lane[0] : lane[0] + lane[1];
            }
    memset(G, 0, (mode == REALS || mode == PAIRS ? 1 : 2) * n * sizeof(vec));
}

#else

/* n columns of one left index of y = W x; rows of x and y are X and Y apart */
static INLINE void NAME(columns)(int mode, Py_ssize_t P, Py_ssize_t Q, const REAL *W,
                                 const REAL *x, Py_ssize_t X, REAL *y, Py_ssize_t Y, Py_ssize_t n)
{
    for (Py_ssize_t p = 0; p < P; p++)
        for (Py_ssize_t r = 0; r < n; r++) {
            REAL sum = 0;
            for (Py_ssize_t q = 0; q < Q; q++) {
                const REAL *w = W + (p * Q + q) * ENTRY(mode), *xq = x + q * X + r;
                if (mode == COMPLEXES)
                    sum += w[0] * xq[0] + w[1] * (r % 2 ? xq[-1] : -xq[1]);
                else
                    sum += w[mode == PAIRS ? r % 2 : 0] * xq[0];
            }
            y[p * Y + r] = sum;
        }
}

/* G += dy conj(x)^T over n of the R columns of all left indices; two elements for each entry
   of G */
static INLINE void NAME(grams)(Sweep s, const REAL *dy, Py_ssize_t dy_left, const REAL *x,
                               Py_ssize_t x_left, Py_ssize_t n, vec *G)
{
    Py_ssize_t R = s.right * s.E;
    for (Py_ssize_t p = 0; p < s.P; p++)
        for (Py_ssize_t q = 0; q < s.Q; q++) {
            REAL sum[2] = {0, 0};
            for (Py_ssize_t l = 0; l < s.left; l++)
                for (Py_ssize_t r = 0; r < n; r++) {
                    const REAL *xq = x + l * x_left + q * R + r;
                    REAL d = dy[l * dy_left + p * R + r];
                    sum[s.mode == PAIRS ? r % 2 : 0] += d * xq[0];
                    if (s.mode == COMPLEXES)
                        sum[1] += d * (r % 2 ? xq[-1] : -xq[1]);
                }
            G[2 * (p * s.Q + q)] += sum[0];
            G[2 * (p * s.Q + q) + 1] += sum[1];
        }
}

/* sums += G; G = 0 */
static void NAME(fold)(int mode, Py_ssize_t n, void *G, double *sums)
{
    const REAL *entry = G;
    for (Py_ssize_t i = 0; i < n; i++)
        for (int part = 0; part < ENTRY(mode); part++)
            sums[ENTRY(mode) * i + part] += entry[2 * i + part];
    memset(G, 0, 2 * n * sizeof(REAL));
}

#endif

/* the sweep with mode and sizes as constants, so that the compiler unrolls the common ones */
#define CONSTANT(mode, P, Q) ((Sweep){mode, P, Q, s->W, s->left, s->right, s->E})

/* y = np.matmul(W, x); rows of E elements of x and y are x_row and y_row apart */
static INLINE void NAME(sweep_as)(Sweep s, const REAL *x, Py_ssize_t x_row, REAL *y,
                                  Py_ssize_t y_row)
{
    Py_ssize_t X = s.right * x_row, Y = s.right * y_row, rows = s.right, n = s.E;
    if (x_row == s.E && y_row == s.E) {
        n *= rows; /* they follow on one another */
        rows = 1;
    }
    for (Py_ssize_t l = 0; l < s.left; l++, x += s.Q * X, y += s.P * Y)
        for (Py_ssize_t r = 0; r < rows; r++)
            NAME(columns)(s.mode, s.P, s.Q, s.W, x + r * x_row, X, y + r * y_row, Y, n);
}

static void NAME(sweep)(const Sweep *s, const void *x, Py_ssize_t x_row, void *y, Py_ssize_t y_row)
{
#define SWEEP(mode, P, Q) NAME(sweep_as)(CONSTANT(mode, P, Q), x, x_row, y, y_row)
    if (s->mode == COMPLEXES && s->P == 4 && s->Q == 4)
        SWEEP(COMPLEXES, 4, 4);
    else if (s->mode == COMPLEXES)
        SWEEP(COMPLEXES, s->P, s->Q);
    else if (s->mode == PAIRS)
        SWEEP(PAIRS, s->P, s->Q);
    else if (s->P == 4 && s->Q == 4)
        SWEEP(REALS, 4, 4);
    else if (s->P == 8 && s->Q == 8)
        SWEEP(REALS, 8, 8);
    else
        SWEEP(REALS, s->P, s->Q);
#undef SWEEP
}

/* G += np.tensordot(dy, x.conj(), axes=((0, 2), (0, 2))), to be summed by fold(). dy_left and
   x_left elements lie between left indices. */
static void NAME(accumulate)(const Sweep *s, const void *dy, Py_ssize_t dy_left, const void *x,
                             Py_ssize_t x_left, void *G)
{
#define GRAMS(mode) NAME(grams)(CONSTANT(mode, s->P, s->Q), dy, dy_left, x, x_left, R, G)
    Py_ssize_t R = s->right * s->E;
    if (s->mode == COMPLEXES)
        GRAMS(COMPLEXES);
    else if (s->mode == PAIRS)
        GRAMS(PAIRS);
    else
        GRAMS(REALS);
#undef GRAMS
}

/* s is the sweep whose backward this is, but for W, which is the adjoint's, (Q, P) */
static INLINE void NAME(sweep_backward_as)(Sweep s, const REAL *dy, const REAL *x, REAL *dx, vec *G)
{
    Py_ssize_t P = s.P, Q = s.Q, R = s.right * s.E, n;
    Py_ssize_t piece = (Py_ssize_t)(PIECE / sizeof(REAL)) / (P + Q) / (2 * LANES) * (2 * LANES);
    if (piece < 2 * LANES)
        piece = 2 * LANES;
    Py_ssize_t lefts = R < piece ? piece / R : 1;
    Sweep few = s;
    for (Py_ssize_t l = 0; l < s.left; l += lefts) {
        few.left = s.left - l < lefts ? s.left - l : lefts;
        for (Py_ssize_t r = 0; r < R; r += n) {
            n = R - r < piece + LANES ? R - r : piece;
            const REAL *d = dy + l * P * R + r, *before = x + l * Q * R + r;
            NAME(grams)(few, d, P * R, before, Q * R, n, G);
            for (Py_ssize_t i = 0; i < few.left; i++)
                NAME(columns)(s.mode, Q, P, s.W, d + i * P * R, R, dx + (l + i) * Q * R + r, R, n);
        }
    }
}

/* accumulate(), and dx = np.matmul(WH, dy), in pieces that stay in the first-level cache; a piece
   of x has been read when that of dx is written, so dx may be x */
static void NAME(sweep_backward)(const Sweep *s, const void *dy, const void *x, void *dx, void *G)
{
#define BACKWARD(mode, P, Q) NAME(sweep_backward_as)(CONSTANT(mode, P, Q), dy, x, dx, G)
    if (s->mode == COMPLEXES && s->P == 4 && s->Q == 4)
        BACKWARD(COMPLEXES, 4, 4);
    else if (s->mode == COMPLEXES)
        BACKWARD(COMPLEXES, s->P, s->Q);
    else if (s->P == 4 && s->Q == 4)
        BACKWARD(REALS, 4, 4);
    else
        BACKWARD(REALS, s->P, s->Q);
#undef BACKWARD
}
#undef CONSTANT

#ifdef VECTORS
/* Butterflies: two or three factors of 2×2 at once. Of each stays W = L R D P with R = [[1, u], [v, 1]]:
   P exchanges what is multiplied or does not, D and L are diagonals, those of a run of factors
   applied together, on the way into its first group and out of its last; see butterflies.py. */

/* numbers that a group mixes */
#define MIXED(k) (1 << (k))

/* the j that pair f of a group of k factors begins with, f = 0 the outermost: j | bit ends it */
#define FOR_PAIRS(k, f, j)                                                    \
    UNROLL for (int bit = 1 << ((k) - 1 - (f)), j = 0; j < MIXED(k); j++)      \
        if (!(j & bit))

typedef struct {
    vec u, re, im; /* of v, imaginary parts signed as SWAPPED() asks */
} NAME(Pair);

static INLINE void NAME(pairs)(int k, const REAL *entries, NAME(Pair) *pair)
{
    for (int f = 0; f < k; f++, entries += 4) {
        pair[f].u = NAME(filled)(entries[0]);
        pair[f].re = NAME(filled)(entries[1]);
        pair[f].im = entries[2] * (vec){LANEWISE(PLUS_MINUS)};
    }
}

/* x times v, or conj(v) */
static INLINE vec NAME(times)(int mode, int is_conjugate, NAME(Pair) v, vec x)
{
    vec y = v.re * x;
    if (mode == COMPLEXES)
        y += (is_conjugate ? -v.im : v.im) * SWAPPED(x);
    return y;
}

/* y_0 = x_0 + u x_1, y_1 = x_1 + v x_0 for all pairs of one factor */
static INLINE void NAME(butterfly)(int mode, int k, int f, NAME(Pair) pair, vec *x)
{
    FOR_PAIRS(k, f, j) {
        vec first = x[j];
        x[j] += pair.u * x[j | bit];
        x[j | bit] += NAME(times)(mode, 0, pair, first);
    }
}

/* its adjoint: dx_0 = dy_0 + conj(v) dy_1, dx_1 = dy_1 + u dy_0 */
static INLINE void NAME(butterfly_adjoint)(int mode, int k, int f, NAME(Pair) pair, vec *dy)
{
    FOR_PAIRS(k, f, j) {
        vec second = dy[j | bit];
        dy[j | bit] += pair.u * dy[j];
        dy[j] += NAME(times)(mode, 1, pair, second);
    }
}

/* x times an entry of a diagonal, or its conjugate */
static INLINE vec NAME(scaled)(int mode, int is_conjugate, const REAL *entry, vec x)
{
    vec y = entry[0] * x;
    if (mode == COMPLEXES && is_conjugate)
        y -= NAME(pair)(entry + 2) * SWAPPED(x);
    else if (mode == COMPLEXES)
        y += NAME(pair)(entry + 2) * SWAPPED(x);
    return y;
}

/* y = R D P x for n ≥ LANES columns of one left index, and times L; rows of x and y are X and Y apart,
   D and L may be NULL */
static INLINE void NAME(mix)(int mode, int k, Butterflies s, const NAME(Pair) *pair, const REAL *x,
                             Py_ssize_t X, REAL *y, Py_ssize_t Y, const REAL *D, const REAL *L,
                             Py_ssize_t n)
{
    for (Py_ssize_t start = 0; start < n; start += LANES) {
        Py_ssize_t r = start + LANES <= n ? start : n - LANES;
        vec v[MIXED(3)];
        UNROLL for (int j = 0; j < MIXED(k); j++)
            v[j] = LOAD(x + (j ^ s.exchanged) * X + r);
        if (D)
            UNROLL for (int j = 0; j < MIXED(k); j++)
                v[j] = NAME(scaled)(mode, 0, D + (j ^ s.exchanged) * s.apart, v[j]);
        UNROLL for (int f = 0; f < k; f++)
            NAME(butterfly)(mode, k, f, pair[f], v);
        if (L)
            UNROLL for (int j = 0; j < MIXED(k); j++)
                v[j] = NAME(scaled)(mode, 0, L + j * s.apart, v[j]);
        UNROLL for (int j = 0; j < MIXED(k); j++)
            STORE(y + j * Y + r, v[j]);
    }
}

static INLINE void NAME(butterflies_as)(int mode, int k, Butterflies s, const REAL *x,
                                        Py_ssize_t x_row, REAL *y, Py_ssize_t y_row)
{
    Py_ssize_t X = s.right * x_row, Y = s.right * y_row;
    NAME(Pair) pair[3];
    NAME(pairs)(k, s.entries, pair);
    for (Py_ssize_t l = 0; l < s.left; l++, x += MIXED(k) * X, y += MIXED(k) * Y)
        if (!s.D && !s.L && x_row == s.E && y_row == s.E)
            NAME(mix)(mode, k, s, pair, x, X, y, Y, NULL, NULL, s.right * s.E);
        else
            for (Py_ssize_t r = 0; r < s.right; r++) {
                Py_ssize_t entry = DIAGONAL_ENTRY(s, l, r);
                const REAL *D = s.D ? (const REAL *)s.D + entry : NULL;
                const REAL *L = s.L ? (const REAL *)s.L + entry : NULL;
                NAME(mix)(mode, k, s, pair, x + r * x_row, X, y + r * y_row, Y, D, L, s.E);
            }
}

/* call with mode and k as constants, so that the compiler unrolls its loops */
#define WITH_CONSTANTS(call, ...)          \
    do {                                   \
        if (s->mode == COMPLEXES) {        \
            if (s->k == 3)                 \
                call(COMPLEXES, 3, __VA_ARGS__); \
            else                           \
                call(COMPLEXES, 2, __VA_ARGS__); \
        } else if (s->k == 3)              \
            call(REALS, 3, __VA_ARGS__);   \
        else                               \
            call(REALS, 2, __VA_ARGS__);   \
    } while (0)

static void NAME(butterflies)(const Butterflies *s, const void *x, Py_ssize_t x_row, void *y,
                              Py_ssize_t y_row)
{
    WITH_CONSTANTS(NAME(butterflies_as), *s, x, x_row, y, y_row);
}

/* G += dy conj(x), lane by lane; a sum's imaginary part stands n sums behind its real part */
static INLINE void NAME(gather_product)(int mode, vec dy, vec x, vec *G, int n)
{
    G[0] += dy * x;
    if (mode == COMPLEXES)
        G[n] += dy * SWAPPED(x);
}

/* mix() backward, all rows R apart: dx; of each factor dR_01 = Σ dy_0 conj(x_1) and
   dR_10 = Σ dy_1 conj(x_0); and of each number Σ dx conj(x) between D and the group */
static INLINE void NAME(mix_backward)(int mode, int k, Butterflies s, const NAME(Pair) *pair,
                                      const REAL *dy, const REAL *x, REAL *dx, Py_ssize_t R,
                                      const REAL *D, const REAL *L, Py_ssize_t n, vec last, vec *G)
{
    for (Py_ssize_t start = 0; start < n; start += LANES) {
        int overlap = start + LANES > n, sums = 2 * k + MIXED(k);
        Py_ssize_t r = overlap ? n - LANES : start;
        vec v[3][MIXED(3)], d[MIXED(3)];
        UNROLL for (int j = 0; j < MIXED(k); j++) {
            v[0][j] = LOAD(x + (j ^ s.exchanged) * R + r);
            if (overlap)
                v[0][j] *= last;
            if (D)
                v[0][j] = NAME(scaled)(mode, 0, D + (j ^ s.exchanged) * s.apart, v[0][j]);
        }
        UNROLL for (int f = 1; f < k; f++) {
            UNROLL for (int j = 0; j < MIXED(k); j++)
                v[f][j] = v[f - 1][j];
            NAME(butterfly)(mode, k, f - 1, pair[f - 1], v[f]);
        }
        UNROLL for (int j = 0; j < MIXED(k); j++) {
            d[j] = LOAD(dy + j * R + r);
            if (L)
                d[j] = NAME(scaled)(mode, 1, L + j * s.apart, d[j]);
        }
        UNROLL for (int f = k - 1; f >= 0; f--) {
            FOR_PAIRS(k, f, j) {
                NAME(gather_product)(mode, d[j], v[f][j | bit], G + 2 * f, sums);
                NAME(gather_product)(mode, d[j | bit], v[f][j], G + 2 * f + 1, sums);
            }
            NAME(butterfly_adjoint)(mode, k, f, pair[f], d);
        }
        UNROLL for (int j = 0; j < MIXED(k); j++) {
            NAME(gather_product)(mode, d[j], v[0][j], G + 2 * k + j, sums);
            if (D)
                d[j] = NAME(scaled)(mode, 1, D + (j ^ s.exchanged) * s.apart, d[j]);
            STORE(dx + (j ^ s.exchanged) * R + r, d[j]);
        }
    }
}

static INLINE void NAME(butterflies_backward_as)(int mode, int k, Butterflies s, const REAL *dy,
                                                 const REAL *x, REAL *dx, vec *G)
{
    Py_ssize_t R = s.right * s.E;
    NAME(Pair) pair[3];
    NAME(pairs)(k, s.entries, pair);
    for (Py_ssize_t l = 0; l < s.left; l++, x += MIXED(k) * R, dy += MIXED(k) * R, dx += MIXED(k) * R)
        if (!s.D && !s.L) {
            vec last = NAME(new_lanes)(R);
            NAME(mix_backward)(mode, k, s, pair, dy, x, dx, R, NULL, NULL, R, last, G);
        } else
            for (Py_ssize_t r = 0; r < s.right; r++) {
                Py_ssize_t entry = DIAGONAL_ENTRY(s, l, r), at = r * s.E;
                const REAL *D = s.D ? (const REAL *)s.D + entry : NULL;
                const REAL *L = s.L ? (const REAL *)s.L + entry : NULL;
                vec last = NAME(new_lanes)(s.E);
                NAME(mix_backward)(mode, k, s, pair, dy + at, x + at, dx + at, R, D, L, s.E, last, G);
            }
}

/* dx must not be x: where a row's last vector overlaps the one before, x is read again */
static void NAME(butterflies_backward)(const Butterflies *s, const void *dy, const void *x,
                                       void *dx, void *G)
{
    WITH_CONSTANTS(NAME(butterflies_backward_as), *s, dy, x, dx, G);
}
#undef WITH_CONSTANTS
#undef FOR_PAIRS
#undef MIXED
#endif

/* rows ≤ 8 of y = x A for one vector of columns */
static INLINE void NAME(row_tile)(int rows, Py_ssize_t K, Py_ssize_t J, const REAL *A,
                                  const REAL *x, REAL *y)
{
    vec sum[8] = {0};
    for (Py_ssize_t k = 0; k < K; k++) {
        vec a = LOAD(A + k * J);
        for (int i = 0; i < rows; i++)
            sum[i] += x[i * K + k] * a;
    }
    for (int i = 0; i < rows; i++)
        STORE(y + i * J, sum[i]);
}

/* y (left, J) = x (left, K) @ A (K, J), all real: the sweep where R is a single number; J is at
   least LANES */
static void NAME(row_sweep)(Py_ssize_t K, Py_ssize_t J, const void *A, const void *x, void *y,
                            Py_ssize_t left)
{
    const REAL *a = A, *from = x;
    REAL *to = y;
    for (Py_ssize_t l = 0; l < left; l += 8)
        for (Py_ssize_t start = 0; start < J; start += LANES) {
            Py_ssize_t j = start + LANES <= J ? start : J - LANES;
            if (l + 8 <= left)
                NAME(row_tile)(8, K, J, a + j, from + l * K, to + l * J + j);
            else
                for (Py_ssize_t i = l; i < left; i++)
                    NAME(row_tile)(1, K, J, a + j, from + i * K, to + i * J + j);
        }
}

/* dA (K, J) += x.T @ dy, in double precision */
static void NAME(row_accumulate)(Py_ssize_t K, Py_ssize_t J, const void *x, const void *dy,
                                 Py_ssize_t left, double *dA)
{
    const REAL *from = x, *d = dy;
    for (Py_ssize_t first = 0; first < left; first += FEW_ROWS) {
        Py_ssize_t end = left - first < FEW_ROWS ? left : first + FEW_ROWS;
        for (Py_ssize_t k = 0; k < K; k++)
            for (Py_ssize_t start = 0; start < J; start += LANES) {
                Py_ssize_t j = start + LANES <= J ? start : J - LANES, l = first;
                vec sum[4] = {0};
                for (; l + 4 <= end; l += 4)
                    for (int i = 0; i < 4; i++)
                        sum[i] += from[(l + i) * K + k] * LOAD(d + (l + i) * J + j);
                for (; l < end; l++)
                    sum[0] += from[l * K + k] * LOAD(d + l * J + j);
                sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
                const REAL *lane = (const REAL *)&sum[0];
                for (Py_ssize_t i = start - j; i < LANES; i++)
                    dA[k * J + j + i] += lane[i];
            }
    }
}

static INLINE vec NAME(root)(vec v)
{
    REAL *lane = (REAL *)&v;
    for (int i = 0; i < LANES; i++)
        lane[i] = LIBM_SQRT(lane[i]);
    return v;
}

#ifdef VECTORS
/* np.expm1(y) for 0 ≤ y, as if y were no larger than EXP_LARGEST: 2^k (1 + f) - 1, where
   f = exp(r) - 1 by its series and y = k ln 2 + r with |r| ≤ ln 2 / 2 */
static INLINE vec NAME(exp_minus_1)(vec y)
{
    y = WHERE(y > EXP_LARGEST, NAME(filled)(EXP_LARGEST), y);
    vec shifted = y * LOG2_E + ROUND; /* k stands in its last bits */
    vec k = shifted - ROUND, r = y - k * LN_2_HIGH - k * LN_2_LOW;
    vec power = (vec)(((bits)shifted << MANTISSA) + (bits)NAME(filled)(1)); /* 2^k */
    vec f = NAME(filled)((REAL)1 / TERMS);
    for (int n = TERMS - 1; n > 0; n--)
        f = (1 + r * f) * ((REAL)1 / n);
    f *= r;
    return power * f + (power - 1);
}
#endif

/* np.tanh(v) = e / (e + 2) with the sign of v, where e = exp(2 |v|) - 1 */
static INLINE vec NAME(tangent)(vec v)
{
#ifdef VECTORS
    vec minus_zero = NAME(filled)(-1) * 0, a = WHERE(v < 0, -v, v);
    vec e = NAME(exp_minus_1)(a + a);
    return (vec)((bits)(e / (e + 2)) | ((bits)v & (bits)minus_zero));
#else
    return LIBM_TANH(v);
#endif
}

/* 1 / (1 + np.exp(-v)), from exp(-|v|), which cannot overflow. It is the square of exp(-|v| / 2):
   that one is no smaller than the least normal number where exp(-|v|) is above 0. */
static INLINE vec NAME(logistic)(vec v)
{
#ifdef VECTORS
    vec root = 1 / (NAME(exp_minus_1)(WHERE(v < 0, -v, v) * (REAL)0.5) + 1), small = root * root;
    return WHERE(v < 0, small, NAME(filled)(1)) / (1 + small);
#else
    REAL small = LIBM_EXP(v < 0 ? v : -v);
    return (v < 0 ? small : 1) / (1 + small);
#endif
}

/* np.maximum(v, 0): a NaN stays one */
static INLINE vec NAME(positive)(vec v)
{
    return WHERE(v <= 0, NAME(filled)(0), v);
}

/* np.abs(z), and z becomes z / np.abs(z), 0 at 0; scaled, lest a square over- or underflow */
static INLINE vec NAME(modulus)(int parts, vec *re, vec *im)
{
    vec a = WHERE(*re < 0, -*re, *re), one = NAME(filled)(1), zero = NAME(filled)(0);
    if (parts == 1) {
        *re = WHERE(a == 0, zero, *re / a);
        return a;
    }
    a += WHERE(*im < 0, -*im, *im);
    vec up = WHERE(a < SMALL, NAME(filled)(SCALE), WHERE(a > LARGE, NAME(filled)(1 / SCALE), one));
    vec down =
        WHERE(a < SMALL, NAME(filled)(1 / SCALE), WHERE(a > LARGE, NAME(filled)(SCALE), one));
    *re *= up;
    *im *= up;
    vec r = NAME(root)(*re * *re + *im * *im), inverse = WHERE(r == 0, zero, one / r);
    *re *= inverse;
    *im *= inverse;
    return r * down;
}

/* real and imaginary parts of LANES numbers */
static INLINE void NAME(apart)(int parts, const REAL *z, Py_ssize_t i, vec *re, vec *im)
{
    *re = *im = LOAD(z + parts * i);
    if (parts == 2) {
        vec first = *re, second = LOAD(z + 2 * i + LANES);
        *re = EVENS(first, second);
        *im = ODDS(first, second);
    }
}

static INLINE void NAME(together)(int parts, vec re, vec im, REAL *z, Py_ssize_t i)
{
    if (parts == 1) {
        STORE(z + i, re);
    } else {
        STORE(z + 2 * i, FIRST_PAIRS(re, im));
        STORE(z + 2 * i + LANES, LAST_PAIRS(re, im));
    }
}

/* h = σ(z + u, b) for rows of n ≥ LANES numbers, as in activations.py; those of h are h_row
   elements apart. The last vector of a row overlaps the one before it. */
static INLINE void NAME(activate_as)(int kind, int parts, Py_ssize_t rows, Py_ssize_t n,
                                     const REAL *z, const REAL *u, const REAL *b, REAL *h,
                                     Py_ssize_t h_row)
{
    for (; rows > 0; rows--, z += parts * n, u += parts * n, b += n, h += h_row)
        for (Py_ssize_t start = 0; start < n; start += LANES) {
            Py_ssize_t i = start + LANES <= n ? start : n - LANES;
            vec re, im, u_re, u_im, bias = LOAD(b + i);
            NAME(apart)(parts, z, i, &re, &im);
            NAME(apart)(parts, u, i, &u_re, &u_im);
            re += u_re;
            im += u_im;
            if (kind == MODRELU) {
                vec grown = NAME(positive)(NAME(modulus)(parts, &re, &im) + bias);
                re *= grown;
                im *= grown;
            } else {
                re += bias;
                if (kind == TANH)
                    re = NAME(tangent)(re);
                if (kind == RELU)
                    re = NAME(positive)(re);
            }
            NAME(together)(parts, re, im, h, i);
        }
}

static void NAME(activate)(int kind, int parts, Py_ssize_t rows, Py_ssize_t n, const void *z,
                           const void *u, const void *b, void *h, Py_ssize_t h_row)
{
    if (kind == MODRELU && parts == 2)
        NAME(activate_as)(MODRELU, 2, rows, n, z, u, b, h, h_row);
    else if (kind == MODRELU)
        NAME(activate_as)(MODRELU, 1, rows, n, z, u, b, h, h_row);
    else
        NAME(activate_as)(kind, parts, rows, n, z, u, b, h, h_row);
}

/* dz and db += its real part along u, for the gradient of h, through_W + from_loss; as in
   activations.py */
static INLINE void NAME(activate_backward_as)(int kind, int parts, Py_ssize_t n,
                                              const REAL *through_W, const REAL *from_loss,
                                              const REAL *h, const REAL *b, REAL *dz, REAL *db)
{
    for (Py_ssize_t i = 0; i < n; i += LANES) {
        vec re, im, more_re, more_im, hr, hi, along;
        NAME(apart)(parts, through_W, i, &re, &im);
        NAME(apart)(parts, from_loss, i, &more_re, &more_im);
        NAME(apart)(parts, h, i, &hr, &hi);
        re += more_re;
        im += more_im;
        if (kind == MODRELU) {
            vec zero = NAME(filled)(0), bias = LOAD(b + i);
            vec length = NAME(modulus)(parts, &hr, &hi);
            if (parts == 2) {
                along = hr * re + hi * im;
                vec r = length - bias, least = NAME(filled)(EPSILON) * length;
                vec stretch = bias / WHERE(r < least, least, r);
                re = WHERE(length == 0, zero, re + stretch * (re - hr * along));
                im = WHERE(length == 0, zero, im + stretch * (im - hi * along));
            } else {
                along = hr * re;
                re = WHERE(length == 0, zero, re);
            }
        } else {
            if (kind == TANH)
                re *= 1 - hr * hr;
            if (kind == RELU)
                re = WHERE(hr > 0, re, NAME(filled)(0));
            along = re;
        }
        NAME(together)(parts, re, im, dz, i);
        STORE(db + i, LOAD(db + i) + along);
    }
}

static void NAME(activate_backward)(int kind, int parts, Py_ssize_t n, const void *through_W,
                                    const void *from_loss, const void *h, const void *b, void *dz,
                                    void *db)
{
    if (kind == MODRELU && parts == 2)
        NAME(activate_backward_as)(MODRELU, 2, n, through_W, from_loss, h, b, dz, db);
    else if (kind == MODRELU)
        NAME(activate_backward_as)(MODRELU, 1, n, through_W, from_loss, h, b, dz, db);
    else
        NAME(activate_backward_as)(kind, parts, n, through_W, from_loss, h, b, dz, db);
}

/* one step of an LSTM or GRU, as in cells/: from a = U x + b and wh = W h, gate under gate of n ≥
   LANES numbers, and the state before (c of an LSTM, h of a GRU) the open gates, c and h */
static INLINE void NAME(open_gates_as)(int kind, Py_ssize_t n, const REAL *a, const REAL *wh,
                                       const REAL *b_h, const REAL *before, REAL *gates, REAL *c,
                                       REAL *h)
{
    for (Py_ssize_t start = 0; start < n; start += LANES) {
        Py_ssize_t i = start + LANES <= n ? start : n - LANES;
        vec first = NAME(logistic)(LOAD(a + i) + LOAD(wh + i));
        vec second = NAME(logistic)(LOAD(a + n + i) + LOAD(wh + n + i));
        vec third = LOAD(a + 2 * n + i), fourth, previous = LOAD(before + i);
        if (kind == LSTM) {
            third = NAME(tangent)(third + LOAD(wh + 2 * n + i));
            fourth = NAME(logistic)(LOAD(a + 3 * n + i) + LOAD(wh + 3 * n + i));
            vec now = second * previous + first * third;
            STORE(c + i, now);
            STORE(h + i, fourth * NAME(tangent)(now));
        } else {
            fourth = LOAD(wh + 2 * n + i) + LOAD(b_h + i);
            third = NAME(tangent)(third + first * fourth);
            STORE(h + i, (1 - second) * third + second * previous);
        }
        STORE(gates + i, first);
        STORE(gates + n + i, second);
        STORE(gates + 2 * n + i, third);
        STORE(gates + 3 * n + i, fourth);
    }
}

static void NAME(open_gates)(int kind, Py_ssize_t n, const void *a, const void *wh,
                             const void *b_h, const void *before, void *gates, void *c, void *h)
{
    if (kind == LSTM)
        NAME(open_gates_as)(LSTM, n, a, wh, b_h, before, gates, c, h);
    else
        NAME(open_gates_as)(GRU, n, a, wh, b_h, before, gates, c, h);
}

/* The gradients d of what stands behind the gates, as in cells/, for that of h. This has three
   parts: from the loss, through the matrices (W_k^T d_k of the step after, gate under gate) and past
   them. past and dpast are what a step hands back besides: of an LSTM dc, of a GRU z dh. The
   fourth of a GRU's d is that of W_n h + b_h. */
static INLINE void NAME(open_gates_backward_as)(int kind, Py_ssize_t n, const REAL *from_loss,
                                                const REAL *through_W, const REAL *gates,
                                                const REAL *c, const REAL *before,
                                                const REAL *past, REAL *d, REAL *dpast)
{
    for (Py_ssize_t start = 0; start < n; start += LANES) {
        Py_ssize_t i = start + LANES <= n ? start : n - LANES;
        vec first = LOAD(gates + i), second = LOAD(gates + n + i), third = LOAD(gates + 2 * n + i);
        vec fourth = LOAD(gates + 3 * n + i), previous = LOAD(before + i), back = LOAD(past + i);
        vec dh = LOAD(from_loss + i) + LOAD(through_W + i) + LOAD(through_W + n + i) +
                 LOAD(through_W + 2 * n + i);
        vec d1, d2, d3, d4;
        if (kind == LSTM) {
            dh += LOAD(through_W + 3 * n + i);
            vec open = NAME(tangent)(LOAD(c + i)), dc = back + dh * fourth * (1 - open * open);
            d1 = dc * third * first * (1 - first);
            d2 = dc * previous * second * (1 - second);
            d3 = dc * first * (1 - third * third);
            d4 = dh * open * fourth * (1 - fourth);
            STORE(dpast + i, dc * second);
        } else {
            dh += back;
            d3 = dh * (1 - second) * (1 - third * third);
            d1 = d3 * fourth * first * (1 - first);
            d2 = dh * (previous - third) * second * (1 - second);
            d4 = d3 * first;
            STORE(dpast + i, dh * second);
        }
        STORE(d + i, d1);
        STORE(d + n + i, d2);
        STORE(d + 2 * n + i, d3);
        STORE(d + 3 * n + i, d4);
    }
}

static void NAME(open_gates_backward)(int kind, Py_ssize_t n, const void *from_loss,
                                      const void *through_W, const void *gates, const void *c,
                                      const void *before, const void *past, void *d, void *dpast)
{
#define BACKWARD(kind)                                                                          \
    NAME(open_gates_backward_as)(kind, n, from_loss, through_W, gates, c, before, past, d, dpast)
    if (kind == LSTM)
        BACKWARD(LSTM);
    else
        BACKWARD(GRU);
#undef BACKWARD
}

/* to[:, :n] = x[:, :n]; rows are too short for memcpy to be fast */
static void NAME(copy)(Py_ssize_t rows, Py_ssize_t n, const void *x, Py_ssize_t x_row, void *to,
                       Py_ssize_t to_row)
{
    const REAL *from_row = x;
    REAL *row = to;
    for (; rows > 0; rows--, from_row += x_row, row += to_row) {
        if (n < LANES)
            for (Py_ssize_t r = 0; r < n; r++)
                row[r] = from_row[r];
        else
            for (Py_ssize_t start = 0; start < n; start += LANES) {
                Py_ssize_t r = start + LANES <= n ? start : n - LANES;
                STORE(row + r, LOAD(from_row + r));
            }
    }
}

/* to[:, :width] = x[:, :width], real numbers, each written `parts` times: what PAIRS multiply */
static void NAME(spread)(int parts, Py_ssize_t rows, Py_ssize_t width, const void *x, Py_ssize_t B,
                         void *to, Py_ssize_t R)
{
    for (Py_ssize_t n = 0; n < rows; n++) {
        const REAL *RESTRICT from = (const REAL *)x + n * B;
        REAL *RESTRICT twice = (REAL *)to + n * R;
        if (parts == 1)
            memcpy(twice, from, width * sizeof(REAL));
        else
            for (Py_ssize_t b = 0; b < width; b++)
                twice[2 * b] = twice[2 * b + 1] = from[b];
    }
}

/* y[:, :width] = the sum of each number's parts, + c where it is given */
static void NAME(gather)(int parts, Py_ssize_t rows, Py_ssize_t width, const void *x, Py_ssize_t R,
                         const void *c, void *y, Py_ssize_t B)
{
    for (Py_ssize_t n = 0; n < rows; n++) {
        const REAL *RESTRICT from = (const REAL *)x + n * R;
        REAL *RESTRICT to = (REAL *)y + n * B, constant = c ? ((const REAL *)c)[n] : 0;
        for (Py_ssize_t b = 0; b < width; b++)
            to[b] = (parts == 1 ? from[b] : from[2 * b] + from[2 * b + 1]) + constant;
    }
}

/* u[:, :width] = U[:, labels], numbers of `parts` elements; four at a time, for the loop is so short
   that how it lies in memory would else decide its speed */
static INLINE void NAME(look_up_as)(int parts, Py_ssize_t N, Py_ssize_t D, Py_ssize_t width,
                                    const REAL *U, const int64_t *labels, REAL *u, Py_ssize_t R)
{
#define NUMBER(b) memcpy(u + parts * (b), U + parts * labels[b], parts * sizeof(REAL))
    for (; N > 0; N--, U += D * parts, u += R) {
        Py_ssize_t b = 0;
        for (; b + 4 <= width; b += 4)
            for (int i = 0; i < 4; i++)
                NUMBER(b + i);
        for (; b < width; b++)
            NUMBER(b);
    }
#undef NUMBER
}

static void NAME(look_up)(int parts, Py_ssize_t N, Py_ssize_t D, Py_ssize_t width, const void *U,
                          const int64_t *labels, void *u, Py_ssize_t R)
{
    if (parts == 1)
        NAME(look_up_as)(1, N, D, width, U, labels, u, R);
    else
        NAME(look_up_as)(2, N, D, width, U, labels, u, R);
}

/* np.add.at(dUT, labels, dz.T), dUT (D, N) being the transpose, in double precision: a label that
   comes again and again would else wait for its own last sum */
static void NAME(look_up_backward)(int parts, Py_ssize_t N, Py_ssize_t width, const void *dz,
                                   Py_ssize_t R, const int64_t *labels, double *dUT)
{
    for (Py_ssize_t b = 0; b < width; b++) {
        const REAL *RESTRICT from = (const REAL *)dz + b * parts;
        double *RESTRICT column = dUT + labels[b] * N * parts;
        for (Py_ssize_t n = 0; n < N; n++)
            for (int part = 0; part < parts; part++)
                column[n * parts + part] += from[n * R + part];
    }
}

/* y = λ x, row by row: N rows of n ≥ LANES elements of complex numbers */
static void NAME(diagonal)(Py_ssize_t N, Py_ssize_t n, const void *lam, const void *x,
                           Py_ssize_t x_row, void *y, Py_ssize_t y_row)
{
    for (Py_ssize_t i = 0; i < N; i++)
        NAME(columns)(COMPLEXES, 1, 1, (const REAL *)lam + 2 * i, (const REAL *)x + i * x_row,
                      x_row, (REAL *)y + i * y_row, y_row, n);
}

/* dx = λ^H dy, and G += dy conj(x) of each row, lane by lane; all rows n apart */
static void NAME(diagonal_backward)(Py_ssize_t N, Py_ssize_t n, const void *adjoint,
                                    const void *dy, const void *x, void *dx, void *G)
{
    Sweep s = {COMPLEXES, 1, 1, NULL, 1, 1, n};
    for (Py_ssize_t i = 0; i < N; i++)
        NAME(grams)(s, (const REAL *)dy + i * n, n, (const REAL *)x + i * n, n, n,
                    (vec *)G + 2 * i);
    NAME(diagonal)(N, n, adjoint, dy, n, dx, n);
}

const Kernels NAME(kernels) = {
    LANES,
    NAME(sweep),
    NAME(accumulate),
    NAME(sweep_backward),
    NAME(fold),
#ifdef VECTORS
    NAME(butterflies),
    NAME(butterflies_backward),
#else
    NULL,
    NULL,
#endif
    NAME(row_sweep),
    NAME(row_accumulate),
    NAME(activate),
    NAME(activate_backward),
    NAME(open_gates),
    NAME(open_gates_backward),
    NAME(copy),
    NAME(spread),
    NAME(gather),
    NAME(look_up),
    NAME(look_up_backward),
    NAME(diagonal),
    NAME(diagonal_backward),
};

#undef ENTRY
#undef LANES
#undef vec
#undef bits
#undef WHERE
#undef EVENS
#undef ODDS
#undef FIRST_PAIRS
#undef LAST_PAIRS
#undef TIMES_I
#undef SWAPPED
#undef LOAD
#undef STORE
#undef GRAM_ROWS
