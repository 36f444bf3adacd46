"""The same networks in PyTorch and JAX, for their automatic differentiation to contradict ours.

Written as the equations stand, time step by time step, with W multiplied out as a dense matrix:
nothing of the backward passes is used, nor of the fast forward ones. One text serves both, for
their functions have NumPy's names; ``xp`` is ``torch`` or ``jax.numpy``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..cells import GRU, LRU, LSTM, RNN, Cell, Params
from ..extras import require
from ..losses import bernoulli_cross_entropy, mean_squared_error, softmax_cross_entropy
from ..matrices import Diagonal, Kronecker
from ..model import SequenceModel
from ..restricted import RestrictedUnitary, permutation

# Names of the losses, of which the oracles know their own form.
LOSSES = {
    "softmax": softmax_cross_entropy,
    "squared": mean_squared_error,
    "bernoulli": bernoulli_cross_entropy,
}


class Problem(NamedTuple):
    """What a gradient is taken of: a model's loss on a batch, with the unitary penalty.

    Attributes
    ----------
    model : SequenceModel
        With all logits read out, and no dropout.
    x : ndarray, shape (T, D, B), or integers (T, B)
    targets : ndarray
        As the loss takes them.
    loss : {"softmax", "squared", "bernoulli"}
    mask : ndarray, shape (T, B), optional
    strength : float
        λ of the penalty.
    """

    model: SequenceModel
    x: NDArray[Any]
    targets: NDArray[Any]
    loss: str
    mask: NDArray[Any] | None = None
    strength: float = 0.0

    def value(self, params: Params) -> float:
        """Return the loss with the penalty, as kru_ref computes it."""
        logits, _ = self.model.forward(params, self.x)
        loss, _ = LOSSES[self.loss](logits, self.targets, self.mask)
        return loss + self.strength * self.model.penalty(params)[0]

    def gradient(self, params: Params) -> Params:
        """Return its gradient by back-propagation through time."""
        logits, saved = self.model.forward(params, self.x)
        _, dlogits = LOSSES[self.loss](logits, self.targets, self.mask)
        grads = self.model.backward(params, saved, dlogits)
        return self.model.add_penalty(params, grads, self.strength)[1]


def pytorch(problem: Problem, params: Mapping[str, Array]) -> tuple[float, Params]:
    """Return a problem's value and gradient by PyTorch's autograd, in double precision.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    ValueError, TypeError
        A loss that the oracles do not know, a model that reads out the last step only, or what
        kru_ref itself refuses: of these there is nothing to compare.
    """
    torch = require("torch", "oracles")
    _check(problem, params)
    p = {k: torch.tensor(v, requires_grad=True) for k, v in _double(params).items()}
    value = objective(torch, torch.tensor, problem, p)
    value.backward()
    # autograd's gradient of a complex number is ∂L/∂Re + i ∂L/∂Im, as ours
    return value.item(), {
        name: np.zeros(v.shape) if v.grad is None else v.grad.numpy() for name, v in p.items()
    }


def jax(problem: Problem, params: Mapping[str, Array]) -> tuple[float, Params]:
    """Return a problem's value and gradient by JAX, in double precision.

    Raises
    ------
    ImportError
        JAX is not installed.
    ValueError, TypeError
        As :func:`pytorch`.
    """
    module = require("jax", "oracles")
    xp = require("jax.numpy", "oracles")
    _check(problem, params)
    with module.enable_x64(True):
        value, grads = module.value_and_grad(
            lambda p: objective(xp, xp.asarray, problem, p), allow_int=True
        )(_double(params))
        # JAX's is the conjugate
        return float(value), {name: np.asarray(g).conj() for name, g in grads.items()}


def _check(problem: Problem, params: Mapping[str, Array]) -> None:
    """Raise for a problem that kru_ref does not compute, or the oracles would compute otherwise."""
    if problem.loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {problem.loss!r}")
    if (pooling := problem.model.pooling) is not None:
        raise ValueError(
            f"model must read out every time step, as the oracles do, got pooling {pooling!r}"
        )
    problem.value(dict(params))


def objective(xp: Any, array: Callable[[Any], Any], problem: Problem, p: Mapping[str, Any]) -> Any:
    """Return the loss with the penalty; p holds xp's arrays, ``array`` makes one of NumPy's."""
    model, inputs = problem.model, problem.x
    if inputs.ndim == 2:  # one-hot columns
        inputs = (inputs[:, None] == np.arange(model.cells[0].input_size)[:, None]).astype(float)
    xs = [array(x_t) for x_t in inputs.astype(np.result_type(inputs, np.float64))]
    penalty = 0.0
    for prefix, cell in zip(model.prefixes, model.cells, strict=True):
        of_cell = {name: p[f"{prefix}.{name}"] for name in cell.shapes()}
        gates = _matrices(xp, array, cell, of_cell)
        xs = _states(xp, array, cell, of_cell, gates, xs)
        if cell.is_complex:
            xs = [xp.concatenate([h.real, h.imag]) for h in xs]
        penalty = penalty + _penalty(array, cell, of_cell)
    steps = [p["readout.V"] @ h + p["readout.c"][:, None] for h in xs]
    return _loss(xp, array, problem, steps) + problem.strength * penalty


def _penalty(array: Callable[[Any], Any], cell: Cell, p: Mapping[str, Any]) -> Any:
    """Return how far a cell's matrices are from unitary, where they are not by construction."""
    if cell.matrix.kept_unitary or isinstance(cell.matrix, RestrictedUnitary | Diagonal):
        return 0.0
    errors = [W.conj().T @ W - array(np.eye(W.shape[1])) for W in (p[k] for k in cell.matrix_names)]
    return sum((E * E.conj()).real.sum() for E in errors)


def _matrices(
    xp: Any, array: Callable[[Any], Any], cell: Cell, p: Mapping[str, Any]
) -> list[Callable[[Any], Any]]:
    """Return the function h ↦ W h of each gate."""
    names = list(cell.matrix.layout(cell.hidden_size, np.dtype(cell.dtype)))
    functions: list[Callable[[Any], Any]] = []
    for gate in cell.gate_names:
        W = [p[f"W{gate}{name}"] for name in names]
        if isinstance(cell.matrix, RestrictedUnitary):
            restricted = _restricted(xp, array, cell.matrix, *W)
            functions.append(functools.partial(_apply_restricted, xp, restricted, cell.is_complex))
        elif isinstance(cell.matrix, Diagonal):
            nu, theta = W
            functions.append(functools.partial(xp.matmul, xp.diag(_on_the_disk(xp, nu, theta))))
        else:
            dense = functools.reduce(xp.kron, W) if isinstance(cell.matrix, Kronecker) else W[0]
            functions.append(functools.partial(xp.matmul, dense))
    return functions


def _on_the_disk(xp: Any, nu: Any, theta: Any) -> Any:
    """Return λ of an LRU: its modulus, turned by its angle."""
    modulus, angle = xp.exp(-xp.exp(nu)), xp.exp(theta)
    return modulus * xp.cos(angle) + 1j * modulus * xp.sin(angle)


def _restricted(
    xp: Any, array: Callable[[Any], Any], matrix: RestrictedUnitary, phases: Any, v: Any
) -> Any:
    """Multiply out D_3 R_2 F^-1 D_2 Π R_1 F D_1, with the Fourier transform as a matrix."""
    n = v.shape[1]
    index, identity = np.arange(n), np.eye(n)
    F = np.exp(-2j * np.pi * np.outer(index, index) / n) / np.sqrt(n)
    order = permutation(matrix.permutation_seed, n)
    D = [xp.exp(1j * phase)[:, None] * array(identity) for phase in phases]
    R = [
        array(identity) - 2 * v_k[:, None] * v_k.conj()[None] / (v_k * v_k.conj()).real.sum()
        for v_k in v
    ]
    stages = D[2], R[1], array(F.conj().T), D[1], array(identity[order] + 0j), R[0], array(F), D[0]
    return functools.reduce(xp.matmul, stages)


def _apply_restricted(xp: Any, W: Any, is_complex: bool, h: Any) -> Any:
    if is_complex:
        return W @ h
    n = len(h) // 2
    y = W @ (h[:n] + 1j * h[n:])
    return xp.concatenate([y.real, y.imag])


def _states(
    xp: Any,
    array: Callable[[Any], Any],
    cell: Cell,
    p: Mapping[str, Any],
    gates: list[Callable[[Any], Any]],
    xs: list[Any],
) -> list[Any]:
    """Run one cell: the list of its h_t (N, B)."""
    complex_or_real = array(np.zeros((1, xs[0].shape[1]), cell.dtype))
    state = [p[name][:, None] + complex_or_real for name in cell.state_names]
    hs = []
    for x_t in xs:
        u = p["U"] @ (x_t + complex_or_real)
        if isinstance(cell, RNN):
            s = _activated(xp, cell.activation, gates[0](state[0]) + u, p["b"][:, None])
            state = [(1 - cell.leak) * state[0] + cell.leak * s]
        elif isinstance(cell, LRU):
            state = [gates[0](state[0]) + xp.exp(p["gamma"])[:, None] * u]
        elif isinstance(cell, LSTM):
            h, c = state
            u = u + p["b"][:, None]
            z = [W(h) + u[k * len(h) : (k + 1) * len(h)] for k, W in enumerate(gates)]
            i, f, o = (1 / (1 + xp.exp(-z[k])) for k in (0, 1, 3))
            c = f * c + i * xp.tanh(z[2])
            state = [o * xp.tanh(c), c]
        elif isinstance(cell, GRU):
            (h,) = state
            u = u + p["b"][:, None]
            u_r, u_z, u_n = (u[k * len(h) : (k + 1) * len(h)] for k in range(3))
            r = 1 / (1 + xp.exp(-gates[0](h) - u_r))
            keep = 1 / (1 + xp.exp(-gates[1](h) - u_z))
            n = xp.tanh(u_n + r * (gates[2](h) + p["b_h"][:, None]))
            state = [(1 - keep) * n + keep * h]
        hs.append(state[0])
    return hs


def _activated(xp: Any, name: str, z: Any, b: Any) -> Any:
    if name == "modrelu":
        r = xp.abs(z)
        return xp.where(r + b > 0, (r + b) * z / r, 0 * z)
    z = z + b
    if name == "relu":
        return xp.where(z > 0, z, 0 * z)
    return xp.tanh(z) if name == "tanh" else z


def _loss(xp: Any, array: Callable[[Any], Any], problem: Problem, steps: list[Any]) -> Any:
    """Average the loss over the steps that count."""
    T, B = problem.x.shape[0], problem.x.shape[-1]
    weights = np.ones((T, B)) if problem.mask is None else np.asarray(problem.mask, float)
    total = 0.0
    for y, target, weight in zip(steps, problem.targets, weights / weights.sum(), strict=True):
        if problem.loss == "softmax":
            one_hot = (target == np.arange(len(y))[:, None]).astype(float)
            values = xp.log(xp.exp(y).sum(axis=0)) - (y * array(one_hot)).sum(axis=0)
        elif problem.loss == "squared":
            values = ((y - array(target)) ** 2).sum(axis=0) / len(y)
        else:
            values = (xp.log(1 + xp.exp(y)) - y * array(target)).sum(axis=0)
        total = total + (values * array(weight)).sum()
    return total


def _double(params: Mapping[str, Array]) -> Params:
    """Return params in double precision."""
    return {name: p.astype(np.result_type(p.dtype, np.float64)) for name, p in params.items()}
