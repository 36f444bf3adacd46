# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""The Kronecker product and its backward, compiled.

Each function is the twin of the NumPy one in kronecker.py, whose line stands above the
loop that replaces it. All arrays are flat and contiguous; a row of ``plan`` is one
sweep, (offset of W_f in W, P, Q, left, right), from (left, Q, right) to (left, P, right).
"""

ctypedef fused scalar:
    float
    double
    float complex
    double complex


def matvec(
    const scalar[::1] W,
    const Py_ssize_t[:, ::1] plan,
    const scalar[::1] x,
    scalar[::1] y,
    scalar[::1] scratch,
):
    """y = (W_0 ⊗ … ⊗ W_{F-1}) x; scratch holds two arrays of the largest size between sweeps."""
    cdef Py_ssize_t F = plan.shape[0], half = scratch.shape[0] // 2, s
    if y.shape[0] == 0:
        return
    cdef const scalar* source = &x[0]
    cdef scalar* target
    with nogil:
        for s in range(F):
            target = &y[0] if s == F - 1 else &scratch[(s % 2) * half]
            apply_factor(
                &W[plan[s, 0]], source, target, plan[s, 1], plan[s, 2], plan[s, 3], plan[s, 4]
            )
            source = target


def backward(
    const scalar[::1] W,
    const Py_ssize_t[:, ::1] plan,
    const scalar[::1] x,
    const scalar[::1] dy,
    scalar[::1] dW,
    scalar[::1] dx,
    scalar[::1] scratch,
):
    """Add to dW and set dx; scratch holds F + 2 arrays of the largest size between sweeps."""
    cdef Py_ssize_t F = plan.shape[0], size = scratch.shape[0] // (plan.shape[0] + 2), s
    cdef Py_ssize_t offset, P, Q, left, right
    if dy.shape[0] == 0:
        return
    cdef const scalar* source = &x[0]
    cdef const scalar* gradient = &dy[0]
    cdef scalar* target
    with nogil:
        # scratch[s] becomes x before sweep s, for s = 1 … F - 1
        for s in range(F - 1):
            target = &scratch[(s + 1) * size]
            apply_factor(
                &W[plan[s, 0]], source, target, plan[s, 1], plan[s, 2], plan[s, 3], plan[s, 4]
            )
            source = target
        for s in range(F - 1, -1, -1):
            offset, P, Q = plan[s, 0], plan[s, 1], plan[s, 2]
            left, right = plan[s, 3], plan[s, 4]
            source = &x[0] if s == 0 else &scratch[s * size]
            accumulate_factor(gradient, source, &dW[offset], P, Q, left, right)
            target = &dx[0] if s == 0 else &scratch[(F + s % 2) * size]
            apply_adjoint(&W[offset], gradient, target, P, Q, left, right)
            gradient = target


cdef void apply_factor(
    const scalar* W, const scalar* x, scalar* y,
    Py_ssize_t P, Py_ssize_t Q, Py_ssize_t left, Py_ssize_t right,
) noexcept nogil:
    # y = np.matmul(W, x)
    cdef Py_ssize_t l, p, q, r
    cdef scalar w
    for l in range(left):
        for p in range(P):
            w = W[p * Q]
            for r in range(right):
                y[p * right + r] = w * x[r]
            for q in range(1, Q):
                w = W[p * Q + q]
                for r in range(right):
                    y[p * right + r] = y[p * right + r] + w * x[q * right + r]
        x += Q * right
        y += P * right


cdef void apply_adjoint(
    const scalar* W, const scalar* dy, scalar* dx,
    Py_ssize_t P, Py_ssize_t Q, Py_ssize_t left, Py_ssize_t right,
) noexcept nogil:
    # dx = np.matmul(W.conj().T, dy)
    cdef Py_ssize_t l, p, q, r
    cdef scalar w
    for l in range(left):
        for q in range(Q):
            w = conjugate(W[q])
            for r in range(right):
                dx[q * right + r] = w * dy[r]
            for p in range(1, P):
                w = conjugate(W[p * Q + q])
                for r in range(right):
                    dx[q * right + r] = dx[q * right + r] + w * dy[p * right + r]
        dx += Q * right
        dy += P * right


cdef void accumulate_factor(
    const scalar* dy, const scalar* x, scalar* dW,
    Py_ssize_t P, Py_ssize_t Q, Py_ssize_t left, Py_ssize_t right,
) noexcept nogil:
    # dW += np.tensordot(dy, x.conj(), axes=((0, 2), (0, 2)))
    cdef Py_ssize_t l, p, q, r
    cdef scalar total
    for l in range(left):
        for p in range(P):
            for q in range(Q):
                total = 0
                for r in range(right):
                    total = total + dy[p * right + r] * conjugate(x[q * right + r])
                dW[p * Q + q] = dW[p * Q + q] + total
        x += Q * right
        dy += P * right


cdef inline scalar conjugate(scalar z) noexcept nogil:
    if scalar is float or scalar is double:
        return z
    else:
        return z.conjugate()
