"""Adding: the sum of two marked numbers in a long sequence."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .growing import Growing
from .task import Batch


@dataclass(frozen=True, kw_only=True)
class Adding(Growing):
    """Adding problem of Hochreiter and Schmidhuber (1997).

    The input has two rows: numbers in [0, 1], and a mark on one of them in each half of
    the sequence. The target at the last step is the sum of the two marked numbers.

    Attributes
    ----------
    first_length
        Length of the first sequences; the same if not given. They stay so for 40 % of the updates
        and grow in equal ratios until 70 %: a solution found on short sequences carries over.
    factor_rate
        Learning rate of the recurrent matrices. The recorded networks have 3e-3 / length; at 0,
        frozen as they were drawn, those of length 100 are there after about as many updates.

    Examples
    --------
    >>> from kru_ref.training.tasks import Adding
    >>> batch = Adding(length=50).batch(0)
    >>> batch.x.shape, batch.x[:, 1].sum(axis=0)[:3]  # two marks in each sequence
    ((50, 2, 50), array([2., 2., 2.]))
    """

    name: ClassVar[str] = "adding"
    input_size: ClassVar[int] = 2

    @property
    def baseline(self) -> tuple[str, float]:
        """The variance of a sum of two uniform numbers, 2/12."""
        return "for always predicting 1", 1 / 6

    def draw(self, rng: np.random.Generator, T: int, B: int) -> Batch:
        """Draw x (T, 2, B) and the sums (1, B)."""
        numbers = rng.random((T, B))
        first, second = rng.integers(T // 2, size=B), rng.integers(T // 2, T, size=B)
        columns = np.arange(B)
        marks = np.zeros((T, B))
        marks[first, columns] = marks[second, columns] = 1
        sums = numbers[first, columns] + numbers[second, columns]
        return Batch(np.stack([numbers, marks], axis=1), sums[None])

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of sums that are right to 0.1."""
        return {"within_0.1": float(np.mean(np.abs(logits[-1] - batch.targets) < 0.1))}
