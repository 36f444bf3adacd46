"""Another implementation's results beside the conformance vectors: what differs, and why."""

import itertools
import math
import os
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kronecker import kron_matvec
from .mistakes import likely_cause
from .vectors import PAGE, Arrays, read_arrays, read_index

TOLERANCE = 1e-9
SINGLE_PRECISION = 1e-4
NOT_FINITE = "is not finite"
# What an update computes last.
AFTER = 2


class Difference(NamedTuple):
    """What is wrong with one array of a result."""

    array: str
    what: str


class Verdict(NamedTuple):
    """A case and what differs; ``attempted`` is false where there is no result.

    Of a training ``first`` is what differs first in the course of its updates.
    """

    name: str
    settings: dict[str, Any]
    attempted: bool
    differences: tuple[Difference, ...]
    largest_error: float
    first: Difference | None = None


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
        Vectors of another format, or damaged, or without a solution; results that are the vectors
        themselves, or have names of no case; a tolerance that would pass anything.
    OSError
        Vectors or the folder of results may not be read.
    """
    folder, results = Path(folder), Path(results)
    index = read_index(folder)
    _check_tolerance(tolerance)
    present = _names(results)
    if results.resolve() == folder.resolve():
        raise ValueError(
            f"{results} holds the vectors themselves: give the folder that your program wrote"
        )
    verdicts = [_verdict(case, folder, results, present, tolerance) for case in index["cases"]]
    strangers = sorted(
        name
        for name in present - {c["file"] for c in index["cases"]}
        if name.lower().endswith(".npz")
    )
    if strangers:
        raise ValueError(
            f"{results} holds {', '.join(reprlib.repr(name)[1:-1] for name in strangers[:5])}, but "
            "no case has such a file: results have the names of the vectors' files"
        )
    if not any(verdict.attempted for verdict in verdicts):
        raise FileNotFoundError(
            f"{results} holds no result: expected files such as {index['cases'][0]['file']}, with "
            f"arrays 'outputs/…' and 'grads/…'; see {folder / PAGE}"
        )
    return verdicts


def _verdict(
    case: Mapping[str, Any], folder: Path, results: Path, present: set[str], tolerance: float
) -> Verdict:
    file, settings = case["file"], case["settings"]
    expected = _described(folder / file, case)
    if file not in present:
        return Verdict(case["name"], settings, False, (), 0.0)
    try:
        got = read_arrays(results / file)
    except (ValueError, OSError) as error:
        return Verdict(case["name"], settings, True, (Difference(file, str(error)),), math.inf)
    return judge(case["name"], settings, expected, got, tolerance)


def judge(
    name: str, settings: dict[str, Any], expected: Arrays, got: Arrays, tolerance: float = TOLERANCE
) -> Verdict:
    """Return the verdict on the results for one case; see :func:`compare`."""
    wrong, largest = compare(expected, got, tolerance, settings)
    first = None
    if wrong and settings["kind"] == "training":
        first = first_difference(expected, got, tolerance, settings)
    return Verdict(name, settings, True, tuple(wrong), largest, first)


def _check_tolerance(tolerance: float) -> None:
    """Raise for one that passes anything: at an error of 1, zeros pass for what is expected."""
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float | np.number):
        raise TypeError(f"tolerance must be a number, got {reprlib.repr(tolerance)}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must lie in [0, 1), got {tolerance!r}")


def _names(results: Path) -> set[str]:
    """Return what lies in the folder of results."""
    try:
        return set(os.listdir(results))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise type(error)(
            f"{results} cannot be read: {error.strerror}; see to its permissions"
        ) from error


def _described(path: Path, case: Mapping[str, Any]) -> Arrays:
    """Read a case's arrays; raise unless they are what the index says."""
    arrays = read_arrays(path, case["sha256"])
    found = {key: {"dtype": a.dtype.name, "shape": list(a.shape)} for key, a in arrays.items()}
    for key in found.keys() | case["arrays"].keys():
        if found.get(key) != case["arrays"].get(key):
            raise ValueError(
                f"{path} and the index do not agree on {reprlib.repr(key)}. Make them again with "
                "`kru-ref vectors write`"
            )
    return arrays


def compare(
    expected: Arrays, got: Arrays, tolerance: float, settings: Mapping[str, Any] | None = None
) -> tuple[list[Difference], float]:
    """Return what differs in outputs and gradients, and the largest relative error.

    Where an output is wrong, the gradients follow from it: they are listed without a cause.

    Raises
    ------
    ValueError, TypeError
        Nothing is expected that could be compared, outputs and gradients, all finite; a tolerance
        that would pass anything.
    """
    _check_tolerance(tolerance)
    wanted = _comparable(expected)
    comparison = _Comparison(expected, _sizes(settings or {}, expected), tolerance)
    scales = _scales(wanted)
    wrong, largest, forward_is_wrong = [], 0.0, False
    for key, a in wanted.items():
        scale = scales[key]
        error, what = comparison.of(key, a, got.get(key), scale, forward_is_wrong)
        largest = max(largest, error)
        if not what:
            continue
        wrong.append(Difference(key, what))
        misfits = _misfit(a, got.get(key))
        is_forward = key.startswith("outputs/") and key != "outputs/loss"
        forward_is_wrong = forward_is_wrong or (is_forward and not misfits)
    if any(d.what == "is missing" for d in wrong):
        wrong += _unknown(set(got) - set(expected))
    return wrong, largest


def first_difference(
    expected: Arrays, got: Arrays, tolerance: float, settings: Mapping[str, Any]
) -> Difference | None:
    """Return what differs first in a training: at which update, in which array, and how.

    An update computes its loss, then gradients, then the parameters after it, and all that comes
    later follows from it. An array that is missing, or of another shape, is passed over.
    """
    wanted = _comparable(expected)
    scales = _scales(wanted)
    known = {key: a for key, a in wanted.items() if _misfit(a, got.get(key)) in ("", NOT_FINITE)}
    found = []
    for key, a in known.items():
        with np.errstate(over="ignore", invalid="ignore"):
            passes = np.abs(a - got[key]) <= tolerance * scales[key]  # nan does not
        wrong = ~passes.reshape(len(a), -1).all(axis=1)
        if wrong.any():
            found.append((int(wrong.argmax()), _stage(key), key))
    if not found:
        return None
    k, stage, key = min(found, key=lambda of: of[:2])  # of several, in the order of the file
    comparison = _Comparison(expected, _sizes(settings, expected), tolerance)
    a, b = wanted[key][k], got[key][k]
    _, apart = _apart(a, b, scales[key])
    what = f"first differs at update {k}, {_called(key)}: {apart}, tolerance {tolerance:g}"
    hint = comparison.cause(key, a, b, scales[key], False) if np.isfinite(b).all() else ""
    if len(known) == len(wanted):  # or what came before might not be right
        if stage == AFTER:
            hint = "its gradients are right: is it the clipping, the rule or a rate?"
        if stage == 0 and k > 0:
            hint = "the parameters are right: does it take its own batch?"
    return Difference(key, f"{what}; {hint}" if hint else what)


def _stage(key: str) -> int:
    """Say when an update computes an array: 0 the loss, 1 a gradient, 2 a parameter after it."""
    return AFTER if key.startswith("outputs/after/") else int(key.startswith("grads/"))


def _called(key: str) -> str:
    """Call an array of a training what it is."""
    name = key.removeprefix("outputs/").removeprefix("after/").removeprefix("grads/")
    return (name, f"gradient of {name}", f"{name} after it")[_stage(key)]


def _scales(wanted: Arrays) -> dict[str, float]:
    """Return what errors are relative to: the largest entry, of a gradient a thousandth of all."""
    largest = {key: float(np.abs(a).max()) for key, a in wanted.items()}
    floor = 1e-3 * max(size for key, size in largest.items() if key.startswith("grads/"))
    return {
        key: max(size, floor) if key.startswith("grads/") else size for key, size in largest.items()
    }


def _unknown(names: set[str]) -> list[Difference]:
    listed = ", ".join(reprlib.repr(name)[1:-1] for name in sorted(names)[:5])
    return [Difference(listed, "is unknown")] if listed else []


def _comparable(expected: Arrays) -> Arrays:
    """Return the outputs and gradients of a case; raise where there is nothing to compare."""
    wanted = {k: a for k, a in expected.items() if k.startswith(("outputs/", "grads/"))}
    there = {key.partition("/")[0] for key, a in wanted.items() if a.size}
    for kind in ("outputs", "grads"):
        if kind not in there:
            raise ValueError(f"expected holds no {kind}/…: there is nothing to compare")
    for key, a in wanted.items():
        if not _is_finite(a):
            raise ValueError(f"{key} of expected must hold finite floating-point numbers")
    return wanted


def _is_finite(a: NDArray[Any]) -> bool:
    return a.dtype.kind in "fc" and a.size > 0 and bool(np.isfinite(a).all())


@dataclass(frozen=True)
class _Comparison:
    """What one array is compared by: its whole case, what a mean may be over, the tolerance."""

    case: Arrays
    sizes: Mapping[str, float]
    tolerance: float

    def of(
        self, key: str, a: NDArray[Any], b: NDArray[Any] | None, scale: float, follows: bool
    ) -> tuple[float, str]:
        """Return the relative error of b, and what is wrong with it, or nothing."""
        misfit = _misfit(a, b)
        if misfit or b is None:
            return math.inf, misfit
        error, what = _apart(a, b, scale)
        if error <= self.tolerance:
            return error, ""
        hint = self.cause(key, a, b, scale, follows)
        return error, f"{what}; {hint}" if hint else what

    def cause(self, key: str, a: NDArray[Any], b: NDArray[Any], scale: float, follows: bool) -> str:
        """Say what b looks like; nothing where it follows from a wrong forward pass."""
        if key == "outputs/y":
            return _wrong_product(self.case, b, self.tolerance)
        if key.endswith(".h"):
            return _wrong_states(a, b, self.tolerance * scale)
        if follows or not (key == "outputs/loss" or key.startswith("grads/")):
            return ""
        hint = _multiple(a, b, self.sizes, self.tolerance)
        if hint or key == "outputs/loss":
            return hint
        return likely_cause(b.astype(a.dtype), a, max(10 * self.tolerance, 1e-6))


def _apart(a: NDArray[Any], b: NDArray[Any], scale: float) -> tuple[float, str]:
    """Return the relative error of b, and where it is largest."""
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.abs(a - b)
    distance = np.where(np.isnan(distance), np.inf, distance)
    at = np.unravel_index(int(distance.argmax()), a.shape)
    error = float(distance[at]) / max(scale, np.finfo(float).tiny)
    where = f"at [{', '.join(str(int(i)) for i in at)}] " if at else ""
    digits = 6 if error > 1e-5 else 12  # so that the two can be told apart
    expected, got = f"{a[at]:.{digits}g}", f"{b[at]:.{digits}g}"
    return error, f"relative error {error:.1e}, {where}expected {expected}, got {got}"


def _misfit(a: NDArray[Any], b: NDArray[Any] | None) -> str:
    """Say why an array cannot be compared with the expected one."""
    if b is None:
        return "is missing"
    if b.shape != a.shape:
        return f"must have shape {a.shape}, got {b.shape}"
    if b.dtype.kind not in "fciu" or (np.iscomplexobj(b) and not np.iscomplexobj(a)):
        return f"must be {a.dtype}, got {b.dtype}"
    return "" if np.isfinite(b).all() else NOT_FINITE


def _sizes(settings: Mapping[str, Any], arrays: Arrays) -> dict[str, float]:
    """Return what a case's mean may be over, each under its name."""
    known = {"T": settings.get("T", 1), "B": settings.get("B", 1)}
    if "output_size" in settings:
        known["M"] = settings["output_size"]
        known["D"] = settings["cells"][0]["input_size"]
        known["N"] = settings["cells"][-1]["hidden_size"]
    known = {name: size for name, size in known.items() if size > 1}
    sizes: dict[str, float] = dict(known)
    for names in (("T", "B"), ("M", "T"), ("M", "B"), ("M", "T", "B")):
        if all(name in known for name in names):
            sizes[" ".join(names)] = math.prod(known[name] for name in names)
    if "inputs/mask" in arrays:
        mask = arrays["inputs/mask"]
        sizes["the mask's sum"] = float(mask.sum())
        sizes["the mask's mean"] = float(mask.mean())
    return sizes


def _multiple(
    a: NDArray[Any], b: NDArray[Any], sizes: Mapping[str, float], tolerance: float
) -> str:
    """Say by what an array, or the loss, was multiplied; a size only if no other one explains it.

    Nothing of a factor -1, which is a sign, nor of one near 1, which is rounding.
    """
    ratio = _ratio(a, b, max(10 * tolerance, 1e-6))
    if ratio == 0 or min(abs(ratio - 1), abs(ratio + 1)) < 1e-3:
        return ""
    found = [
        times
        for name, size in sizes.items()
        for times, value in ((name, size), (_under_1(name), 1 / size))
        if math.isclose(1 / ratio, value, rel_tol=1e-6) and abs(value - 1) > 1e-3
    ]
    plain = math.isclose(abs(math.log2(abs(ratio))), 1, rel_tol=1e-6)  # any square's 2
    if len(found) == 1 and not plain:
        return f"{found[0]} times what it should be: a sum for a mean, or the reverse?"
    # of a single number everything is a multiple
    return f"{ratio:.6g} times it is right" if a.size > 1 or plain else ""


def _ratio(a: NDArray[Any], b: NDArray[Any], tolerance: float) -> float:
    """Return a / b where it is one number throughout, else 0."""
    length = float(np.vdot(b, b).real)
    ratio = float(np.vdot(b, a).real) / length if 0 < length < math.inf else 0.0
    return ratio if np.abs(ratio * b - a).max() <= tolerance * np.abs(a).max() else 0.0


def _under_1(name: str) -> str:
    return f"1/({name})" if " " in name else f"1/{name}"


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
        if math.prod(W.shape[1] for W in wrong) != len(x):
            continue
        mistaken = kron_matvec(wrong, x)
        largest = tolerance * np.abs(mistaken).max()
        if mistaken.shape == y.shape and np.abs(mistaken - y).max() <= largest:
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

    Among all cases, or else among those that have one of the arrays that are wrong: no other one
    could show the mistake. One fact, or else two together; nothing where several would do.

    Returns
    -------
    common : list of str
        Such as "mask = True".
    """
    tried = {verdict.name: verdict for verdict in verdicts if verdict.attempted}
    wrong = {name for name, verdict in tried.items() if verdict.differences}
    facts = {name: set(_facts(verdict.settings)) for name, verdict in tried.items()}
    touched = wrong | _touched(tried)
    for together, names in itertools.product((1, 2), (set(tried), touched)):
        if not wrong or names == wrong:
            continue
        found = _in_common(wrong, {name: facts[name] for name in names}, together)
        if found:
            return list(found[0]) if len(found) == 1 else []
    return []


def _touched(tried: Mapping[str, Verdict]) -> set[str]:
    """Return the cases that have one of the arrays that are wrong in any of them."""
    suspects = {_kind(d.array) for verdict in tried.values() for d in _first(verdict)}
    return {name for name, verdict in tried.items() if suspects & _kinds(verdict.settings)}


def _in_common(
    wrong: set[str], facts: Mapping[str, set[str]], together: int
) -> list[tuple[str, ...]]:
    """Return all combinations of facts that the wrong cases have, and no other."""
    common = sorted(set.intersection(*(facts[name] for name in wrong)))
    found = [
        chosen
        for chosen in itertools.combinations(common, together)
        if {name for name in facts if facts[name].issuperset(chosen)} == wrong
    ]
    # all other things that only products, or only networks, have follow
    return [c for c in found if any(fact.startswith("kind") for fact in c)] or found


def _first(verdict: Verdict) -> tuple[Difference, ...]:
    """Return what is wrong by itself: of a wrong output all else but the loss is a consequence.

    In a training it is what differs first.
    """
    if verdict.first:
        return (verdict.first,)
    for difference in verdict.differences:
        if difference.array.startswith("outputs/") and difference.array != "outputs/loss":
            return (difference,)
    return verdict.differences


def _kind(array: str) -> str:
    """Return an array's name without its layer, and with # for the number of its factor."""
    return re.sub(r"\.\d+$", ".#", re.sub(r"cell\.(\d+\.)?", "", array))


def _kinds(settings: Mapping[str, Any]) -> set[str]:
    """Return the kinds of arrays that are to be computed for a case."""
    if settings["kind"] == "product":
        return {"outputs/y", "grads/x", "grads/W.#"}
    kinds = {"grads/readout.V", "grads/readout.c"}
    gates = {"lstm": (".i", ".f", ".g", ".o"), "gru": (".r", ".z", ".n")}
    own = {"rnn": ("b",), "lstm": ("b", "c0"), "gru": ("b", "b_h"), "lru": ("gamma",)}
    endings = {
        "restricted": (".phases", ".reflections"),
        "kronecker": (".#",),
        "diagonal": (".nu", ".theta"),
    }
    for cell in settings["cells"]:
        kinds |= {f"grads/{name}" for name in ("U", "h0", *own[cell["cell"]])}
        ends = endings.get(cell["matrix"], ("",))
        kinds |= {f"grads/W{gate}{end}" for gate in gates.get(cell["cell"], ("",)) for end in ends}
    if settings["kind"] == "training":
        after = {kind.replace("grads/", "outputs/after/") for kind in kinds}
        return kinds | after | {"outputs/loss"}
    return kinds | {"outputs/h", "outputs/logits", "outputs/loss"}


def _facts(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a mistake may depend on."""
    cells = settings.get("cells", [])
    if cells:
        yield f"layers = {len(cells)}"
        for cell in cells:
            yield from _facts(cell)
    penalized = any(cell["matrix"] in ("dense", "kronecker") for cell in cells)
    tell: dict[str, Callable[[Any], str]] = {
        "penalty": lambda value: "penalty > 0" if value and penalized else "penalty = 0",
        "T": lambda T: f"T {'> 1' if T > 1 else '= 1'}",
        "B": lambda B: f"B {'> 1' if B > 1 else '= 1'}",
        "factors": lambda factors: f"factors {'> 1' if len(factors) > 1 else '= 1'}",
        "optimizer": lambda optimizer: f"rule = {optimizer.get('rule')}",
    }
    # kind = training says the updates, too
    untold = ("cells", "input_size", "hidden_size", "output_size", "permutation", "updates")
    for key, value in settings.items():
        if key not in untold:
            yield tell[key](value) if key in tell else f"{key} = {value}"


def report(verdicts: list[Verdict]) -> str:
    """Return, case by case and array by array, what differs and what it looks like."""
    tried = [v for v in verdicts if v.attempted]
    lines = [line for verdict in tried for line in _case(verdict)]
    common = pattern(verdicts)
    if common:
        lines.append(f"wrong where, and only where, {' and '.join(common)}")
    lines += _what_they_share(tried)
    missing = [v.name for v in verdicts if not v.attempted]
    if 0 < len(missing) <= 5:
        lines.append(f"not attempted: {', '.join(missing)}")
    right = sum(not v.differences for v in tried)
    lines.append(f"{right} of {len(tried)} cases passed, {len(missing)} not attempted")
    return "\n".join(lines)


def _case(verdict: Verdict) -> list[str]:
    if not verdict.differences:
        return [f"{verdict.name}: passed, largest relative error {verdict.largest_error:.1e}"]
    first = [f"  {verdict.first.what}"] if verdict.first else []
    return [
        f"{verdict.name}: wrong",
        *first,
        *(f"  {d.array} {d.what}" for d in verdict.differences),
    ]


def _what_they_share(tried: list[Verdict]) -> list[str]:
    """Say what most differences look like, and whether all are those of single precision."""
    wrong = [d for v in tried for d in v.differences]
    causes = Counter(d.what.partition("; ")[2] for v in tried for d in _first(v))
    lines = _most_often(causes) if len(wrong) > 1 else []
    small = all(v.largest_error < SINGLE_PRECISION for v in tried)
    if small and {d.what[: len("relative error")] for d in wrong} == {"relative error"}:
        lines.append(
            f"all errors are below {SINGLE_PRECISION:g}: if this is single precision, it passes "
            f"with --tolerance {SINGLE_PRECISION:g}"
        )
    return lines


def _most_often(causes: Counter[str]) -> list[str]:
    cause, times = causes.most_common(1)[0]
    if not cause or 2 * times <= causes.total():  # they look different
        return []
    return [f"most often, {times} times: {cause}"]
