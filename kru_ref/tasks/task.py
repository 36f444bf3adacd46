"""What every task says: its model, its batches, its loss and its metric."""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from ..backend import Backend
from ..cells import KRU, RNN
from ..losses import Loss
from ..model import SequenceModel
from ..optimizers import OPTIMIZERS, Optimizer

Batch = tuple[NDArray[Any], NDArray[Any]]
Split = Literal["validation", "test"]

# One stream of random numbers for each purpose; see Task.rng.
STREAMS = ("parameters", "training", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Settings that all tasks share. Help texts of the command line are the comments here."""

    name: ClassVar[str]
    loss: ClassVar[Loss]
    input_size: ClassVar[int]
    output_size: ClassVar[int]
    last_only: ClassVar[bool] = False

    # Size N of the hidden state.
    hidden_size: int = 128
    # Shapes of the Kronecker factors, P Q P Q …; 2×2 throughout if not given.
    factors: tuple[tuple[int, int], ...] | None = None
    # Nonlinearity; tanh and relu need a real dtype.
    activation: Literal["modrelu", "tanh", "relu", "identity"] = "modrelu"
    # Numbers of the hidden state and of W: real or complex, single or double precision.
    dtype: Literal["float32", "float64", "complex64", "complex128"] = "complex64"
    # Engine of the Kronecker product.
    backend: Backend = "auto"
    # Sequences in a batch.
    batch_size: int = 20
    # Updates of the parameters in the whole run.
    updates: int = 1000
    # Rule of the updates.
    optimizer: Literal["sgd", "rmsprop", "adam"] = "rmsprop"
    # Learning rate of all parameters but the factors.
    rate: float = 1e-3
    # Learning rate of the factors W_f. Every entry of a factor acts N/2 times a step, over
    # all T steps: its gradient is that many times larger and a rate fit for the rest breaks it.
    factor_rate: float = 1e-4
    # How rates change over the run: not at all, or along half a cosine down to 0.
    schedule: Literal["constant", "cosine"] = "constant"
    # Strength λ of the soft unitary penalty.
    penalty: float = 0.01
    # Longest gradient, all parameters together; longer ones are scaled down to it.
    max_norm: float | None = None
    # Seed of everything random.
    seed: int = 0
    # Updates between two lines of metrics.jsonl.
    log_every: int = 10
    # Updates between two evaluations on held-out data.
    evaluate_every: int = 100
    # Updates between two checkpoints.
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, np.generic):  # config.json holds Python's numbers
                object.__setattr__(self, name, value.item())
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}"
                )
        if self.factors is not None:
            factors = tuple((operator.index(P), operator.index(Q)) for P, Q in self.factors)
            object.__setattr__(self, "factors", factors)
        for name in ("batch_size", "updates", "log_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if not (math.isfinite(self.penalty) and self.penalty >= 0):
            raise ValueError(f"penalty must be finite and ≥ 0, got {self.penalty}")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {self.max_norm}")
        self.model()
        self.optimizer_at(0)

    def cell(self) -> RNN:
        """Return the recurrent cell."""
        return KRU(
            self.input_size,
            self.hidden_size,
            self.factors,
            self.activation,
            self.dtype,
            backend=self.backend,
        )

    def model(self) -> SequenceModel:
        """Return the cell with its readout."""
        return SequenceModel(self.cell(), self.output_size, self.last_only)

    def optimizer_at(self, update: int) -> Optimizer:
        """Return the rule of an update, with the rates its schedule gives it."""
        scale = 1.0
        if self.schedule == "cosine":
            scale = 0.5 * (1 + math.cos(math.pi * update / self.updates))
        return OPTIMIZERS[self.optimizer](
            rate=scale * self.rate, rates={"cell.W": scale * self.factor_rate}
        )

    def rng(self, stream: str, index: int = 0) -> np.random.Generator:
        """Return the generator of one purpose and one index, such as the number of an update.

        A batch is thus a function of the settings and its index alone: a run that is
        resumed draws what it would have drawn, with no generator to restore.
        """
        return np.random.default_rng([self.seed, STREAMS.index(stream), index])

    @abstractmethod
    def batch(self, update: int) -> Batch:
        """Return x and targets of an update, counted from 0."""

    @abstractmethod
    def held_out(self, split: Split) -> Iterator[Batch]:
        """Yield batches that no update sees."""

    @abstractmethod
    def metrics(self, logits: NDArray[np.floating], targets: NDArray[Any]) -> dict[str, float]:
        """Return the task's own figures, besides the loss."""

    @property
    @abstractmethod
    def baseline(self) -> tuple[str, float]:
        """A loss to compare with, and what reaches it."""
