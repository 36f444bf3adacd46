"""Speech: TIMIT's lists of phonemes, recordings in NIST SPHERE and RIFF, and their features."""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...arguments import as_array
from ...extras import require
from ...files import read_at_most, shortened

RATE = 16_000  # samples a second
NIST_HEADER = 1024  # bytes
WINDOW, HOP = 400, 160  # 25 ms every 10 ms
N_FEATURES = 39  # energy and 12 cepstral coefficients, and how they change
SHORTEST, LONGEST = 5, 60_000  # frames of a recording
LARGEST_LIST = 2**20  # bytes of a .phn file
LARGEST_RECORDING = 2 * LONGEST * HOP + 2**16  # bytes, with the header
LABELS = (
    "aa", "ae", "ah", "ao", "aw", "ax", "ax-h", "axr", "ay", "b", "bcl", "ch", "d", "dcl", "dh",
    "dx", "eh", "el", "em", "en", "eng", "epi", "er", "ey", "f", "g", "gcl", "h#", "hh", "hv",
    "ih", "ix", "iy", "jh", "k", "kcl", "l", "m", "n", "ng", "nx", "ow", "oy", "p", "pau",
    "pcl", "q", "r", "s", "sh", "t", "tcl", "th", "uh", "uw", "ux", "v", "w", "y", "z", "zh",
)  # fmt: skip


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
    content = read_at_most(LARGEST_LIST, path)
    rows: list[tuple[int, int, int]] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        words = line.decode("ascii", "replace").split()
        if not words:
            continue
        if len(line) > 100 or not _is_phoneme(words):
            raise ValueError(
                f"{path}, line {number}: expected first sample, end and one of TIMIT's 61 labels, "
                f"got {' '.join(words)[:60]!r}"
            )
        row = int(words[0]), int(words[1]), LABELS.index(words[2])
        begins = rows[-1][1] if rows else 0
        if row[0] != begins or not row[0] < row[1] <= LONGEST * HOP:
            raise ValueError(
                f"{path}, line {number}: phonemes must follow one another without a gap, within "
                f"{LONGEST * HOP} samples; expected one from {begins} on, got {row[0]} to {row[1]}"
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty; get it again")
    _, ends, labels = (np.array(column, np.intp) for column in zip(*rows, strict=True))
    return ends, labels


def _is_phoneme(words: list[str]) -> bool:
    numbers = words[:2]
    return (
        len(words) == 3
        and words[2] in LABELS
        and all(word.isascii() and word.isdigit() for word in numbers)
    )


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
    content = read_at_most(LARGEST_RECORDING, path)
    expected = f"{path}: expected NIST SPHERE or RIFF audio, 16-bit PCM, 1 channel, {RATE} Hz"
    damaged = "the file is cut or damaged, delete or replace it"
    if content[:4] == b"NIST":
        samples = _nist_samples(content, expected, damaged)
    else:
        try:
            with soundfile.SoundFile(BytesIO(content)) as file:
                form = f"{file.format} {file.subtype}, {file.channels} channels, {file.samplerate}"
                if form not in {f"{kind} PCM_16, 1 channels, {RATE}" for kind in ("WAV", "WAVEX")}:
                    raise ValueError(f"{expected}; got {form} Hz")
                # libsndfile reads what there is, and memory is never allocated on the header's word
                says, has = _riff_sizes(content)
                if not says == has == 2 * file.frames:
                    raise ValueError(
                        f"{expected}; its header says {says} bytes of samples, it has {has}: "
                        f"{damaged}"
                    )
                samples = file.read(dtype="float32")
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise ValueError(f"{expected}; got {shortened(str(error))}") from error
    if len(samples) > LONGEST * HOP:
        raise ValueError(f"{expected}, at most {LONGEST * HOP} samples; got {len(samples)}")
    if len(samples) < WINDOW + (SHORTEST - 1) * HOP:
        raise ValueError(f"{path}: {len(samples)} samples are too short for {SHORTEST} frames")
    return samples


# A line of a header: a whole number, a real one, or text with the number of its characters.
NIST_LINE = re.compile(rb"(\w+) -(?:i (-?\d{1,12})|r (\S{1,30})|s(\d{1,3}) (.*))")


def _nist_samples(content: bytes, expected: str, damaged: str) -> NDArray[np.float32]:
    """Read NIST SPHERE strictly: libsndfile takes what a damaged line no longer says for granted.

    Raises ValueError.
    """
    fields = _nist_fields(content[:NIST_HEADER])
    if fields is None:
        raise ValueError(f"{expected}; its NIST header is none: {damaged}")
    for name, values in (
        (b"channel_count", (b"1",)),
        (b"sample_rate", (b"%d" % RATE,)),
        (b"sample_n_bytes", (b"2",)),
        (b"sample_sig_bits", (b"16",)),
        (b"sample_byte_format", (b"01", b"10")),
        (b"sample_coding", (b"pcm", None)),
    ):
        if fields.get(name) not in values:
            got = shortened(repr(fields.get(name, b"nothing").decode("ascii", "replace")))
            raise ValueError(f"{expected}; its NIST header says {got} for {name.decode()}")
    says, has = 2 * int(fields.get(b"sample_count", b"0")), len(content) - NIST_HEADER
    if says != has:
        raise ValueError(
            f"{expected}; its header says {says} bytes of samples, it has {has}: {damaged}"
        )
    order = "<i2" if fields[b"sample_byte_format"] == b"01" else ">i2"
    samples = np.frombuffer(content, order, offset=NIST_HEADER)
    return samples.astype(np.float32) / np.float32(2**15)


def _nist_fields(header: bytes) -> dict[bytes, bytes] | None:
    """Return the values of a NIST header by their names, or None if it is damaged."""
    head, _, rest = header.partition(b"\nend_head\n")
    first, size, *lines = [*head.split(b"\n"), b""]
    if (first, size) != (b"NIST_1A", b"%7d" % NIST_HEADER) or rest.strip(b" \n\0"):
        return None
    fields: dict[bytes, bytes] = {}
    for line in lines:
        if not line or line.startswith(b";"):
            continue
        found = NIST_LINE.fullmatch(line)
        if found is None:
            return None
        name, whole, real, n, text = found.groups()
        if name in fields or (text is not None and len(text) != int(n)):
            return None
        fields[name] = next(value for value in (whole, real, text) if value is not None)
    return fields


def _riff_sizes(content: bytes) -> tuple[int | None, int]:
    """Return the bytes of samples that a RIFF header says, and those that are there.

    There are none if what stands around them is not made of chunks.
    """
    at, says, has = 12, None, 0  # behind RIFF, the size and WAVE
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        if name == b"data" and says is None:
            says, has = size, min(size, len(content) - at - 8)
        elif not (name.isascii() and name.decode().isprintable()):
            return says, 0
        at += 8 + size + size % 2
    # the last byte of an odd chunk may be missing
    return says, has if at in (len(content), len(content) + 1) or has != says else 0


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
    ValueError, TypeError
        Too few samples for five frames, or such as are not finite real numbers.
    ImportError
        librosa is not installed.
    """
    samples = as_array("samples", samples)
    shortest = WINDOW + (SHORTEST - 1) * HOP
    if samples.ndim != 1 or len(samples) < shortest or samples.dtype.kind == "c":
        raise ValueError(
            f"samples must be {shortest} real numbers or more, got {samples.dtype} of shape "
            f"{samples.shape}"
        )
    if not np.isfinite(samples).all():
        raise ValueError("samples must be finite")
    librosa = require("librosa", "speech")
    emphasised = librosa.effects.preemphasis(samples, coef=0.97)
    bands = librosa.feature.melspectrogram(
        y=emphasised, sr=RATE, n_mels=40, n_fft=WINDOW, hop_length=HOP, window="hamming",
        center=False,
    )  # fmt: skip
    # without a floor below the loudest: a frame's features are its own
    static = librosa.feature.mfcc(S=librosa.power_to_db(bands, top_db=None), n_mfcc=13)
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    static[0] = np.log(np.sum(frames**2, axis=1) + 1e-10)
    first = librosa.feature.delta(static, width=5)
    second = librosa.feature.delta(first, width=5)
    return np.concatenate([static, first, second]).T.astype(np.float32)
