"""One's own sequences, by the interface of scikit-learn.

Needs the extra "sklearn".
"""

from ..extras import require

require("sklearn", "sklearn")

from .recurrent import RecurrentClassifier, RecurrentRegressor  # noqa: E402
from .reservoir import KroneckerReservoir, ReservoirClassifier, ReservoirRegressor  # noqa: E402
from .saving import load, save  # noqa: E402

__all__ = [
    "KroneckerReservoir",
    "RecurrentClassifier",
    "RecurrentRegressor",
    "ReservoirClassifier",
    "ReservoirRegressor",
    "load",
    "save",
]
