"""Windows, forecasts on the data's own scale, and back-tests beside the naive ones."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: kru_ref[sklearn]")
from sklearn.base import clone
from sklearn.ensemble import BaggingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from kru_ref.estimators import (
    RecurrentForecaster,
    RecurrentRegressor,
    ReservoirRegressor,
    back_test,
    make_windows,
    naive,
    seasonal_naive,
)


def flat(X):
    return X.reshape(len(X), -1)


FEW_EPOCHS = RecurrentRegressor.__init__.__kwdefaults__ | {"max_epochs": 1}
LINEAR = make_pipeline(FunctionTransformer(flat), LinearRegression())


def test_windows_and_what_follows():
    series = np.arange(20.0).reshape(10, 2)
    X, y = make_windows(series, 3, 2, exogenous=100 + np.arange(10))
    assert X.shape == (6, 3, 3)
    assert y.shape == (6, 4)
    for i in range(6):
        np.testing.assert_array_equal(X[i, :2], series[i : i + 3].T)
        np.testing.assert_array_equal(X[i, 2], 100 + np.arange(i, i + 3))
        np.testing.assert_array_equal(y[i], series[i + 3 : i + 5].ravel())
    X, y = make_windows(np.arange(4.0), 3)
    assert X.shape == (1, 1, 3)
    assert y.tolist() == [3.0]


@pytest.mark.parametrize("strategy", ["recursive", "direct"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("n_channels", [0, 1, 3])
def test_a_linear_recurrence_is_forecast_exactly(rng, strategy, relative, n_channels):
    """By a linear regressor, on whatever scale: all but the regressor is then ours."""
    t = np.arange(80)
    phases = rng.uniform(0, 6, max(1, n_channels))
    series = 1e4 + 30 * np.sin(t[:, None] / 5 + phases)
    series = series if n_channels else series[:, 0]
    forecaster = RecurrentForecaster(
        8, horizon=12, strategy=strategy, relative=relative, regressor=LINEAR
    )
    found = forecaster.fit(series[:68]).predict(12)
    np.testing.assert_allclose(found, series[68:], rtol=1e-6)
    np.testing.assert_allclose(forecaster.predict(5), found[:5], rtol=1e-9)


def test_exogenous_channels_are_read_as_they_come(rng):
    """y_t = x_{t-1}: only who reads the future x can forecast it."""
    x = rng.standard_normal(100)
    y = np.concatenate([[0.0], x[:-1]])
    forecaster = RecurrentForecaster(4, regressor=LINEAR).fit(y[:90], x[:90])
    np.testing.assert_allclose(forecaster.predict(10, x[90:]), y[90:], atol=1e-9)
    np.testing.assert_allclose(forecaster.predict(1), y[90:91], atol=1e-9)
    with pytest.raises(ValueError, match="exogenous must be given for 2 steps"):
        forecaster.predict(2)
    with pytest.raises(ValueError, match=r"exogenous must be \(2, 1\), .* got \(3, 1\)"):
        forecaster.predict(2, x[:3])
    without = RecurrentForecaster(4, regressor=LINEAR).fit(y)
    with pytest.raises(ValueError, match=r"exogenous must be \(2, 0\)"):
        without.predict(2, x[:2])
    direct = RecurrentForecaster(4, horizon=2, strategy="direct", regressor=LINEAR)
    assert direct.fit(y[:90], x[:90]).predict(2).shape == (2,)


@pytest.mark.parametrize("regressor", [RecurrentRegressor, ReservoirRegressor])
def test_recurrent_regressors_beat_the_naive_forecasts(rng, regressor):
    t = np.arange(220)
    series = 50 + 0.1 * t + 10 * np.sin(2 * np.pi * t / 12) + 0.3 * rng.standard_normal(220)
    if regressor is RecurrentRegressor:
        chosen = RecurrentRegressor(32, max_epochs=60, random_state=0)
    else:
        chosen = ReservoirRegressor(128, statistics=["last"], random_state=0)
    forecaster = RecurrentForecaster(24, regressor=chosen)
    errors = back_test(forecaster, series, 12, period=12, n_splits=2)
    assert errors["forecaster"].mean() < errors["seasonal naive"].mean() < errors["naive"].mean()


def test_a_regressor_may_have_a_length(rng):
    """As scikit-learn's ensembles have, once they are fitted."""

    class Flat(BaggingRegressor):
        def fit(self, X, y):
            return super().fit(flat(X), y)

        def predict(self, X):
            return super().predict(flat(X))

    forecaster = RecurrentForecaster(window=5, regressor=Flat(n_estimators=2, random_state=0))
    assert forecaster.fit(rng.standard_normal(40)).predict(3).shape == (3,)


def test_nothing_is_held_out_of_windows_that_overlap(rng, monkeypatch):
    monkeypatch.setattr(RecurrentRegressor.__init__, "__kwdefaults__", FEW_EPOCHS)
    regressor = RecurrentForecaster(window=5).fit(rng.standard_normal(700)).regressor_
    assert len(regressor.loss_curve_) == 1
    assert regressor.validation_scores_ == []


def test_the_naive_forecasts():
    series = np.arange(24.0).reshape(12, 2)
    np.testing.assert_array_equal(naive(series, 3), np.tile(series[-1], (3, 1)))
    np.testing.assert_array_equal(seasonal_naive(series[:, 0], 5, 3), [18, 20, 22, 18, 20])
    with pytest.raises(ValueError, match="a period's 13 steps, got 12"):
        seasonal_naive(series, 3, 13)


def test_a_back_test_forecasts_from_the_ends_of_splits():
    series = 3.0 * np.arange(60) ** 2
    errors = back_test(RecurrentForecaster(5, regressor=LINEAR), series, 4, period=2, n_splits=3)
    assert {name: of.shape for name, of in errors.items()} == dict.fromkeys(
        ("forecaster", "naive", "seasonal naive"), (3,)
    )
    for i, (past, future) in enumerate(TimeSeriesSplit(3, test_size=4).split(series)):
        wanted = np.abs(series[past][-1] - series[future]).mean()
        assert errors["naive"][i] == pytest.approx(wanted)
    x = np.random.default_rng(0).standard_normal(60)
    y = np.concatenate([[0.0], x[:-1]])
    errors = back_test(RecurrentForecaster(5, regressor=LINEAR), y, 4, exogenous=x)
    assert errors["forecaster"].max() < 1e-9


def test_settings_are_scikit_learn_s():
    forecaster = RecurrentForecaster(7, regressor=RecurrentRegressor(4))
    assert clone(forecaster).get_params()["regressor__hidden_size"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "both"}, "strategy must be one of recursive, direct"),
        ({"window": 0}, "window"),
        ({"window": 30}, r"at least window \+ horizon = 31 steps, got 30"),
        ({"relative": "yes"}, "relative"),
        ({"horizon": 0, "strategy": "direct"}, "horizon"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RecurrentForecaster(**{"window": 3, "regressor": LINEAR} | change).fit(np.arange(30.0))


def test_bad_series():
    forecaster = RecurrentForecaster(3, horizon=2, strategy="direct", regressor=LINEAR)
    for series, message in (
        ([1.0, np.nan] * 9, "series contains NaN"),
        (np.zeros((9, 2, 2)), r"series must be \(T,\) or \(T, C\)|dim 3"),
        (["a"] * 9, "could not convert"),
    ):
        with pytest.raises(ValueError, match=message):
            forecaster.fit(series)
    with pytest.raises(ValueError, match="exogenous must have the series' 9 steps, got 8"):
        forecaster.fit(np.arange(9.0), np.arange(8.0))
    with pytest.raises(ValueError, match="exogenous is not read by the strategy 'direct'"):
        forecaster.fit(np.arange(9.0), np.arange(9.0)).predict(2, np.zeros((2, 1)))
    with pytest.raises(ValueError, match="exogenous must have the series' 30 steps, got 4"):
        back_test(forecaster, np.arange(30.0), 2, exogenous=np.arange(4.0))
    with pytest.raises(ValueError, match="horizon"):
        back_test(forecaster, np.arange(30.0), 0)
    with pytest.raises(ValueError, match="horizon must be at most 2, for which"):
        forecaster.fit(np.arange(9.0)).predict(3)
