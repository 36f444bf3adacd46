"""metrics.jsonl: one JSON object a line, none of which is lost in silence."""

import itertools
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

from ..files import read_at_most, shortened, write_atomically
from .checkpoint import RunState
from .folder import METRICS, RunWarning, writing

LARGEST_METRICS = 2**34

Metrics = dict[str, float]


def append(out: Path, line: Metrics) -> None:
    """Write one line behind all others."""
    with writing(out), open(out / METRICS, "ab") as file:
        file.write(json.dumps(line, allow_nan=False).encode() + b"\n")


def rows_so_far(out: Path, state: RunState) -> dict[int, str]:
    """Return the lines of metrics.jsonl that a checkpoint knows of, by their updates.

    Those of updates that will be made again are dropped, and so is a half-written last line. Of
    any other difference a warning tells; lines that nobody knows are kept in a file beside it.
    """
    path = out / METRICS
    content = read_at_most(LARGEST_METRICS, path) if os.path.lexists(path) else b""
    what = []
    rows = [(_row(text), text) for text in content.split(b"\n")[:-1]]
    if state.rows is not None:
        expected = set(state.rows)
    else:
        expected = {row["step"] for row, _ in rows if row}
        what.append("an earlier kru_ref wrote the checkpoint: it cannot tell of missing lines")
    known, is_changed = _known(rows, expected, state.update)
    missing = ", ".join(str(step) for step in sorted(expected - known.keys()))
    if missing and state.rows is not None:
        what.append(f"lines of updates {missing} are missing")
    if is_changed:
        what.append(
            "lines that the run did not write were taken out; as it was, it is now "
            f"{_put_aside(out, content)}"
        )
    if what:
        warnings.warn(f"{path}: {shortened('; '.join(what))}", RunWarning, stacklevel=5)
    return {step: known[step] for step in sorted(known)}


def _known(
    rows: list[tuple[dict[str, Any], bytes]], expected: set[int], update: int
) -> tuple[dict[int, str], bool]:
    """Return the expected lines by their updates, and whether there are others among them."""
    known, is_changed, last = dict[int, str](), False, 0
    for row, text in rows:
        step = row.get("step", 0)
        if step > update or "test_loss" in row:
            continue
        is_changed = is_changed or step not in expected or step <= last
        if step in expected and step not in known:
            known[step] = text.decode()
            last = max(last, step)
    return known, is_changed


def _row(text: bytes) -> dict[str, Any]:
    """Return a line of metrics, or nothing if it is none that a run writes."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    always = {"step", "loss", "gradient_norm", "seconds", "defect"}
    if not isinstance(row, dict) or not always <= row.keys() or type(row["step"]) is not int:
        return {}
    if not all(type(v) in (int, float) and math.isfinite(v) for v in row.values()):
        return {}
    return row if json.dumps(row).encode() == text else {}


def _put_aside(out: Path, content: bytes) -> Path:
    path = out / METRICS
    for n in itertools.count(1):
        aside = path.with_name(f"{path.stem}.damaged-{n}{path.suffix}")
        if not os.path.lexists(aside):
            with writing(out):
                write_atomically(aside, lambda file: file.write(content))
            return aside
    raise AssertionError
