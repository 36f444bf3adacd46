"""Another implementation's results beside the conformance vectors: what differs, and why."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .gradients import likely_cause
from .kronecker import kron_matvec
from .vectors import PAGE, Arrays, read_arrays, read_index

TOLERANCE = 1e-9
SINGLE_PRECISION = 1e-4


class Difference(NamedTuple):
    """What is wrong with one array of a result."""

    array: str
    what: str


class Verdict(NamedTuple):
    """A case and what differs; ``attempted`` is false where there is no result."""

    name: str
    settings: dict[str, Any]
    attempted: bool
    differences: tuple[Difference, ...]
    largest_error: float


def verify(folder: Path, results: Path, tolerance: float = TOLERANCE) -> list[Verdict]:
    """Compare another implementation's outputs and gradients with the vectors'.

    Parameters
    ----------
    folder : Path
        Of the vectors, as :func:`write` makes it.
    results : Path
        A folder with files of the same names, holding arrays "outputs/…" and "grads/…". A case
        without a file was not attempted; in one that was, every array must be there.
    tolerance : float
        Largest difference that passes, relative to the largest entry of the expected array, or
        to a thousandth of the largest of all expected gradients.

    Returns
    -------
    verdicts : list of Verdict
        One for each case.

    Raises
    ------
    FileNotFoundError
        No index, or no result at all.
    ValueError
        Vectors of another format, or damaged; a result that is no .npz of plain arrays.
    """
    index = read_index(folder)
    verdicts = []
    for case in index["cases"]:
        expected = read_arrays(folder / case["file"], case.get("sha256"))
        path = results / case["file"]
        if not path.is_file():
            verdicts.append(Verdict(case["name"], case["settings"], False, (), 0.0))
            continue
        try:
            got = read_arrays(path)
        except ValueError as error:
            wrong, largest = [Difference(path.name, str(error))], math.inf
        else:
            wrong, largest = compare(expected, got, tolerance, case["settings"])
        verdicts.append(Verdict(case["name"], case["settings"], True, tuple(wrong), largest))
    strangers = sorted(
        {p.name for p in results.glob("*.npz")} - {c["file"] for c in index["cases"]}
    )
    if strangers:
        raise ValueError(
            f"{results} holds {', '.join(strangers[:5])}, but no case has such a file: results "
            "have the names of the vectors' files"
        )
    if not any(verdict.attempted for verdict in verdicts):
        raise FileNotFoundError(
            f"{results} holds no result: expected files such as {index['cases'][0]['file']}, with "
            f"arrays 'outputs/…' and 'grads/…'; see {folder / PAGE}"
        )
    return verdicts


def compare(
    expected: Arrays, got: Arrays, tolerance: float, settings: Mapping[str, Any] | None = None
) -> tuple[list[Difference], float]:
    """Return what differs in outputs and gradients, and the largest relative error.

    Where an output is wrong, the gradients follow from it: they are listed without a cause.
    """
    wrong, largest, forward_is_wrong = [], 0.0, False
    wanted = {k: a for k, a in expected.items() if k.startswith(("outputs/", "grads/"))}
    gradients = [a for key, a in wanted.items() if key.startswith("grads/") and a.size]
    floor = 1e-3 * max((float(np.abs(g).max()) for g in gradients), default=0.0)
    for key, a in wanted.items():
        scale = max(float(np.abs(a).max(initial=0)), floor if key.startswith("grads/") else 0.0)
        misfit = _misfit(a, got.get(key))
        if misfit:
            wrong.append(Difference(key, misfit))
            continue
        b = got[key]
        error = float(np.abs(a - b).max(initial=0)) / max(scale, np.finfo(float).tiny)
        largest = max(largest, error)
        if not error > tolerance:
            continue
        at = np.unravel_index(int(np.abs(a - b).argmax()), a.shape)
        where = f"[{', '.join(str(int(i)) for i in at)}]"
        what = f"relative error {error:.1e}, at {where} expected {a[at]:.6g}, got {b[at]:.6g}"
        hint = ""
        if key == "outputs/y":
            hint = _wrong_product(expected, b, tolerance)
        elif key.endswith(".h"):
            hint = _wrong_states(a, b, tolerance * scale)
        elif key == "outputs/loss" and not forward_is_wrong:
            hint = _wrong_loss(float(b) / float(a), settings or {})
        elif key.startswith("grads/") and not forward_is_wrong:
            hint = likely_cause(b.astype(a.dtype), a, max(10 * tolerance, 1e-6))
        forward_is_wrong = forward_is_wrong or (
            key.startswith("outputs/") and key != "outputs/loss"
        )
        wrong.append(Difference(key, f"{what}; {hint}" if hint else what))
    unknown = sorted(set(got) - set(expected))
    if unknown and any(d.what == "is missing" for d in wrong):
        wrong.append(Difference(", ".join(unknown), "is unknown"))
    return wrong, largest


def _misfit(a: NDArray[Any], b: NDArray[Any] | None) -> str:
    """Say why an array cannot be compared with the expected one."""
    if b is None:
        return "is missing"
    if b.shape != a.shape:
        return f"must have shape {a.shape}, got {b.shape}"
    if b.dtype.kind not in "fciu" or (np.iscomplexobj(b) and not np.iscomplexobj(a)):
        return f"must be {a.dtype}, got {b.dtype}"
    return "" if np.isfinite(b).all() else "is not finite"


def _wrong_loss(ratio: float, settings: Mapping[str, Any]) -> str:
    """Say what a loss was multiplied or not divided by."""
    T, B = (settings.get(name, 1) for name in ("T", "B"))
    outputs = settings.get("output_size", 1)
    sizes = {"T B": T * B, "M T B": outputs * T * B, "B": B, "T": T, "M": outputs, "2": 2}
    for name, size in sizes.items():
        for what, value in ((name, size), (f"1/({name})", 1 / size)):
            if size > 1 and math.isclose(ratio, value, rel_tol=1e-6):
                return f"{what} times what it should be: a sum for a mean, or the reverse?"
    return ""


def _wrong_product(arrays: Arrays, y: NDArray[Any], tolerance: float) -> str:
    """Say which usual mistake gives that product."""
    x = arrays["inputs/x"]
    factors = [a for key, a in arrays.items() if key.startswith("params/")]
    mistakes = {
        "the factors are taken in reversed order: the last one's index runs fastest": factors[::-1],
        "the factors are conjugated": [W.conj() for W in factors],
        "the factors are transposed": [W.T for W in factors],
    }
    for what, wrong in mistakes.items():
        if math.prod(W.shape[1] for W in wrong) == len(x):
            other = kron_matvec(wrong, x)
            if (
                other.shape == y.shape
                and np.abs(other - y).max() <= tolerance * np.abs(other).max()
            ):
                return what
    return ""


def _wrong_states(h: NDArray[Any], got: NDArray[Any], tolerance: float) -> str:
    """Say from when on states are wrong."""
    wrong = np.abs(h - got) > tolerance
    t = int(np.argmax(wrong.reshape(len(h), -1).any(axis=1)))
    hint = f"the forward pass is wrong from time step {t} on"
    if not h[t][wrong[t]].any():
        hint += ", there only where 0 is expected: is a threshold, max(…, 0), missing?"
    return hint


def pattern(verdicts: list[Verdict]) -> list[str]:
    """Say what the wrong cases have in common that no right one has.

    Returns
    -------
    common : list of str
        Such as "mask = True".
    """
    tried = [verdict for verdict in verdicts if verdict.attempted]
    wrong = {verdict.name for verdict in tried if verdict.differences}
    having: dict[str, set[str]] = {}
    for verdict in tried:
        for fact in _facts(verdict.settings):
            having.setdefault(fact, set()).add(verdict.name)
    everywhere = {verdict.name for verdict in tried}
    common = sorted(
        fact for fact, names in having.items() if wrong and names == wrong and names != everywhere
    )
    # all other things that only products, or only networks, have follow
    kind = [fact for fact in common if fact.startswith("kind")]
    return kind or common


def _facts(settings: Mapping[str, Any]) -> Iterator[str]:
    for key, value in settings.items():
        if key == "cells":
            yield f"layers = {len(value)}"
            for cell in value:
                yield from _facts(cell)
        elif key == "penalty":
            yield f"penalty {'> 0' if value else '= 0'}"
        elif key in ("T", "B"):
            yield f"{key} {'> 1' if value > 1 else '= 1'}"
        elif key not in ("input_size", "hidden_size", "output_size", "factors", "permutation"):
            yield f"{key} = {value}"


def report(verdicts: list[Verdict]) -> str:
    """Return, case by case and array by array, what differs and what it looks like."""
    lines = []
    for verdict in verdicts:
        if verdict.differences:
            lines.append(f"{verdict.name}: wrong")
            lines += [f"  {d.array} {d.what}" for d in verdict.differences]
        elif verdict.attempted:
            lines.append(
                f"{verdict.name}: passed, largest relative error {verdict.largest_error:.1e}"
            )
    tried = [v for v in verdicts if v.attempted]
    wrong = [d for v in tried for d in v.differences]
    right = sum(not v.differences for v in tried)
    common = pattern(verdicts)
    if common:
        lines.append(f"wrong where, and only where, {' and '.join(common)}")
    causes = Counter(d.what.partition("; ")[2] for d in wrong if "; " in d.what)
    if causes and len(wrong) > 1:
        cause, times = causes.most_common(1)[0]
        lines.append(f"most often, {times} times: {cause}")
    small = all(v.largest_error < SINGLE_PRECISION for v in tried)
    if wrong and small and all(d.what.startswith("relative error") for d in wrong):
        lines.append(
            f"all errors are below {SINGLE_PRECISION:g}: if this is single precision, it passes "
            f"with --tolerance {SINGLE_PRECISION:g}"
        )
    missing = [v.name for v in verdicts if not v.attempted]
    if 0 < len(missing) <= 5:
        lines.append(f"not attempted: {', '.join(missing)}")
    lines.append(f"{right} of {len(tried)} cases passed, {len(missing)} not attempted")
    return "\n".join(lines)
