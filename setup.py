"""The compiled kernels; everything else stands in pyproject.toml.

KRU_REF_CHECKED=1 builds them for testing: indices checked, and in plain C, as for a compiler
without vector types.
"""

import os

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

CHECKED = os.environ.get("KRU_REF_CHECKED") == "1"


class BuildKernels(build_ext):
    """Build with OpenMP where the compiler has it, else without."""

    def build_extension(self, ext):
        msvc = self.compiler.compiler_type == "msvc"
        # -fno-math-errno lets a square root be one instruction; it changes no result.
        flags = [] if msvc else ["-O3", "-fno-math-errno"]
        openmp = ["/openmp"] if msvc else ["-fopenmp"]
        try:
            ext.extra_compile_args = flags + openmp
            ext.extra_link_args = [] if msvc else openmp
            super().build_extension(ext)
        except (CompileError, LinkError):
            ext.extra_compile_args, ext.extra_link_args = flags, []
            super().build_extension(ext)


kernels = Extension(
    "kru_ref.engine._kernels",
    ["kru_ref/engine/_kernels.pyx"],
    depends=[
        "kru_ref/engine/_blocks.pxi",
        "kru_ref/engine/_dense.pxi",
        "kru_ref/engine/_memory.pxi",
        "kru_ref/engine/_products.pxi",
        "kru_ref/engine/_readout.pxi",
        "kru_ref/engine/_recurrence.pxi",
        "kru_ref/engine/_step.pxi",
        "kru_ref/engine/kernels.h",
        "kru_ref/engine/precisions.h",
        "kru_ref/engine/simd.h",
    ],
    include_dirs=["kru_ref/engine", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
    + [("KRU_REF_PLAIN_C", "1")] * CHECKED,
    # Without a C compiler the package still installs and computes with NumPy.
    optional=True,
)
kernels.cython_directives = {
    "boundscheck": CHECKED,
    "wraparound": CHECKED,
    "initializedcheck": CHECKED,
    "cdivision": True,
}

setup(cmdclass={"build_ext": BuildKernels}, ext_modules=[kernels])
