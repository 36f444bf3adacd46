"""Recurrent classifiers and regressors, by scikit-learn's own checks and by what they promise."""

import pickle
import tracemalloc
import warnings

import joblib
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: kru_ref[sklearn]")
import scipy.special
from series import forms, of_different_lengths, waves
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from kru_ref.engine.backend import kernels, n_threads
from kru_ref.estimators import RecurrentClassifier, RecurrentRegressor, ReservoirClassifier
from kru_ref.optimizers import Adam

WEIGHTS = "batches are drawn at random, and the scaling is that of all sequences"


def expected_failures(estimator):
    return {"check_sample_weight_equivalence_on_dense_data": WEIGHTS}


@parametrize_with_checks(
    [
        RecurrentClassifier(8, max_epochs=60, learning_rate=0.02, pooling="last"),
        RecurrentRegressor(8, max_epochs=60, learning_rate=0.02, pooling="last"),
    ],
    expected_failed_checks=expected_failures,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(
    ("matrix", "pooling"),
    [
        *(("kronecker", pooling) for pooling in ("last", "mean", "last-and-mean", "moments")),
        *((matrix, "moments") for matrix in ("dense", "full", "restricted")),
    ],
)
def test_every_network_learns(rng, cell, matrix, pooling):
    X, y = waves(rng, n=40)
    classifier = RecurrentClassifier(
        8,
        cell=cell,
        matrix=matrix,
        activation="modrelu",
        pooling=pooling,
        learning_rate=0.02,
        random_state=0,
    )
    X = of_different_lengths(X, rng)
    classifier.fit(X, y)
    assert classifier.loss_curve_[-1] < 0.5 * classifier.loss_curve_[0]
    assert classifier.score(X, y) > 0.9
    proba = classifier.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(classifier.classes_[proba.argmax(axis=1)], classifier.predict(X))
    np.testing.assert_allclose(
        scipy.special.expit(classifier.decision_function(X)), proba[:, 1], atol=1e-6
    )


@pytest.mark.parametrize("pooling", ["last", "moments"])
def test_an_lru_learns(rng, pooling):
    X, y = waves(rng, n=40)
    settings = {"cell": "lru", "pooling": pooling, "learning_rate": 0.02, "random_state": 0}
    classifier = RecurrentClassifier(8, matrix="diagonal", **settings)
    assert classifier.fit(X, y).score(X, y) > 0.9
    with pytest.raises(ValueError, match="cell lru is over matrix diagonal"):
        RecurrentClassifier(8, **settings).fit(X, y)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_what_was_learned_holds_for_others(rng, cell):
    X, y = waves(rng, n=100)
    fresh, labels = waves(np.random.default_rng(1), n=100)
    classifier = RecurrentClassifier(32, cell=cell, random_state=0).fit(X, y)
    assert classifier.score(fresh, labels) > 0.9


def test_layers_dropout_factors_and_weights_of_classes(rng):
    X, y = waves(rng)
    classifier = RecurrentClassifier(
        6, n_layers=2, dropout=0.2, factors=[(3, 2), (2, 3)], class_weight={"noise": 3, "wave": 1},
        max_epochs=3, random_state=0,
    )  # fmt: skip
    assert [W.shape for name, W in classifier.fit(X, y).params_.items() if ".W." in name] == [
        (3, 2), (2, 3), (3, 2), (2, 3),
    ]  # fmt: skip
    assert classifier.set_params(class_weight="balanced").fit(X, y).n_iter_ == 3


def test_weights_are_those_of_the_loss(rng):
    """Of two sequences that contradict each other the heavier one wins."""
    X, y = np.repeat(rng.standard_normal((4, 1, 9)), 2, axis=0), np.array(["a", "b"] * 4)
    classifier = RecurrentClassifier(8, learning_rate=0.02, random_state=0)
    for heavier in "ab":
        weights = np.where(y == heavier, 3.0, 1.0)
        proba = classifier.fit(X, y, sample_weight=weights).predict_proba(X)
        found = proba[:, list(classifier.classes_).index(heavier)]
        np.testing.assert_allclose(found, 0.75, atol=0.05)


def test_a_regressor_predicts_on_the_data_s_own_scale(rng):
    X = rng.standard_normal((60, 1, 12))
    y = np.stack([1000 + 50 * X[:, 0].mean(axis=1), 1e-3 * X[:, 0, -1]], axis=1)
    regressor = RecurrentRegressor(16, learning_rate=0.02, random_state=0).fit(X, y)
    assert regressor.score(X, y) > 0.8
    assert regressor.predict(X).shape == (60, 2)
    one = RecurrentRegressor(16, learning_rate=0.02, random_state=0).fit(X, y[:, 0])
    assert one.predict(X).shape == (60,)
    assert one.score(X, y[:, 0]) > 0.8


def test_early_stopping_keeps_the_best_epoch(rng):
    X, y = waves(rng, n=80, D=1)
    y = np.where(rng.random(80) < 0.3, y[::-1], y)  # what cannot be learned
    classifier = RecurrentClassifier(
        16, early_stopping=True, validation_fraction=0.25, n_epochs_no_change=5, max_epochs=200,
        learning_rate=0.02, random_state=0,
    ).fit(X, y)  # fmt: skip
    scores = classifier.validation_scores_
    assert len(scores) == classifier.n_iter_ == len(classifier.loss_curve_) < 200
    assert classifier.best_epoch_ == 1 + int(np.argmax(scores)) == classifier.n_iter_ - 5
    again = clone(classifier).set_params(max_epochs=1).fit(X, y)
    assert again.best_epoch_ == 1


def test_what_cannot_be_held_out(rng):
    X, y = waves(rng)
    alone = np.array([*y[:-1], "third"])
    with pytest.raises(ValueError, match="one class has a single sequence"):
        RecurrentClassifier(4, early_stopping=True).fit(X, alone)
    assert RecurrentClassifier(4, max_epochs=1).fit(X, alone).validation_scores_ == []
    many = np.tile(X, (25, 1, 1))
    classifier = RecurrentClassifier(4, max_epochs=1).fit(many, np.tile(y, 25))
    assert len(classifier.validation_scores_) == 1


def test_warm_start_and_partial_fit_go_on(rng):
    X, y = waves(rng)
    classifier = RecurrentClassifier(8, max_epochs=5, warm_start=True, random_state=0).fit(X, y)
    before = classifier.params_["readout.V"]
    classifier.fit(X, y)
    assert classifier.n_iter_ == 10
    assert not np.array_equal(before, classifier.params_["readout.V"])
    bit_by_bit = RecurrentClassifier(8, random_state=0, learning_rate=0.01)
    for _ in range(30):
        bit_by_bit.partial_fit(X[:12], y[:12], classes=["noise", "other", "wave"])
        bit_by_bit.partial_fit(X[12:], y[12:])
    assert bit_by_bit.score(X, y) > 0.9
    assert bit_by_bit.predict_proba(X).shape == (24, 3)
    with pytest.raises(ValueError, match=r"classes of the first fit, .*; got .*'bird'"):
        bit_by_bit.partial_fit(X, np.where(y == "wave", "bird", y))
    with pytest.raises(ValueError, match="classes of the first fit"):
        classifier.fit(X, np.where(y == "wave", "bird", y))
    regressor = RecurrentRegressor(8, random_state=0)
    regressor.partial_fit(X, np.arange(24)).partial_fit(X[:1], [3.0])
    with pytest.raises(ValueError, match="columns of the first fit"):
        regressor.partial_fit(X, np.zeros((24, 2)))


def test_a_loss_that_is_no_longer_finite_keeps_what_was_learned(rng, monkeypatch):
    X, y = waves(rng)
    epochs = []

    def wild(self, *args):
        params, state = original(self, *args)
        epochs.append(len(epochs))
        if len(epochs) == 5:
            params = {name: np.full_like(p, np.nan) for name, p in params.items()}
        return params, state

    original = Adam.update
    monkeypatch.setattr(Adam, "update", wild)
    classifier = RecurrentClassifier(4, max_epochs=9, random_state=0)
    with pytest.warns(ConvergenceWarning, match="no longer finite in epoch 3"):
        classifier.fit(X, y)
    assert all(np.isfinite(p).all() for p in classifier.params_.values())
    assert classifier.n_iter_ == 2
    kept = classifier.params_
    monkeypatch.setattr(RecurrentClassifier, "_loss", lambda self, y, part: (np.nan, 0 * y))
    with pytest.warns(ConvergenceWarning, match="no longer finite"):
        classifier.partial_fit(X, y)
    assert classifier.params_ is kept


def test_the_same_seed_gives_the_same_bits(rng, monkeypatch):
    X, y = waves(rng)
    classifier = RecurrentClassifier(8, max_epochs=3, dropout=0.1, random_state=4)
    first = classifier.fit(X, y).decision_function(X)
    monkeypatch.setenv("KRU_REF_NUM_THREADS", "3")
    np.testing.assert_array_equal(classifier.fit(X, y).decision_function(X), first)
    other = clone(classifier).set_params(random_state=5).fit(X, y).decision_function(X)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("form", forms(np.random.default_rng(0)))
def test_states_as_features(rng, form):
    X, y = forms(rng)[form]
    classifier = RecurrentClassifier(4, max_epochs=1, random_state=0).fit(X, y)
    features = classifier.transform(X)
    assert features.shape == (24, 24)  # real and imaginary parts: last, mean, mean square
    V, c = classifier.params_["readout.V"], classifier.params_["readout.c"]
    np.testing.assert_allclose(
        features @ (V[1] - V[0]) + c[1] - c[0], classifier.decision_function(X), atol=1e-5
    )
    reads = make_pipeline(classifier, LogisticRegression())
    assert reads.fit(X, y).predict(X).shape == (24,)


def test_scikit_learn_s_tools(rng, tmp_path):
    X, y = waves(rng)
    classifier = RecurrentClassifier(4, max_epochs=2, random_state=0)
    search = GridSearchCV(classifier, {"pooling": ["last", "mean"]}, cv=2, n_jobs=2).fit(X, y)
    assert search.best_params_["pooling"] in ("last", "mean")
    assert cross_val_score(classifier, X, y, cv=2).shape == (2,)
    calibrated = CalibratedClassifierCV(classifier, cv=2).fit(X, y)
    assert calibrated.predict_proba(X).shape == (24, 2)
    fitted = classifier.fit(X, y)
    joblib.dump(fitted, tmp_path / "model.joblib")
    for copy in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(copy.decision_function(X), fitted.decision_function(X))


@pytest.mark.skipif(kernels is None, reason="there are no kernels whose threads could be counted")
def test_processes_share_the_cores_among_their_threads():
    cores = joblib.cpu_count()
    jobs = joblib.Parallel(n_jobs=2)
    assert all(2 * n <= max(cores, 2) for n in jobs(joblib.delayed(n_threads)() for _ in range(2)))


def test_a_confusion_matrix_as_a_picture(rng, tmp_path):
    mpl = pytest.importorskip("matplotlib")
    mpl.use("Agg")
    X, y = waves(rng)
    classifier = RecurrentClassifier(4, max_epochs=1, random_state=0).fit(X, y)
    display = ConfusionMatrixDisplay.from_estimator(classifier, X, y)
    display.figure_.savefig(tmp_path / "confusion.png")
    assert display.confusion_matrix.sum() == 24


def test_nothing_is_predicted_before_fitting():
    with pytest.raises(NotFittedError):
        RecurrentClassifier().predict(np.zeros((2, 1, 3)))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("hidden_size", 0, "hidden_size"),
        ("cell", "elman", "cell must be one of rnn, lstm, gru, lru"),
        ("matrix", "sparse", "matrix must be one of"),
        ("pooling", "max", "pooling must be one of"),
        ("missing", "drop", "missing must be one of error, mask"),
        ("learning_rate", -1.0, "learning_rate must be at least 0"),
        ("validation_fraction", 1.0, "must lie between 0 and 1"),
        ("early_stopping", "sometimes", "early_stopping must be"),
        ("max_epochs", 2.5, "max_epochs"),
        ("activation", "tanh", "defined on real numbers only"),
        ("dropout", 1.0, r"dropout must lie in \[0, 1\)"),
        ("factors", [(2, 2)], "factors"),
        ("dtype", "int8", "dtype"),
    ],
)
def test_bad_settings(rng, setting, value, message):
    X, y = waves(rng)
    with pytest.raises((ValueError, TypeError), match=message):
        RecurrentClassifier(**{"hidden_size": 8, setting: value}).fit(X, y)


def test_a_bar_shows_loss_and_score(rng, capsys):
    X, y = waves(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tqdm where there are no widgets
        RecurrentClassifier(4, max_epochs=2, verbose=True, early_stopping=True).fit(X, y)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "loss=" in shown
    assert "score=" in shown


@pytest.mark.parametrize("kind", [RecurrentClassifier, ReservoirClassifier])
def test_predictions_need_no_memory_for_states(rng, kind):
    """Of 300 sequences of 400 steps at N = 256 the states alone would be 250 MB."""
    X, y = waves(rng, T=250)
    settings = {"max_epochs": 1} if kind is RecurrentClassifier else {}
    classifier = kind(256, random_state=0, **settings).fit(X, y)
    many = rng.standard_normal((300, 2, 400))
    tracemalloc.start()
    classifier.predict(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_optuna_searches(rng):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    X, y = waves(rng)

    def score(trial):
        rate = trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)
        classifier = RecurrentClassifier(4, max_epochs=2, learning_rate=rate, random_state=0)
        return cross_val_score(classifier, X, y, cv=2).mean()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(score, n_trials=2)
    assert 0 <= study.best_value <= 1


def test_sequences_far_longer_than_those_of_the_fit(rng):
    """A linear recurrence whose matrix is unitary but nearly may have grown beyond all bounds."""
    X, y = waves(rng)
    classifier = RecurrentClassifier(8, max_epochs=5, learning_rate=0.05, random_state=0).fit(X, y)
    with pytest.warns(UserWarning, match="up to 50 steps are more than twice as long"):
        classifier.predict(np.zeros((2, 2, 50)))
    classifier.params_["cell.W.0"] = 2 * classifier.params_["cell.W.0"]
    with (
        pytest.warns(UserWarning, match="more than twice"),
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"the longest sequence has 500 steps, .* 20 at most"),
    ):
        classifier.predict(np.ones((2, 2, 500)))


def test_many_classes_and_weights_of_nothing(rng):
    X, y = rng.standard_normal((600, 1, 4)), np.arange(600) % 80
    assert RecurrentClassifier(2, max_epochs=1).fit(X, y).validation_scores_ == []
    with pytest.raises(ValueError, match=r"holds out 60 of 600 .* fewer than .* classes, 80"):
        RecurrentClassifier(2, early_stopping=True).fit(X, y)
    few, labels = waves(rng)
    weights = np.r_[1.0, np.zeros(23)]
    with pytest.raises(ValueError, match="all others have weight zero"):
        RecurrentClassifier(2, early_stopping=True).fit(few, labels, weights)
    with pytest.raises(ValueError, match="all weights are zero"):
        RecurrentClassifier(2, class_weight={"noise": 0, "wave": 0}).fit(few, labels)


def test_a_warm_start_with_other_settings_is_refused(rng):
    X, y = waves(rng)
    classifier = RecurrentClassifier(4, max_epochs=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="settings were changed: give warm_start=False"):
        classifier.set_params(hidden_size=8).fit(X, y)
