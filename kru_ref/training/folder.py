"""The folder of a run: what lies in it, who writes there, and what a failed write means."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..extras import require
from ..files import shortened

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.npz"
PREVIOUS, LOCK = "checkpoint.previous.npz", "run.lock"


class Locked(OSError):
    """Another process writes to the folder of the run."""


class RunWarning(UserWarning):
    """A resumed run is not, or may not be, what it would have been without a stop."""


def refuse_a_run(out: Path) -> None:
    """Raise if the folder holds a run, or part of one."""
    for name in (CONFIG, METRICS, CHECKPOINT, PREVIOUS):
        if os.path.lexists(out / name):
            raise FileExistsError(
                f"{out} already holds a run ({name}): continue it with --resume "
                "(in Python resume=True), or choose another folder"
            )


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Let no other process write to a run's folder."""
    filelock = require("filelock", "train")
    # a file that is there or not: that holds on network file systems too
    lock = filelock.SoftFileLock(out / LOCK)
    try:
        with writing(out):
            # the second look comes after a dead process's lock was removed
            lock.acquire(timeout=1, poll_interval=0.1)
    except filelock.Timeout as error:
        raise Locked(
            f"{_owner(out / LOCK)} writes to {out}. Wait until it has ended, or choose another "
            f"folder; if it has ended, delete {out / LOCK}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _owner(path: Path) -> str:
    """Say which process a lock names."""
    try:
        pid, host = path.read_text().splitlines()[:2]
    except (OSError, ValueError):
        return "another process"
    return f"process {shortened(pid)} on {shortened(host)}"


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say of a failed write what it means for the run, and what to do about it."""
    try:
        yield
    except TimeoutError:  # of the lock
        raise
    except OSError as error:
        kept = out / CHECKPOINT
        hint = f"; {kept} is intact, resume from it" if kept.is_file() else ""
        raise OSError(
            f"cannot write the run to {out}: {error.strerror or error}{hint}. "
            f"{ADVICE.get(error.errno or 0, 'Choose a folder that can be written')}",
        ) from error


ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space, or ask for a larger quota",
    errno.EFBIG: "Allow larger files (ulimit -f)",
    errno.EROFS: "Its file system is read-only: choose another folder",
    errno.EACCES: "Make the folder writable, or choose another",
    errno.EPERM: "Make the folder writable, or choose another",
    errno.ENOTDIR: "A file is where a folder should be: choose another folder",
    errno.EEXIST: "A file is where a folder should be: choose another folder",
    errno.EISDIR: "A folder is where a file should be: move it away, or choose another folder",
    errno.ENAMETOOLONG: "Choose a folder with a shorter name",
    errno.EIO: "The disk or the network fails: choose a folder elsewhere",
    errno.EMFILE: "Close some files, or allow more (ulimit -n)",
}
