"""TIMIT: name the phoneme of each hundredth of a second of speech."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import datasets
from ..extras import require
from ..losses import Loss, softmax_cross_entropy
from .task import Batch, Split, Task, epoch_of, pad

RATE = 16_000  # samples a second
NIST_HEADER = 1024  # bytes
WINDOW, HOP = 400, 160  # 25 ms every 10 ms
N_FEATURES = 39  # energy and 12 cepstral coefficients, and how they change
SHORTEST, LONGEST = 5, 60_000  # frames of a recording
LARGEST_LIST = 2**20  # bytes of a .phn file
LARGEST_RECORDING = 2 * LONGEST * HOP + 2**16  # bytes, with the header

# The 61 labels, and what scoring makes of each (Lee and Hon 1989): itself if nothing is said.
FOLDED = {
    "ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "el": "l",
    "em": "m", "en": "n", "nx": "n", "eng": "ng", "zh": "sh", "ux": "uw",
    "pcl": "sil", "tcl": "sil", "kcl": "sil", "bcl": "sil", "dcl": "sil", "gcl": "sil",
    "h#": "sil", "pau": "sil", "epi": "sil", "q": "sil",
}  # fmt: skip
LABELS = (
    "aa", "ae", "ah", "ao", "aw", "ax", "ax-h", "axr", "ay", "b", "bcl", "ch", "d", "dcl", "dh",
    "dx", "eh", "el", "em", "en", "eng", "epi", "er", "ey", "f", "g", "gcl", "h#", "hh", "hv",
    "ih", "ix", "iy", "jh", "k", "kcl", "l", "m", "n", "ng", "nx", "ow", "oy", "p", "pau",
    "pcl", "q", "r", "s", "sh", "t", "tcl", "th", "uh", "uw", "ux", "v", "w", "y", "z", "zh",
)  # fmt: skip
CLASSES = sorted({FOLDED.get(label, label) for label in LABELS})
CLASS_OF = np.array([CLASSES.index(FOLDED.get(label, label)) for label in LABELS])

# Of a sample of TIMIT without its published split: one speaker of each sex to validate on, two
# of each to test on.
SAMPLE_SPLIT = {
    "validation": {"fapb0", "madd0"},
    "test": {"fvmh0", "marc0", "falr0", "mbgt0"},
}


class Utterance(NamedTuple):
    """A recording's frames (T, 39) and their labels (T,)."""

    features: NDArray[np.float32]
    labels: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Phonemes(Task):
    """Framewise phonemes of TIMIT, with the features of Greff et al. (2017).

    The 61 labels are learned and, folded to 39, scored. The two sentences that all speakers say
    are left out, as is customary. With folders `train` and `test` the published split is used,
    and every tenth training speaker validates; a sample without them has a split by speaker.
    """

    name: ClassVar[str] = "phonemes"
    loss: ClassVar[Loss] = staticmethod(softmax_cross_entropy)
    input_size: ClassVar[int] = N_FEATURES
    output_size: ClassVar[int] = len(LABELS)

    # Folder with TIMIT's tree or a part of it, or with a folder `timit` that has it.
    data_dir: Path | None = None
    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    hidden_size: int = 512
    batch_size: int = 16
    updates: int = 500
    optimizer: Literal["sgd", "rmsprop", "adam"] = "adam"
    rate: float = 1e-3
    # Learning rate of the recurrent matrices.
    factor_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    max_norm: float | None = 1.0
    dropout: float = 0.3
    evaluate_every: int = 50
    checkpoint_every: int = 50

    @property
    def baseline(self) -> tuple[str, float]:
        """The entropy of 61 labels, ln 61."""
        return "for guessing", math.log(len(LABELS))

    def batch(self, update: int) -> Batch:
        """Take utterances for an update; each epoch goes through all of them in a new order."""
        utterances = self._utterances["train"]
        epoch, first = epoch_of(update, len(utterances), self.batch_size)
        order = self.rng("training", epoch).permutation(len(utterances))
        return _batch_of([utterances[i] for i in order[first : first + self.batch_size]])

    def held_out(self, split: Split) -> Iterator[Batch]:
        """Yield all utterances of other speakers."""
        utterances = sorted(self._utterances[split], key=lambda u: len(u.labels))
        for start in range(0, len(utterances), self.batch_size):
            yield _batch_of(utterances[start : start + self.batch_size])

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of frames that are named wrong, of 39 classes and of all 61."""
        named, mask = logits.argmax(axis=1), batch.mask
        n = batch.n_steps
        return {
            "frame_error": float(np.sum(mask * (CLASS_OF[named] != CLASS_OF[batch.targets])) / n),
            "frame_error_61": float(np.sum(mask * (named != batch.targets)) / n),
        }

    @cached_property
    def _utterances(self) -> dict[str, list[Utterance]]:
        root = datasets.locate_folder("timit", ".phn", self.data_dir)
        paths = split_speakers(root)
        utterances = {
            split: [read_utterance(path) for path in some] for split, some in paths.items()
        }
        frames = np.concatenate([u.features for u in utterances["train"]])
        mean, deviation = frames.mean(axis=0), frames.std(axis=0)
        return {
            split: [u._replace(features=(u.features - mean) / deviation) for u in some]
            for split, some in utterances.items()
        }


def _batch_of(utterances: list[Utterance]) -> Batch:
    x, mask = pad([u.features for u in utterances])
    targets, _ = pad([u.labels for u in utterances])
    return Batch(x, targets, mask)


def split_speakers(root: Path) -> dict[str, list[Path]]:
    """Return the .phn files for training, validation and test.

    Parameters
    ----------
    root : Path
        Folder with speakers' folders somewhere below. A speaker's folder is called by the
        speaker, such as "fvmh0", with the dialect before it or not.

    Raises
    ------
    ValueError
        A split would be empty.
    """
    paths: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() == ".phn")
    found = [p for p in found if not p.stem.lower().startswith("sa")]
    parts = [{part.lower() for part in p.relative_to(root).parts[:-1]} for p in found]
    published = any("train" in part for part in parts) and any("test" in part for part in parts)
    training = sorted(
        {_speaker(p) for p, part in zip(found, parts, strict=True) if "train" in part}
    )
    for path, part in zip(found, parts, strict=True):
        if published and "test" in part:
            split = "test"
        elif published and "train" not in part:
            continue
        elif published:
            split = "validation" if training.index(_speaker(path)) % 10 == 9 else "train"
        else:
            chosen = [s for s, speakers in SAMPLE_SPLIT.items() if _speaker(path) in speakers]
            split = chosen[0] if chosen else "train"
        paths[split].append(path)
    for split, some in paths.items():
        if not some:
            raise ValueError(
                f"{root}: no speaker for {split}. {datasets.remedy('timit')} A part of TIMIT "
                f"without folders train and test needs the speakers "
                f"{', '.join(sorted(set.union(*SAMPLE_SPLIT.values())))} and others"
            )
    return paths


def _speaker(path: Path) -> str:
    return path.parent.name.lower().rpartition("-")[2]


def read_utterance(path: Path) -> Utterance:
    """Read a .phn file and the recording beside it.

    A frame has the label of the phoneme that its middle falls into; behind the end of the list
    that of the last one.

    Parameters
    ----------
    path : Path
        The .phn file; the recording has the same name and ends with .wav.

    Raises
    ------
    ValueError
        A file of another form; the error names it, what was expected and what came.
    FileNotFoundError
        No recording.
    ImportError
        librosa or soundfile is not installed.
    """
    ends, labels = read_phonemes(path)
    recordings = [p for p in path.parent.iterdir() if p.stem == path.stem]
    recordings = [p for p in recordings if p.suffix.lower() == ".wav"]
    if not recordings:
        raise FileNotFoundError(f"{path} has no recording {path.stem}.wav beside it")
    samples = read_samples(recordings[0])
    features = mfcc(samples)
    middles = np.arange(len(features)) * HOP + WINDOW // 2
    # TIMIT's own lists end up to 0.2 s before, or one sample behind, their recordings
    if not -RATE // 4 <= ends[-1] - len(samples) <= HOP:
        raise ValueError(
            f"{path}: phonemes up to sample {ends[-1]} do not fit the {len(samples)} samples of "
            f"{recordings[0].name}"
        )
    index = np.minimum(np.searchsorted(ends, middles, side="right"), len(ends) - 1)
    return Utterance(features, labels[index])


def read_phonemes(path: Path) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Read a .phn file: on each line first sample, end, and label of a phoneme.

    Returns
    -------
    ends, labels : ndarray of int, shapes (n,)
        Ends in samples, each the beginning of the next; labels as indices into LABELS.

    Raises
    ------
    ValueError
        Another form; the error names file and line.
    """
    content = datasets.read_at_most(LARGEST_LIST, path)
    rows: list[tuple[int, int, int]] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        words = line.decode("ascii", "replace").split()
        if not words:
            continue
        good = len(words) == 3 and all(w.isascii() and w.isdigit() for w in words[:2])
        if not good or len(line) > 100 or words[2] not in LABELS:
            raise ValueError(
                f"{path}, line {number}: expected first sample, end and one of TIMIT's 61 labels, "
                f"got {' '.join(words)[:60]!r}"
            )
        row = int(words[0]), int(words[1]), LABELS.index(words[2])
        begins = rows[-1][1] if rows else 0
        if row[0] != begins or row[1] <= row[0] or row[1] > LONGEST * HOP:
            raise ValueError(
                f"{path}, line {number}: phonemes must follow one another without a gap, within "
                f"{LONGEST * HOP} samples; expected one from {begins} on, got {row[0]} to {row[1]}"
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty; get it again")
    _, ends, labels = (np.array(column, np.intp) for column in zip(*rows, strict=True))
    return ends, labels


def read_samples(path: Path) -> NDArray[np.float32]:
    """Read a recording, NIST SPHERE or RIFF, of 16,000 16-bit samples a second, one channel.

    Returns
    -------
    samples : ndarray of float32, shape (n,)
        From -1 to 1.

    Raises
    ------
    ValueError
        Another format, damaged or cut; the error names the file, what was expected and what came.
    OSError
        It cannot be read.
    ImportError
        soundfile is not installed.
    """
    soundfile = require("soundfile", "speech")
    content = datasets.read_at_most(LARGEST_RECORDING, path)
    expected = f"{path}: expected NIST SPHERE or RIFF audio, 16-bit PCM, 1 channel, {RATE} Hz"
    try:
        info = soundfile.info(str(path))
        form = f"{info.format} {info.subtype}, {info.channels} channels, {info.samplerate} Hz"
        right = (info.format, info.subtype, info.channels, info.samplerate) in {
            (container, "PCM_16", 1, RATE) for container in ("WAV", "WAVEX", "NIST")
        }
        if not right:
            raise ValueError(f"{expected}; got {form}")
        # libsndfile reads what there is, and memory is never allocated on the header's word
        says, has = _sizes(content)
        if not says == has == 2 * info.frames:
            raise ValueError(
                f"{expected}; its header says {says} bytes of samples, it has {has}: the file is "
                "cut or damaged, delete or replace it"
            )
        if info.frames > LONGEST * HOP:
            raise ValueError(f"{expected}, at most {LONGEST * HOP} samples; got {info.frames}")
        samples, _ = soundfile.read(str(path), dtype="float32")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(f"{expected}; got {error}") from error
    if len(samples) < WINDOW + (SHORTEST - 1) * HOP:
        raise ValueError(f"{path}: {len(samples)} samples are too short for {SHORTEST} frames")
    return samples


def _sizes(content: bytes) -> tuple[int | None, int]:
    """Return the bytes of samples that a NIST or RIFF header says, and those that are there."""
    if content[:4] == b"NIST":
        says = re.search(rb"\nsample_count -i (-?\d{1,9})\n", content[:NIST_HEADER])
        return (2 * int(says[1]) if says else None), len(content) - NIST_HEADER
    at = 12  # behind RIFF, the size and WAVE
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if content[at : at + 4] == b"data":
            return size, min(size, len(content) - at - 8)
        at += 8 + size + size % 2
    return None, 0


def mfcc(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return log energy and 12 mel-frequency cepstral coefficients, their first and second change.

    25 ms Hamming windows every 10 ms, 40 mel bands, pre-emphasis 0.97.

    Parameters
    ----------
    samples : ndarray, shape (n,)

    Returns
    -------
    features : ndarray of float32, shape (T, 39)
        T = 1 + (n - 400) // 160.

    Raises
    ------
    ImportError
        librosa is not installed.
    """
    librosa = require("librosa", "speech")
    emphasised = librosa.effects.preemphasis(samples, coef=0.97)
    static = librosa.feature.mfcc(
        y=emphasised, sr=RATE, n_mfcc=13, n_mels=40, n_fft=WINDOW, hop_length=HOP,
        window="hamming", center=False,
    )  # fmt: skip
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    static[0] = np.log(np.sum(frames**2, axis=1) + 1e-10)
    first = librosa.feature.delta(static, width=5)
    second = librosa.feature.delta(static, width=5, order=2)
    return np.concatenate([static, first, second]).T.astype(np.float32)
