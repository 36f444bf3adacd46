"""How it gets fast: the compiled kernels behind the products and recurrences of the mathematics.

What the mathematics asks of them stands here, and nothing else of this folder is its business.
"""

from .backend import Backend, resolve
from .memory import aligned_empty
from .plans import LARGEST_IN_RECURRENCE
from .products import matvec, matvec_backward, shapes_of
from .recurrence import (
    Backward,
    CellKey,
    read_out,
    readout,
    readout_backward,
    recurrence_backward,
    recurrence_forward,
    step,
)

__all__ = [
    "LARGEST_IN_RECURRENCE",
    "Backend",
    "Backward",
    "CellKey",
    "aligned_empty",
    "matvec",
    "matvec_backward",
    "read_out",
    "readout",
    "readout_backward",
    "recurrence_backward",
    "recurrence_forward",
    "resolve",
    "shapes_of",
    "step",
]
