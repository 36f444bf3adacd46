"""Copying memory: repeat ten symbols after a long delay."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...losses import Loss, softmax_cross_entropy
from .task import Batch, Split, Task, check_split

N_SYMBOLS, LENGTH = 8, 10
BLANK, DELIMITER = N_SYMBOLS, N_SYMBOLS + 1


@dataclass(frozen=True, kw_only=True)
class Copying(Task):
    """Copying memory of Hochreiter and Schmidhuber (1997), as Arjovsky et al. (2016) set it.

    The input is 10 symbols out of 8, T-1 blanks, a delimiter and 10 blanks; the target
    T+10 blanks, then the 10 symbols. T is the delay.

    Attributes
    ----------
    delay
        Delay T between the symbols and their recall.
    factor_rate
        Learning rate of the recurrent matrices. Solved within 500 updates at 1e-5 and a delay of
        100; 1e-6 is steadier at a delay of 1000, and 1e-3 never settles.
    held_out_sequences
        Held-out sequences of one evaluation.

    Examples
    --------
    >>> from kru_ref.training.tasks import Copying
    >>> task = Copying(delay=100)
    >>> batch = task.batch(0)
    >>> bool((batch.targets[-10:] == batch.x[:10]).all())
    True
    """

    name: ClassVar[str] = "copying"
    loss: ClassVar[Loss] = staticmethod(softmax_cross_entropy)
    input_size: ClassVar[int] = N_SYMBOLS + 2
    output_size: ClassVar[int] = N_SYMBOLS + 1

    delay: int = 100
    factor_rate: float = 1e-5
    held_out_sequences: int = 200

    def _check_own(self) -> None:
        self._check_least(1, "delay", "held_out_sequences")

    @property
    def n_steps(self) -> int:
        """The delay, and what is read and recalled around it."""
        return self.delay + 2 * LENGTH

    @property
    def baseline(self) -> tuple[str, float]:
        """Blanks for certain, then guesses: 10 ln 8 nats over T+20 steps."""
        return "without memory", LENGTH * math.log(N_SYMBOLS) / self.n_steps

    def batch(self, update: int) -> Batch:
        """Draw sequences for an update."""
        return draw(self.rng("training", update), self.delay, self.batch_size)

    def held_out(self, split: Split) -> Iterator[Batch]:
        """Draw sequences that no update sees, the same at each call."""
        check_split(split)
        for start in range(0, self.held_out_sequences, self.batch_size):
            B = min(self.batch_size, self.held_out_sequences - start)
            yield draw(self.rng(split, start), self.delay, B)

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of the ten symbols that are recalled."""
        recalled = logits[-LENGTH:].argmax(axis=1) == batch.targets[-LENGTH:]
        return {"accuracy": float(recalled.mean())}


def draw(rng: np.random.Generator, delay: int, B: int) -> Batch:
    """Draw x and targets, both integers of shape (T+20, B)."""
    symbols = rng.integers(N_SYMBOLS, size=(LENGTH, B))
    x = np.full((delay + 2 * LENGTH, B), BLANK)
    x[:LENGTH] = symbols
    x[LENGTH + delay - 1] = DELIMITER
    targets = np.full_like(x, BLANK)
    targets[-LENGTH:] = symbols
    return Batch(x, targets)
