"""TIMIT: name the phoneme of each hundredth of a second of speech."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...files import checked_path
from ...losses import Loss, softmax_cross_entropy
from ..data import datasets
from ..data.speech import HOP, LABELS, N_FEATURES, RATE, WINDOW, mfcc, read_phonemes, read_samples
from .task import Batch, Split, Task, check_split, epoch_of, pad

# The 61 labels, and what scoring makes of each (Lee and Hon 1989): itself if nothing is said. The
# glottal stop q is no class: its frames do not count, and to name another frame so is wrong.
FOLDED = {
    "ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "el": "l",
    "em": "m", "en": "n", "nx": "n", "eng": "ng", "zh": "sh", "ux": "uw",
    "pcl": "sil", "tcl": "sil", "kcl": "sil", "bcl": "sil", "dcl": "sil", "gcl": "sil",
    "h#": "sil", "pau": "sil", "epi": "sil",
}  # fmt: skip
CLASSES = sorted({FOLDED.get(label, label) for label in LABELS} - {"q"})
CLASS_OF = np.array(
    [-1 if label == "q" else CLASSES.index(FOLDED.get(label, label)) for label in LABELS]
)

# Of the published test speakers, the core test set (testset.doc), and those that Halberstadt (1998)
# validates on.
PUBLISHED_SPLIT = {
    "validation": {
        "faks0", "fdac1", "fjem0", "mgwt0", "mjar0", "mmdb1", "mmdm2", "mpdf0", "fcmh0",
        "fkms0", "mbdg0", "mbwm0", "mcsh0", "fadg0", "fdms0", "fedw0", "mgjf0", "mglb0",
        "mrtk0", "mtaa0", "mtdt0", "mthc0", "mwjg0", "fnmr0", "frew0", "fsem0", "mbns0",
        "mmjr0", "mdls0", "mdlf0", "mdvc0", "mers0", "fmah0", "fdrw0", "mrcs0", "mrjm4",
        "fcal1", "mmwh0", "fjsj0", "majc0", "mjsw0", "mreb0", "fgjd0", "fjmg0", "mroa0",
        "mteb0", "mjfc0", "mrjr0", "fmml0", "mrws1",
    },
    "test": {
        "mdab0", "mwbt0", "felc0", "mtas1", "mwew0", "fpas0", "mjmp0", "mlnt0", "fpkt0",
        "mlll0", "mtls0", "fjlm0", "mbpm0", "mklt0", "fnlp0", "mcmj0", "mjdh0", "fmgd0",
        "mgrt0", "mnjm0", "fdhc0", "mjln0", "mpam0", "fmld0",
    },
}  # fmt: skip
# How many speakers each has; with eight sentences of each, without sa1 and sa2.
PUBLISHED_SPEAKERS = {"train": 462, "validation": 50, "test": 24}

# Of a sample of TIMIT without folders train and test: one speaker of each sex to validate on, two
# of each to test on.
SAMPLE_SPLIT = {
    "validation": {"fapb0", "madd0"},
    "test": {"fvmh0", "marc0", "falr0", "mbgt0"},
}


class Utterance(NamedTuple):
    """A recording's frames (T, 39), their labels (T,), and what each counts among 39 classes (T,).

    The weight of frames of q is 0, and the mean weight of a split is 1.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.intp]
    weights: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Phonemes(Task):
    """Framewise phonemes of TIMIT, with the features of Greff et al. (2017).

    The 61 labels are learned and, folded to 39, scored. The two sentences that all speakers say
    are left out, as is customary. With folders `train` and `test` all of TIMIT is expected and
    split as there, after Halberstadt (1998): 462 speakers train, 50 of the test speakers validate,
    and the core test set, 24 others, tests. A sample without these folders is split by speaker.

    Attributes
    ----------
    data_dir
        Folder with TIMIT's tree or a part of it, or with a folder `timit` that has it.
    factor_rate
        Learning rate of the recurrent matrices.

    Examples
    --------
    >>> from kru_ref.training.tasks import Phonemes
    >>> Phonemes().model().output_size  # phonemes as they are labelled
    61
    """

    name: ClassVar[str] = "phonemes"
    loss: ClassVar[Loss] = staticmethod(softmax_cross_entropy)
    input_size: ClassVar[int] = N_FEATURES
    output_size: ClassVar[int] = len(LABELS)

    data_dir: Path | None = None
    cell: Literal["rnn", "lstm", "gru", "lru"] = "lstm"
    hidden_size: int = 512
    batch_size: int = 16
    updates: int = 500
    optimizer: Literal["sgd", "rmsprop", "adam"] = "adam"
    rate: float = 1e-3
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
        check_split(split)
        utterances = sorted(self._utterances[split], key=lambda u: len(u.labels))
        for start in range(0, len(utterances), self.batch_size):
            yield _batch_of(utterances[start : start + self.batch_size])

    def unpublished_files(self) -> Sequence[Path]:
        """Return all recordings and their phonemes: TIMIT has no published checksums."""
        root = datasets.locate_folder("timit", ".phn", self.data_dir)
        return [path for suffix in (".phn", ".wav") for path in datasets.files_below(root, suffix)]

    def metrics(self, loss: float, logits: NDArray[np.floating], batch: Batch) -> dict[str, float]:
        """Return the share of frames that are named wrong, of 39 classes and of all 61.

        Of 39 without the frames of the glottal stop q, which Lee and Hon (1989) leave out; of 61
        with them. The mean over a split's batches is that share to the frame: a batch's frames
        are counted in units of the split's share that is not q, so a single batch may lie a
        little off its own.
        """
        named, n = logits.argmax(axis=1), batch.n_steps
        wrong = CLASS_OF[named] != CLASS_OF[batch.targets]
        return {
            "frame_error": float(np.sum(batch.weights * wrong) / n),
            "frame_error_61": float(np.sum(batch.mask * (named != batch.targets)) / n),
        }

    @cached_property
    def _utterances(self) -> dict[str, list[Utterance]]:
        root = datasets.locate_folder("timit", ".phn", self.data_dir)
        paths = split_speakers(root)
        utterances = {
            split: [read_utterance(path) for path in some] for split, some in paths.items()
        }
        frames = np.concatenate([u.features for u in utterances["train"]])
        mean, deviation = frames.mean(axis=0, dtype="float64"), frames.std(axis=0, dtype="float64")
        if not (deviation > 1e-6).all():
            raise ValueError(
                f"{root}: expected speech in the recordings to train on, got one value of feature "
                f"{int(np.argmin(deviation))} in all frames; are they silent? Replace them"
            )
        scaled = {}
        for split, some in utterances.items():
            counted = np.concatenate([u.weights for u in some]).mean()
            scaled[split] = [
                u._replace(
                    features=((u.features - mean) / deviation).astype(np.float32),
                    weights=u.weights / counted,
                )
                for u in some
            ]
        return scaled


def _batch_of(utterances: list[Utterance]) -> Batch:
    x, mask = pad([u.features for u in utterances])
    targets, _ = pad([u.labels for u in utterances])
    weights, _ = pad([u.weights for u in utterances])
    return Batch(x, targets, mask, weights=weights)


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
        A split would be empty; or there is a folder train or test, but not all of TIMIT's split.
    OSError
        A folder cannot be read.
    """
    root = checked_path("root", root)
    found = sorted(datasets.files_below(root, ".phn"))
    found = [p for p in found if not p.stem.lower().startswith("sa")]
    parts = {path: {part.lower() for part in path.relative_to(root).parts[:-1]} for path in found}
    paths: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    # one of the two by itself is no sample, and is refused
    is_all = any({root.name.lower(), *part} & {"train", "test"} for part in parts.values())
    for path in found:
        split = _published(path, parts[path]) if is_all else _of_sample(path)
        if split is not None:
            paths[split].append(path)
    if is_all:
        _check_published(root, paths)
        return paths
    _check_sample(root, paths)
    return paths


def _published(path: Path, folders: set[str]) -> str | None:
    """Return a sentence's split in all of TIMIT, if it is in one."""
    if "test" in folders:
        found = [s for s, speakers in PUBLISHED_SPLIT.items() if _speaker(path) in speakers]
        return found[0] if found else None
    return "train" if "train" in folders else None


def _of_sample(path: Path) -> str:
    """Return a sentence's split in a part of TIMIT."""
    found = [s for s, speakers in SAMPLE_SPLIT.items() if _speaker(path) in speakers]
    return found[0] if found else "train"


def _check_sample(root: Path, paths: dict[str, list[Path]]) -> None:
    for split, some in paths.items():
        if not some:
            raise ValueError(
                f"{root}: no speaker for {split}. {datasets.remedy('timit')} A part of TIMIT "
                f"without folders train and test needs the speakers "
                f"{', '.join(sorted(set.union(*SAMPLE_SPLIT.values())))} and others"
            )


def _check_published(root: Path, paths: dict[str, list[Path]]) -> None:
    for split, some in paths.items():
        n, expected = len({_speaker(path) for path in some}), PUBLISHED_SPEAKERS[split]
        if n != expected or len(some) != 8 * expected:
            raise ValueError(
                f"{root}: with folders train and test, expected all of TIMIT, {8 * expected:,} "
                f"sentences of {expected} speakers for {split}; got {len(some):,} of {n}. Put the "
                "whole tree there, or a part of it without folders train and test"
            )


def _speaker(path: Path) -> str:
    return path.parent.name.lower().rpartition("-")[2]


def read_utterance(path: Path) -> Utterance:
    """Read a .phn file and the recording beside it.

    A frame has the label of the phoneme that its middle falls into; behind the end of the list
    that of the last one.

    Parameters
    ----------
    path : Path
        The .phn file; the recording has the same name, in whichever case, and ends with .wav.

    Raises
    ------
    ValueError
        A file of another form; the error names it, what was expected and what came.
    FileNotFoundError
        No recording.
    ImportError
        librosa or soundfile is not installed.
    """
    path = checked_path("path", path)
    ends, labels = read_phonemes(path)
    wanted = f"{path.stem}.wav".lower()
    recordings = [p for p in path.parent.iterdir() if p.name.lower() == wanted]
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
    labels = labels[index]
    return Utterance(features, labels, (CLASS_OF[labels] >= 0).astype(np.float64))
