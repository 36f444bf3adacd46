"""The IDX format of the original MNIST files, read strictly."""

import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...arguments import checked_size
from ...files import read_at_most, shortened

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes that must have the given shape.

    The format is two zero bytes, a type code (8 for unsigned bytes), the number of
    dimensions, each dimension as a big-endian 32-bit integer, then the data in C order.

    Parameters
    ----------
    path : Path
        Gzipped or not; its content decides, not its name.
    shape : tuple of int
        What the header must say. Memory is never allocated on the header's word.

    Returns
    -------
    data : ndarray of uint8, of that shape

    Raises
    ------
    TypeError, ValueError
        No IDX file, another type or shape, too short, too long, or damaged gzip; or a ``shape``
        that is none.
    OSError
        The file cannot be read.
    """
    shape = tuple(checked_size("shape", size) for size in shape)
    if not 1 <= len(shape) <= 255 or max(shape) >= 2**32:
        raise ValueError(f"shape must be 1 to 255 sizes below 2^32, got {shortened(repr(shape))}")
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, UNSIGNED_BYTE, len(shape), *shape)
    size = len(header) + math.prod(shape)
    # gzip makes no file much larger, but for a name and a comment in its header
    content = read_at_most(size + size // 1000 + 2**12, path)
    if content[:2] == GZIP_MAGIC:
        content = _unzipped(content, size + 1, path)
    found = content[: len(header)]
    if found != header:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes with shape {shape}, "
            f"got {_describe(found)}; is it the file its name says?"
        )
    if len(content) != size:
        what = "more" if len(content) > size else f"{len(content) - len(header):,}"
        raise ValueError(
            f"{path}: expected {size - len(header):,} bytes of data after the header, "
            f"got {what}; delete or replace it"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _unzipped(content: bytes, largest: int, path: Path) -> bytes:
    """Return what one gzip stream holds, or its beginning if that is more than ``largest``.

    Not with the module gzip: it reads any number of empty streams, byte by byte.
    """
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        unzipped = stream.decompress(content, largest)
    except zlib.error as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); delete or replace it") from error
    if len(unzipped) < largest and (not stream.eof or stream.unused_data):
        what = "something behind its end" if stream.eof else "it has no end"
        raise ValueError(f"{path}: damaged gzip file ({what}); delete or replace it")
    return unzipped


def _describe(header: bytes) -> str:
    if len(header) < 4 or header[:2] != b"\0\0":
        return f"a file that begins with {header[:4].hex(' ') or 'nothing'}"
    kind, n = header[2], header[3]
    if len(header) < 4 + 4 * n:
        return f"type 0x{kind:02x} with {n} dimensions"
    return f"type 0x{kind:02x} with shape {struct.unpack(f'>{n}I', header[4 : 4 + 4 * n])}"
