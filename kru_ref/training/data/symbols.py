"""Texts of symbols, one byte each, a space between them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...files import read_at_most

# Types of Penn Treebank: letters, digits, signs, "_" for a space, and the end of a line.
N_SYMBOLS = 50
LARGEST_FILE = 2**26


def read_symbols(path: Path) -> NDArray[np.uint8]:
    """Read a text whose symbols are single ASCII characters with a space behind each.

    The end of a line is a symbol too.

    Parameters
    ----------
    path : Path

    Returns
    -------
    symbols : ndarray of uint8, shape (n,)
        Their codes.

    Raises
    ------
    ValueError
        Another form; the error names file, line and what was expected.
    OSError
        The file cannot be read.
    """
    content = read_at_most(LARGEST_FILE, path)
    if not content:
        raise ValueError(f"{path} is empty; get it again")
    codes = np.frombuffer(content, np.uint8)
    # two symbols must have a space between; more of them, or some at a line's ends, are no matter
    is_symbol = (codes != ord(" ")) & (codes != ord("\n"))
    strange = (codes >= 128) | ((codes < 32) & (codes != ord("\n")))
    strange[1:] |= is_symbol[1:] & is_symbol[:-1]
    if strange.any():
        at = int(np.argmax(strange))
        line = content.count(b"\n", 0, at) + 1
        raise ValueError(
            f"{path}, line {line}: expected single ASCII characters with spaces between, got "
            f"{content[max(0, at - 5) : at + 6]!r}; is it one of Mikolov's ptb.char files?"
        )
    symbols = codes[codes != ord(" ")]
    if len(symbols) < 2:
        raise ValueError(f"{path}: expected a text, got {len(symbols)} symbols; get it again")
    return symbols
