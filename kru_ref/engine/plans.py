"""How a product of factors is cut into pieces for the processor: what follows from shapes alone.

- Three neighbouring factors of 2×2 or more become *butterflies*, two or three at a time, and their
  diagonals are pulled out: less than half the arithmetic, see butterflies.py.
- Other neighbours whose product costs no more than they do apart (two of 2×2) are merged: the
  same arithmetic in half the passes over memory.
- A batch in a recurrence is cut into *blocks* of columns. Each goes through time by itself.
- A product too large for the cache is cut into *phases*, runs of neighbouring factors, and a
  phase into *panels*: all rows that its factors mix, of as many columns as fit.
- Factors too large for the kernels are phases of their own, for BLAS.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..sweeps import Sweep, sweeps
from .backend import kernels

# Beyond factors of about this size a product by BLAS for each of them is as fast or faster.
LARGEST_FACTOR = 16

# The same forward where vectors are as long as AVX-512's. Backward the sums of a factor's gradient,
# kept lane by lane, would outgrow the cache.
LARGEST_IN_LONG_VECTORS = 64

# The same for a recurrence.
LARGEST_IN_RECURRENCE = 32

# Real numbers in the widest vector.
LANES = 16

# 2×2 factors that share diagonals: of fewer these would cost what they save.
SHORTEST_RUN = 3

# 2×2 factors that become butterflies at once. Forward three are as fast as two or faster, for
# their eight numbers make fewer passes; backward, where what each has before it and its gradient
# are at hand, 24 complex numbers and 8 more fill the registers of AVX-512 and overflow 16.
AT_ONCE, AT_ONCE_IN_FEW_REGISTERS = 3, 2

# Real numbers in a row, for butterflies: below, their vectors would be too short.
FEWEST_PARTS = 8

# Columns in a block: a state of a few hundred rows stays in the cache, and a batch of usual
# size gives each of a few threads a block.
BLOCK = 32

# The same for BLAS, whose products are faster the wider they are.
LARGE_BLOCK = 64

# Bytes of a panel: with its copies it stays in the second-level cache.
PANEL = 2**18


class Group(NamedTuple):
    """Neighbouring factors that make one sweep: multiplied out, or butterflies of a run."""

    factors: tuple[int, ...]
    shape: tuple[int, int]
    run: tuple[int, ...] = ()  # of butterflies, all factors that share diagonals

    @property
    def size(self) -> int:
        """How many numbers it takes of the factors, and of the sums for their gradients."""
        P, Q = self.shape
        return 2 * len(self.factors) + P if self.run else P * Q


class Plan(NamedTuple):
    """Everything about a product of factors that follows from shapes."""

    groups: tuple[Group, ...]
    merging: NDArray[np.intp]  # the same for kernels.merge
    n_entries: int  # of the factors
    n_merged: int  # of the groups
    n_numbers: int  # and of the diagonals behind them
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
    plain: Phase | None  # the same without butterflies, where it has some


def are_small(shapes: Iterable[tuple[int, ...]], largest: int = LARGEST_FACTOR) -> bool:
    """Tell whether factors of these shapes are small enough for the kernels."""
    return max(max(shape) for shape in shapes) <= largest


@functools.lru_cache(maxsize=256)
def phases_of(
    shapes: tuple[tuple[int, int], ...], B: int, dtype: str, largest: int = LARGEST_FACTOR
) -> tuple[Phase, ...]:
    """Cut a product into runs of neighbouring factors whose panels fit the cache.

    What fits as a whole is one run, its sweeps in the cheapest order. A larger one goes
    through its factors in that order and starts a new run where the next factor is no
    neighbour, goes to BLAS as one above ``largest``, or would let a panel outgrow the cache.
    """
    itemsize, order = np.dtype(dtype).itemsize, sweeps(shapes, B)
    most = max(max(shapes[f]) * left * right for f, left, right in order)
    if are_small(shapes, largest) and most * itemsize <= 2 * PANEL:
        everything = tuple(range(len(shapes)))
        return (_phase(shapes, everything, 1, B, max(1, B), dtype),)
    runs: list[list[Sweep]] = []
    for sweep in order:
        if runs and _joins(shapes, runs[-1], sweep, itemsize, largest):
            runs[-1].append(sweep)
        else:
            runs.append([sweep])
    return tuple(_phase_of(shapes, run, dtype, largest) for run in runs)


def _phase_of(
    shapes: tuple[tuple[int, int], ...], run: list[Sweep], dtype: str, largest: int
) -> Phase:
    """Return the phase of neighbouring factors, or of one that is left to BLAS."""
    chosen, left, right = tuple(sweep.factor for sweep in run), run[0].left, run[-1].right
    if not are_small([shapes[f] for f in chosen], largest):
        return Phase(chosen, left, right, columns_of(right), None, 0, None, None)
    width = max(LANES, PANEL // (max(_rows(shapes, chosen)) * np.dtype(dtype).itemsize))
    return _phase(shapes, chosen, left, right, min(right, width), dtype)


def _joins(
    shapes: tuple[tuple[int, int], ...],
    run: list[Sweep],
    sweep: Sweep,
    itemsize: int,
    largest: int,
) -> bool:
    neighbours = sweep.factor == run[-1].factor + 1
    if not neighbours or not are_small([shapes[run[0].factor], shapes[sweep.factor]], largest):
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
    butterflies: int = AT_ONCE,
) -> Phase:
    cuts = _cuts(B, width, np.dtype(dtype).itemsize)
    widths = np.diff(cuts)
    plan = plan_of(tuple(shapes[f] for f in factors), int(widths.min()), dtype, butterflies)
    stride = whole_vectors(plan.most_rows * int(widths.max()) * parts_of(np.dtype(dtype)))
    product, plain = product_of(plan, left, cuts, stride, dtype), None
    if any(group.run for group in plan.groups):
        plain = _phase(shapes, factors, left, B, width, dtype, butterflies=0)
    return Phase(factors, left, B, cuts, plan, stride, product, plain)


def product_of(plan: Plan, left: int, cuts: NDArray[np.intp], stride: int, dtype: str) -> Any:
    """Return a plan as the kernels take it."""
    return kernels.Product(parts_of(np.dtype(dtype)), left, cuts, plan, stride, sys.maxsize)


def recurrence_product(plan: Plan, columns: NDArray[np.intp], dtype: str) -> Any:
    """Return the plan of a recurrent matrix as the kernels take it; its blocks are the panels."""
    parts = parts_of(np.dtype(dtype))
    return kernels.Product(parts, 1, columns, plan, 0, LARGEST_IN_RECURRENCE)


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
def plan_of(
    shapes: tuple[tuple[int, int], ...], B: int, dtype: str, butterflies: int = AT_ONCE
) -> Plan:
    """Choose which factors make one sweep, for panels of B columns or more.

    ``butterflies`` says how many may be at once, 3 or 2; 0 is for none.
    """
    parts = parts_of(np.dtype(dtype))
    groups = _groups(shapes, B, dtype, butterflies)
    offsets = np.cumsum([0] + [group.size for group in groups])
    diagonals, end = _diagonals(groups, parts)
    order = sweeps(tuple(group.shape for group in groups), 1)
    rows = []
    for f, left, right in order:
        group = groups[f]
        rows.append([offsets[f], *group.shape, left, right, *_butterflies(group, right, diagonals)])
    real_forms = [P * Q * parts**2 for _, P, Q, _, right, *_ in rows if right * B == 1]
    return Plan(
        groups,
        _merging(groups, shapes, diagonals),
        sum(P * Q for P, Q in shapes),
        int(offsets[-1]),
        int(offsets[-1]) + -(-end // parts),
        _rows(shapes, range(len(shapes))),
        np.array(rows, np.intp),
        max(max(P, Q) * left * right for _, P, Q, left, right, *_ in rows),
        max(real_forms, default=0),
    )


def diagonal_plan(N: int, shapes: tuple[tuple[int, ...], ...], dtype: str) -> Plan:
    """Return what a diagonal matrix needs of a plan: its sizes, and one sweep's memory.

    For the product of diagonal factors of such shapes the sweeps are those of their gradients.
    """
    if shapes:
        return plan_of(shapes, BLOCK, dtype, butterflies=0)._replace(n_numbers=N)
    none, sweep = np.zeros(1, np.intp), np.array([[0, 1, 1, N, 1, 0, -1, -1, 1, 1, 1]], np.intp)
    return Plan((), none, N, N, N, (N, N), sweep, N, 0)


def _groups(
    shapes: tuple[tuple[int, int], ...], B: int, dtype: str, butterflies: int
) -> tuple[Group, ...]:
    """Return which neighbouring factors make one sweep."""
    parts, lanes = parts_of(np.dtype(dtype)), LANES if dtype in "fF" else LANES // 2
    last = len(shapes)  # of a single column, factors from here on are merged to fill a vector
    while B == 1 and last > 0:
        now, more = (max(_rows(shapes, range(f, len(shapes)))) for f in (last, last - 1))
        if parts * now >= lanes or parts * more > 2 * LANES:
            break
        last -= 1
    groups: list[Group] = []
    takes_apart = butterflies > 0 and kernels.has_vectors() and B * parts >= FEWEST_PARTS
    for is_pair, run in itertools.groupby(range(last), lambda f: shapes[f] == (2, 2)):
        factors = tuple(run)
        if takes_apart and is_pair and len(factors) >= SHORTEST_RUN:
            parts_of_run = _threes_and_twos(factors, butterflies)
            groups += [Group(part, _rows(shapes, part), factors) for part in parts_of_run]
        else:
            groups += [Group(part, _rows(shapes, part)) for part in _twos(shapes, factors)]
    rest = tuple(range(last, len(shapes)))
    return (*groups, Group(rest, _rows(shapes, rest))) if rest else tuple(groups)


def _threes_and_twos(factors: tuple[int, ...], at_once: int) -> list[tuple[int, ...]]:
    """Cut a run into threes, behind the fewest twos; or into twos, with a three if it is odd."""
    n_twos = -len(factors) % 3 if at_once == 3 else (len(factors) - len(factors) % 2 * 3) // 2
    starts = [2 * i for i in range(n_twos)] + list(range(2 * n_twos, len(factors) + 1, 3))
    return [factors[i:j] for i, j in itertools.pairwise(starts)]


def _twos(shapes: tuple[tuple[int, int], ...], factors: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Put together two factors where their product costs no more than they do."""
    parts: list[tuple[int, ...]] = []
    for f in factors:
        if parts and len(parts[-1]) == 1 and _pays(shapes[f - 1], shapes[f]):
            parts[-1] = (f - 1, f)
        else:
            parts.append((f,))
    return parts


def _diagonals(
    groups: tuple[Group, ...], parts: int
) -> tuple[dict[tuple[int, ...], tuple[int, int]], int]:
    """Return where D (real factors: -1) and L of each run begin behind all groups, and the end."""
    begin: dict[tuple[int, ...], tuple[int, int]] = {}
    end = 0
    for run in dict.fromkeys(group.run for group in groups if group.run):
        size = (4 if parts == 2 else 1) << len(run)
        begin[run] = (end if parts == 2 else -1, end + size if parts == 2 else end)
        end += parts * size
    return begin, end


def _butterflies(
    group: Group, right: int, diagonals: dict[tuple[int, ...], tuple[int, int]]
) -> list[int]:
    """Return what the kernels need of butterflies: how many, where D and L are, see simd.h."""
    if not group.run:
        return [0, -1, -1, 1, 1, 1]
    D, L = diagonals[group.run]
    is_first, is_last = group.factors[0] == group.run[0], group.factors[-1] == group.run[-1]
    lefts = 1 << group.run.index(group.factors[0])
    rights = (1 << len(group.run)) // (lefts * group.shape[0])
    at = [D if is_first else -1, L if is_last else -1]
    return [len(group.factors), *at, lefts, rights, right // rights]


def _merging(
    groups: tuple[Group, ...],
    shapes: tuple[tuple[int, int], ...],
    diagonals: dict[tuple[int, ...], tuple[int, int]],
) -> NDArray[np.intp]:
    """Return groups as the kernels take them: their number, and of each what merge_groups says."""
    merging = [len(groups)]
    for group in groups:
        D, L = diagonals.get(group.run, (-1, -1))
        before = group.run.index(group.factors[0]) if group.run else 0
        sizes = [size for f in group.factors for size in shapes[f]]
        merging += [len(group.factors), group.size, D, L, before, *sizes]
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
