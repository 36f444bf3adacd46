"""Entry point of ``kru-ref`` and of ``python -m kru_ref``."""

import codecs
import os
import sys

from .training import interrupts

# What signs become where an encoding, such as cp1252 of Windows' pipes, lacks them.
PLAIN = {
    "⊗": "(x)", "×": "x", "λ": "lambda", "ω": "omega", "σ": "sigma", "∏": "prod", "Σ": "sum",
    "‖": "||", "ᴴ": "^H", "₂": "_2", "≥": ">=", "≤": "<=", "π": "pi", "±": "+-", "…": "...",
    "•": "*", "–": "-", "—": "-", "─": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+",
    "├": "+", "┤": "+", "’": "'", "█": "#",
}  # fmt: skip


def main() -> int:
    """Run the command line, or say what it needs."""
    restore = interrupts.catch()
    codecs.register_error("kru_ref.plain", _plain)
    interrupts.open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="kru_ref.plain")
    try:
        from .training import cli

        status = cli.main()
    except ImportError as error:
        print(f"kru-ref: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("kru-ref: stopped", file=sys.stderr)
        status = 130
    finally:
        _drop_what_nobody_reads()
    # behind a first signal all others are ignored until the process has ended
    if status != 130:
        restore()
    return status


def _drop_what_nobody_reads() -> None:
    """Let what a closed pipe or a full disk did not take go nowhere, without Python's remark."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in signs that it has, as an error handler of Python's."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = [PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking]
    return "".join(escaped), error.end


if __name__ == "__main__":
    sys.exit(main())
