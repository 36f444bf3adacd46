"""Sequences drawn at random that may be short at first and grow."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...losses import Loss, mean_squared_error
from .task import Batch, Split, Task, check_split


@dataclass(frozen=True, kw_only=True)
class Growing(Task):
    """A number to be told after the last step of a sequence drawn at random.

    Attributes
    ----------
    length
        Length T of a sequence.
    first_length
        Length of the first sequences; the same if not given. They stay so for 40 % of the updates
        and grow in equal ratios until 70 %: a solution found on short sequences carries over.
    factor_rate
        Learning rate of the recurrent matrices.
    held_out_sequences
        Held-out sequences of one evaluation.
    """

    loss: ClassVar[Loss] = staticmethod(mean_squared_error)
    output_size: ClassVar[int] = 1
    last_only: ClassVar[bool] = True

    length: int = 100
    first_length: int | None = None
    batch_size: int = 50
    updates: int = 10_000
    optimizer: Literal["sgd", "rmsprop", "adam"] = "adam"
    rate: float = 3e-3
    factor_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    max_norm: float | None = 1.0
    evaluate_every: int = 500
    checkpoint_every: int = 500
    held_out_sequences: int = 1000

    def _check_own(self) -> None:
        self._check_least(2, "length")
        self._check_least(1, "held_out_sequences")
        if self.first_length is not None and not 2 <= self.first_length <= self.length:
            raise ValueError(
                f"first_length must be between 2 and length {self.length}, got {self.first_length}"
            )

    @abstractmethod
    def draw(self, rng: np.random.Generator, T: int, B: int) -> Batch:
        """Draw x (T, D, B) and what is to be told (1, B)."""

    @property
    def n_steps(self) -> int:
        """The length."""
        return self.length

    def length_at(self, update: int) -> int:
        """Return the length of an update's sequences."""
        first = self.first_length or self.length
        grown = min(max((update / self.updates - 0.4) / 0.3, 0.0), 1.0)
        return round(first * (self.length / first) ** grown)

    def batch(self, update: int) -> Batch:
        """Draw sequences for an update."""
        rng = self.rng("training", update)
        return self.draw(rng, self.length_at(update), self.batch_size)

    def held_out(self, split: Split) -> Iterator[Batch]:
        """Draw sequences that no update sees, the same at each call."""
        check_split(split)
        for start in range(0, self.held_out_sequences, self.batch_size):
            B = min(self.batch_size, self.held_out_sequences - start)
            yield self.draw(self.rng(split, start), self.length, B)
