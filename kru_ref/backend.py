"""Which engine computes: the compiled kernels when they were built, NumPy otherwise."""

import importlib
import platform
from typing import Any, Literal

import numpy as np
import scipy

kernels: Any = None
try:
    kernels = importlib.import_module("kru_ref._kernels")
    reason = "built with the package"
except ImportError as error:
    reason = f"the compiled kernels cannot be imported: {error}"

Backend = Literal["auto", "numpy", "cython"]

REMEDY = "install a C compiler and reinstall with `pip install --force-reinstall --no-deps kru_ref`"


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
    if backend == "auto":
        return "numpy" if kernels is None else "cython"
    if backend == "numpy":
        return "numpy"
    if backend == "cython":
        if kernels is None:
            raise ImportError(f"backend 'cython' is not available: {reason}; {REMEDY}")
        return "cython"
    raise ValueError(f"backend must be 'auto', 'numpy' or 'cython', got {backend!r}")


def show_config() -> None:
    """Print versions, the backend in use and why, its instruction set and its threads."""
    from . import __version__

    rows = {
        "kru_ref": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "backend": f"{resolve('auto')} ({reason})",
    }
    if kernels is None:
        rows["to build it"] = REMEDY
    else:
        rows["instruction set"] = f"the compiler's baseline for {platform.machine()}"
    rows["threads"] = "1 (NumPy's own BLAS may use more: see OMP_NUM_THREADS)"
    for name, value in rows.items():
        print(f"{name:16}{value}")
