/* The innermost loops, on vectors of REAL that are BYTES long.

   Included by simd.h once for each instruction set and precision, with NAME(x) a name of
   its own for each. Arrays are flat. A complex one is planar: a plane of real parts, and
   `stride` elements further a plane of imaginary parts; planes is 1 or 2. A sweep maps
   (left, Q, R) to (left, P, R), as in kronecker.py. The NumPy line stands above each loop. */

#define LANES ((Py_ssize_t)(BYTES / sizeof(REAL)))
#define vec NAME(vec)
#define bits NAME(bits)
#ifdef VECTORS
typedef REAL vec __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER bits __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
#define WHERE(condition, yes, no) \
    ((vec)(((bits)(condition) & (bits)(yes)) | (~(bits)(condition) & (bits)(no))))
#else /* a compiler without vector types: vectors of one lane */
typedef REAL vec;
#define WHERE(condition, yes, no) ((condition) ? (yes) : (no))
#endif
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, value) (*(vec *)(p) = (value))

/* Sum of the lanes. */
static INLINE double NAME(total)(vec v)
{
    const REAL *lane = (const REAL *)&v;
    double sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += lane[i];
    return sum;
}

/* Ones in the last n lanes. */
static INLINE vec NAME(last)(Py_ssize_t n)
{
    REAL lane[BYTES / sizeof(REAL)];
    for (Py_ssize_t i = 0; i < LANES; i++)
        lane[i] = i >= LANES - n;
    return LOAD(lane);
}

/* rows ≤ 4 of y = W x for one vector of columns. */
static INLINE void NAME(tile)(int planes, int rows, Py_ssize_t Q, const REAL *W, const REAL *Wi,
                              const REAL *x, Py_ssize_t x_stride, REAL *y, Py_ssize_t y_stride,
                              Py_ssize_t R)
{
    vec re[4] = {0}, im[4] = {0};
    for (Py_ssize_t q = 0; q < Q; q++) {
        vec xr = LOAD(x + q * R), xi = planes == 2 ? LOAD(x + x_stride + q * R) : xr;
        for (int p = 0; p < rows; p++) {
            re[p] += W[p * Q + q] * xr;
            if (planes == 2) {
                im[p] += W[p * Q + q] * xi;
                re[p] -= Wi[p * Q + q] * xi;
                im[p] += Wi[p * Q + q] * xr;
            }
        }
    }
    for (int p = 0; p < rows; p++) {
        STORE(y + p * R, re[p]);
        if (planes == 2)
            STORE(y + y_stride + p * R, im[p]);
    }
}

/* Columns r0 … r1 of one left index. The last vector overlaps the one before it. */
static INLINE void NAME(columns)(int planes, Py_ssize_t P, Py_ssize_t Q, const REAL *W,
                                 const REAL *Wi, const REAL *x, Py_ssize_t x_stride, REAL *y,
                                 Py_ssize_t y_stride, Py_ssize_t R, Py_ssize_t r0, Py_ssize_t r1)
{
    if (r1 - r0 < LANES) {
        for (Py_ssize_t p = 0; p < P; p++)
            for (Py_ssize_t r = r0; r < r1; r++) {
                REAL re = 0, im = 0;
                for (Py_ssize_t q = 0; q < Q; q++) {
                    re += W[p * Q + q] * x[q * R + r];
                    if (planes == 2) {
                        im += W[p * Q + q] * x[x_stride + q * R + r];
                        re -= Wi[p * Q + q] * x[x_stride + q * R + r];
                        im += Wi[p * Q + q] * x[q * R + r];
                    }
                }
                y[p * R + r] = re;
                if (planes == 2)
                    y[y_stride + p * R + r] = im;
            }
        return;
    }
    for (Py_ssize_t start = r0; start < r1; start += LANES) {
        Py_ssize_t r = start + LANES <= r1 ? start : r1 - LANES, p = 0;
        for (; p + 4 <= P; p += 4)
            NAME(tile)(planes, 4, Q, W + p * Q, Wi + p * Q, x + r, x_stride, y + p * R + r,
                       y_stride, R);
        if (P - p == 3)
            NAME(tile)(planes, 3, Q, W + p * Q, Wi + p * Q, x + r, x_stride, y + p * R + r,
                       y_stride, R);
        if (P - p == 2)
            NAME(tile)(planes, 2, Q, W + p * Q, Wi + p * Q, x + r, x_stride, y + p * R + r,
                       y_stride, R);
        if (P - p == 1)
            NAME(tile)(planes, 1, Q, W + p * Q, Wi + p * Q, x + r, x_stride, y + p * R + r,
                       y_stride, R);
    }
}

/* y = np.matmul(W, x), columns r0 … r1 of each left index */
static void NAME(sweep)(int planes, Py_ssize_t P, Py_ssize_t Q, const void *W, const void *x,
                        Py_ssize_t x_stride, void *y, Py_ssize_t y_stride, Py_ssize_t left,
                        Py_ssize_t R, Py_ssize_t r0, Py_ssize_t r1)
{
    const REAL *Wr = W, *Wi = planes == 2 ? Wr + P * Q : Wr, *from = x;
    REAL *to = y;
    for (Py_ssize_t l = 0; l < left; l++, from += Q * R, to += P * R) {
        /* constants, so that the compiler unrolls the common sizes */
        if (planes == 2 && P == 4 && Q == 4)
            NAME(columns)(2, 4, 4, Wr, Wi, from, x_stride, to, y_stride, R, r0, r1);
        else if (planes == 2 && P == 2 && Q == 2)
            NAME(columns)(2, 2, 2, Wr, Wi, from, x_stride, to, y_stride, R, r0, r1);
        else if (planes == 2)
            NAME(columns)(2, P, Q, Wr, Wi, from, x_stride, to, y_stride, R, r0, r1);
        else if (P == 4 && Q == 4)
            NAME(columns)(1, 4, 4, Wr, Wi, from, x_stride, to, y_stride, R, r0, r1);
        else
            NAME(columns)(1, P, Q, Wr, Wi, from, x_stride, to, y_stride, R, r0, r1);
    }
}

/* prows × qcols ≤ 2 × 2 entries of G += dy conj(x)^T, over n columns of `left` indices. */
static INLINE void NAME(gram)(int planes, int prows, int qcols, const REAL *dy,
                              Py_ssize_t dy_stride, Py_ssize_t dy_left, const REAL *x,
                              Py_ssize_t x_stride, Py_ssize_t x_left, Py_ssize_t R,
                              Py_ssize_t left, Py_ssize_t n, vec *G, Py_ssize_t Q, Py_ssize_t PQ)
{
    vec re[4], im[4];
    for (int p = 0; p < prows; p++)
        for (int q = 0; q < qcols; q++) {
            re[2 * p + q] = G[p * Q + q];
            im[2 * p + q] = planes == 2 ? G[PQ + p * Q + q] : re[0];
        }
    vec tail = n % LANES ? NAME(last)(n % LANES) : re[0];
    for (Py_ssize_t l = 0; l < left; l++)
        for (Py_ssize_t start = 0; start < n; start += LANES) {
            int overlap = start + LANES > n;
            Py_ssize_t r = overlap ? n - LANES : start;
            vec xr[2], xi[2];
            for (int q = 0; q < qcols; q++) {
                xr[q] = LOAD(x + l * x_left + q * R + r);
                xi[q] = planes == 2 ? LOAD(x + x_stride + l * x_left + q * R + r) : xr[q];
            }
            for (int p = 0; p < prows; p++) {
                vec dr = LOAD(dy + l * dy_left + p * R + r);
                vec di = planes == 2 ? LOAD(dy + dy_stride + l * dy_left + p * R + r) : dr;
                if (overlap) {
                    dr *= tail;
                    di *= tail;
                }
                for (int q = 0; q < qcols; q++) {
                    re[2 * p + q] += dr * xr[q];
                    if (planes == 2) {
                        im[2 * p + q] += di * xr[q];
                        re[2 * p + q] += di * xi[q];
                        im[2 * p + q] -= dr * xi[q];
                    }
                }
            }
        }
    for (int p = 0; p < prows; p++)
        for (int q = 0; q < qcols; q++) {
            G[p * Q + q] = re[2 * p + q];
            if (planes == 2)
                G[PQ + p * Q + q] = im[2 * p + q];
        }
}

static INLINE void NAME(gram_blocks)(int planes, Py_ssize_t P, Py_ssize_t Q, const REAL *dy,
                                     Py_ssize_t dy_stride, const REAL *x, Py_ssize_t x_stride,
                                     Py_ssize_t R, Py_ssize_t left, Py_ssize_t n, vec *G)
{
    for (Py_ssize_t p = 0; p < P; p += 2)
        for (Py_ssize_t q = 0; q < Q; q += 2) {
            const REAL *d = dy + p * R, *s = x + q * R;
            vec *g = G + p * Q + q;
            if (P - p > 1 && Q - q > 1)
                NAME(gram)(planes, 2, 2, d, dy_stride, P * R, s, x_stride, Q * R, R, left, n, g, Q,
                           P * Q);
            else if (P - p > 1)
                NAME(gram)(planes, 2, 1, d, dy_stride, P * R, s, x_stride, Q * R, R, left, n, g, Q,
                           P * Q);
            else if (Q - q > 1)
                NAME(gram)(planes, 1, 2, d, dy_stride, P * R, s, x_stride, Q * R, R, left, n, g, Q,
                           P * Q);
            else
                NAME(gram)(planes, 1, 1, d, dy_stride, P * R, s, x_stride, Q * R, R, left, n, g, Q,
                           P * Q);
        }
}

/* G += np.tensordot(dy, x.conj(), axes=((0, 2), (0, 2))), lane by lane: G holds P·Q vectors a
   plane, which fold() sums; columns r0 … r1 of each left index */
static void NAME(accumulate)(int planes, Py_ssize_t P, Py_ssize_t Q, const void *dy,
                             Py_ssize_t dy_stride, const void *x, Py_ssize_t x_stride,
                             Py_ssize_t left, Py_ssize_t R, Py_ssize_t r0, Py_ssize_t r1, void *G)
{
    const REAL *d = (const REAL *)dy + r0, *s = (const REAL *)x + r0;
    if (r1 - r0 < LANES) {
        REAL *lane0 = G; /* the first lane of each vector */
        for (Py_ssize_t l = 0; l < left; l++, d += P * R, s += Q * R)
            for (Py_ssize_t p = 0; p < P; p++)
                for (Py_ssize_t q = 0; q < Q; q++) {
                    REAL re = 0, im = 0;
                    for (Py_ssize_t r = 0; r < r1 - r0; r++) {
                        re += d[p * R + r] * s[q * R + r];
                        if (planes == 2) {
                            im += d[dy_stride + p * R + r] * s[q * R + r];
                            re += d[dy_stride + p * R + r] * s[x_stride + q * R + r];
                            im -= d[p * R + r] * s[x_stride + q * R + r];
                        }
                    }
                    lane0[(p * Q + q) * LANES] += re;
                    if (planes == 2)
                        lane0[(P * Q + p * Q + q) * LANES] += im;
                }
        return;
    }
    if (planes == 2 && P == 4 && Q == 4)
        NAME(gram_blocks)(2, 4, 4, d, dy_stride, s, x_stride, R, left, r1 - r0, G);
    else if (planes == 2)
        NAME(gram_blocks)(2, P, Q, d, dy_stride, s, x_stride, R, left, r1 - r0, G);
    else
        NAME(gram_blocks)(1, P, Q, d, dy_stride, s, x_stride, R, left, r1 - r0, G);
}

/* sums += G.sum(axis=lanes), in double precision; G = 0 */
static void NAME(fold)(Py_ssize_t n, void *G, double *sums)
{
    for (Py_ssize_t i = 0; i < n; i++)
        sums[i] += NAME(total)(((vec *)G)[i]);
    memset(G, 0, n * sizeof(vec));
}

static INLINE vec NAME(filled)(REAL value)
{
    vec v = {0};
    return v + value;
}

static INLINE vec NAME(root)(vec v)
{
    REAL *lane = (REAL *)&v;
    for (int i = 0; i < LANES; i++)
        lane[i] = SQRT(lane[i]);
    return v;
}

static INLINE vec NAME(tangent)(vec v)
{
    REAL *lane = (REAL *)&v;
    for (int i = 0; i < LANES; i++)
        lane[i] = TANH(lane[i]);
    return v;
}

/* np.maximum(v, 0): a NaN stays one */
static INLINE vec NAME(positive)(vec v)
{
    return WHERE(v <= 0, NAME(filled)(0), v);
}

/* np.abs(z), and z becomes z / np.abs(z), 0 at 0; scaled, lest a square over- or underflow */
static INLINE vec NAME(modulus)(int planes, vec *re, vec *im)
{
    vec a = WHERE(*re < 0, -*re, *re), one = NAME(filled)(1), zero = NAME(filled)(0);
    if (planes == 1) {
        *re = WHERE(a == 0, zero, *re / a);
        return a;
    }
    a += WHERE(*im < 0, -*im, *im);
    vec up = WHERE(a < SMALL, NAME(filled)(SCALE), WHERE(a > LARGE, NAME(filled)(1 / SCALE), one));
    vec down = WHERE(a < SMALL, NAME(filled)(1 / SCALE), WHERE(a > LARGE, NAME(filled)(SCALE), one));
    *re *= up;
    *im *= up;
    vec r = NAME(root)(*re * *re + *im * *im), inverse = WHERE(r == 0, zero, one / r);
    *re *= inverse;
    *im *= inverse;
    return r * down;
}

/* h = σ(z + u, b), as in activations.py; n is a multiple of the lanes */
static INLINE void NAME(activate_as)(int kind, int planes, Py_ssize_t n, const REAL *z,
                                     const REAL *u, const REAL *b, REAL *h)
{
    for (Py_ssize_t i = 0; i < n; i += LANES) {
        vec re = LOAD(z + i) + LOAD(u + i), bias = LOAD(b + i);
        vec im = re;
        if (planes == 2)
            im = LOAD(z + n + i) + LOAD(u + n + i);
        if (kind == MODRELU) {
            vec grown = NAME(positive)(NAME(modulus)(planes, &re, &im) + bias);
            re *= grown;
            im *= grown;
        } else {
            re += bias;
            if (kind == TANH_KIND)
                re = NAME(tangent)(re);
            if (kind == RELU)
                re = NAME(positive)(re);
        }
        STORE(h + i, re);
        if (planes == 2)
            STORE(h + n + i, im);
    }
}

static void NAME(activate)(int kind, int planes, Py_ssize_t n, const void *z, const void *u,
                           const void *b, void *h)
{
    if (kind == MODRELU && planes == 2)
        NAME(activate_as)(MODRELU, 2, n, z, u, b, h);
    else if (kind == MODRELU)
        NAME(activate_as)(MODRELU, 1, n, z, u, b, h);
    else
        NAME(activate_as)(kind, planes, n, z, u, b, h);
}

/* dz and db += its real part along u, for the gradient g + direct of h; as in activations.py */
static INLINE void NAME(activate_backward_as)(int kind, int planes, Py_ssize_t n, const REAL *g,
                                              const REAL *direct, const REAL *h, const REAL *b,
                                              REAL *dz, REAL *db)
{
    for (Py_ssize_t i = 0; i < n; i += LANES) {
        vec re = LOAD(g + i) + LOAD(direct + i), hr = LOAD(h + i);
        vec im = re;
        if (planes == 2)
            im = LOAD(g + n + i) + LOAD(direct + n + i);
        vec hi = planes == 2 ? LOAD(h + n + i) : hr;
        vec along = re;
        if (kind == MODRELU) {
            vec zero = NAME(filled)(0), bias = LOAD(b + i);
            vec length = NAME(modulus)(planes, &hr, &hi);
            if (planes == 2) {
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
            if (kind == TANH_KIND)
                re *= 1 - hr * hr;
            if (kind == RELU)
                re = WHERE(hr > 0, re, NAME(filled)(0));
            along = re;
        }
        STORE(dz + i, re);
        if (planes == 2)
            STORE(dz + n + i, im);
        STORE(db + i, LOAD(db + i) + along);
    }
}

static void NAME(activate_backward)(int kind, int planes, Py_ssize_t n, const void *g,
                                    const void *direct, const void *h, const void *b, void *dz,
                                    void *db)
{
    if (kind == MODRELU && planes == 2)
        NAME(activate_backward_as)(MODRELU, 2, n, g, direct, h, b, dz, db);
    else if (kind == MODRELU)
        NAME(activate_backward_as)(MODRELU, 1, n, g, direct, h, b, dz, db);
    else
        NAME(activate_backward_as)(kind, planes, n, g, direct, h, b, dz, db);
}

/* planar[:rows, :width] = array[:, first : first + width], real and imaginary parts apart */
static void NAME(split)(int planes, Py_ssize_t rows, Py_ssize_t width, const void *array,
                        Py_ssize_t B, void *planar, Py_ssize_t stride, Py_ssize_t row_stride)
{
    for (Py_ssize_t n = 0; n < rows; n++) {
        const REAL *RESTRICT from = (const REAL *)array + n * B * planes;
        REAL *RESTRICT re = (REAL *)planar + n * row_stride, *RESTRICT im = re + stride;
        if (planes == 1)
            memcpy(re, from, width * sizeof(REAL));
        else
            for (Py_ssize_t b = 0; b < width; b++) {
                re[b] = from[2 * b];
                im[b] = from[2 * b + 1];
            }
    }
}

/* array[:, first : first + width] = planar, the inverse */
static void NAME(join)(int planes, Py_ssize_t rows, Py_ssize_t width, const void *planar,
                       Py_ssize_t stride, void *array, Py_ssize_t B)
{
    for (Py_ssize_t n = 0; n < rows; n++) {
        const REAL *RESTRICT re = (const REAL *)planar + n * width, *RESTRICT im = re + stride;
        REAL *RESTRICT to = (REAL *)array + n * B * planes;
        if (planes == 1)
            memcpy(to, re, width * sizeof(REAL));
        else
            for (Py_ssize_t b = 0; b < width; b++) {
                to[2 * b] = re[b];
                to[2 * b + 1] = im[b];
            }
    }
}

/* u = U[:, labels] */
static void NAME(look_up)(int planes, Py_ssize_t N, Py_ssize_t D, Py_ssize_t width, const void *U,
                          const int64_t *labels, void *u, Py_ssize_t stride)
{
    for (int plane = 0; plane < planes; plane++)
        for (Py_ssize_t n = 0; n < N; n++) {
            const REAL *RESTRICT row = (const REAL *)U + (plane * N + n) * D;
            REAL *RESTRICT to = (REAL *)u + plane * stride + n * width;
            for (Py_ssize_t b = 0; b < width; b++)
                to[b] = row[labels[b]];
        }
}

/* np.add.at(dUT, labels, dz.T), dUT (D, planes, N) being the transpose: a label that comes again
   and again would else wait for its own last sum */
static void NAME(look_up_backward)(int planes, Py_ssize_t N, Py_ssize_t width, const void *dz,
                                   Py_ssize_t stride, const int64_t *labels, void *dUT)
{
    for (Py_ssize_t b = 0; b < width; b++)
        for (int plane = 0; plane < planes; plane++) {
            const REAL *RESTRICT from = (const REAL *)dz + plane * stride + b;
            REAL *RESTRICT column = (REAL *)dUT + (labels[b] * planes + plane) * N;
            for (Py_ssize_t n = 0; n < N; n++)
                column[n] += from[n * width];
        }
}

static const Kernels NAME(kernels) = {
    BYTES / sizeof(REAL),    NAME(sweep),    NAME(accumulate), NAME(fold),
    NAME(activate),          NAME(activate_backward),          NAME(split),
    NAME(join),              NAME(look_up),  NAME(look_up_backward),
};

#undef LANES
#undef vec
#undef bits
#undef WHERE
#undef LOAD
#undef STORE
