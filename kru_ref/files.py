"""Files: read with nothing believed unchecked or unpickled; written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import secrets
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

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


class StoredArray:
    """An array of numbers in an .npy file, whose rows are read when they are asked for.

    Read, not mapped: a mapping counts as memory of the process.

    Parameters
    ----------
    path : path

    Attributes
    ----------
    path : Path
    shape : tuple of int
    dtype : dtype

    Raises
    ------
    ValueError
        It is no such file, is shorter than it says, or lies in Fortran's order.
    OSError
        It cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                    version, np.lib.format.read_array_header_2_0
                )
                self.shape, in_columns, self.dtype = read(file)
            except ValueError as error:
                raise ValueError(f"{path} is no .npy of numbers: {error}") from error
            self.offset = file.tell()
            n_bytes = os.fstat(file.fileno()).st_size - self.offset
        if self.dtype.kind not in "fiub" or not self.shape:
            texts = "; of texts, np.unique(texts, return_inverse=True) makes numbers"
            raise ValueError(
                f"{path} is no .npy of numbers: it holds {self.dtype} {self.shape}"
                f"{texts if self.dtype.kind in 'USO' else ''}"
            )
        if in_columns:
            raise ValueError(f"{path} is in Fortran's order: save np.ascontiguousarray of it")
        if n_bytes < math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"{path} is cut off: it is shorter than {self.dtype} {self.shape}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> NDArray[Any]:
        return self.rows(i, 1)[0]

    def rows(self, first: int, n: int) -> NDArray[Any]:
        """Return n rows, or those that are left."""
        shape = (min(n, len(self) - first), *self.shape[1:])
        where = self.offset + first * math.prod(self.shape[1:]) * self.dtype.itemsize
        found = np.fromfile(self.path, self.dtype, math.prod(shape), offset=where)
        if found.size < math.prod(shape):
            raise ValueError(f"{self.path} has become shorter since it was opened")
        return found.reshape(shape)


def read_npz(path: Path, largest: int | None = None, *, with_text: bool = False) -> Arrays:
    """Read all arrays of an .npz archive.

    Parameters
    ----------
    path : Path
    largest : int, optional
        Bytes that all arrays together may take; if not given, those of the file, as for an archive
        that is not compressed. Checked before any is read.
    with_text : bool
        Whether arrays of strings are taken, too.

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
                return {name: _array(info, archive, with_text) for name, info in names.items()}
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


def _array(
    info: zipfile.ZipInfo, archive: zipfile.ZipFile, with_text: bool = False
) -> NDArray[Any]:
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
    if dtype.kind not in "biufc" + "U" * with_text or dtype.subdtype is not None:
        raise ValueError(f"{name} must hold numbers, got {shortened(str(dtype))}")
    n = math.prod(shape)
    if min(shape, default=0) < 0 or n * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"{name} has {len(content) - file.tell():,} bytes, not those of its shape")
    flat = np.frombuffer(content, dtype, n, file.tell())
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), order="K")


def checked_path(name: str, value: Any) -> Path:
    """Return a file's or folder's name as a path.

    Raises
    ------
    TypeError
        It is no name: only str and os.PathLike are.
    ValueError
        It is empty, or holds a null character.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(
            f"{name} must be the name of a file or folder, got {type(value).__name__}; "
            "give a str or a pathlib.Path"
        )
    if os.fspath(value) == "" or "\0" in os.fspath(value):
        raise ValueError(
            f"{name} must name a file or folder, got {shortened(repr(os.fspath(value)))}"
        )
    return Path(value)


def read_at_most(largest: int, path: Path) -> bytes:
    """Read a file that must have no more than so many bytes.

    Raises
    ------
    ValueError
        It is larger.
    OSError
        It cannot be read, or is a folder; the error names it.
    TypeError
        path is no name.
    """
    path = checked_path("path", path)
    try:
        # a pipe would be waited for
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder or a device, not a file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read() if size <= largest else None
    except OSError as error:
        raise type(error)(
            f"cannot read {path}: {error.strerror or error}; make it readable, or delete or "
            "replace it"
        ) from error
    if content is None:
        raise ValueError(f"{path}: expected at most {largest:,} bytes, got {size:,}")
    return content


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a file beside path, then rename it to path.

    The file has a name that nobody else writes to, see :func:`leftovers`. What is renamed is on
    the disk, and so is the renaming.

    Raises
    ------
    OSError
        It cannot be written; what was at path is intact.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        # "x": what is there already, a symbolic link too, is not written to
        with open(partial, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # some file systems cannot, and need not
            with contextlib.suppress(OSError):
                os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def leftovers(path: Path) -> list[Path]:
    """Return the files that writers of path, killed while they wrote, have left beside it."""
    prefix = f".{path.name}."
    return [
        file
        for file in path.parent.iterdir()
        if file.name.startswith(prefix) and file.name.endswith(".partial")
    ]
