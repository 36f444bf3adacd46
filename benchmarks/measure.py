"""Time several callables against each other, fairly: same run, same threads, in alternation."""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PJRT_NPROC")

PACKAGES = (
    "kru_ref",
    "numpy",
    "scipy",
    "torch",
    "jax",
    "jaxlib",
    "pyfastkron",
    "pykronecker",
    "linear_operator",
)


def set_threads(n):
    """Give every library n threads; this may start the script again.

    - NumPy's and SciPy's BLAS, PyTorch and all that use OpenMP read environment variables
      when they are loaded, XLA (JAX) sizes its pool by PJRT_NPROC. So where these are not yet
      set, the script starts again with them set. With one thread, XLA is also told not to
      split a product.
    - threadpoolctl and ``torch.set_num_threads`` then hold the libraries to n.

    Threads are not bound to cores.
    """
    environment = dict.fromkeys(THREAD_VARIABLES, str(n))
    if n == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    if not environment.items() <= os.environ.items():
        sys.stdout.flush()
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, os.environ | environment)
    threadpool_limits(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)


def parser(description):
    """Return an argument parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=11, metavar="N")
    parser.add_argument("--json", metavar="PATH", help="write the results there")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="competitors with NAME in theirs")
    return parser


def chosen(names, only):
    """Return the names that contain one of the strings in only; all of them without it."""
    return [name for name in names if not only or any(part in name for part in only)]


def first_line(what, error):
    """Say in one line what happened to a competitor, and why."""
    lines = str(error).splitlines() or [""]
    return f"{what}: {type(error).__name__}: {lines[0]}"


def alternate(candidates, rounds, ours, least_seconds=0.05, warm_up=1):
    """Time callables in alternation, A B C A B C …, and compare each with ours.

    Parameters
    ----------
    candidates : dict of str to callable
    rounds : int
        How often each is timed.
    ours : str
        The name that the others are compared with.
    least_seconds : float
        A short callable is called so many times in a row that one timing lasts this long.
    warm_up : int
        Calls before the first round.

    Returns
    -------
    results : dict of str to dict
        For each name the median and quartiles of seconds a call, and "ratio": the median
        over rounds of its time divided by ours in the same round.
    """
    repeats = {}
    for name, call in candidates.items():
        for _ in range(warm_up):
            call()
        repeats[name] = _repeats(call, least_seconds)
    seconds = {name: [] for name in candidates}
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in candidates.items():
                gc.collect()
                seconds[name].append(_time(call, repeats[name]))
    finally:
        if gc_was_on:
            gc.enable()
    return {name: _summary(times, seconds[ours]) for name, times in seconds.items()}


def _time(call, repeats):
    """Return seconds a call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _repeats(call, least_seconds):
    """Return how many calls last least_seconds, about."""
    repeats = 1
    while (spent := _time(call, repeats) * repeats) < least_seconds / 2:
        repeats *= min(100, max(2, round(0.7 * least_seconds / max(spent, 1e-7))))
    return max(1, round(repeats * least_seconds / spent))


def _summary(times, ours):
    several = times if len(times) > 1 else times * 2
    lower, median, upper = statistics.quantiles(several, n=4, method="inclusive")
    ratio = statistics.median(t / o for t, o in zip(times, ours, strict=True))
    return {"median_s": median, "quartiles_s": [lower, upper], "ratio": ratio}


def print_table(title, results):
    """Print names, median milliseconds, quartiles and ratios; a remark where there is no time."""
    print(f"\n{title}")
    width = max(len(name) for name in results)
    print(f"{'':{width}}  {'median ms':>10}  {'quartiles':>21}  {'ratio':>7}  {'error':>7}  set-up")
    for name, result in results.items():
        error = f"{result['error']:.0e}" if "error" in result else "-"
        setup = f"{result['set_up_s']:.1f} s" if "set_up_s" in result else "-"
        if "median_s" in result:
            lower, upper = (f"{1e3 * q:.4g}" for q in result["quartiles_s"])
            times = f"{1e3 * result['median_s']:10.4g}  {lower + ' … ' + upper:>21}"
            print(f"{name:{width}}  {times}  {result['ratio']:7.2f}  {error:>7}  {setup}")
        else:
            print(f"{name:{width}}  {result['remark']}")
    print(flush=True)


def report(threads, rounds, results):
    """Return results with what is needed to read them: versions, instruction set, threads."""
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "instruction_set": instruction_set(),
        "threads": threads,
        "rounds": rounds,
        "results": results,
    }


def write_json(path, found):
    """Write a report."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1, ensure_ascii=False)
        file.write("\n")


def instruction_set():
    """Return the processor's architecture and the vector extensions NumPy finds at run time."""
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return [platform.machine(), *simd.get("baseline", []), *simd.get("found", [])]


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
