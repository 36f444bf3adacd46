"""Pixel-by-pixel MNIST: name a digit after reading its 784 pixels one at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...losses import Loss, softmax_cross_entropy
from ..data import datasets
from ..data.digits import N_CLASSES, SIDE, Digits, load_digits
from .task import Batch, Split, Task, check_split, checked_index

N_TRAIN, N_TEST = 60_000, 10_000


@dataclass(frozen=True, kw_only=True)
class Pixels(Task):
    """MNIST read one pixel a step (Le, Jaitly and Hinton 2015), T = 784.

    The published 60,000/10,000 split; the last pictures of the 60,000 are held out of
    training for validation.

    Attributes
    ----------
    permute
        Read the pixels in one fixed random order instead of row by row.
    permutation_seed
        Seed of that order, 0 if not given: the same for all runs that are to be compared.
    permutation
        Read them in the order of expRNN (Lezcano-Casado and Martínez-Rubio 2019), NumPy's
        RandomState(92916), to set a result beside theirs; if not given, in that of the seed.
    data_dir
        Folder with the four IDX files, gzipped or not, or with a folder `mnist` that has them.
    own_data
        The files are not the published ones, but your own of the same names and form.
    updates
        One epoch is 550 updates of 100 pictures.
    factor_rate
        Learning rate of the recurrent matrices. At 1e-3 training diverges; at 1e-4 it is steady.
    validation_size
        Pictures held out of the 60,000 for validation.

    Examples
    --------
    >>> from kru_ref.training.tasks import Pixels
    >>> Pixels(permute=True).model().n_parameters
    12882
    """

    name: ClassVar[str] = "pixels"
    loss: ClassVar[Loss] = staticmethod(softmax_cross_entropy)
    input_size: ClassVar[int] = 1
    output_size: ClassVar[int] = N_CLASSES
    last_only: ClassVar[bool] = True

    permute: bool = False
    permutation_seed: int | None = None
    permutation: Literal["exprnn"] | None = None
    data_dir: Path | None = None
    own_data: bool = False
    hidden_size: int = 512
    batch_size: int = 100
    updates: int = 1100
    optimizer: Literal["sgd", "rmsprop", "adam"] = "adam"
    factor_rate: float = 1e-4
    evaluate_every: int = 275
    checkpoint_every: int = 25
    validation_size: int = 5000

    def _check_own(self) -> None:
        if self.permutation_seed is not None:
            self._check_least(0, "permutation_seed")
            if not self.permute:
                raise ValueError("permutation_seed acts only with permute: leave it out")
        if self.permutation is not None and not self.permute:
            raise ValueError("permutation acts only with permute: leave it out")
        if self.permutation is not None and self.permutation_seed is not None:
            raise ValueError("permutation 'exprnn' has a seed of its own: leave one of both out")
        if self.batch_size >= N_TRAIN:
            raise ValueError(
                f"batch_size must be below {N_TRAIN:,}, the pictures to train and validate on, "
                f"got {self.batch_size:,}"
            )
        if not 1 <= self.validation_size <= N_TRAIN - self.batch_size:
            raise ValueError(
                f"validation_size must leave a batch of training pictures, from 1 to "
                f"{N_TRAIN - self.batch_size:,}, got {self.validation_size:,}"
            )

    @property
    def n_steps(self) -> int:
        """The pixels of a picture."""
        return SIDE * SIDE

    @property
    def baseline(self) -> tuple[str, float]:
        """The entropy of ten classes, ln 10."""
        return "for guessing", float(np.log(N_CLASSES))

    def batch(self, update: int) -> Batch:
        """Take pictures for an update; each epoch goes through all of them in a new order."""
        n = N_TRAIN - self.validation_size
        epoch, position = divmod(checked_index("update", update), n // self.batch_size)
        order = self.rng("training", epoch).permutation(n)
        chosen = order[position * self.batch_size :][: self.batch_size]
        return self._sequences(self._train, chosen)

    def held_out(self, split: Split) -> Iterator[Batch]:
        """Yield the validation part of the training set, or the test set."""
        check_split(split)
        digits = self._train if split == "validation" else self._test
        first = N_TRAIN - self.validation_size if split == "validation" else 0
        n = len(digits.labels)
        for start in range(first, n, self.batch_size):
            yield self._sequences(digits, np.arange(start, min(start + self.batch_size, n)))

    def unpublished_files(self) -> Sequence[Path]:
        """Return the four IDX files, if they are your own."""
        if not self.own_data:
            return ()
        return [
            datasets.locate("mnist", f"{part}-{what}-ubyte", self.data_dir)
            for part in ("train", "t10k")
            for what in ("images-idx3", "labels-idx1")
        ]

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of digits that are named right."""
        return {"accuracy": float(np.mean(logits[-1].argmax(axis=0) == batch.targets))}

    def _sequences(self, digits: Digits, chosen: NDArray[np.intp]) -> Batch:
        pixels = digits.pixels[chosen][:, self._order].T  # (T, B)
        x = (pixels / np.float32(255))[:, None]
        return Batch(x, digits.labels[chosen].astype(np.intp))

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        if not self.permute:
            return np.arange(SIDE * SIDE)
        if self.permutation == "exprnn":
            return np.random.RandomState(92916).permutation(SIDE * SIDE)
        return np.random.default_rng(self.permutation_seed or 0).permutation(SIDE * SIDE)

    @cached_property
    def _train(self) -> Digits:
        return load_digits("train", N_TRAIN, self.data_dir, self.own_data)

    @cached_property
    def _test(self) -> Digits:
        return load_digits("t10k", N_TEST, self.data_dir, self.own_data)
