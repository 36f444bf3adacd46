"""What Ctrl-C, SIGTERM, SIGHUP and closed streams do to a command and to a run.

Importing this module in a process that was started as ``kru-ref`` or ``python -m kru_ref`` lets
Ctrl-C end it at once and without a traceback, until ``catch`` says otherwise, and opens streams
that are closed: the package imports it first.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# SLURM and `kill` send SIGTERM, a terminal that is closed SIGHUP; Windows has no SIGHUP.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def catch() -> Callable[[], None]:
    """Let the first of these signals raise, and ignore those behind it.

    SIGINT raises KeyboardInterrupt; the others SystemExit with the status that a shell gives to a
    process ended by that signal, 128 and its number. A signal that somebody handles or ignores,
    such as SIGHUP under nohup, is left alone, and so are all in a thread that gets none.

    Returns
    -------
    restore : callable
        Puts back what handled the signals before.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        # by the system: Python handles none any longer when it shuts down
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    by_nobody = (signal.SIG_DFL, signal.default_int_handler, _end_at_once)
    before = _replace(on_signal, lambda handler: handler in by_nobody)
    return lambda: _restore(before)


def open_closed_streams() -> None:
    """Let what is written to a stream that was closed from the start go nowhere.

    Python has None in its place, which some libraries write to: NumPy 2.0 even when imported.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore these signals while something is done that must be done whole."""
    before = _replace(signal.SIG_IGN, lambda handler: handler is not None)
    try:
        yield
    finally:
        _restore(before)


def _replace(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
    is_replaced: Callable[[object], bool],
) -> dict[int, object]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if is_replaced(signal.getsignal(number))
    }


def _restore(before: dict[int, object]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)  # type: ignore[arg-type]


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _is_command() -> bool:
    """Tell whether this process was started as the command: nothing of it has run yet."""
    if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module
        return any(word in ("kru_ref", "-mkru_ref") for word in sys.orig_argv)
    return bool(sys.argv) and Path(sys.argv[0]).stem in ("kru-ref", "kru-ref-script")


if _is_command():
    open_closed_streams()
    _replace(_end_at_once, lambda handler: handler is signal.default_int_handler)
