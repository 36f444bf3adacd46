"""How it gets fast: the compiled kernels behind the products and recurrences of the mathematics.

What the mathematics asks of them stands here, and nothing else of this folder is its business.
"""

from .backend import Backend, resolve
from .memory import aligned_empty
from .plans import fits_recurrence
from .products import matvec, matvec_backward, shapes_of
from .recurrence import (
    Backward,
    readout,
    readout_backward,
    recurrence_backward,
    recurrence_forward,
)

__all__ = [
    "Backend",
    "Backward",
    "aligned_empty",
    "fits_recurrence",
    "matvec",
    "matvec_backward",
    "readout",
    "readout_backward",
    "recurrence_backward",
    "recurrence_forward",
    "resolve",
    "shapes_of",
]
