"""Forecasts by a regressor of windows, and the two that every forecast has to beat."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import TimeSeriesSplit
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from ..arguments import checked_choice, checked_flag, checked_size
from .recurrent import RecurrentRegressor

Real = NDArray[np.float64]


def make_windows(
    series: ArrayLike, window: int, horizon: int = 1, exogenous: ArrayLike | None = None
) -> tuple[Real, Real]:
    """Cut a series into windows, and what follows each.

    Parameters
    ----------
    series : array_like, shape (T,) or (T, C)
        One channel or several.
    window : int
        Steps of a window.
    horizon : int
        Steps that follow it.
    exogenous : array_like, shape (T,) or (T, E), optional
        More channels of the windows, which are not to be forecast.

    Returns
    -------
    X : ndarray, shape (n, C + E, window)
        n = T - window - horizon + 1 windows, each one step behind the one before.
    y : ndarray, shape (n, horizon * C), or (n,) for one step of one channel
        Step by step, all channels of each.

    Raises
    ------
    ValueError, TypeError
        Values that are not finite, a size below 1, a series too short for one window and what
        follows, exogenous channels of another length.

    Examples
    --------
    >>> X, y = make_windows([1, 2, 3, 4, 5, 6], window=3, horizon=2)
    >>> X.shape, y.tolist()
    ((2, 1, 3), [[4.0, 5.0], [5.0, 6.0]])
    """
    values = _columns("series", series)
    window, horizon = checked_size("window", window), checked_size("horizon", horizon)
    n = len(values) - window - horizon + 1
    if n < 1:
        raise ValueError(
            f"series must have at least window + horizon = {window + horizon} steps, got "
            f"{len(values)}"
        )
    channels = _with_exogenous(values, exogenous)
    X = np.stack([channels[i : i + window].T for i in range(n)])
    y = np.stack([values[i + window : i + window + horizon].reshape(-1) for i in range(n)])
    return X, y[:, 0] if y.shape[1] == 1 else y


class RecurrentForecaster(BaseEstimator):
    """Forecast a series, of one channel or several, by a regressor of its windows.

    Parameters
    ----------
    window : int
        Steps that the regressor reads.
    horizon : int
        With the strategy "direct", for how many steps it is fitted.
    strategy : {"recursive", "direct"}
        Forecast one step, again and again from what was forecast; or all steps at once.
    relative : bool
        Read windows, and forecast, relative to a window's last value: a level that drifts is then
        nothing new.
    regressor : estimator, optional
        Any that takes (n, channels, window). By default ``RecurrentRegressor``, which holds nothing
        out: windows overlap, so what is held out at random is known.

    Attributes
    ----------
    regressor_ : estimator
        The fitted one.
    n_channels_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from kru_ref.estimators import RecurrentForecaster, RecurrentRegressor
    >>> series = np.sin(np.arange(200) / 3)
    >>> regressor = RecurrentRegressor(16, max_epochs=30, random_state=0)
    >>> forecaster = RecurrentForecaster(window=20, regressor=regressor).fit(series[:190])
    >>> bool(np.abs(forecaster.predict(10) - series[190:]).max() < 0.3)
    True
    """

    def __init__(
        self,
        window: int = 24,
        *,
        horizon: int = 1,
        strategy: Literal["recursive", "direct"] = "recursive",
        relative: bool = True,
        regressor: Any = None,
    ) -> None:
        self.window = window
        self.horizon = horizon
        self.strategy = strategy
        self.relative = relative
        self.regressor = regressor

    def fit(self, series: ArrayLike, exogenous: ArrayLike | None = None) -> RecurrentForecaster:
        """Fit the regressor on a series.

        Parameters
        ----------
        series : array_like, shape (T,) or (T, C)
        exogenous : array_like, shape (T,) or (T, E), optional
            Channels to forecast from, but not to forecast.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As :func:`make_windows`; an unknown strategy.
        """
        checked_choice("strategy", self.strategy, ("recursive", "direct"))
        checked_flag("relative", self.relative)
        values = _columns("series", series)
        n_steps = self.horizon if self.strategy == "direct" else 1
        X, y = make_windows(values, self.window, n_steps, exogenous)
        self.n_channels_, self.n_exogenous_ = values.shape[1], X.shape[1] - values.shape[1]
        self._is_one_channel = np.ndim(series) == 1
        if self.relative:
            last = X[:, : self.n_channels_, -1]
            y = (y.reshape(len(y), -1, self.n_channels_) - last[:, None]).reshape(y.shape)
        held = self.regressor
        regressor = RecurrentRegressor(early_stopping=False) if held is None else clone(held)
        self.regressor_ = regressor.fit(self._read(X), y)
        self._end = _with_exogenous(values, exogenous)[-self.window :]
        return self

    def predict(self, horizon: int, exogenous: ArrayLike | None = None) -> Real:
        """Forecast the steps behind the series that was fitted.

        Parameters
        ----------
        horizon : int
            How many; with the strategy "direct" at most as many as it was fitted for.
        exogenous : array_like, shape (horizon,) or (horizon, E)
            Exogenous channels of these steps, where the fit had some and the strategy is recursive:
            all but the last step are read.

        Returns
        -------
        forecast : ndarray, shape (horizon,) or (horizon, C)
            On the scale of the series.

        Raises
        ------
        ValueError, TypeError
            A longer horizon than was fitted; exogenous channels that are missing, or were not there
            in the fit.
        """
        check_is_fitted(self)
        horizon = checked_size("horizon", horizon)
        if self.strategy == "direct":
            if exogenous is not None:
                raise ValueError("exogenous is not read by the strategy 'direct': leave it out")
            if horizon > self.horizon:
                raise ValueError(
                    f"horizon must be at most {self.horizon}, for which the strategy 'direct' was "
                    f"fitted, got {horizon}"
                )
            found = self._next(self._end)[:horizon]
        else:
            found = self._again_and_again(horizon, self._future(horizon, exogenous))
        return found[:, 0] if self._is_one_channel else found

    def _again_and_again(self, horizon: int, future: Real) -> Real:
        end, found = self._end, []
        for t in range(horizon):
            found.append(self._next(end)[0])
            end = np.concatenate([end[1:], [np.concatenate([found[-1], future[t]])]])
        return np.stack(found)

    def _next(self, end: Real) -> Real:
        """Return what the regressor says of the steps behind a window, (n_steps, C)."""
        steps = np.reshape(self.regressor_.predict(self._read(end.T[None])), (-1, self.n_channels_))
        return steps + end[-1, : self.n_channels_] if self.relative else steps

    def _read(self, X: Real) -> Real:
        """Return windows as the regressor reads them."""
        if not self.relative:
            return X
        C = self.n_channels_
        return np.concatenate([X[:, :C] - X[:, :C, -1:], X[:, C:]], axis=1)

    def _future(self, horizon: int, exogenous: ArrayLike | None) -> Real:
        if exogenous is None and (self.n_exogenous_ == 0 or horizon == 1):
            return np.zeros((horizon, self.n_exogenous_))
        if exogenous is None:
            raise ValueError(
                f"exogenous must be given for {horizon} steps: the series was fitted with "
                f"{self.n_exogenous_} such channels"
            )
        future = _columns("exogenous", exogenous)
        if future.shape != (horizon, self.n_exogenous_):
            raise ValueError(
                f"exogenous must be {(horizon, self.n_exogenous_)}, the steps and the channels of "
                f"the fit, got {future.shape}"
            )
        return future


def naive(series: ArrayLike, horizon: int) -> Real:
    """Forecast the last value again and again.

    Parameters
    ----------
    series : array_like, shape (T,) or (T, C)
    horizon : int

    Returns
    -------
    forecast : ndarray, shape (horizon,) or (horizon, C)

    Examples
    --------
    >>> from kru_ref.estimators import naive
    >>> naive([1.0, 2.0, 5.0], horizon=2)
    array([5., 5.])
    """
    return seasonal_naive(series, horizon, 1)


def seasonal_naive(series: ArrayLike, horizon: int, period: int) -> Real:
    """Forecast the last period again and again.

    Parameters
    ----------
    series : array_like, shape (T,) or (T, C)
    horizon : int
    period : int
        Steps of a season: 12 for months, 7 for days, 24 for hours.

    Returns
    -------
    forecast : ndarray, shape (horizon,) or (horizon, C)

    Raises
    ------
    ValueError
        The series is shorter than a period.

    Examples
    --------
    >>> from kru_ref.estimators import seasonal_naive
    >>> seasonal_naive([9.0, 1.0, 2.0, 3.0], horizon=4, period=3)
    array([1., 2., 3., 1.])
    """
    values, period = _columns("series", series), checked_size("period", period)
    if len(values) < period:
        raise ValueError(f"series must have a period's {period} steps, got {len(values)}")
    season = values[-period:]
    found = season[np.arange(checked_size("horizon", horizon)) % period]
    return found[:, 0] if np.ndim(series) == 1 else found


def back_test(
    forecaster: Any,
    series: ArrayLike,
    horizon: int,
    *,
    period: int = 1,
    n_splits: int = 5,
    exogenous: ArrayLike | None = None,
) -> dict[str, Real]:
    """Forecast from several moments of the past; beside it, always, the two naive forecasts.

    Parameters
    ----------
    forecaster : RecurrentForecaster
        Fitted anew on all that lies before each moment.
    series : array_like, shape (T,) or (T, C)
    horizon : int
        Steps to forecast.
    period : int
        Of the seasonal-naive forecast.
    n_splits : int
        Moments, at the ends of scikit-learn's TimeSeriesSplit.
    exogenous : array_like, shape (T,) or (T, E), optional

    Returns
    -------
    errors : dict of str to ndarray, shape (n_splits,)
        Mean absolute errors of the "forecaster", "naive" and "seasonal naive".

    Raises
    ------
    ValueError, TypeError
        As :meth:`RecurrentForecaster.fit`, of the first split too.

    Examples
    --------
    >>> import numpy as np
    >>> from kru_ref.estimators import RecurrentForecaster, ReservoirRegressor, back_test
    >>> series = np.sin(0.3 * np.arange(200))
    >>> forecaster = RecurrentForecaster(regressor=ReservoirRegressor(32, random_state=0))
    >>> errors = back_test(forecaster, series, horizon=10, n_splits=3)
    >>> bool(errors["forecaster"].mean() < errors["naive"].mean())
    True
    """
    values = check_array(series, ensure_2d=False, dtype=np.float64, input_name="series")
    more = None if exogenous is None else _with_exogenous(_columns("series", values), exogenous)
    more = None if more is None else more[:, 1 if values.ndim == 1 else values.shape[1] :]
    horizon = checked_size("horizon", horizon)
    errors: dict[str, list[float]] = {"forecaster": [], "naive": [], "seasonal naive": []}
    for past, future in TimeSeriesSplit(n_splits, test_size=horizon).split(values):
        before = values[past]
        fitted = clone(forecaster).fit(before, None if more is None else more[past])
        forecasts = {
            "forecaster": fitted.predict(
                horizon, None if more is None or fitted.strategy == "direct" else more[future]
            ),
            "naive": naive(before, horizon),
            "seasonal naive": seasonal_naive(before, horizon, period),
        }
        for name, forecast in forecasts.items():
            errors[name].append(float(np.abs(forecast - values[future]).mean()))
    return {name: np.array(of_splits) for name, of_splits in errors.items()}


def _columns(name: str, values: ArrayLike) -> Real:
    """Return a series as (T, C)."""
    array = check_array(values, ensure_2d=False, dtype=np.float64, input_name=name)
    if array.ndim > 2:
        raise ValueError(f"{name} must be (T,) or (T, C), time first, got {array.shape}")
    return array[:, None] if array.ndim == 1 else array


def _with_exogenous(values: Real, exogenous: ArrayLike | None) -> Real:
    if exogenous is None:
        return values
    more = _columns("exogenous", exogenous)
    if len(more) != len(values):
        raise ValueError(f"exogenous must have the series' {len(values)} steps, got {len(more)}")
    return np.concatenate([values, more], axis=1)
