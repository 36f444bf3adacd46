"""Tone: how loud a tone is, of one frequency, in noise that is louder."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .growing import Growing
from .task import Batch


@dataclass(frozen=True, kw_only=True)
class Tone(Growing):
    """A tone of a fixed frequency in white noise; its amplitude is to be told at the end.

    x_t = a cos(ω (T - 1 - t)) + noise, with a uniform in [-1, 1]. Whoever has an eigenvalue at
    exp(iω) adds up what belongs together; an eigenvalue 2π/T beside it is out of step by a whole
    turn at the end. A few eigenvalues drawn at random are all beside it: the task that no such
    reservoir can do, whatever is read out of it linearly, and that a network which moves its
    eigenvalues can.

    Attributes
    ----------
    frequency
        ω, in radians a step.
    noise
        Standard deviation of the noise.
    first_length
        Length of the first sequences: the shorter, the wider the frequencies from which ω can be
        found. They stay so for 40 % of the updates and grow in equal ratios until 70 %.

    Examples
    --------
    >>> from kru_ref.training.tasks import Tone
    >>> round(Tone().least_error, 4)
    0.0078
    """

    name: ClassVar[str] = "tone"
    input_size: ClassVar[int] = 1

    frequency: float = 0.7
    noise: float = 2.0
    length: int = 1000
    first_length: int | None = 50
    hidden_size: int = 16
    updates: int = 3000

    def _check_own(self) -> None:
        super()._check_own()
        if not 0 < self.frequency < math.pi:
            raise ValueError(f"frequency must be between 0 and π, got {self.frequency:g}")
        if self.noise < 0:
            raise ValueError(f"noise must be at least 0, got {self.noise:g}")

    @property
    def baseline(self) -> tuple[str, float]:
        """The variance of a."""
        return "for always predicting 0", 1 / 3

    @property
    def least_error(self) -> float:
        """The least squared error that anything linear can reach, a matched filter."""
        power = float(np.sum(self.tone(self.length) ** 2))
        return self.noise**2 / (3 * self.noise**2 + power)

    def tone(self, T: int) -> NDArray[np.float64]:
        """Return cos(ω (T - 1 - t))."""
        return np.cos(self.frequency * np.arange(T)[::-1])

    def draw(self, rng: np.random.Generator, T: int, B: int) -> Batch:
        """Draw x (T, 1, B) and the amplitudes (1, B)."""
        a = rng.uniform(-1, 1, (1, B))
        x = a * self.tone(T)[:, None] + self.noise * rng.standard_normal((T, B))
        return Batch(x[:, None], a)

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of amplitudes that are right to 0.1."""
        return {"within_0.1": float(np.mean(np.abs(logits[-1] - batch.targets) < 0.1))}
