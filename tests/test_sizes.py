"""Sizes one below and one above every boundary that the code has, against a dense oracle.

A mistake may act beyond some size only: in the third block of a batch, in late time steps, on the
rows left over from whole vectors. The oracle multiplies each matrix out, keeps everything, and goes
through time once, in double precision: nothing in it is cut, gathered, merged or compiled.

====================================  ====================================================
boundary                              where
====================================  ====================================================
B = 32, 64, 96                        ``plans.BLOCK``: a block of a batch more
B = 64, 128                           ``plans.LARGE_BLOCK``: the same with a factor above 32
B = 4, 8, 16                          a row of a block fills a vector
T = 16, 32, 48                        steps gathered for one product dU or dV; fewer where
                                      a state is large
T B = 4096                            ``arrays.COLUMNS``
D = 16                                ``compiled.FEW_LABELS``
M = 64                                outputs read out by the kernels
factors of 16, 32                     ``plans.LARGEST_FACTOR``, ``LARGEST_IN_RECURRENCE``
N, M, D modulo 2, 4, 8                tiles of a product: rows, and rows left over
right B = 128, 256, 512               ``PIECE`` of a backward sweep
left = 4, 8                           rows of a product with a single column
left = 1024                           ``FEW_ROWS`` of them, before a sum becomes double
panels = 8                            ``compiled.CHUNKS``
rows B = 2^18 bytes                   ``plans.PANEL``
====================================  ====================================================
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

import kru_ref as kru
from kru_ref import arrays, readout
from kru_ref import engine as compiled_engine
from kru_ref.activations import ACTIVATIONS
from kru_ref.cells import cell as cells_cell
from kru_ref.engine import backend
from kru_ref.engine.recurrence import ReadoutGradient
from kru_ref.kronecker import Backward
from kru_ref.matrices import Dense
from kru_ref.restricted import RestrictedUnitary

LEVELS = (
    backend.INSTRUCTION_SETS[: 1 + int(backend.kernels.supported_level())]
    if (backend.kernels)
    else ()
)


class Tolerances(NamedTuple):
    """Of errors relative to the largest entry, by precision."""

    double: float = 2e-12
    single: float = 5e-4


class Size(NamedTuple):
    """A network and a batch; one line of a table of boundaries.

    x is "real", "complex" or "labels", B columns of it; of the states' own gradient the last K
    steps are given, all of them where K is 0. ``matrix`` is a tuple of factors' shapes, or "dense"
    or "restricted". With a ``drive`` above 0, U x has that size in every step, so that all states
    saturate. Where it is ``steady``, the loss pulls at each output alike in every step, and sums
    over time grow.
    """

    kind: str
    N: int
    matrix: Any
    D: int = 3
    M: int = 2
    T: int = 3
    B: int = 2
    x: str = "real"
    K: int = 0
    drive: float = 0.0
    steady: bool = False
    tolerances: Tolerances = Tolerances()


KINDS = {
    "modrelu": ("modrelu", "float"),
    "complex": ("modrelu", "complex"),
    "tanh": ("tanh", "float"),
    "relu": ("relu", "float"),
    "identity": ("identity", "float"),
    "complex identity": ("identity", "complex"),
    "leaky tanh": ("tanh", "float"),
    "leaky complex": ("modrelu", "complex"),
}
LEAK = 0.375  # which single precision holds


def cell_of(size, engine, precision):
    """Return the cell of a size, on one engine, in one precision."""
    backend = "numpy" if engine == "numpy" else "cython"
    matrix = {"dense": kru.Dense(backend=backend), "restricted": RestrictedUnitary(1)}.get(
        size.matrix
    ) or kru.Kronecker(size.matrix, backend)
    bits = {"double": 64, "single": 32}[precision]
    if size.kind in ("lstm", "gru"):
        return {"lstm": kru.LSTM, "gru": kru.GRU}[size.kind](
            size.D, size.N, matrix, dtype=f"float{bits}"
        )
    activation, numbers = KINDS[size.kind]
    dtype = f"complex{2 * bits}" if numbers == "complex" else f"float{bits}"
    leak = LEAK if size.kind.startswith("leaky") else 1.0
    return kru.RNN(size.D, size.N, matrix, activation, dtype, leak=leak)


def model_of(size, engine, precision):
    return kru.SequenceModel(cell_of(size, engine, precision), size.M)


class Batch(NamedTuple):
    """Parameters, input and gradients of the outputs, whose numbers single precision holds."""

    params: dict[str, np.ndarray]
    x: np.ndarray
    dlogits: np.ndarray  # (T, M, B)
    dh: np.ndarray  # (K, N, B)
    dc: np.ndarray  # (N, B), of an LSTM


def batch_of(size, seed):
    """Draw a batch."""
    rng = np.random.default_rng(seed)
    model = model_of(size, "numpy", "single")
    params = model.init(rng)
    for name, p in params.items():
        if name.endswith((".b", ".b_h", ".c")):
            params[name] = rng.uniform(-0.2, 0.1, p.shape).astype(p.dtype)
    T, N, B, is_complex = size.T, size.N, size.B, model.cell.is_complex

    def drawn(*shape, is_complex=False):
        a = rng.standard_normal(shape).astype("float32")
        return a + 1j * rng.standard_normal(shape).astype("float32") if is_complex else a

    if size.x == "labels":
        x = rng.integers(size.D, size=(T, B))
    else:
        x = drawn(T, size.D, B, is_complex=size.x == "complex")
        x = x.astype(np.result_type(x, np.float64))
    if size.drive:
        # open gates, and states of both signs behind them
        signs = [
            {".g": None, ".n": None, "": None, ".z": -1}.get(g, 1) for g in model.cell.gate_names
        ]
        either = np.sign(drawn(N))
        rows = np.concatenate([either if sign is None else sign * np.ones(N) for sign in signs])
        params["cell.U"][:] = size.drive / size.D * rows[:, None]
        x[:] = 1
    dlogits, dh = drawn(T, size.M, B), drawn(size.K or T, N, B, is_complex=is_complex)
    if size.steady:
        for name, p in params.items():
            params[name] = p * p.dtype.type(0.5) if ".W" in name else p
            params[name] = -np.abs(p) if name == "cell.b" else params[name]
        dlogits[:], dh[:] = np.float32(0.1), dh[:1, :, :1]
    return Batch(params, x, dlogits, dh, drawn(N, B))


# The oracle


def dense(cell, p, gate):
    """Return a gate's matrix W (N, N), multiplied out."""
    if isinstance(cell.matrix, RestrictedUnitary):
        W = functools.reduce(np.matmul, stages(cell.matrix, p[f"W{gate}.phases"], *v_of(p, gate)))
        return W if cell.is_complex else np.block([[W.real, -W.imag], [W.imag, W.real]])
    names = [name for name in cell.matrix_names if name.startswith(f"W{gate}")]
    return functools.reduce(np.kron, [p[name] for name in names])


def v_of(p, gate):
    return p[f"W{gate}.reflections"]


def stages(matrix, phases, v_1, v_2):
    """Return D_3, R_2, F^-1, D_2, Π, R_1, F and D_1."""
    n = len(v_1)
    index = np.arange(n)
    F = np.exp(-2j * np.pi * np.outer(index, index) / n) / np.sqrt(n)
    order = np.random.default_rng(matrix.permutation_seed).permutation(n)
    D = [np.diag(np.exp(1j * phase)) for phase in phases]
    R = [np.eye(n) - 2 * np.outer(v, v.conj()) / np.vdot(v, v).real for v in (v_1, v_2)]
    return [D[2], R[1], F.conj().T, D[1], np.eye(n)[order] + 0j, R[0], F, D[0]]


def parameters_gradient(cell, p, gate, dW):
    """Return the gradients of what a gate's matrix is made from, for that of its entries."""
    if isinstance(cell.matrix, RestrictedUnitary):
        n = p[f"W{gate}.phases"].shape[1]
        if not cell.is_complex:
            dW = dW[:n, :n] + dW[n:, n:] + 1j * (dW[n:, :n] - dW[:n, n:])
        phases, v = p[f"W{gate}.phases"], v_of(p, gate)
        made = stages(cell.matrix, phases, *v)

        def of_stage(i):
            left = functools.reduce(np.matmul, made[:i], np.eye(n))
            right = functools.reduce(np.matmul, made[i + 1 :], np.eye(n))
            return left.conj().T @ dW @ right.conj().T

        def of_phase(i):
            return (np.diag(of_stage(i)).conj() * 1j * np.diag(made[i])).real

        def of_reflection(i, v):
            dR, s = of_stage(i), np.vdot(v, v).real
            return -2 / s * (dR + dR.conj().T) @ v + 4 / s**2 * np.vdot(v, dR @ v).real * v

        return {
            f"W{gate}.phases": np.stack([of_phase(7), of_phase(3), of_phase(0)]),
            f"W{gate}.reflections": np.stack([of_reflection(5, v[0]), of_reflection(1, v[1])]),
        }
    names = [name for name in cell.matrix_names if name.startswith(f"W{gate}")]
    factors = [p[name] for name in names]
    return dict(zip(names, gradients_of(factors, dW), strict=True))


def logistic(z):
    return np.exp(-np.logaddexp(0, -z))


def oracle(size, batch):
    """Return every quantity of a batch by its name, from the equations as they stand.

    And how far the nearest z is from a kink, which single precision may cross.
    Those after "model/" are gradients for dlogits, those after "last/" for its last K steps, and
    those after "cell/" for dh and dc.
    """
    cell = cell_of(size, "numpy", "double")
    wide = {k: a.astype(np.result_type(a.dtype, np.float64)) for k, a in batch.params.items()}
    p = {k.removeprefix("cell."): a for k, a in wide.items() if k.startswith("cell.")}
    V, c = wide["readout.V"], wide["readout.c"]
    T, N, B, G = size.T, size.N, size.B, len(cell.gate_names)
    x = batch.x
    if size.x == "labels":
        x = (x[:, None] == np.arange(size.D)[:, None]).astype(float)
    W = [dense(cell, p, gate) for gate in cell.gate_names]
    U, b = np.split(p["U"], G), np.split(p["b"][:, None], G)
    state = [np.repeat(p[name][:, None], B, axis=1) for name in cell.state_names]
    margin = math.inf
    before, after, kept = [], [], []  # states, and what the step back reads
    for x_t in x:
        before.append(state)
        z = [W_k @ state[0] for W_k in W]
        u = [U_k @ x_t for U_k in U]
        if size.kind == "lstm":
            z = [z_k + u_k + b_k for z_k, u_k, b_k in zip(z, u, b, strict=True)]
            i, f, o = (logistic(z[k]) for k in (0, 1, 3))
            cell_state = f * state[1] + i * np.tanh(z[2])
            state, k = [o * np.tanh(cell_state), cell_state], (i, f, np.tanh(z[2]), o)
        elif size.kind == "gru":
            r, keep = (logistic(z[k] + u[k] + b[k]) for k in (0, 1))
            q = z[2] + p["b_h"][:, None]
            n = np.tanh(u[2] + b[2] + r * q)
            state, k = [n + keep * (state[0] - n)], (r, keep, n, q)
        else:
            k = z[0] + u[0]
            new = activate(cell.activation, k, b[0])
            state = [cell.leak * new + (1 - cell.leak) * state[0]]
            margin = min(margin, distance_from_kink(cell.activation, k, b[0]))
        after.append(state)
        kept.append(k)
    h = np.array([s[0] for s in after])
    features = np.concatenate([h.real, h.imag], axis=1) if cell.is_complex else h
    found = {"h": h, "logits": V @ features + c[:, None]}
    if G > 1:
        found["gates"] = np.array(kept)
    elif cell.leak < 1:
        found["gates"] = np.array([[activate(cell.activation, k, b[0])] for k in kept])
    if size.kind == "lstm":
        found["c"] = np.array([s[1] for s in after])
    dlogits = batch.dlogits.astype(float)
    found["model/readout.V"] = np.einsum("tmb,tnb->mn", dlogits, features, optimize=True)
    found["model/readout.c"] = np.einsum("tmb->m", dlogits)
    through = V.T @ dlogits
    if cell.is_complex:
        through = through[:, :N] + 1j * through[:, N:]
    late = np.concatenate([np.zeros((T - len(batch.dh), N, B)), batch.dh])
    own = [("model/cell.", through, 0 * batch.dc), ("cell/", late, batch.dc)]
    if size.K:
        own.append(("last/", through * (np.arange(T) >= T - size.K)[:, None, None], 0 * batch.dc))
    for prefix, dh, dc in own:
        back = [np.zeros_like(s) for s in before[0]]
        if size.kind == "lstm":
            back[1] = dc.astype(float)
        dW, dU, db = [0.0] * G, [0.0] * G, [0.0] * G
        db_h, dx = 0.0, np.zeros_like(x)
        for t in reversed(range(T)):
            back[0] = back[0] + dh[t]
            d, behind_W, carried, extra = step_back(
                size, cell, before[t], after[t], kept[t], back, b
            )
            for k in range(G):
                dW[k] = dW[k] + behind_W[k] @ before[t][0].conj().T
                dU[k] = dU[k] + d[k] @ x[t].conj().T
                dx_t = U[k].conj().T @ d[k]
                dx[t] += dx_t if np.iscomplexobj(x) else dx_t.real
            db = [db_k + extra_k.sum(axis=1) for db_k, extra_k in zip(db, extra, strict=True)]
            db_h = db_h + behind_W[-1].sum(axis=1)
            back[0] = carried[0] + sum(
                W_k.conj().T @ d_k for W_k, d_k in zip(W, behind_W, strict=True)
            )
            back[1:] = carried[1:]
        for k, gate in enumerate(cell.gate_names):
            of_gate = parameters_gradient(cell, p, gate, dW[k])
            found |= {prefix + name: g for name, g in of_gate.items()}
        found |= {prefix + "U": np.concatenate(dU), prefix + "b": np.concatenate(db)}
        if size.kind == "gru":
            found[prefix + "b_h"] = db_h
        for name, g in zip(cell.state_names, back, strict=True):
            found[prefix + name] = g.sum(axis=1)
            if prefix == "cell/":
                found[f"d{name} of each sequence"] = g
        if prefix == "cell/" and size.x != "labels":
            found["dx"] = dx
    return found, margin


def distance_from_kink(name, z, b):
    if name == "modrelu":
        return min(np.abs(np.abs(z) + b).min(), np.where(b > 0, np.abs(z), math.inf).min())
    return np.abs(z + b).min() if name == "relu" else math.inf


def activate(name, z, b):
    if name == "modrelu":
        r = np.abs(z)
        return (
            np.where(r + b > 0, (r + b) * np.exp(1j * np.angle(z)), 0).astype(z.dtype)
            if (np.iscomplexobj(z))
            else np.sign(z) * np.maximum(r + b, 0)
        )
    return {"tanh": np.tanh, "relu": lambda a: a * (a > 0), "identity": np.copy}[name](z + b)


def step_back(size, cell, before, after, kept, back, b):
    """Return the gradients of U x, of W h, of the state before but through W, and of b."""
    if size.kind == "lstm":
        i, f, g, o = kept
        dh, dc = back
        tanh_c = np.tanh(after[1])
        dc = dc + dh * o / np.cosh(after[1]) ** 2
        d = [dc * g * i * (1 - i), dc * before[1] * f * (1 - f), dc * i * (1 - g) * (1 + g)]
        d.append(dh * tanh_c * o * (1 - o))
        return d, d, [0.0, dc * f], d
    if size.kind == "gru":
        r, keep, n, q = kept
        dn = back[0] * (1 - keep) * (1 - n) * (1 + n)
        d = [dn * q * r * (1 - r), back[0] * (before[0] - n) * keep * (1 - keep), dn]
        return d, [*d[:2], dn * r], [back[0] * keep], d
    z, dh, past, b = kept, cell.leak * back[0], (1 - cell.leak) * back[0], b[0]
    if cell.activation == "modrelu":
        r = np.abs(z)
        u, on = z / r, r + b > 0
        along = (dh.conj() * u).real
        # along z the slope is 1, across it |h| / |z|
        dz = on * (u * along + (r + b) / r * (dh - u * along))
        return [dz], [dz], [past], [on * along]
    slope = {"tanh": 1 / np.cosh(z + b) ** 2, "relu": z + b > 0, "identity": 1.0}
    dz = dh * slope[cell.activation]
    return [dz], [dz], [past], [dz.real]


# What kru_ref finds


def found_by(size, batch, engine, precision):
    """Return the same quantities as the oracle."""
    model = model_of(size, engine, precision)
    cell, dtypes = model.cell, model.dtypes()
    is_compiled = engine != "numpy" and size.matrix != "restricted"
    assert (cell.matrix.engine(size.N) is not None) == is_compiled
    params = {name: p.astype(dtypes[name]) for name, p in batch.params.items()}
    logits, saved = model.forward(params, batch.x)
    (of_cell,) = saved.cells
    found = {"h": of_cell.h, "logits": logits}
    found |= {"gates": of_cell.gates} if of_cell.gates.size else {}
    found |= {"c": of_cell.states[1]} if len(of_cell.states) > 1 else {}
    dlogits = batch.dlogits.astype(logits.dtype)
    grads = model.backward(params, saved, dlogits)
    found |= {f"model/{name}": g for name, g in grads.items()}
    own = {k.removeprefix("cell."): p for k, p in params.items() if k.startswith("cell.")}
    dh = batch.dh.astype(cell.dtype)
    options = {"dc": batch.dc.astype(cell.dtype)} if size.kind == "lstm" else {}
    grads, dx, dstate = cell.backward(own, of_cell, dh, **options)
    found |= {f"cell/{name}": g for name, g in grads.items()}
    dstate = dstate if isinstance(dstate, tuple) else (dstate,)
    for name, g in zip(cell.state_names, dstate, strict=True):
        found[f"d{name} of each sequence"] = g
    if dx is not None:
        found["dx"] = dx
    if size.K:
        through = ReadoutGradient(model.readout.as_matrix(params), dlogits[-size.K :])
        grads, _, _ = cell.backward(own, of_cell, through, input_gradient=False)
        found |= {f"last/{name}": g for name, g in grads.items()}
    return found


def error_of(got, wanted, largest):
    """Return the largest difference relative to the largest entry wanted; NaN is infinite.

    What is 0 but for rounding is measured by the largest of all quantities.
    """
    assert got.shape == wanted.shape
    scale = np.abs(wanted).max(initial=0)
    scale = scale if scale > 1e-9 * largest else largest
    error = float(np.abs(got - wanted).max(initial=0) / scale)
    return math.inf if math.isnan(error) else error


def wrong(size):
    """Return what differs from the oracle, and how much: by engine, precision and quantity."""
    margin, seeds = 0.0, itertools.count()
    while margin < 1e-6:
        batch = batch_of(size, next(seeds))
        wanted, margin = oracle(size, batch)
    largest = max(np.abs(value).max(initial=0) for value in wanted.values())
    compiled_too = LEVELS if isinstance(size.matrix, tuple) else ()
    errors = {}
    with pytest.MonkeyPatch.context() as patch:
        for engine, precision in itertools.product(("numpy", *compiled_too), Tolerances._fields):
            if engine != "numpy":
                patch.setenv("KRU_REF_SIMD", engine)
            found = found_by(size, batch, engine, precision)
            assert found.keys() == wanted.keys()
            for name, value in found.items():
                error = error_of(value, wanted[name], largest)
                if not error <= getattr(size.tolerances, precision):
                    errors[engine, precision, name] = error
    return errors


FACTORS = {
    1: ((1, 1),),
    2: ((2, 2),),
    3: ((3, 3),),
    4: ((2, 2), (2, 2)),
    5: ((5, 5),),
    6: ((2, 3), (3, 2)),
    7: ((7, 7),),
    8: ((2, 2),) * 3,
    9: ((3, 3),) * 2,
    15: ((3, 5), (5, 3)),
    16: ((16, 16),),
    17: ((17, 17),),
    31: ((31, 31),),
    32: ((2, 2),) * 5,
    33: ((11, 3), (3, 11)),
    34: ((17, 17), (2, 2)),
    63: ((9, 7), (7, 9)),
    64: ((2, 2),) * 6,
    65: ((5, 13), (13, 5)),
    66: ((2, 2), (3, 3), (11, 11)),
    70: ((7, 7), (5, 5), (2, 2)),
}
LARGE = (((33, 33), (2, 2)), ((2, 2), (33, 33)), ((33, 2), (2, 33)), ((1, 33), (66, 2)))
EVERY = ("modrelu", "complex", "leaky complex", "lstm", "gru")
ALL = (*KINDS, "lstm", "gru")


def sizes(kinds, name, values, **others):
    """Return a size for each kind and each value of what `name` names."""
    found = []
    for kind, value in itertools.product(kinds, values):
        given = {"N": 6} | others | {name: value}
        given.setdefault("matrix", FACTORS.get(given["N"]))
        found.append(Size(kind=kind, **given))
    return found


def check(size):
    assert wrong(size) == {}


def named(size):
    default = Size("", 6, FACTORS[6])
    parts = [
        f"{name}={value}".replace(" ", "")
        for name, value in size._asdict().items()
        if name not in ("kind", "matrix", "tolerances") and value != getattr(default, name)
    ]
    return ",".join([size.kind, *([size.matrix] if isinstance(size.matrix, str) else []), *parts])


TRIED = set()


def table(*lines):
    found = list(dict.fromkeys(itertools.chain(*lines)))
    TRIED.update(found)
    return pytest.mark.parametrize("size", found, ids=named)


@table(
    sizes(ALL, "B", [1, 31, 33, 63, 65]),
    sizes(EVERY, "B", [3, 4, 5, 7, 8, 9, 15, 16, 17, 32, 64, 95, 97]),
    sizes(EVERY, "B", [65, 97], N=5, D=40, x="labels"),
    sizes(EVERY, "B", [64, 65], N=32, T=2),
)
def test_sequences_in_a_batch(size):
    """Blocks of 32 and rows that fill a vector: a third block, and what is left over."""
    check(size)


@table(
    sizes(ALL, "T", [1, 16, 17, 33, 65]),
    sizes(EVERY, "T", [15, 25, 26, 31, 32, 64]),
    sizes(EVERY, "T", [17, 33], x="labels", B=33),
    sizes(EVERY, "T", [33, 65], x="labels", D=20),
    sizes(EVERY, "K", [1, 16, 17, 33, 34], T=34),
    sizes(("tanh", "complex", "lstm", "gru"), "T", [25, 26, 65], matrix="dense"),
)
def test_steps(size):
    """Steps gathered for one product, and gradients that only late steps have of their own."""
    check(size)


@table(
    sizes(EVERY, "T", [3, 4, 5, 7, 8, 9], N=64, B=32),
    sizes(("complex", "lstm"), "T", [2, 5], N=512, matrix=((8, 8),) * 3, B=31),
)
def test_steps_of_large_states(size):
    """Fewer of them are gathered, down to one."""
    check(size)


@table(
    sizes(ALL, "N", [1, 7, 33]),
    sizes(EVERY, "N", [N for N in FACTORS if N < 64]),
    sizes(EVERY, "N", [63, 64, 65, 66, 70], T=2, B=9),
    sizes(("modrelu", "lstm"), "N", [15, 33], B=33),
    sizes(EVERY, "matrix", [((32, 32), (2, 2)), ((32, 16), (2, 4))], N=64, T=2),
)
def test_states(size):
    """Factors merged, and of sizes that no tile divides."""
    check(size)


@table(
    sizes(EVERY, "matrix", LARGE, N=66, T=2),
    sizes(ALL, "matrix", LARGE, N=66, B=5),
    sizes(EVERY, "B", [1, 63, 64, 65, 129], matrix=LARGE[0], N=66, T=2),
    sizes(EVERY, "B", [65], matrix=LARGE[1], N=66, T=3, D=20, x="labels"),
    sizes(("complex", "lstm"), "T", [17, 33], matrix=LARGE[2], N=66, B=9),
    sizes(EVERY, "B", [3, 65], matrix=((2, 2),) * 3 + ((34, 34), (2, 2)), N=544, T=2),
)
def test_a_factor_left_to_blas(size):
    """Before, behind and between small ones, rectangular, and behind butterflies."""
    check(size)


@table(
    sizes(ALL, "N", [32, 33], matrix="dense"),
    sizes(EVERY, "N", [1, 31, 40, 64, 65], matrix="dense", T=2),
    sizes(("complex",), "N", [1, 2, 3, 5, 7, 8, 9], matrix="restricted"),
    sizes(("modrelu", "lstm", "gru"), "N", [2, 4, 6, 10, 14], matrix="restricted"),
    sizes(("complex",), "N", [33, 65], matrix="restricted", T=2),
)
def test_states_of_other_matrices(size):
    """Dense ones, and RestrictedUnitary of one complex number and of odd sizes."""
    check(size)


@table(
    sizes(EVERY, "D", [1, 2, 4, 5, 8, 9, 16, 17]),
    sizes(EVERY, "D", [1, 16, 17, 32, 33, 40], x="labels", N=5, B=33, T=4),
    sizes(EVERY, "D", [16, 17, 40], x="labels", N=7),
    sizes(EVERY, "D", [17, 40], x="labels", N=33, B=65),
    sizes(("tanh", "complex identity"), "D", [16, 17, 40], x="labels", N=5, B=9),
    sizes(EVERY, "D", [33, 40], x="labels", matrix="dense", N=5, B=33),
)
def test_inputs(size):
    """One-hot columns, added up label by label where there are more than 16."""
    check(size)


@table(
    sizes(("complex", "complex identity"), "T", [1, 16, 29, 30, 31, 33], x="complex"),
    sizes(("complex",), "B", [33, 65], x="complex"),
    sizes(("complex",), "N", [33, 65], x="complex", matrix="dense"),
    sizes(("complex",), "D", [17, 33], x="complex"),
)
def test_complex_inputs(size):
    check(size)


@table(
    sizes(EVERY, "M", [1, 3, 4, 5, 8, 9, 39, 40, 41, 63, 64, 65]),
    sizes(EVERY, "M", [5, 41, 64, 65], B=33, N=66, T=2),
    sizes(("complex",), "M", [39, 40, 41], matrix="dense"),
)
def test_outputs(size):
    """Up to 64 are read out by the kernels, more by BLAS."""
    check(size)


@table(
    sizes(EVERY, "T", [7, 8, 9, 17], B=512, N=4, matrix=((2, 2), (2, 2))),
    sizes(("tanh", "complex", "gru"), "T", [8, 9], B=512, N=3, matrix="dense"),
    sizes(("complex", "lstm"), "B", [4095, 4096, 4097], N=2, matrix=((2, 2),)),
    sizes(("tanh", "lstm"), "T", [4097], B=1, N=2, D=2, matrix="dense"),
)
def test_columns_of_one_product(size):
    """4,096 columns, steps side by side, make one product in NumPy."""
    assert arrays.COLUMNS == 4096
    check(size)


@table(
    sizes(EVERY, "T", [1001, 2100], B=3, N=4, matrix=((2, 2), (2, 2)), D=2),
    sizes(("modrelu", "complex"), "T", [2100], B=1, N=5, D=33, x="labels"),
    sizes(("tanh",), "T", [2100], B=3, N=4, matrix="dense"),
)
def test_long_sequences(size):
    """Every step takes part: the first thousand, the last, and those between."""
    check(size)


# where h is 1 but for a thousandth, 1 - h² keeps three digits less
SATURATED = Tolerances(1e-10, 3e-2)


@table(
    sizes(("tanh", "lstm", "gru"), "drive", [4.0, 6.0], N=5, T=18, B=9, tolerances=SATURATED),
    sizes(("tanh", "gru"), "drive", [6.0], matrix="dense", tolerances=SATURATED),
)
def test_states_near_their_limits(size):
    batch = batch_of(size, 0)
    h = oracle(size, batch)[0]["h"]
    assert (np.abs(h[2:]) > 0.95).mean() > 0.9
    check(size)


LONG_SUMS = Tolerances(2e-12, 3e-6)
SUMS = {"N": 4, "matrix": ((2, 2), (2, 2)), "D": 20, "T": 2000, "B": 50, "steady": True}
SUMMED = ("tanh", "complex", "complex identity", "lstm", "gru")


@table(
    sizes(SUMMED, "x", ["real", "labels"], **SUMS, tolerances=LONG_SUMS),
    sizes(("complex identity",), "x", ["real", "labels"], **SUMS | {"T": 6000, "B": 1},
          tolerances=LONG_SUMS),
)  # fmt: skip
def test_sums_over_many_steps(size):
    """A hundred thousand of them keep the digits of single precision."""
    check(size)


def test_a_sum_of_what_nearly_cancels(rng, backend):
    """Gradients of logits of either sign: c's is known to the last digit, and is so found."""
    network = kru.SequenceModel(kru.KRU(1, 1, None, "tanh", "float32", backend=backend), 2)
    params = network.init(rng)
    logits, saved = network.forward(params, np.zeros((5000, 1, 3)))
    dlogits = rng.standard_normal(logits.shape).astype("float32")
    wanted = [math.fsum(dlogits[:, m].astype(float).flat) for m in range(2)]
    found = network.backward(params, saved, dlogits)["readout.c"]
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


# Products


def halves(factors):
    middle = len(factors) // 2
    return [
        functools.reduce(np.kron, some, np.eye(1)) for some in (factors[:middle], factors[middle:])
    ]


def gradients_of(factors, dW):
    """Return each factor's part in the gradient of their product's entries."""
    F = len(factors)
    dW = dW.reshape([len(W) for W in factors] + [W.shape[1] for W in factors])
    found = []
    for f in range(F):
        others = [(factors[k].conj(), [k, F + k]) for k in range(F) if k != f]
        operands = [dW, list(range(2 * F)), *itertools.chain(*others), [f, F + f]]
        found.append(np.einsum(*operands, optimize=F > 1))
    return found


def product_oracle(factors, x, dy):
    """Return y, dx and dfactors from W = A ⊗ C with A and C multiplied out."""
    A, C = halves(factors)
    x, dy = x.reshape(A.shape[1], C.shape[1], -1), dy.reshape(len(A), len(C), -1)
    y = np.einsum("pq,rs,qsb->prb", A, C, x, optimize=True)
    dx = np.einsum("pq,rs,prb->qsb", A.conj(), C.conj(), dy, optimize=True)
    dA = np.einsum("prb,rs,qsb->pq", dy, C.conj(), x.conj(), optimize=True)
    dC = np.einsum("prb,pq,qsb->rs", dy, A.conj(), x.conj(), optimize=True)
    middle = len(factors) // 2
    of_factors = gradients_of(factors[:middle], dA) + gradients_of(factors[middle:], dC)
    return [y.reshape(-1, x.shape[-1]), dx.reshape(-1, x.shape[-1]), *of_factors]


@pytest.mark.parametrize(
    ("shapes", "Bs"),
    [
        # a piece of a backward sweep, and a sweep's last vector
        (
            ((2, 2),),
            (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 127, 129, 255, 257, 511, 513, 519, 521, 1041),
        ),
        (((4, 4), (3, 3)), (1, 2, 41, 42, 43, 84, 85, 86, 87, 88, 170, 171, 172, 173, 175)),
        # rows of a single column, eight or four at a time
        *((((L, L), (16, 16)), (1, 2)) for L in (3, 4, 5, 7, 8, 9, 15, 16, 17)),
        *((((L, L), (5, 3), (3, 5)), (1,)) for L in (3, 4, 5, 7, 8, 9)),
        *(
            (((L, L), (K, K), (R, R), (16, 16)), (1,))
            for L, K, R in ((13, 13, 6), (16, 8, 8), (16, 13, 5))
        ),
        # panels: the cache, and eight chunks
        (((16, 16), (16, 16)), (255, 257, 513, 840, 976)),
        (((16, 17), (17, 16)), (20,)),
        (((2, 2),) * 14, (1, 4, 5, 9)),
        (((2, 2),) * 5 + ((17, 17),) + ((2, 2),) * 5, (1, 2, 33)),
    ],
    ids=str,
)
def test_products(rng, monkeypatch, shapes, Bs):
    for B, is_complex in itertools.product(Bs, (False, True)):

        def drawn(*shape, is_complex=is_complex):
            a = rng.standard_normal((2, *shape)).astype("float32").astype(float)
            return a[0] + 1j * a[1] if is_complex else a[0]

        factors = [drawn(*shape) for shape in shapes]
        x, dy = (drawn(math.prod(sizes), B) for sizes in tuple(zip(*shapes, strict=True))[::-1])
        wanted = product_oracle(factors, x, dy)
        for engine, bits in itertools.product(("numpy", *LEVELS), (64, 32)):
            if engine != "numpy":
                monkeypatch.setenv("KRU_REF_SIMD", engine)
            name = f"complex{2 * bits}" if is_complex else f"float{bits}"
            Ws, v, dv = [W.astype(name) for W in factors], x.astype(name), dy.astype(name)
            which = "numpy" if engine == "numpy" else "cython"
            dfactors, dx = kru.kron_matvec_backward(Ws, v, dv, which)
            found = [kru.kron_matvec(Ws, v, which), dx, *dfactors]
            for what, (got, want) in enumerate(zip(found, wanted, strict=True)):
                error = error_of(got, want, 0)
                assert error <= (1e-12 if bits == 64 else 1e-4), (B, name, engine, what)


# What has no batch: optimizers, losses, penalties


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["adam", "rmsprop", "sgd"])
def test_many_updates(rng, kind, dtype):
    """Beyond 500, where Adam's first correction has long been 1 and its second has not."""
    optimizer = {
        "adam": kru.Adam(rate=1e-2),
        "rmsprop": kru.RMSprop(rate=1e-3),
        "sgd": kru.SGD(rate=1e-3, momentum=0.99),
    }[kind]
    wide, one = np.longdouble, np.longdouble(1)
    params = {"a": np.zeros(3, dtype)}
    state = optimizer.init(params)
    p = m = v = np.zeros(3, wide)
    largest = 0.0
    for k in range(1, 2101):
        g = (rng.standard_normal(3) + 1).astype("float32")
        params, state = optimizer.update(params, {"a": g.astype(dtype)}, state)
        g = g.astype(wide)
        if kind == "sgd":
            m = 0.99 * m + g
            p = p - wide(1e-3) * m
        elif kind == "rmsprop":
            v = wide(0.9) * v + (one - wide(0.9)) * g**2
            p = p - wide(1e-3) * g / (np.sqrt(v) + wide(1e-8))
        else:
            m, v = wide(0.9) * m + wide(0.1) * g, wide(0.999) * v + wide(0.001) * g**2
            root = np.sqrt(v / (1 - wide(0.999) ** k))
            p = p - wide(1e-2) * m / (1 - wide(0.9) ** k) / (root + wide(1e-8))
        if k in (1, 2, 499, 500, 501, 999, 1000, 1001, 2000, 2100):
            largest = max(largest, float(np.abs(params["a"] - p).max() / np.abs(p).max()))
    assert largest <= (1e-12 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("loss", ["softmax", "squared", "bernoulli"])
@pytest.mark.parametrize(("T", "M", "B"), [(1, 1, 1), (65, 66, 67), (2100, 3, 3), (3, 300, 129)])
def test_losses_of_many_steps(rng, loss, T, M, B):
    y = 3 * rng.standard_normal((T, M, B))
    mask = rng.uniform(0, 1, (T, B))
    wide = y.astype(np.longdouble)
    if loss == "softmax":
        targets = rng.integers(M, size=(T, B))
        one_hot = targets[:, None] == np.arange(M)[:, None]
        p = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
        values, slopes = -np.log((p * one_hot).sum(axis=1)), p - one_hot
    elif loss == "squared":
        targets = rng.standard_normal((T, M, B))
        values, slopes = ((wide - targets) ** 2).sum(axis=1) / M, 2 * (wide - targets) / M
    else:
        targets = rng.integers(2, size=(T, M, B))
        p = 1 / (1 + np.exp(-wide))
        values = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum(axis=1)
        slopes = p - targets
    weights = mask / mask.sum()
    function = {
        "softmax": kru.softmax_cross_entropy,
        "squared": kru.mean_squared_error,
        "bernoulli": kru.bernoulli_cross_entropy,
    }[loss]
    value, dlogits = function(y, targets, mask)
    np.testing.assert_allclose(value, float((values * weights).sum()), rtol=1e-12, atol=1e-15)
    wanted = (slopes * weights[:, None]).astype(float)
    np.testing.assert_allclose(dlogits, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max() + 1e-17)


@pytest.mark.parametrize("N", [1, 2, 7, 31, 32, 33, 40, 65])
@pytest.mark.parametrize("is_complex", [False, True])
def test_penalties(rng, N, is_complex):
    """‖W^H W - I‖²_F is the sum over pairs of columns, which may move one by one."""
    W = rng.standard_normal((2, N, N + 1))
    W = W[0] + 1j * W[1] if is_complex else W[0]
    value, (dW,) = kru.soft_unitary([W])
    total, wanted = 0.0, np.zeros_like(W)
    for q in range(N + 1):
        for r in range(N + 1):
            e = np.vdot(W[:, q], W[:, r]) - (q == r)
            total += abs(e) ** 2
            wanted[:, q] += 4 * W[:, r] * np.conj(e)
    assert value == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(dW, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


# Mistakes that act beyond some size only, each planted where a test above has such a size


def changed(owner, name, change):
    """Return a plant: what a function returns is changed, by its arguments too."""

    def plant(patch):
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **options: change(original, *args, **options))

    return plant


def first_columns(args, n):
    """Cut a batch to its first columns; matrices, and what is no array, stay as they are."""
    is_batch = [isinstance(a, np.ndarray) for a in args]
    return [
        np.ascontiguousarray(a[..., :n]) if is_one else a
        for a, is_one in zip(args, is_batch, strict=True)
    ]


def changed_backward(is_gated, change):
    """Return a plant in the compiled backward pass, of the simple or of the gated cells.

    What it takes is to the change a flat list, as is what it returns: dW, dU, db, db_h of gated
    cells, dx, and of the states before.
    """

    def planted(original, cell, W, params, *args):
        x, before, states, gates, _, (dh, dlast), input_gradient = args
        if (cell.kind in ("lstm", "gru")) is not is_gated:
            return original(cell, W, params, *args)

        def flat(*args):
            if is_gated:
                _, _, _, x, h0, c0, h, c, gates, dh, dlast, input_gradient = args
                before, states = (h0, c0)[: len(found)], (h, c)[: len(found)]
            else:
                _, _, _, _, x, h0, h, dh, input_gradient = args
                before, states, gates, dlast = (h0,), (h,), kept[..., : h.shape[-1]], None
            dstates = dh, (None, dlast)[: len(before)]
            rest = states, gates, x.shape[-1], dstates, input_gradient
            dbefore, d, dW, dx, _ = original(cell, W, params, x, before, *rest)
            biases = (d["b"], d.get("b_h")) if is_gated else (d["b"],)
            return (dW if is_gated else dW[0], d["U"], *biases, dx, *dbefore)

        found, kept, (h0, *c0), (h, *c), dlast = before, gates, before, states, dlast[-1]
        if is_gated:
            c0, c = (*c0, None)[0], (*c, None)[0]
            args = (cell.kind, W, params["U"], x, h0, c0, h, c, gates, dh, dlast, input_gradient)
        else:
            args = (W[0], params["U"], params["b"], cell.kind, x, h0, h, dh, input_gradient)
        dW, dU, db, *rest = change(flat, *args)
        d = {"U": dU, "b": db}
        if is_gated:
            db_h, *rest = rest
            d |= {} if db_h is None else {"b_h": db_h}
        dx, *dbefore = rest
        return Backward(tuple(dbefore), d, dW if is_gated else [dW], dx)

    return changed(compiled_engine, "recurrence_backward", planted)


def lost_block(i, n):
    """Plant the i-th gradient without the columns from n on, in the compiled simple cell."""

    def change(original, factors, U, b, activation, *batch):
        right = list(original(factors, U, b, activation, *batch))
        if isinstance(batch[3], np.ndarray):
            right[i] = original(factors, U, b, activation, *first_columns(batch, n))[i]
        return tuple(right)

    return changed_backward(False, change)


def lost_gated_block(i, n):
    """Plant the same in the compiled gated cells."""

    def change(original, kind, W, U, *batch):
        right = list(original(kind, W, U, *batch))
        if isinstance(batch[6], np.ndarray):
            right[i] = original(kind, W, U, *first_columns(batch, n))[i]
        return tuple(right)

    return changed_backward(True, change)


def spoilt(i, spoil):
    """Return a change of the i-th array of what is returned, or of the only one."""

    def change(original, *args, **options):
        found = original(*args, **options)
        if i is None:
            return spoil(np.array(found))
        return tuple(
            spoil(np.array(a)) if k == i and a is not None else a for k, a in enumerate(found)
        )

    return change


def zeros(axis, first, last=None):
    def spoil(a):
        a[(slice(None),) * axis + (slice(first, last),)] = 0
        return a

    return spoil


def conjugate_from(first):
    def spoil(a):
        a[:, first:] = a[:, first:].conj()
        return a

    return spoil


def lost_late_steps(i, first):
    """Return a change of the i-th argument, dh: steps from the first on get nothing from it."""

    def change(original, *args):
        args = list(args)
        if isinstance(args[i], np.ndarray):
            args[i] = zeros(0, first)(args[i].copy())
        return original(*args)

    return change


def steps(first, last=None):
    """Return a change of a sum over time: some steps alone take part, where there are more."""

    def change(original, a):
        return original(a[first:last] if len(a) > 1000 else a)

    return change


def lost_early_inputs(original, U, x, dz, input_gradient):
    dU, dx = original(U, x, dz, input_gradient)
    return (original(U, x[1000:], dz[1000:], False)[0] if len(x) > 1000 else dU), dx


def no_conjugate_of_long_inputs(original, U, x, dz, input_gradient):
    dU, dx = original(U, x, dz, input_gradient)
    is_long = np.iscomplexobj(x) and len(x) >= 30
    return (original(U, x.conj(), dz, False)[0] if is_long else dU), dx


def no_conjugate_of_late_dx(original, U, x, dz, input_gradient):
    dU, dx = original(U, x, dz, input_gradient)
    return dU, dx.conj() if dx is not None and len(dx) >= 30 else dx


def lost_early_pieces(original, T, B):
    return (piece for k, piece in enumerate(original(T, B)) if k == 0)


def saturated(dh, h, b):
    dz = np.where(np.abs(h) > 0.999, 0, (1 - h * h) * dh)
    return dz, dz.sum(axis=1)


def plant_saturated(patch):
    patch.setitem(ACTIVATIONS, "tanh", ACTIVATIONS["tanh"]._replace(backward=saturated))


def saturated_gates(original, *args):
    args = list(args)
    args[8] = np.where(np.abs(args[8]) > 0.999, np.sign(args[8]), args[8])
    return original(*args)


def single(original, a):
    return np.cumsum(np.moveaxis(a, 1, 0).reshape(a.shape[1], -1), axis=1)[:, -1]


def identity_for_one_number(original, self, W, h):
    return h if len(W[1][0]) == 1 else original(self, W, h)


def reversed_for_odd_sizes(original, self, W, dy):
    y = original(self, W, dy)
    return y[::-1] if len(y) % 2 else y


def lost_reflections_of_odd_sizes(original, self, W, h, dy):
    phases, reflections = original(self, W, h, dy)
    return [phases, reflections * (1 - len(reflections[0]) % 2)]


def at_most_500(original, self, g, steps, *slots):
    return original(self, g, min(steps, 500), *slots)


THIRD = {"N": 6, "matrix": FACTORS[6], "B": 97}
LABELS_ODD = {"N": 5, "matrix": FACTORS[5], "D": 40, "x": "labels", "T": 4, "B": 33}
LONG = {"N": 4, "matrix": FACTORS[4], "D": 2, "T": 2100, "B": 3}
BEYOND = {
    "W without the third block": (lost_block(0, 64), Size("complex", **THIRD)),
    "U without the third block": (lost_block(1, 64), Size("modrelu", **THIRD)),
    "b without the third block": (lost_block(2, 64), Size("complex", **THIRD)),
    "dh0 without the third block": (
        changed_backward(False, spoilt(4, zeros(1, 64))),
        Size("complex", **THIRD),
    ),
    "dx without the third block": (
        changed_backward(False, spoilt(3, zeros(2, 64))),
        Size("modrelu", **THIRD),
    ),
    "V without the third block": (
        changed(
            compiled_engine,
            "readout_backward",
            lambda original, *args: original(*first_columns(args, 64)),
        ),
        Size("complex", **THIRD),
    ),
    "logits without the third block": (
        changed(compiled_engine, "readout", spoilt(None, zeros(2, 64))),
        Size("modrelu", **THIRD),
    ),
    "U without the last column of a block": (
        lost_block(1, 32),
        Size("tanh", 6, FACTORS[6], B=33),
    ),
    "an LSTM's W without the third block": (lost_gated_block(0, 64), Size("lstm", **THIRD)),
    "a GRU's W without the third block": (lost_gated_block(0, 64), Size("gru", **THIRD)),
    "an LSTM's U without the third block": (lost_gated_block(1, 64), Size("lstm", **THIRD)),
    "an LSTM's b without the third block": (lost_gated_block(2, 64), Size("lstm", **THIRD)),
    "a GRU's b_h without the third block": (lost_gated_block(3, 64), Size("gru", **THIRD)),
    "an LSTM's dh0 without the third block": (
        changed_backward(True, spoilt(5, zeros(1, 64))),
        Size("lstm", **THIRD),
    ),
    "an LSTM's dc0 without the third block": (
        changed_backward(True, spoilt(6, zeros(1, 64))),
        Size("lstm", **THIRD),
    ),
    "labels from 32 on": (
        changed_backward(False, spoilt(1, zeros(1, 32))),
        Size("modrelu", **LABELS_ODD),
    ),
    "the last of an odd number of rows, of many labels": (
        changed_backward(False, spoilt(1, zeros(0, 4))),
        Size("complex", **LABELS_ODD),
    ),
    "no conjugate from label 32 on": (
        changed_backward(False, spoilt(1, conjugate_from(32))),
        Size("complex", **LABELS_ODD),
    ),
    "a gated cell's labels from 32 on": (
        changed_backward(True, spoilt(1, zeros(1, 32))),
        Size("gru", **LABELS_ODD),
    ),
    "labels from 32 on, in NumPy": (
        changed(cells_cell, "input_gradients", spoilt(0, zeros(1, 32))),
        Size("lstm", 5, "dense", D=40, x="labels", B=33),
    ),
    "rows of a product beyond 64 and the last four": (
        changed_backward(False, spoilt(1, zeros(0, 64))),
        Size("modrelu", 66, FACTORS[66], T=2, B=9),
    ),
    "the same of V": (
        changed(compiled_engine, "readout_backward", spoilt(None, zeros(1, 64, 66))),
        Size("modrelu", 66, FACTORS[66], T=2, B=9),
    ),
    "steps after the 25th": (
        changed(kru.RNN, "run_numpy_backward", lost_late_steps(3, 25)),
        Size("tanh", 6, "dense", T=26),
    ),
    "an LSTM's steps after the 64th": (
        changed(kru.LSTM, "run_numpy_backward", lost_late_steps(3, 64)),
        Size("lstm", 6, FACTORS[6], T=65),
    ),
    "a GRU's steps after the 64th": (
        changed(kru.GRU, "run_numpy_backward", lost_late_steps(3, 64)),
        Size("gru", 6, FACTORS[6], T=65),
    ),
    "compiled steps after the 64th": (
        changed_backward(False, lost_late_steps(7, 64)),
        Size("complex", 6, FACTORS[6], T=65),
    ),
    "compiled gated steps after the 64th": (
        changed_backward(True, lost_late_steps(9, 64)),
        Size("lstm", 6, FACTORS[6], T=65),
    ),
    "c without the last thousand steps": (
        changed(readout, "over_time", steps(0, -1000)),
        Size("complex", **LONG),
    ),
    "U without the first thousand steps": (
        changed(cells_cell, "input_gradients", lost_early_inputs),
        Size("modrelu", **LONG),
    ),
    "b without the first thousand steps": (
        changed(cells_cell, "over_time", steps(1000)),
        Size("lstm", **LONG),
    ),
    "columns beyond 4,096 of one product": (
        changed(cells_cell, "time_pieces", lost_early_pieces),
        Size("complex", 3, "dense", T=9, B=512),
    ),
    "no conjugate of complex x in 30 steps": (
        changed(cells_cell, "input_gradients", no_conjugate_of_long_inputs),
        Size("complex", 6, FACTORS[6], T=30, x="complex"),
    ),
    "no conjugate of U for complex x in 30 steps": (
        changed(cells_cell, "input_gradients", no_conjugate_of_late_dx),
        Size("complex", 6, FACTORS[6], T=30, x="complex"),
    ),
    "states near 1": (plant_saturated, Size("tanh", 6, "dense", drive=6.0, tolerances=SATURATED)),
    "compiled gates near 1": (
        changed_backward(True, saturated_gates),
        Size("gru", 5, FACTORS[5], T=18, B=9, drive=6.0, tolerances=SATURATED),
    ),
    "outputs from the 40th on, of a complex cell": (
        changed(compiled_engine, "readout_backward", spoilt(None, zeros(0, 39))),
        Size("complex", 6, FACTORS[6], M=40),
    ),
    "logits from the 40th on, of a complex cell": (
        changed(compiled_engine, "readout", spoilt(None, zeros(1, 39))),
        Size("complex", 6, FACTORS[6], M=40),
    ),
    "W h of a dense cell without row 32": (
        changed(Dense, "matvec", spoilt(None, zeros(0, 32))),
        Size("identity", 33, "dense"),
    ),
    "W^H dz of a dense cell without row 32": (
        changed(Dense, "adjoint", spoilt(None, zeros(0, 32))),
        Size("tanh", 33, "dense"),
    ),
    "a dense cell's W without row 32": (
        changed(Dense, "gradient", spoilt(0, zeros(0, 32))),
        Size("lstm", 33, "dense"),
    ),
    "a state of one complex number": (
        changed(RestrictedUnitary, "matvec", identity_for_one_number),
        Size("complex", 1, "restricted"),
    ),
    "its angles": (
        changed(RestrictedUnitary, "gradient", spoilt(0, zeros(1, 0))),
        Size("complex", 1, "restricted"),
    ),
    "the reflections of an odd number": (
        changed(RestrictedUnitary, "gradient", lost_reflections_of_odd_sizes),
        Size("complex", 5, "restricted"),
    ),
    "an odd number of complex numbers": (
        changed(RestrictedUnitary, "adjoint", reversed_for_odd_sizes),
        Size("complex", 5, "restricted"),
    ),
    "a sum in single precision": (
        changed(cells_cell, "over_time", single),
        Size("lstm", **SUMS, x="labels", tolerances=LONG_SUMS),
    ),
}


@pytest.mark.parametrize("mistake", BEYOND)
def test_a_mistake_beyond_small_sizes_is_noticed(monkeypatch, mistake):
    plant, size = BEYOND[mistake]
    if isinstance(size.matrix, tuple) and not LEVELS:
        pytest.skip("it is one of the compiled kernels, which were not built")
    assert size in TRIED
    plant(monkeypatch)
    assert wrong(size) != {}


def test_adam_that_stops_counting_is_noticed(monkeypatch, rng):
    changed(kru.Adam, "step", at_most_500)(monkeypatch)
    with pytest.raises(AssertionError):
        test_many_updates(rng, "adam", "float64")
