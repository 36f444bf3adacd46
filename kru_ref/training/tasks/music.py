"""Polyphonic music: which keys sound next, after all chords so far."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...losses import Loss, bernoulli_cross_entropy
from ..data import datasets
from ..data.piano_rolls import N_KEYS, Roll, read_json, read_mat
from .task import Batch, Split, Task, check_split, epoch_of, pad

MAT_FILES = {"jsb": "JSB_Chorales.mat", "piano-midi": "Piano_midi.mat"}
JSON_FILE = "jsb-chorales-quarter.json"


@dataclass(frozen=True, kw_only=True)
class Music(Task):
    """JSB Chorales or Piano-midi.de (Boulanger-Lewandowski et al. 2012), their published split.

    A chord is 88 keys that sound or not, its negative log-likelihood the sum over keys; the loss
    is its mean over all chords but each piece's first.

    Attributes
    ----------
    data
        Which collection.
    excerpt
        Longest excerpt of a piece in training, from a random place; whole pieces if not given.
    data_dir
        Folder with the collection's file, or with a folder of its name that has it.
    own_data
        The file is not the published one, but your own jsb-chorales-quarter.json of the same form;
        MATLAB files must always be the published ones.
    factor_rate
        Learning rate of the recurrent matrices.

    Examples
    --------
    >>> from kru_ref.training.tasks import Music
    >>> Music(data="piano-midi").model().n_recurrent_parameters
    144
    """

    name: ClassVar[str] = "music"
    loss: ClassVar[Loss] = staticmethod(bernoulli_cross_entropy)
    input_size: ClassVar[int] = N_KEYS
    output_size: ClassVar[int] = N_KEYS

    data: Literal["jsb", "piano-midi"] = "jsb"
    excerpt: int | None = None
    data_dir: Path | None = None
    own_data: bool = False
    cell: Literal["rnn", "lstm", "gru", "lru"] = "lstm"
    hidden_size: int = 512
    batch_size: int = 20
    updates: int = 1000
    optimizer: Literal["sgd", "rmsprop", "adam"] = "adam"
    rate: float = 1e-3
    factor_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    max_norm: float | None = 1.0
    dropout: float = 0.3
    evaluate_every: int = 100
    checkpoint_every: int = 100

    def _check_own(self) -> None:
        if self.excerpt is not None:
            self._check_least(1, "excerpt")
        if self.own_data and self.data != "jsb":
            raise ValueError(
                "own_data needs data 'jsb', whose JSON file may hold pieces of your own; "
                f"{MAT_FILES[self.data]} must be the published one"
            )

    @property
    def baseline(self) -> tuple[str, float]:
        """Each key by itself, as often as it sounds in training."""
        chords = np.concatenate(self._rolls["train"])
        often = chords.mean(axis=0).clip(1e-9, 1 - 1e-9)
        nats = -often * np.log(often) - (1 - often) * np.log(1 - often)
        return "for each key as often as in training", float(nats.sum())

    def batch(self, update: int) -> Batch:
        """Take pieces for an update; each epoch goes through all of them in a new order."""
        rolls = self._rolls["train"]
        epoch, first = epoch_of(update, len(rolls), self.batch_size)
        order = self.rng("training", epoch).permutation(len(rolls))
        chosen = [rolls[i] for i in order[first : first + self.batch_size]]
        if self.excerpt is not None:
            rng, longest = self.rng("training", 1_000_000 + update), self.excerpt + 1
            starts = [int(rng.integers(max(1, len(roll) - longest + 1))) for roll in chosen]
            chosen = [roll[s : s + longest] for roll, s in zip(chosen, starts, strict=True)]
        return _shifted(chosen)

    def held_out(self, split: Split) -> Iterator[Batch]:
        """Yield all pieces, whole."""
        check_split(split)
        rolls = sorted(self._rolls[split], key=len)
        for start in range(0, len(rolls), self.batch_size):
            yield _shifted(rolls[start : start + self.batch_size])

    def unpublished_files(self) -> Sequence[Path]:
        """Return the JSON file, if it is your own."""
        return [datasets.locate("jsb", JSON_FILE, self.data_dir)] if self.own_data else ()

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of keys found: true ones over true, missed and false ones together.

        A chord of silence found as such counts as 1 (Bay, Ehmann and Downie 2009).
        """
        sounds, truth = logits > 0, batch.targets > 0
        both = (sounds & truth).sum(axis=1)
        either = (sounds | truth).sum(axis=1)
        share = np.where(either > 0, both / np.maximum(either, 1), 1.0)
        weights = np.ones_like(share) if batch.mask is None else batch.mask
        return {"accuracy": float(np.sum(share * weights) / np.sum(weights))}

    @cached_property
    def _rolls(self) -> dict[str, list[Roll]]:
        if not self.own_data:
            try:
                path = datasets.locate(self.data, MAT_FILES[self.data], self.data_dir)
                return read_mat(path, self.data)
            except FileNotFoundError:
                if self.data != "jsb":
                    raise
        path = datasets.locate("jsb", JSON_FILE, self.data_dir)
        if not self.own_data:
            datasets.read_verified(path, "jsb", may_be_own=True)
        return read_json(path)


def _shifted(rolls: list[Roll]) -> Batch:
    """Let each chord name the next."""
    x, mask = pad([roll[:-1].astype(np.float32) for roll in rolls])
    targets, _ = pad([roll[1:] for roll in rolls])
    return Batch(x, targets, mask)
