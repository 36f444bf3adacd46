"""Every gradient against every oracle: the table of ``kru-ref gradcheck --all``."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..cells import GRU, LRU, LSTM, RNN, Cell, Params
from ..engine.backend import Backend, kernels
from ..matrices import Dense, Diagonal, FullUnitary, Kronecker, Matrix
from ..model import SequenceModel
from ..restricted import RestrictedUnitary
from . import oracles
from .complex_step import forward_on_complex
from .gradients import check_gradient
from .oracles import Problem
from .rtrl import rtrl

D, N, M = 2, 6, 3
FACTORS = ((1, 2), (2, 3), (3, 1))
STRENGTH = 0.3
# (T, B), a loss, and whether there are a mask and one-hot input
BATCHES = [
    (1, 1, "softmax", False, False),
    (2, 5, "bernoulli", True, False),
    (17, 3, "squared", True, False),
    (5, 2, "softmax", True, True),
]
# Largest relative error that passes.
LIMITS = {
    "complex step": 1e-12,
    "differences": 1e-7,
    "RTRL": 1e-12,
    "PyTorch": 1e-11,
    "JAX": 1e-11,
}


@dataclass(frozen=True)
class Subject:
    """A cell over a matrix, on one of the backends."""

    name: str
    cell: Cell
    backend: str


class Row(NamedTuple):
    """The largest errors of a subject's gradients; an oracle that does not apply is left out."""

    subject: Subject
    errors: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether there is an oracle, and none contradicts."""
        return bool(self.errors) and all(
            error <= LIMITS[oracle] for oracle, error in self.errors.items()
        )


def subjects() -> Iterator[Subject]:
    """Yield every cell over every matrix, in double precision, on every backend there is."""
    matrices: list[tuple[Matrix, str]] = [(RestrictedUnitary(), "numpy")]
    backends: tuple[Backend, ...] = ("numpy",) if kernels is None else ("numpy", "cython")
    for b in backends:
        matrices += [(Kronecker(FACTORS, b), b), (Dense(backend=b), b), (FullUnitary(b), b)]
    makers: dict[str, Callable[[Matrix], Cell]] = {
        "RNN modrelu": lambda W: RNN(D, N, W, "modrelu", "float64"),
        "RNN tanh": lambda W: RNN(D, N, W, "tanh", "float64"),
        "RNN relu": lambda W: RNN(D, N, W, "relu", "float64"),
        "RNN identity": lambda W: RNN(D, N, W, "identity", "float64"),
        "RNN modrelu, complex": lambda W: RNN(D, N, W, "modrelu", "complex128"),
        "RNN identity, complex": lambda W: RNN(D, N, W, "identity", "complex128"),
        "RNN modrelu, complex, leaky": lambda W: RNN(D, N, W, "modrelu", "complex128", leak=0.3),
        "LSTM": lambda W: LSTM(D, N, W, "float64"),
        "GRU": lambda W: GRU(D, N, W, "float64"),
    }
    for (cell, make), (matrix, backend) in itertools.product(makers.items(), matrices):
        yield Subject(f"{cell} over {type(matrix).__name__}", make(matrix), backend)
    for backend in backends:
        W = Diagonal(0.5, 0.9, 1.0, backend)
        modrelu = RNN(D, N, W, "modrelu", "complex128")
        yield Subject("RNN modrelu, complex over Diagonal", modrelu, backend)
        yield Subject("LRU over Diagonal", LRU(D, N, W, "complex128"), backend)
        for matrix in (Kronecker(None, backend), Dense(backend=backend)):
            name = f"RNN identity, complex, eigenbasis over {type(matrix).__name__}"
            inside = RNN(D, N, matrix, "identity", "complex128", eigenbasis=True)
            yield Subject(name, inside, backend)


def check(subject: Subject, rng: np.random.Generator, every_loss: bool = False) -> Row:
    """Return the largest error of each oracle, over batches, masks, losses and parameters.

    Parameters
    ----------
    subject : Subject
    rng : numpy.random.Generator
        Draws parameters, input and targets.
    every_loss : bool
        Whether each batch meets each loss.
    """
    model = SequenceModel(subject.cell, M)
    errors: dict[str, float] = {}
    for T, B, loss, masked, one_hot in BATCHES:
        for name in oracles.LOSSES if every_loss else (loss,):
            problem, params = draw(model, rng, T, B, name, masked, one_hot)
            for oracle, error in compare(problem, params).items():
                # a NaN would be lost in a maximum
                error = math.inf if math.isnan(error) else error
                errors[oracle] = max(errors.get(oracle, 0.0), error)
    return Row(subject, errors)


def draw(
    model: SequenceModel,
    rng: np.random.Generator,
    T: int,
    B: int,
    loss: str,
    masked: bool,
    one_hot: bool,
) -> tuple[Problem, Params]:
    """Draw a batch, and parameters away from where a model starts: there b is 0, W unitary."""
    params = {name: moved(p, rng) for name, p in model.init(rng).items()}
    x = rng.integers(D, size=(T, B)) if one_hot else rng.standard_normal((T, D, B))
    targets = {
        "softmax": rng.integers(M, size=(T, B)),
        "squared": rng.standard_normal((T, M, B)),
        "bernoulli": rng.integers(2, size=(T, M, B)).astype(float),
    }[loss]
    mask = rng.integers(2, size=(T, B)).astype(float) if masked else None
    if mask is not None:
        mask[0] = 1
    return Problem(model, x, targets, loss, mask, STRENGTH), params


def moved(p: Array, rng: np.random.Generator) -> Array:
    """Return a parameter with noise of up to 0.2 on it, or on each of its parts."""
    noise = rng.uniform(-0.2, 0.2, (2, *p.shape))
    return (p + (noise[0] + 1j * noise[1] if np.iscomplexobj(p) else noise[0])).astype(p.dtype)


def compare(problem: Problem, params: Params) -> dict[str, float]:
    """Return the largest relative error of a gradient against each oracle that applies."""
    model, function = problem.model, oracles.LOSSES[problem.loss]
    logits, saved = model.forward(params, problem.x)
    _, dlogits = function(logits, problem.targets, problem.mask)
    of_the_loss = model.backward(params, saved, dlogits)
    grads = problem.gradient(params)
    errors = {}
    if is_analytic(model):
        report = check_gradient(
            lambda p: function(
                forward_on_complex(model, p, problem.x), problem.targets, problem.mask
            )[0],
            params,
            of_the_loss,
            method="complex-step",
        )
        errors["complex step"] = report.max_error
    report = check_gradient(
        problem.value, params, grads, method="richardson", tolerance=LIMITS["differences"]
    )
    errors["differences"] = report.max_error
    errors["RTRL"] = relative_error(of_the_loss, rtrl(model, params, problem.x, dlogits))
    if importlib.util.find_spec("torch"):
        errors["PyTorch"] = relative_error(grads, oracles.pytorch(problem, params)[1])
    if importlib.util.find_spec("jax"):
        errors["JAX"] = relative_error(grads, oracles.jax(problem, params)[1])
    return errors


def is_analytic(model: SequenceModel) -> bool:
    """Tell whether the complex step applies."""
    return not any(
        cell.is_complex
        or getattr(cell, "activation", "") == "modrelu"
        or isinstance(cell.matrix, RestrictedUnitary)
        for cell in model.cells
    )


def relative_error(grads: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Return the largest difference of all parameters' gradients.

    Relative to the largest entry of the parameter's, or to a thousandth of the largest of all;
    infinite where either holds a NaN.

    Raises
    ------
    ValueError
        Other names or shapes than those wanted, or nothing to compare.
    """
    if grads.keys() != wanted.keys():
        raise ValueError(f"expected gradients of {sorted(wanted)}, got {sorted(grads)}")
    for name, g in wanted.items():
        if not g.size or grads[name].shape != g.shape:
            raise ValueError(f"{name} must have shape {g.shape}, got {grads[name].shape}")
    if not wanted:
        raise ValueError("expected at least one gradient, got none")
    largest = {name: float(np.abs(g).max()) for name, g in wanted.items()}
    floor = max(1e-3 * max(largest.values()), np.finfo(float).tiny)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = [
            float(np.abs(grads[name] - g).max()) / max(largest[name], floor)
            for name, g in wanted.items()
        ]
    return max(math.inf if math.isnan(error) else error for error in errors)


def header() -> str:
    """Return the table's first lines: the oracles and what passes."""
    names = "".join(f"{oracle:>14}" for oracle in LIMITS)
    limits = "".join(f"{f'≤ {limit:.0e}':>14}" for limit in LIMITS.values())
    return f"{'largest relative error':52}{names}\n{'':52}{limits}"


def line(row: Row) -> str:
    """Return a row of the table."""
    errors = "".join(
        f"{f'{row.errors[oracle]:.1e}' if oracle in row.errors else '-':>14}" for oracle in LIMITS
    )
    verdict = "" if row.passed else "  <- wrong"
    return f"{f'{row.subject.name}, {row.subject.backend}':52}{errors}{verdict}"
