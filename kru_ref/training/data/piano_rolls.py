"""Piano rolls: pieces of music from .mat files and from JSON."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from ...files import read_at_most
from . import datasets

N_KEYS, LOWEST = 88, 21  # of a piano; MIDI number of the lowest
LARGEST_FILE = 2**24
LONGEST_PIECE = 100_000
Roll = NDArray[np.uint8]
MAT_NAMES = {"train": "traindata", "validation": "validdata", "test": "testdata"}
JSON_NAMES = {"train": "train", "validation": "valid", "test": "test"}


def read_mat(path: Path, name: str) -> dict[str, list[Roll]]:
    """Read a collection from its MATLAB file.

    Only the published file is read, byte for byte: the format's reader trusts its sizes.

    Parameters
    ----------
    path : Path
    name : str
        The data set, "jsb" or "piano-midi".

    Returns
    -------
    rolls : dict of str to list of ndarray of uint8, shapes (T, 88)
        Of "train", "validation" and "test".

    Raises
    ------
    ValueError
        Another file, or another name.
    OSError
        It cannot be read.
    """
    content = scipy.io.loadmat(BytesIO(datasets.read_verified(path, name)))
    return {split: [*content[key][0]] for split, key in MAT_NAMES.items()}


def read_json(path: Path) -> dict[str, list[Roll]]:
    """Read a collection from JSON: {"train": pieces, "valid": …, "test": …}.

    A piece is a list of chords, a chord a list of MIDI numbers from 21 to 108.

    Parameters
    ----------
    path : Path

    Returns
    -------
    rolls : dict of str to list of ndarray of uint8, shapes (T, 88)
        Of "train", "validation" and "test".

    Raises
    ------
    ValueError
        Another form; the error says what was expected and what came, and where.
    OSError
        It cannot be read.
    """
    text = read_at_most(LARGEST_FILE, path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # a whole number may be too long to be read
        raise ValueError(f"{path} is no JSON ({error}); delete or replace it") from error
    if not isinstance(content, dict) or not set(JSON_NAMES.values()) <= content.keys():
        raise ValueError(f'{path}: expected an object with "train", "valid" and "test"')
    rolls = {}
    for split, name in JSON_NAMES.items():
        pieces = content[name]
        if not isinstance(pieces, list) or not pieces:
            raise ValueError(f"{path}: expected a list of pieces in {name!r}, got {_kind(pieces)}")
        rolls[split] = [_roll(path, f"{name}[{i}]", piece) for i, piece in enumerate(pieces)]
    return rolls


def _roll(path: Path, place: str, piece: Any) -> Roll:
    if not isinstance(piece, list) or not 2 <= len(piece) <= LONGEST_PIECE:
        raise ValueError(
            f"{path}: expected 2 to {LONGEST_PIECE:,} chords in {place}, got {_kind(piece)}"
        )
    roll = np.zeros((len(piece), N_KEYS), np.uint8)
    for t, chord in enumerate(piece):
        notes = chord if isinstance(chord, list) else [None]
        for note in notes:
            if type(note) is not int or not LOWEST <= note < LOWEST + N_KEYS:
                raise ValueError(
                    f"{path}: expected a list of MIDI numbers from {LOWEST} to "
                    f"{LOWEST + N_KEYS - 1} in {place}[{t}], got {str(chord)[:80]}"
                )
            roll[t, note - LOWEST] = 1
    return roll


def _kind(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, list) else type(value).__name__
