"""Time y = (W_0 ⊗ … ⊗ W_{F-1}) x with equal factors against kru_ref's competitors.

    python benchmarks/matvec.py --threads 1 --json matvec.json            # 2×2, N = 512, B = 50
    python benchmarks/matvec.py --grid --only NumPy JAX FastKron          # many shapes

Every output is compared with kru_ref.kron_matvec's before anything is timed.
"""

import math
import sys
import time
from typing import NamedTuple

import competitors
import measure
import numpy as np

import kru_ref as kru

OURS = "kru_ref"
DTYPES = ("float32", "float64", "complex64", "complex128")


class Case(NamedTuple):
    """F factors q×q applied to x (q^F, B)."""

    q: int
    F: int
    B: int
    dtype: str

    def __str__(self):
        q, F, B, dtype = self
        return f"{F} factors {q}×{q}, N = {q**F}, B = {B}, {dtype}"


def grid():
    """Return q from 2 to 64, for each N about 2^9, 2^14 and 2^20, B from 1 to 128."""
    for q in (2, 3, 4, 8, 10, 16, 32, 64):
        numbers = sorted({max(2, round(bits / math.log2(q) - 0.49)) for bits in (9, 14, 20)})
        for F in numbers:
            for B in (1, 20, 50, 128):
                yield from (Case(q, F, B, dtype) for dtype in DTYPES)


def random_product(case, rng):
    """Return unitary factors, as a KRU's are or nearly, and x with normal entries."""

    def draw(*shape):
        z = rng.standard_normal(shape, dtype="float32")
        if case.dtype.startswith("complex"):
            z = z + 1j * rng.standard_normal(shape, dtype="float32")
        return z.astype(case.dtype)

    factors = [kru.random_unitary(case.q, rng, case.dtype) for _ in range(case.F)]
    return competitors.Product(factors, draw(case.q**case.F, case.B))


def run(case, names, rounds, rng):
    """Check, then time; return what was found for each name."""
    competitors.start_afresh()
    product = random_product(case, rng)
    factors, x = product.factors, product.x
    reference = kru.kron_matvec(factors, x)
    tolerance = 100 * np.finfo(case.dtype).eps
    results, calls = {OURS: {}}, {OURS: lambda: kru.kron_matvec(factors, x)}
    for name in names:
        start = time.perf_counter()
        try:
            call, as_columns = competitors.MATVECS[name](product)
            y = as_columns(call())
        except ImportError as error:
            results[name] = {"remark": measure.first_line("not installed", error)}
            continue
        except Exception as error:  # such as torch.compile without a C++ compiler
            results[name] = {"remark": measure.first_line("failed", error)}
            continue
        results[name] = {"set_up_s": time.perf_counter() - start}
        right_kind = y.shape == reference.shape and y.dtype == reference.dtype
        error = np.linalg.norm(y - reference) / np.linalg.norm(reference) if right_kind else np.inf
        results[name]["error"] = float(error)
        if error < tolerance:
            calls[name] = call
        else:
            results[name]["remark"] = f"WRONG: differs from {OURS} by {error:.1e}; not timed"
    for name, times in measure.alternate(calls, rounds, OURS, least_seconds=0.02).items():
        results[name] |= times
    return results


def print_summary(report):
    """Say in how many cases kru_ref is the fastest, and where it is farthest from that."""
    ratios = {}
    for found in report:
        theirs = {k: t["ratio"] for k, t in found.get("times", {}).items() if "ratio" in t}
        theirs.pop(OURS, None)
        if theirs:
            name = min(theirs, key=theirs.get)
            ratios[Case(*(found[field] for field in Case._fields))] = theirs[name], name
    in_order = sorted(ratios.items(), key=lambda item: item[1][0])
    behind = sum(ratio < 0.95 for ratio, _ in ratios.values())
    median = in_order[len(in_order) // 2][1][0]
    print(
        f"\n{len(ratios)} cases: the best competitor takes {median:.2f} times as long, by median;"
    )
    print(f"in {behind} cases it takes less than 0.95 times as long as {OURS}, the least in")
    for case, (ratio, name) in in_order[:5]:
        print(f"  {case}: {ratio:.2f}, {name}")


def main():
    """Run the cases asked for."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--q", type=int, nargs="+", default=[2], help="sizes of the factors")
    parser.add_argument("--factors", type=int, nargs="+", default=[9], help="how many: F")
    parser.add_argument("--B", type=int, nargs="+", default=[50])
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    parser.add_argument("--grid", action="store_true", help="many shapes instead of those given")
    parser.add_argument("--most-mib", type=int, default=512, help="skip cases with a larger x")
    arguments = parser.parse_args()
    measure.set_threads(arguments.threads)

    cases = [
        Case(q, F, B, dtype)
        for q in arguments.q
        for F in arguments.factors
        for B in arguments.B
        for dtype in arguments.dtype
    ]
    names = measure.chosen(competitors.MATVECS, arguments.only)
    report = []
    for case in grid() if arguments.grid else cases:
        mebibytes = case.q**case.F * case.B * np.dtype(case.dtype).itemsize / 2**20
        if mebibytes > arguments.most_mib:
            print(f"\n{case}: skipped, x has {mebibytes:.0f} MiB (see --most-mib)")
            report.append(case._asdict() | {"skipped": "x is too large"})
            continue
        results = run(case, names, arguments.rounds, np.random.default_rng(0))
        report.append(case._asdict() | {"times": results})
        measure.print_table(f"{case}, threads = {arguments.threads}", results)
    if arguments.grid:
        print_summary(report)
    if arguments.json:
        found = measure.report(arguments.threads, arguments.rounds, report)
        measure.write_json(arguments.json, found)
    remarks = [r.get("remark", "") for case in report for r in case.get("times", {}).values()]
    return 1 if any("WRONG" in remark for remark in remarks) else 0


if __name__ == "__main__":
    sys.exit(main())
