"""The compiled kernels; everything else stands in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "kru_ref._kernels",
            ["kru_ref/_kernels.pyx"],
            # Cython's own complex arithmetic: C99's, which MSVC lacks, calls a function
            # for each product to get infinities right.
            define_macros=[("CYTHON_CCOMPLEX", "0")],
            # Without a C compiler the package still installs and computes with NumPy.
            optional=True,
        )
    ]
)
