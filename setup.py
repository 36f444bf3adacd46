"""The compiled kernels; everything else stands in pyproject.toml."""

import sys

from setuptools import Extension, setup

# -fno-math-errno lets a square root be one instruction; it changes no result.
FLAGS = {
    "win32": (["/openmp"], []),
    "darwin": (["-O3", "-fno-math-errno"], []),
}
compile_args, link_args = FLAGS.get(
    sys.platform, (["-O3", "-fno-math-errno", "-fopenmp"], ["-fopenmp"])
)

setup(
    ext_modules=[
        Extension(
            "kru_ref._kernels",
            ["kru_ref/_kernels.pyx"],
            depends=["kru_ref/kernels.h", "kru_ref/precisions.h", "kru_ref/simd.h"],
            include_dirs=["kru_ref"],
            # Cython's own complex arithmetic: C99's, which MSVC lacks, calls a function
            # for each product to get infinities right.
            define_macros=[("CYTHON_CCOMPLEX", "0")],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            # Without a C compiler the package still installs and computes with NumPy.
            optional=True,
        )
    ]
)
