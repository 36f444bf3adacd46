"""Reading .npz archives of plain arrays: nothing is unpickled, nothing believed unchecked."""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class ArchiveError(ValueError):
    """A file is no .npz of plain arrays.

    Attributes
    ----------
    reason : str
        What is wrong with it, in a few words.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = shortened(reason)
        super().__init__(f"{path} is no .npz of plain arrays: {self.reason}")


def read_npz(path: Path, largest: int | None = None) -> Arrays:
    """Read all arrays of an .npz archive.

    Parameters
    ----------
    path : Path
    largest : int, optional
        Bytes that all arrays together may take; if not given, those of the file, as for an archive
        that is not compressed. Checked before any is read.

    Returns
    -------
    arrays : dict of str to ndarray
        Numbers or truth values, in the processor's byte order.

    Raises
    ------
    ArchiveError
        It is damaged, too large, or holds anything but plain arrays.
    OSError
        It cannot be read, or is not there; the error names it.
    """
    try:
        # a pipe would be waited for
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ArchiveError(path, "it is a folder or a device, not a file")
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        what = error.strerror or error
        hint = "" if isinstance(error, FileNotFoundError) else "; make it readable"
        raise type(error)(f"cannot read {path}: {what}{hint}") from error
    with file:
        try:
            # what NumPy and Python only warn of, in a header, is no file of ours either
            with warnings.catch_warnings(action="error"), zipfile.ZipFile(file) as archive:
                size = os.fstat(file.fileno()).st_size
                names = _checked_names(archive, size if largest is None else largest)
                return {name: _array(info, archive) for name, info in names.items()}
        except MemoryError:
            raise
        except Exception as error:  # a damaged archive raises anything, zlib.error and EOFError too
            raise ArchiveError(path, str(error) or type(error).__name__) from error


def shortened(text: str) -> str:
    """Cut what came from a file to what fits a message."""
    return text if len(text) <= 200 else f"{text[:200]}…"


def _checked_names(archive: zipfile.ZipFile, largest: int) -> dict[str, zipfile.ZipInfo]:
    names: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name == info.filename:
            raise ValueError(f"it holds {info.filename[:60]!r}, which is no .npy")
        if name in names:
            raise ValueError(f"it holds {name[:60]!r} twice")
        if info.flag_bits & 1:
            raise ValueError(f"{name[:60]!r} is encrypted")
        if info.file_size > largest:
            raise ValueError(f"{info.filename[:60]} is larger than {largest:,} bytes")
        names[name] = info
    if sum(info.file_size for info in names.values()) > largest:
        raise ValueError(f"its arrays together are larger than {largest:,} bytes")
    return names


def _array(info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> NDArray[Any]:
    name = info.filename[:60]
    content = archive.read(info)
    file = io.BytesIO(content)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, is_fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    except Exception:  # a header is Python's text, and damaged raises anything
        raise ValueError(f"{name} is no NPY file of version 1.0 or 2.0") from None
    if dtype.hasobject:
        raise ValueError(f"{name}: it holds Python objects")
    if dtype.kind not in "biufc" or dtype.subdtype is not None:
        raise ValueError(f"{name} must hold numbers, got {shortened(str(dtype))}")
    n = math.prod(shape)
    if min(shape, default=0) < 0 or n * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"{name} has {len(content) - file.tell():,} bytes, not those of its shape")
    flat = np.frombuffer(content, dtype, n, file.tell())
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), order="K")
