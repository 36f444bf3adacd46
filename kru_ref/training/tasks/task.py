"""What every task says: its model, its batches, its loss and its metric."""

import dataclasses
import math
import numbers
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ...cells import GRU, LRU, LSTM, RNN, Cell
from ...engine.backend import Backend
from ...files import checked_path, shortened
from ...losses import Loss
from ...matrices import Dense, Diagonal, FullUnitary, Kronecker, Matrix
from ...model import SequenceModel
from ...optimizers import OPTIMIZERS, Optimizer
from ...restricted import RestrictedUnitary

Split = Literal["validation", "test"]

# One stream of random numbers for each purpose; see Task.rng.
STREAMS = ("parameters", "training", "validation", "test", "dropout")

LARGEST_NUMBER = 2**128  # of a setting: seeds may have so many bits
MOST_LAYERS = 1000
# Settings of matrix diagonal, by the names that it gives them.
RING = ("r_min", "r_max", "max_phase")


class Batch(NamedTuple):
    """Sequences and what to make of them.

    Attributes
    ----------
    x : ndarray, shape (T, D, B), or integers (T, B)
    targets : ndarray
        As the task's loss takes them.
    mask : ndarray, shape (T, B), optional
        0 for steps that only fill up a sequence shorter than the batch's longest.
    continues : bool
        Whether the sequences go on where those of the batch before end.
    weights : ndarray, shape (T, B), optional
        What each step counts in the task's own metric; 1 in the mean over a split's steps.

    Examples
    --------
    >>> from kru_ref.training.tasks import Copying
    >>> batch = Copying(delay=10, batch_size=3).batch(0)
    >>> batch.x.shape, batch.targets.shape, batch.mask is None
    ((30, 3), (30, 3), True)
    """

    x: NDArray[Any]
    targets: NDArray[Any]
    mask: NDArray[Any] | None = None
    continues: bool = False
    weights: NDArray[Any] | None = None

    def columns(self, block: slice) -> "Batch":
        """Return some of the sequences."""
        mask, weights = (a if a is None else a[..., block] for a in (self.mask, self.weights))
        return Batch(self.x[..., block], self.targets[..., block], mask, self.continues, weights)

    @property
    def n_steps(self) -> float:
        """Steps that have a target and count."""
        if self.mask is not None:
            return float(np.sum(self.mask))
        return float(np.prod(self.x.shape[:1] + self.x.shape[-1:]))


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Settings that all tasks share. Help texts of the command line are the comments here.

    A setting that cannot act beside the others, such as the activation of an LSTM, is refused.

    A task of one's own is a subclass, a frozen dataclass whose fields are numbers, truth values,
    texts and paths: adding.py is an example. ``kru_ref.training.loop.train`` trains it, and resumes
    its runs with ``resume=True``; :func:`pad` and :func:`epoch_of` help to make its batches. All
    that its batches draw comes from :meth:`rng`, or a resumed run is another one.

    Attributes
    ----------
    cell
        Recurrent cell; rnn over kronecker is the KRU, lru is over diagonal alone.
    matrix
        Recurrent matrix: a Kronecker product, a free matrix, the product of RC-uRNN, a unitary
        matrix moved along its manifold as in FC-uRNN, or the diagonal one of an LRU.
    hidden_size
        Size N of the hidden state.
    layers
        Cells, each above the one before.
    dropout
        Share of each layer's states that training sets to 0 on their way up.
    factors
        Shapes of the Kronecker factors, P Q P Q …; the prime factors of N if not given, 2×2
        throughout for a power of two.
    init
        How Kronecker factors are drawn: Haar-random, as if not given, or with the eigenvalues of
        their product equally spaced, which needs square factors and a complex dtype.
    r_min, r_max
        Between which radii the eigenvalues of matrix diagonal start, 0.9 and 0.999 if not given.
    max_phase
        Their largest angle at the start, in radians; anywhere on the circle if not given.
    activation
        Nonlinearity of the simple cell, modrelu if not given; tanh and relu need a real dtype.
    eigenbasis
        Keep the states of the simple cell in the basis of W's eigenvectors, where a step without
        nonlinearity is N multiply-adds: the same results but for rounding, in less time.
    dtype
        Numbers of the hidden state and of W: real or complex, single or double precision. If not
        given, complex64 for the simple cell and the LRU, float32 for the others, which are real.
    backend
        Engine of the recurrence; matrix restricted has no compiled one.
    batch_size
        Sequences in a batch.
    updates
        Updates of the parameters in the whole run.
    optimizer
        Rule of the updates.
    rate
        Learning rate of all parameters that have no rate of their own below.
    factor_rate
        Learning rate of the recurrent matrices. Every entry of a factor acts N/2 times a step, over
        all T steps: its gradient is that many times larger and a rate fit for the rest breaks it.
    readout_rate
        Learning rate of the readout V h_t + c, which acts once; if not given, that of the others.
    schedule
        How rates change over the run: not at all, or along half a cosine down to 0.
    penalty
        Strength λ of the soft unitary penalty on a matrix that is not unitary by itself. If not
        given, 0.01 for the simple cell, else 0.
    max_norm
        Longest gradient, all parameters together; longer ones are scaled down to it. If not
        given, or None, none is.
    seed
        Seed of everything random.
    log_every
        Updates between two lines of metrics.jsonl.
    evaluate_every
        Updates between two evaluations on held-out data.
    checkpoint_every
        Updates between two checkpoints.

    Raises
    ------
    ValueError, TypeError
        A setting that is not what it must be, cannot act, or does not fit the others.
    MemoryError
        Parameters, or the states of a batch, that this machine cannot hold.

    Examples
    --------
    >>> from kru_ref.training.tasks import Adding
    >>> task = Adding(length=50, hidden_size=8)
    >>> task.model().n_recurrent_parameters, task.baseline[0]
    (24, 'for always predicting 1')
    """

    name: ClassVar[str]
    loss: ClassVar[Loss]
    input_size: ClassVar[int]
    output_size: ClassVar[int]
    last_only: ClassVar[bool] = False
    # Whether batches may continue the one before.
    carries: ClassVar[bool] = False

    cell: Literal["rnn", "lstm", "gru", "lru"] = "rnn"
    matrix: Literal["kronecker", "dense", "restricted", "full", "diagonal"] = "kronecker"
    hidden_size: int = 128
    layers: int = 1
    dropout: float = 0.0
    factors: tuple[tuple[int, int], ...] | None = None
    init: Literal["haar", "spread"] | None = None
    r_min: float | None = None
    r_max: float | None = None
    max_phase: float | None = None
    activation: Literal["modrelu", "tanh", "relu", "identity"] | None = None
    eigenbasis: bool = False
    dtype: Literal["float32", "float64", "complex64", "complex128"] | None = None
    backend: Backend = "auto"
    batch_size: int = 20
    updates: int = 1000
    optimizer: Literal["sgd", "rmsprop", "adam"] = "rmsprop"
    rate: float = 1e-3
    factor_rate: float = 1e-4
    readout_rate: float | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    penalty: float | None = None
    max_norm: float | None = None
    seed: int = 0
    log_every: int = 10
    evaluate_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = checked_setting(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
        every = ("log_every", "evaluate_every", "checkpoint_every")
        self._check_least(1, "layers", "batch_size", "updates", *every)
        self._check_least(0, "seed")
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers must be at most {MOST_LAYERS:,}, got {self.layers:,}")
        if self.penalty is not None and self.penalty < 0:
            raise ValueError(f"penalty must be finite and ≥ 0, got {self.penalty}")
        if self.max_norm is not None and self.max_norm <= 0:
            raise ValueError(f"max_norm must be above 0, got {self.max_norm}")
        self._check_own()
        self._check_that_all_act()
        self._check_init()
        self._check_memory()
        self.model()
        self.optimizer_at(0)

    def _check_own(self) -> None:  # noqa: B027
        """Check the settings that only this task has."""

    def _check_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name):,}")

    def _check_that_all_act(self) -> None:
        for name, acts, where in (
            ("factors", self.matrix == "kronecker", "with matrix kronecker"),
            ("init", self.matrix == "kronecker", "with matrix kronecker"),
            *((name, self.matrix == "diagonal", "with matrix diagonal") for name in RING),
            ("activation", self.cell == "rnn", "in the cell rnn"),
            ("eigenbasis", self.cell == "rnn", "in the cell rnn"),
            ("penalty", self.matrix in ("kronecker", "dense"), "with matrix kronecker or dense"),
        ):
            value = getattr(self, name)
            if not acts and value is not None and value is not False:
                raise ValueError(
                    f"{name} acts only {where}, and this is {self.cell} over {self.matrix}: "
                    "leave it out"
                )
        check_backend(self.backend, self.matrix)

    def _check_init(self) -> None:
        if self.init != "spread":
            return
        if not self.numbers.startswith("complex"):
            raise ValueError(f"init 'spread' needs a complex dtype, got {self.numbers}")
        if self.factors is not None and any(P != Q for P, Q in self.factors):
            raise ValueError(f"init 'spread' needs square factors, got {list(self.factors)}")

    def _check_memory(self) -> None:
        """Refuse what cannot be held, by arithmetic: the least that an update needs."""
        first = self._cell(self.input_size)
        model = SequenceModel(first, self.output_size)
        n_parameters = model.n_parameters
        if self.layers > 1:
            above = SequenceModel(self._cell(first.n_features), self.output_size)
            readout = math.prod(above.shapes()["readout.V"]) + self.output_size
            n_parameters += (self.layers - 1) * (above.n_parameters - readout)
        # parameters, gradients and what the optimizer keeps of each
        n_parameters *= 2 + len(self.optimizer_at(0).slots)
        n_states = self.layers * first.n_features * self.n_steps * self.batch_size
        needed = first.real_dtype.itemsize * (n_parameters + n_states)
        if needed > memory():
            raise MemoryError(
                f"parameters and the states of a batch need at least {needed / 2**30:,.1f} GiB, "
                f"this machine has {memory() / 2**30:,.1f}"
            )

    def model(self) -> SequenceModel:
        """Return the cells with their readout."""
        cells = [self._cell(self.input_size)]
        for _ in range(1, self.layers):
            cells.append(self._cell(cells[-1].n_features))
        return SequenceModel(
            cells[0] if self.layers == 1 else cells, self.output_size, self.last_only, self.dropout
        )

    def _cell(self, input_size: int) -> Cell:
        ring = {name: value for name in RING if (value := getattr(self, name)) is not None}
        matrix = make_matrix(self.matrix, self.factors, self.backend, self.init or "haar", **ring)
        sizes, activation = (input_size, self.hidden_size), self.activation or "modrelu"
        return make_cell(self.cell, *sizes, matrix, activation, self.numbers, self.eigenbasis)

    def optimizer_at(self, update: int) -> Optimizer:
        """Return the rule of an update, with the rates its schedule gives it.

        Raises
        ------
        ValueError, TypeError
            An update that is negative or no whole number.
        """
        update = checked_index("update", update)
        if self.schedule == "cosine":
            return self._optimizer(0.5 * (1 + math.cos(math.pi * update / self.updates)))
        return self._constant_optimizer

    @cached_property
    def _constant_optimizer(self) -> Optimizer:
        return self._optimizer(1.0)

    def _optimizer(self, scale: float) -> Optimizer:
        """Return the rule with all rates scaled."""
        model = self.model()
        readout_rate = self.rate if self.readout_rate is None else self.readout_rate
        rates = {f"{prefix}.W": scale * self.factor_rate for prefix in model.prefixes}
        return OPTIMIZERS[self.optimizer](
            rate=scale * self.rate,
            rates=rates | {"readout": scale * readout_rate},
            unitary=model.unitary_names,
        )

    def rng(self, stream: str, index: int = 0) -> np.random.Generator:
        """Return the generator of one purpose and one index, such as the number of an update.

        A batch is thus a function of the settings and its index alone: a run that is
        resumed draws what it would have drawn, with no generator to restore.

        Raises
        ------
        ValueError
            A purpose that there is not, or a negative index.
        TypeError
            An index that is no whole number.
        """
        if not isinstance(stream, str) or stream not in STREAMS:
            raise ValueError(f"stream must be one of {', '.join(STREAMS)}, got {_shown(stream)}")
        index = checked_index("index", index)
        return np.random.default_rng([self.seed, STREAMS.index(stream), index])

    @property
    def numbers(self) -> str:
        """The dtype given, else complex64 for the simple cell and the LRU, else float32."""
        return self.dtype or ("complex64" if self.cell in ("rnn", "lru") else "float32")

    @property
    def strength(self) -> float:
        """The penalty given, else 0.01 for the simple cell over a matrix that has one, else 0."""
        if self.penalty is not None:
            return self.penalty
        return 0.01 * (self.cell == "rnn" and self.matrix in ("kronecker", "dense"))

    @property
    def n_steps(self) -> int:
        """Steps of a training sequence, where the settings decide, else 1."""
        return 1

    @abstractmethod
    def batch(self, update: int) -> Batch:
        """Return x and targets of an update, counted from 0; a negative one raises ValueError."""

    @abstractmethod
    def held_out(self, split: Split) -> Iterator[Batch]:
        """Yield batches that no update sees; of another split than the two raise ValueError."""

    def unpublished_files(self) -> Sequence[Path]:
        """Return the files read that have no published checksum: a run records their own."""
        return ()

    @abstractmethod
    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the task's own figures, besides the loss, averaged over the batch's steps."""

    @property
    @abstractmethod
    def baseline(self) -> tuple[str, float]:
        """A loss to compare with, and what reaches it."""


def check_split(split: str) -> None:
    """Raise ValueError unless a split is one that no update sees."""
    if not isinstance(split, str) or split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {_shown(split)}")


def pad(sequences: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Stand sequences (T_b, …) side by side, zeros behind the shorter ones.

    Returns
    -------
    padded : ndarray, shape (T, …, B)
        T is the length of the longest.
    mask : ndarray, shape (T, B)
        1 where a sequence has a step, else 0.

    Examples
    --------
    >>> import numpy as np
    >>> from kru_ref.training.tasks import pad
    >>> padded, mask = pad([np.array([5, 6]), np.array([7])])
    >>> padded, mask
    (array([[5, 7],
           [6, 0]]), array([[1., 1.],
           [1., 0.]], dtype=float32))
    """
    T = max(len(sequence) for sequence in sequences)
    padded = np.zeros((T, *sequences[0].shape[1:], len(sequences)), sequences[0].dtype)
    mask = np.zeros((T, len(sequences)), np.float32)
    for b, sequence in enumerate(sequences):
        padded[: len(sequence), ..., b] = sequence
        mask[: len(sequence), b] = 1
    return padded, mask


def epoch_of(update: int, n: int, batch_size: int) -> tuple[int, int]:
    """Return the epoch of an update over n sequences, and where in its order its batch begins.

    Examples
    --------
    >>> from kru_ref.training.tasks import epoch_of
    >>> [epoch_of(update, n=5, batch_size=2) for update in range(4)]
    [(0, 0), (0, 2), (0, 4), (1, 0)]
    """
    epoch, position = divmod(checked_index("update", update), -(-n // batch_size))
    return epoch, position * batch_size


def make_matrix(
    name: str,
    factors: tuple[tuple[int, int], ...] | None,
    backend: Backend,
    init: Literal["haar", "spread"] = "haar",
    **ring: float,
) -> Matrix:
    """Return the recurrent matrix of a name; of another than these raise ValueError."""
    matrices: dict[str, Matrix] = {
        "kronecker": Kronecker(factors, backend, init),
        "dense": Dense(backend=backend),
        "restricted": RestrictedUnitary(),
        "full": FullUnitary(backend),
        "diagonal": Diagonal(backend=backend, **ring),
    }
    if not isinstance(name, str) or name not in matrices:
        raise ValueError(f"matrix must be one of {', '.join(matrices)}, got {_shown(name)}")
    return matrices[name]


def make_cell(
    name: str,
    input_size: int,
    hidden_size: int,
    matrix: Matrix,
    activation: str,
    dtype: str,
    eigenbasis: bool = False,
) -> Cell:
    """Return the cell of a name; only the simple one, "rnn", has an activation."""
    if name == "lstm":
        return LSTM(input_size, hidden_size, matrix, dtype)
    if name == "gru":
        return GRU(input_size, hidden_size, matrix, dtype)
    if name == "rnn":
        sizes = input_size, hidden_size
        return RNN(*sizes, matrix, activation, dtype, eigenbasis=eigenbasis)
    if name == "lru":
        if not isinstance(matrix, Diagonal):
            raise ValueError("cell lru is over matrix diagonal: choose that matrix, or cell rnn")
        return LRU(input_size, hidden_size, matrix, dtype)
    raise ValueError(f"cell must be one of rnn, lstm, gru, lru, got {_shown(name)}")


def checked_setting(name: str, value: Any, hint: Any) -> Any:
    """Return a setting as config.json holds it, if it is what its annotation says.

    Raises
    ------
    TypeError, ValueError
        It is not: the error names it, what it must be and what came.
    """
    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if value is None and NoneType in kinds:
        return None
    kind, got = kinds[0], f"got {_shown(value)}"
    if name == "factors":
        return _checked_factors(value)
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, {got}")
        return str(value)
    checks = {Path: checked_path, bool: _checked_flag, int: _checked_whole}
    return checks.get(kind, _checked_real)(name, value)


def _checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def _checked_factors(value: Any) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((operator.index(P), operator.index(Q)) for P, Q in value)
    except (TypeError, ValueError):
        raise TypeError(f"factors must be pairs of whole numbers, got {_shown(value)}") from None


def _checked_real(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        needed = "; leave it out, or give None, for no limit" if name == "max_norm" else ""
        raise ValueError(f"{name} must be finite, got {_shown(value)}{needed}")
    return number


def _checked_whole(name: str, value: Any) -> int:
    try:
        whole = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None:
        raise TypeError(f"{name} must be a whole number, got {_shown(value)}")
    if abs(whole) >= LARGEST_NUMBER:
        raise ValueError(f"{name} must be below 2^128, got one of {whole.bit_length()} bits")
    return whole


def _shown(value: Any) -> str:
    try:
        return shortened(repr(value))
    except Exception:  # such as a number of more digits than Python prints
        return f"a {type(value).__name__} that cannot be shown"


def checked_index(name: str, value: Any) -> int:
    """Return a whole number of at least 0."""
    index = _checked_whole(name, value)
    if index < 0:
        raise ValueError(f"{name} must be at least 0, got {index}")
    return index


def check_backend(backend: str, matrix: str) -> None:
    """Raise ValueError if compiled code is asked for where there is none."""
    if backend == "cython" and matrix == "restricted":
        raise ValueError(
            "backend 'cython' acts only with matrix kronecker, dense, full or diagonal, and this "
            f"is {matrix}: leave it out"
        )


def memory() -> int:
    """Return the bytes of this machine's memory; where it does not tell, more than any has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**50
