"""Which engine computes: the compiled kernels when they were built, NumPy otherwise."""

import importlib
import os
import platform
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy

from ..arguments import checked_choice

Backend = Literal["auto", "numpy", "cython"]

HERE = Path(__file__).resolve().parents[1]  # the package


def _built_elsewhere() -> Path | None:
    """Return where Python would find another kru_ref, with kernels, if this one were not first."""
    for folder in sys.path:
        engine = Path(folder or ".").resolve() / "kru_ref" / "engine"
        if engine.parent != HERE and any(
            (engine / f"_kernels{suffix}").exists() for suffix in EXTENSION_SUFFIXES
        ):
            return engine.parent
    return None


def remedy() -> str:
    """Say how to get the kernels that are missing."""
    if not (HERE.parent / "setup.py").exists():
        again = "`pip install --force-reinstall --no-deps kru_ref`"
        return f"install a C compiler and reinstall with {again}"
    imported = f"what was imported is the source tree, {HERE}, in which none were built"
    built = _built_elsewhere()
    if built is not None:
        return f"{imported}: a build lies in {built}, start Python in another folder to use it"
    return f"{imported}: build them in it with `pip install -e .`, which needs a C compiler"


kernels: Any = None
reason = "built with the package"
try:
    kernels = importlib.import_module("kru_ref.engine._kernels")
except ImportError as error:
    reason = f"the compiled kernels cannot be imported: {error}"


def resolve(backend: str) -> Literal["numpy", "cython"]:
    """Turn a ``backend`` argument into the engine that will compute.

    Parameters
    ----------
    backend : {"auto", "numpy", "cython"}
        ``"auto"`` is the compiled engine when it was built, else NumPy.

    Raises
    ------
    ValueError
        The name is none of the three.
    ImportError
        ``"cython"`` was asked for and was not built.
    """
    checked_choice("backend", backend, get_args(Backend))
    if backend == "auto":
        return "numpy" if kernels is None else "cython"
    if backend == "numpy":
        return "numpy"
    if kernels is None:
        raise ImportError(f"backend 'cython' is not available: {reason}; {remedy()}")
    return "cython"


INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


def instruction_set() -> str:
    """Return what the kernels use: the processor's best, or less if KRU_REF_SIMD says so.

    Raises
    ------
    ValueError
        KRU_REF_SIMD names no instruction set, or one this processor or build lacks.
    """
    best = int(kernels.supported_level())
    wanted = os.environ.get("KRU_REF_SIMD")
    if not wanted:
        return INSTRUCTION_SETS[best]
    if wanted not in INSTRUCTION_SETS[: best + 1]:
        raise ValueError(
            f"KRU_REF_SIMD must be one of {', '.join(INSTRUCTION_SETS[: best + 1])} "
            f"on this processor, got {wanted!r}"
        )
    return wanted


_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = True


# GCC's OpenMP waits for ever in a child process for the threads that its parent had.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def n_threads() -> int:
    """Return how many threads the kernels use: OpenMP's number; 1 in a forked process."""
    return 1 if _is_forked else int(kernels.max_threads())


def show_config() -> None:
    """Print versions, the backend in use and why, its instruction set and its threads.

    Examples
    --------
    >>> import kru_ref as kru
    >>> kru.show_config()  # doctest: +ELLIPSIS
    kru_ref         ...
    """
    from .. import __version__

    rows = {
        "kru_ref": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "backend": f"{resolve('auto')} ({reason})",
    }
    if kernels is None:
        rows["to build it"] = remedy()
        rows["instruction set"] = "whatever NumPy uses"
        rows["threads"] = "whatever NumPy's BLAS uses; see OMP_NUM_THREADS"
    else:
        rows["instruction set"] = instruction_set()
        rows["threads"] = str(n_threads())
    for name, value in rows.items():
        print(f"{name:16}{value}")
