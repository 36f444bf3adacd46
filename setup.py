"""The compiled kernels; everything else stands in pyproject.toml.

KRU_REF_CHECKED=1 builds them for testing: indices checked, and in plain C, as for a compiler
without vector types.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

CHECKED = os.environ.get("KRU_REF_CHECKED") == "1"


# The instruction sets that level.c is compiled for; see there.
LEVELS = ("0", "1", "2")


class BuildKernels(build_ext):
    """Build with OpenMP where the compiler has it, else without; instruction sets side by side."""

    def build_extension(self, ext):
        msvc = self.compiler.compiler_type == "msvc"
        # -fno-math-errno lets a square root be one instruction; it changes no result. Where a
        # function begins within 128 bytes made a fifth of the difference to a kernel's time, and
        # depended on what was linked before it.
        flags = [] if msvc else ["-O3", "-fno-math-errno", "-falign-functions=128"]
        wants_symbols = any(f.startswith("-g") for f in os.environ.get("CFLAGS", "").split())
        if not msvc and not wants_symbols:
            flags.append("-g0")  # Python's own flags ask for them, at a quarter of the time
        openmp = ["/openmp"] if msvc else ["-fopenmp"]
        if msvc and not self.compiler.initialized:
            self.compiler.initialize()
        with ThreadPoolExecutor() as pool:
            compiled = pool.map(lambda level: self.compile_level(ext, level, flags), LEVELS)
            ext.extra_objects = [file for files in compiled for file in files]
        # What calls the kernels gains nothing by -O3.
        flags = flags and ["-O2", *flags[1:]]
        try:
            ext.extra_compile_args = flags + openmp
            ext.extra_link_args = [] if msvc else openmp
            super().build_extension(ext)
        except (CompileError, LinkError):
            ext.extra_compile_args, ext.extra_link_args = flags, []
            super().build_extension(ext)

    def compile_level(self, ext, level, flags):
        """Return the object file of one instruction set."""
        return self.compiler.compile(
            ["kru_ref/engine/level.c"],
            output_dir=os.path.join(self.build_temp, level),
            macros=[*ext.define_macros, ("KRU_REF_LEVEL", level)],
            include_dirs=ext.include_dirs,
            extra_postargs=flags,
            depends=ext.depends,
        )


kernels = Extension(
    "kru_ref.engine._kernels",
    ["kru_ref/engine/_kernels.pyx"],
    depends=[
        "kru_ref/engine/_blocks.pxi",
        "kru_ref/engine/_blas.pxi",
        "kru_ref/engine/_memory.pxi",
        "kru_ref/engine/_products.pxi",
        "kru_ref/engine/_readout.pxi",
        "kru_ref/engine/_recurrence.pxi",
        "kru_ref/engine/_step.pxi",
        "kru_ref/engine/kernels.h",
        "kru_ref/engine/level.c",
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
