"""Getting data sets: downloaded into the cache, and verified."""

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...extras import require
from ...files import shortened
from . import datasets
from .datasets import VARIABLE, dataset, remedy

LARGEST_DOWNLOAD = 2**24  # the largest has 9,912,422 bytes
SLOWEST, PATIENCE = 1000, 60  # bytes a second that a server must send after so many seconds
TEMPORARY = re.compile("tmp[a-z0-9_]{8}")  # names of pooch's temporary files


def fetch(name: str, url: str | None = None) -> list[Path]:
    """Download a data set into the user's cache and verify it; files that are there stay.

    Parameters
    ----------
    name : str
        Data set, such as "mnist".
    url : str, optional
        A mirror's folder, http or https, instead of the data set's own.

    Returns
    -------
    paths : list of Path

    Raises
    ------
    ValueError
        Unknown data set, one that may not be downloaded freely, no web address, or a server
        that sends another file than the published one.
    ConnectionError
        A file cannot be downloaded.
    OSError
        It cannot be written, there is no home directory, or another process downloads the same.
    ImportError
        filelock, pooch or tqdm is not installed.
    """
    published = dataset(name)
    if not published.urls:
        raise ValueError(f"{name} may not be downloaded freely. {remedy(name).splitlines()[0]}")
    urls = published.urls
    if url is not None:
        _check_address(url)
        urls = {file: f"{url.removesuffix('/')}/{file}" for file in urls}
    pooch, requests = require("pooch", "train"), require("requests", "train")
    require("filelock", "train"), require("tqdm", "train")  # before anything is made
    folder = datasets.cache_directory() / name
    store = pooch.create(
        path=folder,
        base_url="",
        registry={file: f"sha256:{published.files[file]}" for file in urls},
        urls=urls,
    )
    paths = []
    for file, address in urls.items():
        path = folder / file
        try:
            if not path.is_file() or _sha256(path) != published.files[file]:
                with _only_process(folder):
                    _delete_leftovers(folder)
                    store.fetch(file, downloader=_download)
            paths.append(path)
        except (requests.RequestException, ValueError) as error:
            kind = ConnectionError if isinstance(error, OSError) else ValueError
            raise kind(
                f"cannot download {address} to {folder / file} ({error}); try again, name a mirror "
                f"with --url, or put the file with SHA-256 {published.files[file]} there yourself"
            ) from error
        except OSError as error:
            raise type(error)(
                f"cannot write {folder / file}, downloaded from {address} "
                f"({error.strerror or error}); delete what is in its place or make its folder "
                f"writable, or put the file elsewhere and name its folder with {VARIABLE}"
            ) from error
    return paths


def _delete_leftovers(folder: Path) -> None:
    """Delete what a process that was killed has left."""
    for left in folder.iterdir() if folder.exists() else ():
        if TEMPORARY.fullmatch(left.name):
            left.unlink()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Let no other process download into a folder: what it has not finished would be deleted."""
    filelock = require("filelock", "train")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.SoftFileLock(folder.parent / f"{folder.name}.lock")
    try:
        lock.acquire(timeout=1, poll_interval=0.1)
    except filelock.Timeout as error:
        raise BlockingIOError(
            errno.EAGAIN, f"another process does: wait for it; if there is none, delete {error}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good or not isinstance(url, str):
        raise ValueError(
            f"url must begin with http:// or https:// and name a server, got {shortened(repr(url))}"
        )


class _Transfer(threading.Thread):
    """A download in a thread of its own: so a server that dribbles can be left, whatever it does.

    ``content`` grows; ``error`` is what ended it.
    """

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.content, self.is_given_up = url, bytearray(), False
        self.error: Exception | None = None

    def run(self) -> None:
        requests = require("requests", "train")
        try:
            with requests.get(self.url, stream=True, timeout=30) as response:
                response.raise_for_status()
                for chunk in response.iter_content(2**12):
                    if self.is_given_up:
                        break
                    self.content += chunk
                    if len(self.content) > LARGEST_DOWNLOAD:
                        raise ValueError(f"it sends more than {LARGEST_DOWNLOAD:,} bytes")
        except Exception as error:
            self.error = error


def _download(url: str, output_file: str, store: Any) -> None:
    """Download for pooch: no more than any file needs, the right one, readable by others."""
    requests, tqdm = require("requests", "train"), require("tqdm", "train")
    transfer, began = _Transfer(url), time.monotonic()
    with tqdm.tqdm(unit="B", unit_scale=True) as progress:
        transfer.start()
        try:
            while transfer.is_alive():
                transfer.join(0.1)
                n, seconds = len(transfer.content), time.monotonic() - began
                progress.update(n - progress.n)
                if transfer.is_alive() and seconds > PATIENCE and n < SLOWEST * seconds:
                    raise requests.Timeout(
                        f"{n:,} bytes came in {seconds:.0f} s, less than {SLOWEST:,} a second"
                    )
        finally:
            transfer.is_given_up = True
    if transfer.error is not None:
        raise transfer.error
    digest = hashlib.sha256(transfer.content).hexdigest()
    expected = next(store.registry[file] for file in store.urls if store.urls[file] == url)
    if f"sha256:{digest}" != expected:
        raise ValueError(f"what it sends has SHA-256 {digest}")
    os.unlink(output_file)  # pooch's temporary files are their owner's alone
    with open(output_file, "xb", opener=lambda path, flags: os.open(path, flags, 0o644)) as file:
        file.write(transfer.content)
