"""The handwritten digits of MNIST."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import datasets
from .idx import read_idx

SIDE, N_CLASSES = 28, 10  # pixels of a picture's side, digits


class Digits(NamedTuple):
    """Pictures (n, 784) of bytes and their labels (n,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def load_digits(
    part: Literal["train", "t10k"], n: int, data_dir: Path | None, own_data: bool = False
) -> Digits:
    """Read one part of MNIST from its two IDX files.

    Parameters
    ----------
    part : {"train", "t10k"}
    n : int
        Number of pictures it must hold.
    data_dir : Path, optional
        Where to look; see :func:`kru_ref.datasets.locate`.
    own_data : bool
        Read files that are not the published ones.

    Raises
    ------
    FileNotFoundError
        The files are nowhere; the error says which, and how to get them.
    ValueError
        A file that is not the published one; or one of your own that is damaged, or is not what
        its name says.
    OSError
        A file cannot be read.
    """
    image_path = datasets.locate("mnist", f"{part}-images-idx3-ubyte", data_dir)
    label_path = datasets.locate("mnist", f"{part}-labels-idx1-ubyte", data_dir)
    if not own_data:
        for path in (image_path, label_path):
            datasets.read_verified(path, "mnist", may_be_own=True)
    images = read_idx(image_path, (n, SIDE, SIDE))
    labels = read_idx(label_path, (n,))
    if labels.max() >= N_CLASSES:
        raise ValueError(
            f"{label_path}: labels must be digits from 0 to 9, got {labels.max()}; "
            "the file is damaged, delete or replace it"
        )
    return Digits(images.reshape(n, -1), labels)
