"""Sequences of one's own, in files that need not fit into memory: name their class, or numbers."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...files import StoredArray
from ...losses import Loss, mean_squared_error, softmax_cross_entropy
from ...model import SequenceModel
from .task import Batch, Split, Task, check_split, checked_index, epoch_of

# Sequences from which the scale of each channel is found.
N_SCALED = 1000
# Rows of y that are read at a time.
ROWS = 4096

# Beyond, the square of a number is none.
LARGEST = 1e150

NUMBERED = "classes, y = np.unique(labels, return_inverse=True) numbers them so"


class Part(NamedTuple):
    """Sequences and what is to be told of them, on the disk."""

    x: StoredArray
    y: StoredArray


class Scale(NamedTuple):
    """Mean and standard deviation, 1 where there is none, of each channel or target."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def of(cls, pieces: Callable[[], Iterable[NDArray[np.float64]]]) -> "Scale":
        """Return that of rows of numbers, which come in pieces, again at each call."""
        sums = [(len(rows), rows.sum(axis=0)) for rows in pieces()]
        n = sum(count for count, _ in sums)
        mean = sum(of_piece for _, of_piece in sums) / n
        variance = sum(np.sum((rows - mean) ** 2, axis=0) for rows in pieces()) / n
        deviation = np.sqrt(variance)
        # of what never changes rounding alone is left
        return cls(mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0))

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rows less the mean, over the deviation."""
        return (rows - self.mean) / self.deviation


@dataclass(frozen=True, kw_only=True)
class Sequences(Task):
    """Sequences of your own, X.npy and y.npy, of which only a batch is ever in memory.

    X holds numbers, (n, D, T), or (n, T) for one channel. Whole numbers in y are classes 0, 1, …:
    (n,) for one of each sequence, or (n, T) for one of each step. Other numbers, (n,) or (n, K),
    belong to a sequence; they are scaled to mean 0 and variance 1, and so is each channel of X.

    Attributes
    ----------
    data_dir
        Folder with X.npy and y.npy and, if there is one, a test set X_test.npy and y_test.npy.
    symbols
        X holds not numbers but symbols, (n, T), as whole numbers from 0 on, below this one.
    pooling
        What is read of a sequence's states where it has one target: that after the last step, the
        mean over all, both, or, if not given, these and the mean of their squares.
    validation_share
        Share of the sequences, drawn once for all seeds, that is held out for validation; without a
        test set as many again are held out for it.
    factor_rate
        Learning rate of the recurrent matrices.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from kru_ref.training.tasks import Sequences
    >>> X, y = np.random.default_rng(0).standard_normal((30, 2, 50)), np.arange(30) % 3
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/X.npy", X)
    ...     np.save(f"{folder}/y.npy", y)
    ...     batch = Sequences(data_dir=folder, batch_size=8).batch(0)
    >>> batch.x.shape, batch.targets.shape
    ((50, 2, 8), (8,))
    """

    name: ClassVar[str] = "sequences"

    data_dir: Path
    symbols: int | None = None
    pooling: Literal["last", "mean", "last-and-mean", "moments"] | None = None
    validation_share: float = 0.1
    cell: Literal["rnn", "lstm", "gru", "lru"] = "rnn"
    hidden_size: int = 128
    batch_size: int = 50
    updates: int = 2000
    rate: float = 3e-3
    factor_rate: float = 3e-4
    optimizer: Literal["sgd", "rmsprop", "adam"] = "adam"
    schedule: Literal["constant", "cosine"] = "cosine"
    max_norm: float | None = 1.0

    def _check_own(self) -> None:
        if self.symbols is not None:
            self._check_least(2, "symbols")
        if not 0 < self.validation_share <= 0.4:
            raise ValueError(
                f"validation_share must be above 0 and at most 0.4, got {self.validation_share:g}"
            )
        self._check_part(self._own)
        if self._test is not None:
            self._check_part(self._test)
        if self.pooling is not None and not self.last_only:
            raise ValueError("pooling acts only where a sequence has one target: leave it out")
        n = len(self._own.x)
        if n < 3:
            raise ValueError(f"{self._own.x.path} must hold 3 sequences or more, got {n}")

    def _check_part(self, part: Part) -> None:
        """Check what a file says of its array; numbers themselves are checked as they are read."""
        (x, y), like = part, self._own.x
        if self.symbols is None and len(x.shape) not in (2, 3):
            raise ValueError(f"{x.path} must hold (n, D, T) or (n, T), got {x.shape}")
        if self.symbols is not None and (len(x.shape) != 2 or x.dtype.kind not in "iu"):
            raise ValueError(
                f"{x.path} must hold symbols (n, T), whole numbers, got {x.dtype} {x.shape}"
            )
        if 0 in x.shape or x.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"{x.path} must hold sequences of {like.shape[1:]}, one or more, got {x.shape}"
            )
        if len(y) != len(x):
            raise ValueError(
                f"{y.path} must have a row for each of {len(x)} sequences, got {len(y)}"
            )
        if (y.dtype.kind == "f") != self._are_numbers or y.shape[1:] != self._own.y.shape[1:]:
            raise ValueError(
                f"{y.path} must be as {self._own.y.path}, {self._own.y.dtype} (n, "
                f"{str(self._own.y.shape[1:])[1:]}, got {y.dtype} {y.shape}"
            )
        allowed = ((), y.shape[1:2]) if self._are_numbers else ((), (x.shape[-1],))
        if y.shape[1:] not in allowed or 0 in y.shape:
            raise ValueError(
                f"{y.path} must hold classes (n,) or (n, T), which are whole numbers, or numbers "
                f"(n,) or (n, K), got {y.dtype} {y.shape} beside {x.shape}; take y[:, 0] of one "
                "column, and the argmax of one-hot rows"
            )
        for first in range(0, len(y) if self._are_numbers else 0, ROWS):
            bad = ~np.isfinite(y.rows(first, ROWS)).reshape(-1, math.prod(y.shape[1:]))
            if bad.any():
                where = first + int(bad.any(axis=1).argmax())
                raise ValueError(f"{y.path}, row {where} holds NaN or infinity")

    @property
    def _are_numbers(self) -> bool:
        """Whether numbers are to be told, rather than classes."""
        return bool(self._own.y.dtype.kind == "f")

    @property
    def loss(self) -> Loss:  # type: ignore[override]
        """Squared error of numbers, cross-entropy of classes."""
        return mean_squared_error if self._are_numbers else softmax_cross_entropy

    @property
    def last_only(self) -> bool:  # type: ignore[override]
        """Whether each sequence has one target."""
        return self._are_numbers or len(self._own.y.shape) == 1

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Channels, or symbols."""
        shape = self._own.x.shape
        return self.symbols or (shape[1] if len(shape) == 3 else 1)

    @cached_property
    def output_size(self) -> int:  # type: ignore[override]
        """Classes, or numbers to be told."""
        y = self._own.y
        return math.prod(y.shape[1:]) if self._are_numbers else len(self._often)

    @property
    def n_steps(self) -> int:
        """Steps of a sequence."""
        return self._own.x.shape[-1]

    @property
    def baseline(self) -> tuple[str, float]:
        """The entropy of the classes as often as they occur; 1 for numbers that were scaled."""
        if self._are_numbers:
            return "for always telling the mean", 1.0
        often = self._often / self._often.sum()
        return "for each class as often as it occurs", float(-np.sum(often * np.log(often)))

    def model(self) -> SequenceModel:
        """Return the cells with a readout of each step, or of what pooling leaves of all."""
        pooling = (self.pooling or "moments") if self.last_only else None
        return dataclasses.replace(super().model(), last_only=False, pooling=pooling)

    def batch(self, update: int) -> Batch:
        """Take sequences for an update; each epoch goes through all of them in a new order."""
        chosen = self._shares["train"]
        epoch, first = epoch_of(checked_index("update", update), len(chosen), self.batch_size)
        if epoch not in self._orders:  # to shuffle millions takes as long as an update
            self._orders.clear()
            self._orders[epoch] = self.rng("training", epoch).permutation(chosen)
        order = self._orders[epoch]
        return self._side_by_side(self._own, order[first : first + self.batch_size])

    def held_out(self, split: Split) -> Iterator[Batch]:
        """Yield the sequences of a share, or the test set."""
        check_split(split)
        part, chosen = self._own, self._shares[split]
        if split == "test" and self._test is not None:
            part, chosen = self._test, np.arange(len(self._test.x))
        for start in range(0, len(chosen), self.batch_size):
            yield self._side_by_side(part, chosen[start : start + self.batch_size])

    def unpublished_files(self) -> Sequence[Path]:
        """Return all files."""
        parts = [self._own] if self._test is None else [self._own, self._test]
        return [stored.path for part in parts for stored in part]

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of classes named right, or of the variance that is explained."""
        if self._are_numbers:
            return {"explained": 1 - loss}
        told = (logits[-1:] if self.last_only else logits).argmax(axis=1)
        return {"accuracy": float(np.mean(told == batch.targets))}

    def _side_by_side(self, part: Part, chosen: NDArray[np.intp]) -> Batch:
        """Return x (T, D, B), or symbols (T, B), and targets."""
        rows = np.stack([self._row(part.x, int(i)) for i in chosen])
        y = np.stack([part.y[int(i)] for i in chosen])
        x = rows.T if self.symbols is not None else self._channels(rows)
        if self._are_numbers:
            return Batch(x, self._target_scale(y.reshape(len(y), -1).astype(np.float64)).T)
        bad = (y < 0) | (y >= self.output_size)
        if bad.any():
            raise ValueError(
                f"{part.y.path} must hold classes 0 … {self.output_size - 1}, as in training, got "
                f"{y[bad][0]}"
            )
        return Batch(x, y.T.astype(np.intp))

    def _channels(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        scaled = self._scale(rows.transpose(2, 0, 1))
        return scaled.transpose(0, 2, 1).astype(np.float32)

    def _row(self, stored: StoredArray, i: int) -> NDArray[Any]:
        """Return a sequence (D, T) of finite numbers, or one of symbols (T,)."""
        row = stored[i]
        if self.symbols is not None:
            if row.min() < 0 or row.max() >= self.symbols:
                raise ValueError(
                    f"{stored.path}, sequence {i}: symbols must be from 0 to {self.symbols - 1}, "
                    f"got {row.min()} to {row.max()}"
                )
            return row.astype(np.intp)
        row = row.reshape(-1, row.shape[-1]).astype(np.float64)
        if not np.abs(row).max() <= LARGEST:  # NaN is not
            raise ValueError(f"{stored.path}, sequence {i} holds NaN, or numbers above {LARGEST:g}")
        return row

    @cached_property
    def _own(self) -> Part:
        return self._found("")

    @cached_property
    def _test(self) -> Part | None:
        both = [self.data_dir / f"{name}_test.npy" for name in "Xy"]
        return self._found("_test") if any(path.exists() for path in both) else None

    def _found(self, what: str) -> Part:
        paths = [self.data_dir / f"{name}{what}.npy" for name in "Xy"]
        for path in paths:
            if not path.exists():
                raise FileNotFoundError(
                    f"data_dir must hold {paths[0].name} and {paths[1].name}: there is no {path}"
                )
        return Part(*map(StoredArray, paths))

    @cached_property
    def _shares(self) -> dict[str, NDArray[np.intp]]:
        """The sequences of training, validation and test; the same for all seeds."""
        n = len(self._own.x)
        order = np.random.default_rng(0).permutation(n)
        size = max(1, round(self.validation_share * n))
        n_test = 0 if self._test is not None else size
        held_out, train = order[: size + n_test], order[size + n_test :]
        return {"validation": held_out[:size], "test": held_out[size:], "train": train}

    @cached_property
    def _orders(self) -> dict[int, NDArray[np.intp]]:
        """The order of the epoch that is read."""
        return {}

    @cached_property
    def _scale(self) -> Scale:
        """Of each channel."""
        chosen = np.sort(self._shares["train"][:N_SCALED])
        return Scale.of(lambda: (self._row(self._own.x, int(i)).T for i in chosen))

    @cached_property
    def _target_scale(self) -> Scale:
        """Of each number to be told."""
        y = self._own.y
        numbers = y.rows(0, len(y)).reshape(len(y), -1)[self._shares["train"]]
        return Scale.of(lambda: [numbers.astype(np.float64)])

    @cached_property
    def _often(self) -> NDArray[np.intp]:
        """How often each class occurs."""
        y, often = self._own.y, np.zeros(1, np.intp)
        for first in range(0, len(y), ROWS):
            classes = y.rows(first, ROWS).astype(np.intp).ravel()
            if classes.min() < 0 or classes.max() >= max(2, math.prod(y.shape)):
                raise ValueError(
                    f"{y.path} must hold classes 0, 1, …, got {classes.min()} to {classes.max()}; "
                    f"{NUMBERED}"
                )
            counts = np.bincount(classes, minlength=len(often))
            counts[: len(often)] += often
            often = counts
        if len(often) < 2 or not often.all():
            if len(often) < 2:
                raise ValueError(f"{y.path} must hold two classes or more, got class 0 alone")
            lacking = int(np.argmin(often))
            raise ValueError(
                f"{y.path} must hold classes 0, 1, …, each at least once: there is no {lacking}; "
                f"{NUMBERED}"
            )
        return often
