"""The folder of a run: what lies in it, who writes there, and what a failed write means."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..extras import require
from ..files import shortened

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.npz"
PREVIOUS, LOCK = "checkpoint.previous.npz", "run.lock"
# Seconds without a sign of life after which a machine that held a lock is taken to be gone.
LEASE = 30.0


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
    """Let no other process write to a run's folder.

    The lock of a process that has ended here is taken over at once, that of a machine that is gone
    when it has not been renewed for a while.
    """
    lock, (pid, host) = _lease(out), _owner(out / LOCK)
    elsewhere = host not in (None, socket.gethostname())
    try:
        with writing(out):
            # the second look comes after a dead process's lock was removed
            lock.acquire(timeout=1.5 * LEASE if elsewhere else 1, poll_interval=0.1)
    except require("filelock", "train").Timeout as error:
        who = (
            f"process {shortened(pid)} on {shortened(host)}" if pid and host else "another process"
        )
        raise Locked(
            f"{who} writes to {out}. Wait until it has ended, or choose another "
            f"folder; if it has ended, delete {out / LOCK}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(out: Path) -> bool:
    """Tell whether a process writes to a run's folder; one of another machine may be gone."""
    if not os.path.lexists(out / LOCK):
        return False
    lock = _lease(out)
    try:
        lock.acquire(timeout=0)
    except (require("filelock", "train").Timeout, OSError):
        return True
    lock.release()
    return False


def _lease(out: Path) -> Any:
    # a file that is there or not: that holds on network file systems too
    return require("filelock", "train").SoftFileLease(out / LOCK, lease_duration=LEASE)


def _owner(path: Path) -> tuple[str | None, str | None]:
    """Return the process and the machine that a lock names, if it can be read."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError):
        return None, None
    named = dict(line.split("=", 1) for line in lines if "=" in line)
    # earlier versions wrote the two alone
    pid, host = ([*lines, "", ""][:2]) if not named else (named.get("pid"), named.get("host"))
    return (pid or None, host or None) if pid and host else (None, None)


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
