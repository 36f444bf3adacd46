"""Adding: the sum of two marked numbers in a long sequence."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...losses import Loss, mean_squared_error
from .task import Batch, Split, Task, check_split


@dataclass(frozen=True, kw_only=True)
class Adding(Task):
    """Adding problem of Hochreiter and Schmidhuber (1997).

    The input has two rows: numbers in [0, 1], and a mark on one of them in each half of
    the sequence. The target at the last step is the sum of the two marked numbers.

    Attributes
    ----------
    length
        Length T of a sequence.
    first_length
        Length of the first sequences; the same if not given. They stay so for 40 % of the updates
        and grow in equal ratios until 70 %: a solution found on short sequences carries over. At
        750 steps without this the error never came below 0.05.
    factor_rate
        Learning rate of the recurrent matrices. Here the recurrence itself must learn, so it is
        larger than for copying: at 3e-4 the error is ten times that at 1e-3 after 8000 updates.
    held_out_sequences
        Held-out sequences of one evaluation.
    """

    name: ClassVar[str] = "adding"
    loss: ClassVar[Loss] = staticmethod(mean_squared_error)
    input_size: ClassVar[int] = 2
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

    @property
    def n_steps(self) -> int:
        """The length."""
        return self.length

    @property
    def baseline(self) -> tuple[str, float]:
        """The variance of a sum of two uniform numbers, 2/12."""
        return "for always predicting 1", 1 / 6

    def length_at(self, update: int) -> int:
        """Return the length of an update's sequences."""
        first = self.first_length or self.length
        grown = min(max((update / self.updates - 0.4) / 0.3, 0.0), 1.0)
        return round(first * (self.length / first) ** grown)

    def batch(self, update: int) -> Batch:
        """Draw sequences for an update."""
        rng = self.rng("training", update)
        return draw(rng, self.length_at(update), self.batch_size)

    def held_out(self, split: Split) -> Iterator[Batch]:
        """Draw sequences that no update sees, the same at each call."""
        check_split(split)
        for start in range(0, self.held_out_sequences, self.batch_size):
            B = min(self.batch_size, self.held_out_sequences - start)
            yield draw(self.rng(split, start), self.length, B)

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of sums that are right to 0.1."""
        return {"within_0.1": float(np.mean(np.abs(logits[-1] - batch.targets) < 0.1))}


def draw(rng: np.random.Generator, T: int, B: int) -> Batch:
    """Draw x (T, 2, B) and the sums (1, B)."""
    numbers = rng.random((T, B))
    first, second = rng.integers(T // 2, size=B), rng.integers(T // 2, T, size=B)
    columns = np.arange(B)
    marks = np.zeros((T, B))
    marks[first, columns] = marks[second, columns] = 1
    sums = numbers[first, columns] + numbers[second, columns]
    return Batch(np.stack([numbers, marks], axis=1), sums[None])
