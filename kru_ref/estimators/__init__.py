"""One's own sequences, by the interface of scikit-learn.

Needs the extra "sklearn".
"""

from ..extras import require

require("sklearn", "sklearn")

from .forecasting import (  # noqa: E402
    RecurrentForecaster,
    back_test,
    make_windows,
    naive,
    seasonal_naive,
)
from .recurrent import RecurrentClassifier, RecurrentRegressor  # noqa: E402
from .reservoir import KroneckerReservoir, ReservoirClassifier, ReservoirRegressor  # noqa: E402
from .saving import load, save  # noqa: E402
from .sequences import OnDisk  # noqa: E402
from .tables import read_table  # noqa: E402

__all__ = [
    "KroneckerReservoir",
    "OnDisk",
    "RecurrentClassifier",
    "RecurrentForecaster",
    "RecurrentRegressor",
    "ReservoirClassifier",
    "ReservoirRegressor",
    "back_test",
    "load",
    "make_windows",
    "naive",
    "read_table",
    "save",
    "seasonal_naive",
]
