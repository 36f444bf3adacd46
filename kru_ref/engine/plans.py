"""How a product of factors is cut into pieces for the processor: what follows from shapes alone.

- Neighbouring factors whose product costs no more than they do apart (2×2 ones) are merged: the
  same arithmetic in half the passes over memory.
- A batch in a recurrence is cut into *blocks* of columns. Each goes through time by itself.
- A product too large for the cache is cut into *phases*, runs of neighbouring factors, and a
  phase into *panels*: all rows that its factors mix, of as many columns as fit.
- Factors too large for the kernels are phases of their own, for BLAS.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..sweeps import Sweep, sweeps
from .backend import kernels

# Beyond factors of about this size a product by BLAS for each of them is as fast or faster.
LARGEST_FACTOR = 16

# The same for a recurrence, where BLAS would be called from Python in every step.
LARGEST_IN_RECURRENCE = 32

# Real numbers in the widest vector.
LANES = 16

# Columns in a block: a state of a few hundred rows stays in the cache, and a batch of usual
# size gives each of a few threads a block.
BLOCK = 32

# Bytes of a panel: with its copies it stays in the second-level cache.
PANEL = 2**18


class Plan(NamedTuple):
    """Everything about a product of factors that follows from shapes."""

    groups: tuple[tuple[int, ...], ...]  # factors merged into one, in order
    merging: NDArray[np.intp]  # the same for kernels.merge
    merged: tuple[tuple[int, int], ...]  # the groups' shapes
    n_entries: int  # of the factors
    n_merged: int  # of the groups
    rows: tuple[int, int]  # ∏P, ∏Q
    sweeps: NDArray[np.intp]
    most_rows: int  # of any stage
    real_form: int  # entries of the largest real matrix that a factor becomes for single columns


class Phase(NamedTuple):
    """Neighbouring factors applied to x (left, rows, B), panel by panel; or one, by BLAS."""

    factors: tuple[int, ...]
    left: int
    B: int
    cuts: NDArray[np.intp]  # where panels begin in B, and the end
    plan: Plan | None
    stride: int  # real numbers that any stage of a panel needs
    product: Any  # kernels.Product


def are_small(shapes: Iterable[tuple[int, ...]], largest: int = LARGEST_FACTOR) -> bool:
    """Tell whether factors of these shapes are small enough for the kernels."""
    return max(max(shape) for shape in shapes) <= largest


@functools.lru_cache(maxsize=256)
def fits_recurrence(shapes: tuple[tuple[int, int], ...]) -> bool:
    """Tell whether factors of these shapes are small enough for a recurrence in the kernels."""
    return are_small(shapes, LARGEST_IN_RECURRENCE)


@functools.lru_cache(maxsize=256)
def phases_of(shapes: tuple[tuple[int, int], ...], B: int, dtype: str) -> tuple[Phase, ...]:
    """Cut a product into runs of neighbouring factors whose panels fit the cache.

    What fits as a whole is one run, its sweeps in the cheapest order. A larger one goes
    through its factors in that order and starts a new run where the next factor is no
    neighbour, goes to BLAS, or would let a panel outgrow the cache.
    """
    itemsize, order = np.dtype(dtype).itemsize, sweeps(shapes, B)
    largest = max(max(shapes[f]) * left * right for f, left, right in order)
    if are_small(shapes) and largest * itemsize <= 2 * PANEL:
        everything = tuple(range(len(shapes)))
        return (_phase(shapes, everything, 1, B, max(1, B), dtype),)
    runs: list[list[Sweep]] = []
    for sweep in order:
        if runs and _joins(shapes, runs[-1], sweep, itemsize):
            runs[-1].append(sweep)
        else:
            runs.append([sweep])
    return tuple(_phase_of(shapes, run, dtype) for run in runs)


def _phase_of(shapes: tuple[tuple[int, int], ...], run: list[Sweep], dtype: str) -> Phase:
    """Return the phase of neighbouring factors, or of one that is left to BLAS."""
    chosen, left, right = tuple(sweep.factor for sweep in run), run[0].left, run[-1].right
    if not are_small([shapes[f] for f in chosen]):
        return Phase(chosen, left, right, columns_of(right), None, 0, None)
    width = max(LANES, PANEL // (max(_rows(shapes, chosen)) * np.dtype(dtype).itemsize))
    return _phase(shapes, chosen, left, right, min(right, width), dtype)


def _joins(
    shapes: tuple[tuple[int, int], ...], run: list[Sweep], sweep: Sweep, itemsize: int
) -> bool:
    neighbours = sweep.factor == run[-1].factor + 1
    if not neighbours or not are_small([shapes[run[0].factor], shapes[sweep.factor]]):
        return False
    rows = max(_rows(shapes, [s.factor for s in run] + [sweep.factor]))
    return rows * min(sweep.right, 4 * LANES) * itemsize <= PANEL


def _rows(shapes: tuple[tuple[int, int], ...], factors: Iterable[int]) -> tuple[int, int]:
    chosen = [shapes[f] for f in factors]
    return math.prod(P for P, _ in chosen), math.prod(Q for _, Q in chosen)


def _phase(
    shapes: tuple[tuple[int, int], ...],
    factors: tuple[int, ...],
    left: int,
    B: int,
    width: int,
    dtype: str,
) -> Phase:
    cuts = _cuts(B, width, np.dtype(dtype).itemsize)
    widths = np.diff(cuts)
    plan = plan_of(tuple(shapes[f] for f in factors), int(widths.min()), dtype)
    stride = whole_vectors(plan.most_rows * int(widths.max()) * parts_of(np.dtype(dtype)))
    return Phase(factors, left, B, cuts, plan, stride, product_of(plan, left, cuts, stride, dtype))


def product_of(plan: Plan, left: int, cuts: NDArray[np.intp], stride: int, dtype: str) -> Any:
    """Return a plan as the kernels take it."""
    return kernels.Product(parts_of(np.dtype(dtype)), left, cuts, plan, stride)


def _cuts(B: int, width: int, itemsize: int) -> NDArray[np.intp]:
    """Cut B columns into panels of an odd number of cache lines a row.

    Rows a power of two apart would share a few lines of the first-level cache.
    """
    line = max(1, 64 // itemsize)
    if width >= B or width < line:
        return columns_of(B, width)
    starts = list(range(0, B, (width // line - 1 | 1) * line))
    if B - starts[-1] < LANES:
        starts.pop()
    return np.array([*starts, B], np.intp)


@functools.lru_cache(maxsize=256)
def plan_of(shapes: tuple[tuple[int, int], ...], B: int, dtype: str) -> Plan:
    """Choose which factors to merge, for panels of B columns or more."""
    parts = parts_of(np.dtype(dtype))
    row, groups = B * parts, _groups(shapes, B, dtype)
    merged = tuple(_rows(shapes, group) for group in groups)
    offsets = np.cumsum([0] + [P * Q for P, Q in merged])
    rows = [(offsets[f], *merged[f], left, right) for f, left, right in sweeps(merged, 1)]
    real_forms = [P * Q * parts**2 for _, P, Q, _, right in rows if right * row == parts]
    return Plan(
        groups,
        _merging(groups, shapes),
        merged,
        sum(P * Q for P, Q in shapes),
        int(offsets[-1]),
        _rows(shapes, range(len(shapes))),
        np.array(rows, np.intp),
        max(max(P, Q) * left * right for _, P, Q, left, right in rows),
        max(real_forms, default=0),
    )


def _groups(shapes: tuple[tuple[int, int], ...], B: int, dtype: str) -> tuple[tuple[int, ...], ...]:
    """Return which neighbouring factors are merged into one."""
    parts, lanes = parts_of(np.dtype(dtype)), LANES if dtype in "fF" else LANES // 2
    last = len(shapes)  # of a single column, factors from here on are merged to fill a vector
    while B == 1 and last > 0:
        now, more = (max(_rows(shapes, range(f, len(shapes)))) for f in (last, last - 1))
        if parts * now >= lanes or parts * more > 2 * LANES:
            break
        last -= 1
    groups: list[tuple[int, ...]] = []
    for f, shape in enumerate(shapes[:last]):
        if groups and len(groups[-1]) == 1 and _pays(shapes[f - 1], shape):
            groups[-1] = (f - 1, f)
        else:
            groups.append((f,))
    rest = tuple(range(last, len(shapes)))
    return (*groups, rest) if rest else tuple(groups)


def _merging(
    groups: tuple[tuple[int, ...], ...], shapes: tuple[tuple[int, int], ...]
) -> NDArray[np.intp]:
    """Return groups as the kernels take them: their number; of each its length and its shapes."""
    merging = [len(groups)]
    for group in groups:
        merging += [len(group), *(size for f in group for size in shapes[f])]
    return np.array(merging, np.intp)


def _pays(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Tell whether W_f ⊗ W_g costs no more multiplications than one after the other."""
    (P, Q), (R, S) = first, second
    return min(P * Q * S + P * R * S, R * S * Q + P * R * Q) >= P * Q * R * S


def columns_of(B: int, block: int = BLOCK) -> NDArray[np.intp]:
    """Cut a batch into blocks of nearly equal width, all but the last of whole vectors."""
    n_blocks = max(1, -(-B // max(1, block)))
    whole = 8 if block >= 16 else 1
    starts = [round(B * i / n_blocks / whole) * whole for i in range(n_blocks)]
    return np.array([*starts, B], np.intp)


def parts_of(dtype: np.dtype) -> int:
    """Return how many real numbers a number is: 2 if it is complex."""
    return 2 if dtype.kind == "c" else 1


def whole_vectors(n: int) -> int:
    """Round up to whole vectors."""
    return -(-n // LANES) * LANES
