"""What every task says: its model, its batches, its loss and its metric."""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ..backend import Backend
from ..cells import GRU, LSTM, RNN, Cell
from ..losses import Loss
from ..matrices import Dense, FullUnitary, Kronecker, Matrix, RestrictedUnitary
from ..model import SequenceModel
from ..optimizers import OPTIMIZERS, Optimizer

Split = Literal["validation", "test"]

# One stream of random numbers for each purpose; see Task.rng.
STREAMS = ("parameters", "training", "validation", "test", "dropout")


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
    """

    x: NDArray[Any]
    targets: NDArray[Any]
    mask: NDArray[Any] | None = None
    continues: bool = False
    weights: NDArray[Any] | None = None

    @property
    def n_steps(self) -> float:
        """Steps that have a target and count."""
        if self.mask is not None:
            return float(np.sum(self.mask))
        return float(np.prod(self.x.shape[:1] + self.x.shape[-1:]))


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Settings that all tasks share. Help texts of the command line are the comments here.

    Attributes
    ----------
    cell
        Recurrent cell; rnn over kronecker is the KRU.
    matrix
        Recurrent matrix: a Kronecker product, a free matrix, the product of RC-uRNN, or a unitary
        matrix moved along its manifold as in FC-uRNN.
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
        How Kronecker factors are drawn: Haar-random, or with the eigenvalues of their product
        equally spaced, which needs square factors and a complex dtype.
    activation
        Nonlinearity of the simple cell; tanh and relu need a real dtype.
    dtype
        Numbers of the hidden state and of W: real or complex, single or double precision. If not
        given, complex64 for the simple cell and float32 for the others, which are real.
    backend
        Engine of the Kronecker product.
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
        Strength λ of the soft unitary penalty. If not given, 0.01 for the simple cell, else 0.
    max_norm
        Longest gradient, all parameters together; longer ones are scaled down to it.
    seed
        Seed of everything random.
    log_every
        Updates between two lines of metrics.jsonl.
    evaluate_every
        Updates between two evaluations on held-out data.
    checkpoint_every
        Updates between two checkpoints.
    """

    name: ClassVar[str]
    loss: ClassVar[Loss]
    input_size: ClassVar[int]
    output_size: ClassVar[int]
    last_only: ClassVar[bool] = False
    # Whether batches may continue the one before.
    carries: ClassVar[bool] = False

    cell: Literal["rnn", "lstm", "gru"] = "rnn"
    matrix: Literal["kronecker", "dense", "restricted", "full"] = "kronecker"
    hidden_size: int = 128
    layers: int = 1
    dropout: float = 0.0
    factors: tuple[tuple[int, int], ...] | None = None
    init: Literal["haar", "spread"] = "haar"
    activation: Literal["modrelu", "tanh", "relu", "identity"] = "modrelu"
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
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if value is not None and int in (hint, *get_args(hint)):
                try:
                    operator.index(value)
                except TypeError:
                    raise TypeError(f"{name} must be a whole number, got {value!r}") from None
            if isinstance(value, np.generic):  # config.json holds Python's numbers
                object.__setattr__(self, name, value.item())
            choices = _choices(hint)
            if choices and value not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(c for c in choices if c)}, got {value!r}"
                )
        if self.factors is not None:
            factors = tuple((operator.index(P), operator.index(Q)) for P, Q in self.factors)
            object.__setattr__(self, "factors", factors)
        for name in (
            "layers",
            "batch_size",
            "updates",
            "log_every",
            "evaluate_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"penalty must be finite and ≥ 0, got {self.penalty}")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {self.max_norm}")
        self.model()
        self.optimizer_at(0)

    def model(self) -> SequenceModel:
        """Return the cells with their readout."""
        cells = [self._cell(self.input_size)]
        for _ in range(1, self.layers):
            cells.append(self._cell(cells[-1].n_features))
        return SequenceModel(
            cells[0] if self.layers == 1 else cells, self.output_size, self.last_only, self.dropout
        )

    def _cell(self, input_size: int) -> Cell:
        matrix = make_matrix(self.matrix, self.factors, self.backend, self.init)
        return make_cell(
            self.cell, input_size, self.hidden_size, matrix, self.activation, self.numbers
        )

    def optimizer_at(self, update: int) -> Optimizer:
        """Return the rule of an update, with the rates its schedule gives it."""
        scale = 1.0
        if self.schedule == "cosine":
            scale = 0.5 * (1 + math.cos(math.pi * update / self.updates))
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
        """
        return np.random.default_rng([self.seed, STREAMS.index(stream), index])

    @property
    def numbers(self) -> str:
        """The dtype given, else complex64 for the simple cell and float32 for the others."""
        return self.dtype or ("complex64" if self.cell == "rnn" else "float32")

    @property
    def strength(self) -> float:
        """The penalty given, else 0.01 for the simple cell and 0 for the others."""
        return self.penalty if self.penalty is not None else 0.01 * (self.cell == "rnn")

    @abstractmethod
    def batch(self, update: int) -> Batch:
        """Return x and targets of an update, counted from 0."""

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
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")


def pad(sequences: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Stand sequences (T_b, …) side by side, zeros behind the shorter ones.

    Returns
    -------
    padded : ndarray, shape (T, …, B)
        T is the length of the longest.
    mask : ndarray, shape (T, B)
        1 where a sequence has a step, else 0.
    """
    T = max(len(sequence) for sequence in sequences)
    padded = np.zeros((T, *sequences[0].shape[1:], len(sequences)), sequences[0].dtype)
    mask = np.zeros((T, len(sequences)), np.float32)
    for b, sequence in enumerate(sequences):
        padded[: len(sequence), ..., b] = sequence
        mask[: len(sequence), b] = 1
    return padded, mask


def epoch_of(update: int, n: int, batch_size: int) -> tuple[int, int]:
    """Return the epoch of an update over n sequences, and where in its order its batch begins."""
    epoch, position = divmod(update, -(-n // batch_size))
    return epoch, position * batch_size


def make_matrix(
    name: str,
    factors: tuple[tuple[int, int], ...] | None,
    backend: Backend,
    init: Literal["haar", "spread"] = "haar",
) -> Matrix:
    """Return the recurrent matrix of a name."""
    matrices: dict[str, Matrix] = {
        "kronecker": Kronecker(factors, backend, init),
        "dense": Dense(),
        "restricted": RestrictedUnitary(),
        "full": FullUnitary(),
    }
    return matrices[name]


def make_cell(
    name: str, input_size: int, hidden_size: int, matrix: Matrix, activation: str, dtype: str
) -> Cell:
    """Return the cell of a name; only the simple one, "rnn", has an activation."""
    if name == "lstm":
        return LSTM(input_size, hidden_size, matrix, dtype)
    if name == "gru":
        return GRU(input_size, hidden_size, matrix, dtype)
    return RNN(input_size, hidden_size, matrix, activation, dtype)


def _choices(hint: Any) -> tuple[str | None, ...]:
    """Return what a field may be, where that is a few words."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) is Union and get_origin(get_args(hint)[0]) is Literal:
        return (*get_args(get_args(hint)[0]), None)
    return ()
