"""The compiled kernels; everything else stands in pyproject.toml."""

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError


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


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(
            "kru_ref._kernels",
            ["kru_ref/_kernels.pyx"],
            depends=["kru_ref/kernels.h", "kru_ref/precisions.h", "kru_ref/simd.h"],
            include_dirs=["kru_ref", np.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            # Without a C compiler the package still installs and computes with NumPy.
            optional=True,
        )
    ],
)
