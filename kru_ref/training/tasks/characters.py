"""Penn Treebank, character by character: name the next one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...losses import Loss, softmax_cross_entropy
from ..data import datasets
from ..data.symbols import N_SYMBOLS, read_symbols
from .task import Batch, Split, Task, check_split, checked_index


@dataclass(frozen=True, kw_only=True)
class Characters(Task):
    """Penn Treebank as characters (Mikolov et al. 2012), with its published split.

    The text is cut into as many equal pieces as a batch has sequences; a batch continues
    the one before, so the state is carried while the gradient is cut (truncated BPTT).

    Attributes
    ----------
    length
        Characters of one batch in each sequence: the gradient reaches no further back.
    data_dir
        Folder with the three text files, or with a folder `ptb` that has them.
    own_data
        The files are not the published ones, but your own of the same names and form.
    updates
        One epoch is about 1000 updates of 50 sequences of 100 characters.
    factor_rate
        Learning rate of the recurrent matrices.

    Examples
    --------
    >>> from kru_ref.training.tasks import Characters
    >>> task = Characters(cell="rnn", hidden_size=411, factors=((3, 3), (137, 137)))
    >>> task.model().n_recurrent_parameters  # complex
    37556
    """

    name: ClassVar[str] = "characters"
    loss: ClassVar[Loss] = staticmethod(softmax_cross_entropy)
    input_size: ClassVar[int] = N_SYMBOLS
    output_size: ClassVar[int] = N_SYMBOLS
    carries: ClassVar[bool] = True

    length: int = 100
    data_dir: Path | None = None
    own_data: bool = False
    cell: Literal["rnn", "lstm", "gru", "lru"] = "lstm"
    hidden_size: int = 512
    batch_size: int = 50
    updates: int = 3000
    optimizer: Literal["sgd", "rmsprop", "adam"] = "adam"
    rate: float = 2e-3
    factor_rate: float = 2e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    max_norm: float | None = 1.0
    evaluate_every: int = 1000
    checkpoint_every: int = 200

    def _check_own(self) -> None:
        self._check_least(1, "length")

    @property
    def n_steps(self) -> int:
        """The length."""
        return self.length

    @property
    def baseline(self) -> tuple[str, float]:
        """The entropy of 50 types, ln 50."""
        return "for guessing", math.log(N_SYMBOLS)

    def batch(self, update: int) -> Batch:
        """Take the next piece of each sequence; from the beginning again at an epoch's end."""
        update, text = checked_index("update", update), self._texts["train"]
        size = (len(text) - 1) // self.batch_size
        if size < self.length:
            raise ValueError(
                f"{len(text)} characters are too few for {self.batch_size} sequences of "
                f"{self.length}; choose a smaller batch_size or length"
            )
        start = update % (size // self.length) * self.length
        return _piece(text, self.batch_size, start, start + self.length)

    def held_out(self, split: Split) -> Iterator[Batch]:
        """Yield the whole text, but for less characters than a batch has sequences."""
        check_split(split)
        text = self._texts[split]
        size = (len(text) - 1) // self.batch_size
        if size < 1:
            raise ValueError(
                f"{len(text)} characters of {split} are too few for {self.batch_size} sequences; "
                "choose a smaller batch_size"
            )
        for start in range(0, size, self.length):
            yield _piece(text, self.batch_size, start, min(start + self.length, size))

    def unpublished_files(self) -> Sequence[Path]:
        """Return the three texts, if they are your own."""
        return [*self._paths().values()] if self.own_data else ()

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return bits per character."""
        return {"bits": loss / math.log(2)}

    def _paths(self) -> dict[str, Path]:
        files = {"train": "train", "validation": "valid", "test": "test"}
        return {
            split: datasets.locate("ptb", f"ptb.char.{file}.txt", self.data_dir)
            for split, file in files.items()
        }

    @cached_property
    def _texts(self) -> dict[str, NDArray[np.uint8]]:
        paths = self._paths()
        if not self.own_data:
            for path in paths.values():
                datasets.read_verified(path, "ptb", may_be_own=True)
        symbols = {split: read_symbols(path) for split, path in paths.items()}
        alphabet = np.unique(symbols["train"])
        if len(alphabet) > N_SYMBOLS:
            raise ValueError(
                f"{paths['train']}: expected {N_SYMBOLS} different symbols at most, got "
                f"{len(alphabet)}; is it Penn Treebank's?"
            )
        encoded = {}
        for split, path in paths.items():
            index = np.searchsorted(alphabet, symbols[split])
            known = alphabet[np.minimum(index, len(alphabet) - 1)] == symbols[split]
            if not known.all():
                strange = chr(symbols[split][np.argmin(known)])
                raise ValueError(f"{path}: {strange!r} does not occur in {paths['train']}")
            encoded[split] = index.astype(np.uint8)
        return encoded


def _piece(text: NDArray[np.uint8], B: int, start: int, end: int) -> Batch:
    """Cut steps start … end out of each of B equal pieces of a text."""
    size = (len(text) - 1) // B
    index = np.arange(start, end)[:, None] + size * np.arange(B)  # (T, B)
    x = text[index].astype(np.intp)
    return Batch(x, text[index + 1].astype(np.intp), continues=start > 0)
