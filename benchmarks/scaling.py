"""Measure how kru_ref's time grows with N, T and B, and how near it comes to the processor's peak.

    python benchmarks/scaling.py --threads 1 --json scaling.json --picture scaling.png

It needs a C compiler for the peak, and matplotlib for the picture; `--draw scaling.json` draws
without measuring. Times are of complex64, with 2×2 factors.
"""

import ctypes
import json
import math
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import competitors
import measure
import numpy as np
from threadpoolctl import threadpool_limits

import kru_ref as kru
from kru_ref.engine import plans

OURS, NUMPY = "kru_ref", "NumPy, merged to 16"
LARGEST = 20  # N = 2^20
DTYPES = ("float32", "float64", "complex64", "complex128")


def fma_peak(seconds=0.2):
    """Return GFlop/s of multiply-adds in registers, {"float32": …, "float64": …}."""
    source = Path(__file__).with_name("fma_peak.c")
    peak = {}
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fma_peak.so"
        flags = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
        functions = ctypes.CDLL(str(library))
        for dtype, name in (("float32", "float"), ("float64", "double")):
            multiply_adds = getattr(functions, f"multiply_adds_{name}")
            multiply_adds.argtypes, multiply_adds.restype = [ctypes.c_long], ctypes.c_double
            a_round = getattr(functions, f"multiply_adds_a_round_{name}")()
            rounds, best = 10**6, math.inf
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                multiply_adds(rounds)
                best = min(best, time.perf_counter() - start)
            peak[dtype] = 2 * a_round * rounds / best / 1e9
    return peak


def bandwidth(seconds=1.0):
    """Return GB/s of main memory: bytes read and written by a large copy."""
    a = np.ones(2**25)
    b, best = np.empty_like(a), math.inf
    np.copyto(b, a)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        np.copyto(b, a)
        best = min(best, time.perf_counter() - start)
    return 2 * a.nbytes / best / 1e9


def random_product(N, B, dtype, rng):
    """Return 2×2 factors and x (N, B)."""
    factors = [kru.random_unitary(2, rng, np.dtype(dtype)) for _ in range(N.bit_length() - 1)]
    x = rng.standard_normal((N, B))
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal((N, B))
    return factors, x.astype(dtype)


def flops(N, B, dtype, direction="forward"):
    """Return the floating point operations of a product with 2×2 factors, or of its backward.

    Two for each real multiply-add: as butterflies have them, or of a single column one by one.
    Backward is the product again, its adjoint and the factors' gradients.
    """
    F, is_complex = int(math.log2(N)), dtype.startswith("complex")
    if B * (1 + is_complex) < plans.FEWEST_PARTS:
        adds = F * (8 if is_complex else 2) * (1 if direction == "forward" else 3)
    elif direction == "forward":
        adds = 3 * F + 8 if is_complex else F + 1
    else:
        adds = 10 * F + 16 if is_complex else 3 * F + 3
    return 2 * adds * N * B


def growth_with_N(rounds, rng):
    """Return seconds of a matrix-vector product for N = 2^6 … 2^20, B = 1 and 32."""
    rows = []
    for B in (1, 32):
        for exponent in range(6, LARGEST + 1):
            N = 2**exponent
            factors, x = random_product(N, B, "complex64", rng)
            product = competitors.Product(factors, x)
            theirs, _ = competitors.in_numpy(product, competitors.columns, most=16)
            error = np.abs(theirs() - kru.kron_matvec(factors, x)).max() / np.abs(x).max()
            assert error < 1e-4, f"NumPy's product differs by {error}"
            calls = {OURS: partial(kru.kron_matvec, factors, x), NUMPY: theirs}
            times = measure.alternate(calls, rounds, OURS, least_seconds=0.02)
            seconds = {name: found["median_s"] for name, found in times.items()}
            rows.append({"N": N, "B": B, "seconds": seconds})
            per = seconds[OURS] / (N * exponent * B)
            print(f"N = 2^{exponent:<2} B = {B:2}: {1e6 * seconds[OURS]:10.1f} µs", end="")
            print(f", {1e9 * per:6.3f} ns/(N log2 N B); NumPy {1e6 * seconds[NUMPY]:10.1f} µs")
    return rows


def recurrence(N, T, B, rng):
    """Return calls of a KRU's forward and backward pass over T steps of a batch."""
    cell = kru.KRU(1, N)
    params, x = cell.init(rng), rng.random((T, 1, B), dtype="float32")
    dh = rng.standard_normal((1, N, B)).astype("complex64")
    _, saved = cell.forward(params, x)
    forward = partial(cell.forward, params, x)
    backward = partial(cell.backward, params, saved, dh, input_gradient=False)
    return {"forward": forward, "backward": backward}


def growth_in_time(name, sizes, rounds, rng):
    """Return seconds of the forward and of the backward pass for each (N, T, B)."""
    rows = []
    for N, T, B in sizes:
        times = measure.alternate(recurrence(N, T, B, rng), rounds, "forward")
        seconds = {direction: found["median_s"] for direction, found in times.items()}
        rows.append({"N": N, "T": T, "B": B, "seconds": seconds})
        shown = ", ".join(f"{k} {1e3 * s:.1f} ms" for k, s in seconds.items())
        print(f"{name}: N = {N}, T = {T}, B = {B}: {shown}")
    return rows


def speed_up(threads, rounds, rng):
    """Return seconds of a forward and backward pass with one thread and with several."""
    passes = recurrence(512, 400, 50, rng)

    def step(n):
        with threadpool_limits(n):
            passes["forward"]()
            passes["backward"]()

    calls = {str(n): partial(step, n) for n in sorted({1, threads})}
    times = measure.alternate(calls, rounds, "1")
    seconds = {n: found["median_s"] for n, found in times.items()}
    for n, s in seconds.items():
        print(f"N = 512, T = 400, B = 50, {n} thread(s): {1e3 * s:.1f} ms", end="")
        print(f", {1 / times[n]['ratio']:.2f} times as fast as one")
    return seconds


def roofline(rounds, rng):
    """Return achieved GFlop/s, and flops for each byte that must come from or go to memory."""
    rows = []

    def add(what, dtype, operations, n_bytes, seconds):
        peak = fma_peak()["float32" if dtype in ("float32", "complex64") else "float64"]
        achieved = operations / seconds / 1e9
        rows.append(
            {
                "what": what,
                "dtype": dtype,
                "gflops": achieved,
                "peak_gflops": peak,
                "flops_per_byte": operations / n_bytes,
            }
        )
        print(f"{what}, {dtype}: {achieved:.1f} GFlop/s, {achieved / peak:.0%} of {peak:.1f}")

    for N, B in ((512, 50), (2**14, 20), (2**20, 1)):
        for dtype in DTYPES:
            factors, x = random_product(N, B, dtype, rng)
            call = {OURS: partial(kru.kron_matvec, factors, x)}
            times = measure.alternate(call, rounds, OURS, least_seconds=0.02)
            what = f"matvec, N = {N}, B = {B}"
            add(what, dtype, flops(N, B, dtype), 2 * x.nbytes, times[OURS]["median_s"])
    for N, T, B in ((128, 1020, 20), (512, 784, 20), (512, 784, 64)):
        times = measure.alternate(recurrence(N, T, B, rng), rounds, "forward")
        states = T * N * B * np.dtype("complex64").itemsize
        for direction in ("forward", "backward"):
            what = f"{direction}, N = {N}, T = {T}, B = {B}"
            operations = T * flops(N, B, "complex64", direction)
            add(what, "complex64", operations, states, times[direction]["median_s"])
    return rows


def draw(report, path):
    """Draw the four panels."""
    from matplotlib import pyplot as plt

    results = report["results"]
    figure, ((in_N, in_T), (in_B, roof)) = plt.subplots(2, 2, figsize=(10, 7.5))
    for B, marker in ((1, "o"), (32, "s")):
        rows = [row for row in results["N"] if row["B"] == B]
        N = [row["N"] for row in rows]
        for name, style in ((OURS, "-"), (NUMPY, ":")):
            per = [
                1e9 * row["seconds"][name] / (row["N"] * math.log2(row["N"]) * B) for row in rows
            ]
            in_N.loglog(N, per, style, color="black", marker=marker, ms=4, label=f"{name}, B = {B}")
    in_N.set(xlabel="N", ylabel="time / (N log₂ N · B)  [ns]", title="matrix-vector product")
    for axes, key, title in ((in_T, "T", "N = 512, B = 20"), (in_B, "B", "N = 512, T = 100")):
        rows = results[key]
        for direction, style in (("forward", "-"), ("backward", "--")):
            per = [1e6 * row["seconds"][direction] / (row["T"] * row["B"]) for row in rows]
            axes.semilogx(
                [row[key] for row in rows],
                per,
                style,
                color="black",
                marker="o",
                ms=4,
                label=direction,
            )
        axes.set(xlabel=key, ylabel="time / (T · B)  [µs]", ylim=(0, None), title=title)
    peak = max(row["peak_gflops"] for row in results["roofline"])
    at = np.geomspace(1, 1000)
    roof.loglog(at, np.minimum(peak, results["bandwidth_gb_s"] * at), color="black", label="roof")
    for kind, marker in (("matvec", "o"), ("forward", "^"), ("backward", "v")):
        rows = [
            row
            for row in results["roofline"]
            if row["what"].startswith(kind) and row["dtype"] == "complex64"
        ]
        roof.loglog(
            [row["flops_per_byte"] for row in rows],
            [row["gflops"] for row in rows],
            marker,
            color="none",
            markeredgecolor="black",
            label=f"{kind}, complex64",
        )
    roof.set(xlabel="flops / byte of memory", ylabel="GFlop/s", title="roofline, single precision")
    for axes in (in_N, in_T, in_B, roof):
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.3)
    figure.suptitle(f"kru_ref, complex64, 2×2 factors, {report['threads']} thread(s)")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main():
    """Measure, write, draw."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--picture", metavar="PATH", help="draw the results there")
    parser.add_argument("--draw", metavar="JSON", help="draw these results, measure nothing")
    arguments = parser.parse_args()
    if arguments.draw:
        draw(json.loads(Path(arguments.draw).read_text(encoding="utf-8")), arguments.picture)
        return
    measure.set_threads(arguments.threads)
    rng, rounds = np.random.default_rng(0), arguments.rounds
    lengths = [(512, T, 20) for T in (25, 50, 100, 200, 400, 800, 1600)]
    batches = [(512, 100, B) for B in (1, 2, 5, 10, 20, 32, 50, 64, 100, 128, 256)]
    results = {
        "bandwidth_gb_s": bandwidth(),
        "threads": speed_up(arguments.threads, rounds, rng),
        "roofline": roofline(rounds, rng),
        "T": growth_in_time("T", lengths, rounds, rng),
        "B": growth_in_time("B", batches, rounds, rng),
        "N": growth_with_N(rounds, rng),
    }
    report = measure.report(arguments.threads, rounds, results)
    if arguments.json:
        measure.write_json(arguments.json, report)
    if arguments.picture:
        draw(report, arguments.picture)


if __name__ == "__main__":
    main()
