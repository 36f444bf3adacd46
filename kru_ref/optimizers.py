"""Gradient descent on parameter dicts, as pure functions of params, gradients and state.

A complex parameter is two real ones: squares are taken of its real and imaginary parts
apart. On the same gradients each update equals PyTorch's of the same name.

An optimizer's state is ``{"steps": count, slot: {name: array}}``, its slots having the
keys of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from . import arguments
from .arrays import Array, Params, apart, as_one_vector

State = dict[str, Any]
Real = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What SGD, RMSprop and Adam share: learning rates and the walk over parameters.

    Parameters
    ----------
    rate : float
        Learning rate.
    rates : mapping of str to float
        Other learning rates for groups of parameters: {"cell.W": 1e-5} is for "cell.W"
        and all names that begin with "cell.W."; 0 freezes a group.
    unitary : sequence of str
        Names of square matrices that stay unitary: moved not along what is subtracted from
        all others but along the manifold, by :func:`cayley`.

    Raises
    ------
    ValueError
        A rate that is negative or not finite.
    """

    # Arrays that an update keeps of each parameter, and the constants in [0, 1).
    slots: ClassVar[tuple[str, ...]] = ()
    decays: ClassVar[tuple[str, ...]] = ()

    rate: float = 1e-3
    rates: Mapping[str, float] = field(default_factory=dict)
    unitary: Sequence[str] = ()

    def __post_init__(self) -> None:
        arguments.settle_optimizer(self)

    def init(self, params: Mapping[str, Array]) -> State:
        """Return the state before the first update.

        Raises
        ------
        ValueError
            A group in ``rates`` that no parameter belongs to, or a name in ``unitary`` that is
            no square matrix's.
        """
        arguments.check_groups(self, params)
        params = arguments.as_arrays("params", params)
        zeros = {slot: {k: np.zeros_like(p) for k, p in params.items()} for slot in self.slots}
        return {"steps": 0, **zeros}

    @np.errstate(under="ignore")
    def update(
        self, params: Mapping[str, Array], grads: Mapping[str, Array], state: State
    ) -> tuple[Params, State]:
        """Return new parameters and state; the arguments stay as they are.

        Raises
        ------
        ValueError
            grads with other keys or shapes than params, the state of another optimizer or model,
            or a matrix kept unitary whose gradient is not finite.
        TypeError
            A parameter that is neither real nor complex, or a complex gradient of a real one.
        """
        params, grads = arguments.as_arrays("params", params), arguments.as_arrays("grads", grads)
        arguments.check_update(self.slots, params, grads, state)
        steps = arguments.checked_count(state.get("steps")) + 1
        kept = [arguments.as_arrays(slot, state[slot]) for slot in self.slots]
        new: list[Params] = [{} for _ in ("parameters", *self.slots)]
        for single in dict.fromkeys(np.finfo(p.dtype).dtype for p in params.values()):
            some = {name: p for name, p in params.items() if np.finfo(p.dtype).dtype == single}
            moved = self._moved(some, grads, kept, steps)
            for of_all, row in zip(new, moved, strict=True):
                of_all |= zip(some, apart(row, some.values()), strict=True)
        new_params, *slots = ({name: of_all[name] for name in params} for of_all in new)
        return new_params, {"steps": steps, **dict(zip(self.slots, slots, strict=True))}

    def _moved(
        self, params: Params, grads: Params, slots: Sequence[Params], steps: int
    ) -> list[Real]:
        """Return new parameters and slots, all of one precision and each as one vector."""
        p, g, *kept = (
            as_one_vector(of[k].astype(a.dtype, copy=False) for k, a in params.items())
            for of in (params, grads, *slots)
        )
        change, *kept = self.step(g, steps, *kept)
        numbers = [a.size * (1 + (a.dtype.kind == "c")) for a in params.values()]
        rates = np.array([self.rate_of(name) for name in params], p.dtype)
        moved = p - np.repeat(rates, numbers) * change
        for name in self.unitary:
            if name in params and (rate := self.rate_of(name)):
                place, along = (
                    dict(zip(params, apart(row, params.values()), strict=True))[name]
                    for row in (moved, change)
                )
                if not np.isfinite(along).all():
                    raise ValueError(f"the gradient of {name} must be finite to keep it unitary")
                place[...] = cayley(params[name], along, rate)
        return [moved, *kept]

    def rate_of(self, name: str) -> float:
        """Return the learning rate of a parameter: that of the longest group it belongs to."""
        if name not in self._known_rates:
            groups = [group for group in self.rates if arguments.belongs(name, group)]
            rate = self.rates[max(groups, key=len)] if groups else self.rate
            self._known_rates[name] = rate
        return self._known_rates[name]

    @cached_property
    def _known_rates(self) -> dict[str, float]:
        return {}

    def step(self, g: Real, steps: int, *slots: Real) -> tuple[Real, ...]:
        """Return what to subtract, before the learning rate, and the new slots.

        All are vectors: the parameters of one precision, one after the other.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Gradient descent with momentum: m ← μ m + g, p ← p - rate · m.

    Parameters
    ----------
    momentum : float
        μ in [0, 1); the others as for :class:`Optimizer`.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> params, grads = {"W": np.array([1.0, 2.0])}, {"W": np.array([0.5, -1.0])}
    >>> optimizer = kru.SGD(rate=0.1)
    >>> params, state = optimizer.update(params, grads, optimizer.init(params))
    >>> params["W"]
    array([0.95, 2.1 ])
    """

    slots: ClassVar[tuple[str, ...]] = ("momentum",)
    decays: ClassVar[tuple[str, ...]] = ("momentum",)

    momentum: float = 0.0

    def step(self, g: Real, steps: int, *slots: Real) -> tuple[Real, ...]:
        """Return m and m."""
        m = self.momentum * slots[0] + g
        return m, m


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """v ← α v + (1-α) g², p ← p - rate · g / (√v + ε)  (Tieleman and Hinton 2012).

    Parameters
    ----------
    decay, epsilon : float
        α in [0, 1) and ε; the others as for :class:`Optimizer`.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> params, grads = {"W": np.array([1.0, 2.0])}, {"W": np.array([0.5, -100.0])}
    >>> optimizer = kru.RMSprop(rate=0.01, decay=0.99)
    >>> params, state = optimizer.update(params, grads, optimizer.init(params))
    >>> params["W"].round(3)  # gradients of any size move as far
    array([0.9, 2.1])
    """

    slots: ClassVar[tuple[str, ...]] = ("mean_square",)
    decays: ClassVar[tuple[str, ...]] = ("decay",)

    decay: float = 0.9
    epsilon: float = 1e-8

    def step(self, g: Real, steps: int, *slots: Real) -> tuple[Real, ...]:
        """Return g / (√v + ε) and v."""
        v = self.decay * slots[0] + (1 - self.decay) * g * g
        return g / (np.sqrt(v) + self.epsilon), v


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam with its bias correction (Kingma and Ba 2015).

    m ← β₁ m + (1-β₁) g, v ← β₂ v + (1-β₂) g², and with m̂ = m / (1-β₁ᵏ), v̂ = v / (1-β₂ᵏ)
    at the k-th update, p ← p - rate · m̂ / (√v̂ + ε).

    Parameters
    ----------
    beta1, beta2, epsilon : float
        β₁ and β₂ in [0, 1), and ε; the others as for :class:`Optimizer`.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> params = {"cell.W.0": np.eye(2), "cell.U": np.ones((4, 3))}
    >>> optimizer = kru.Adam(rate=1e-2, rates={"cell.W": 1e-3})
    >>> grads = {name: np.ones_like(p) for name, p in params.items()}
    >>> moved, state = optimizer.update(params, grads, optimizer.init(params))
    >>> [round(float(np.abs(moved[name] - p).max()), 6) for name, p in params.items()]
    [0.001, 0.01]
    """

    slots: ClassVar[tuple[str, ...]] = ("mean", "mean_square")
    decays: ClassVar[tuple[str, ...]] = ("beta1", "beta2")

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def step(self, g: Real, steps: int, *slots: Real) -> tuple[Real, ...]:
        """Return m̂ / (√v̂ + ε), m and v."""
        m = self.beta1 * slots[0] + (1 - self.beta1) * g
        v = self.beta2 * slots[1] + (1 - self.beta2) * g * g
        root = np.sqrt(v) / math.sqrt(1 - self.beta2**steps)
        return m / (1 - self.beta1**steps) / (root + self.epsilon), m, v


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam}


def cayley(W: Array, G: Array, rate: float) -> Array:
    """Move a unitary matrix against a gradient and keep it unitary.

    Parameters
    ----------
    W : ndarray, shape (N, N)
        Unitary, or orthogonal if real.
    G : ndarray, shape (N, N)
        Gradient with respect to the entries of W, as if they were free.
    rate : float
        Length of the step.

    Returns
    -------
    W : ndarray, shape (N, N)

    Notes
    -----
    A = G W^H - W G^H is skew-Hermitian, so its Cayley transform is unitary, and

        W ← (I + rate/2 A)^-1 (I - rate/2 A) W = W - rate A W + O(rate²)

    goes downhill (Wisdom et al. 2016). Rounding would add up from step to step; one step of
    Newton's iteration for the nearest unitary matrix undoes it. After a step so long that rounding
    is no longer small, that matrix is taken from the singular value decomposition.
    """
    A = (rate / 2) * (G @ W.conj().T - W @ G.conj().T)
    identity = np.eye(len(W), dtype=W.dtype)
    moved = scipy.linalg.solve(identity + A, W - A @ W)
    gram = moved.conj().T @ moved
    if not np.abs(gram - identity).max() < math.sqrt(np.finfo(W.dtype).eps):
        left, _, right = np.linalg.svd(moved)
        return left @ right
    return moved @ (3 * identity - gram) / 2


@np.errstate(under="ignore")
def clip_by_global_norm(grads: Mapping[str, Array], max_norm: float) -> tuple[Params, float]:
    """Scale all gradients so that together they are no longer than max_norm.

    Parameters
    ----------
    grads : mapping of str to ndarray
    max_norm : float
        Above 0; ``math.inf`` only measures.

    Returns
    -------
    grads : dict of str to ndarray
        Times min(1, max_norm / norm); as they are where the norm is not finite.
    norm : float
        √Σ|g|² over all entries, before clipping.

    Raises
    ------
    ValueError
        max_norm not above 0.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> grads, norm = kru.clip_by_global_norm({"a": np.array([3.0]), "b": np.array([4j])}, 1.0)
    >>> norm, grads["a"], grads["b"]
    (5.0, array([0.6]), array([0.+0.8j]))
    """
    grads = arguments.as_arrays("grads", grads)
    max_norm = arguments.checked_norm(grads, max_norm)
    # relative to the largest: squares of large entries overflow
    row = as_one_vector([np.zeros(1), *grads.values()])
    largest = float(np.abs(row).max())
    scale = largest if 0 < largest < math.inf else 1.0
    squares = float(np.sum((row / scale) ** 2))
    norm = scale * math.sqrt(squares)
    if norm <= max_norm or not math.isfinite(norm):
        return grads, norm
    return {name: g * (max_norm / norm) for name, g in grads.items()}, norm
