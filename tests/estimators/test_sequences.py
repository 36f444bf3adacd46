"""What X and y may be, and what is said of all else."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pandas", reason="pandas is not installed: kru_ref[sklearn]")
import pandas as pd
from series import forms, of_different_lengths, waves
from sklearn.model_selection import cross_val_score

from kru_ref.engine.backend import kernels
from kru_ref.estimators import OnDisk, RecurrentClassifier, RecurrentRegressor, ReservoirClassifier
from kru_ref.estimators.sequences import Lazy, as_sequences, learn_scaling


def classifiers(**settings):
    return [
        RecurrentClassifier(4, max_epochs=1, random_state=0, **settings),
        ReservoirClassifier(8, random_state=0, **settings),
    ]


@pytest.mark.parametrize("form", forms(np.random.default_rng(0)))
def test_every_form_is_fitted_and_predicted(rng, form):
    X, y = forms(rng)[form]
    for classifier in classifiers():
        predicted = classifier.fit(X, y).predict(X)
        assert predicted.shape == (24,)
        assert set(predicted) <= set(y)
        assert classifier.transform(X).shape[0] == 24
        some = [X[i] for i in (3, 5)] if isinstance(X, list) else X[[3, 5]]
        np.testing.assert_array_equal(classifier.predict(some), predicted[[3, 5]])


def test_a_list_is_the_array_it_is_of(rng):
    X, y = waves(rng)
    for classifier in classifiers():
        of_array = classifier.fit(X, y).decision_function(X)
        np.testing.assert_array_equal(classifier.fit(list(X), y).decision_function(X), of_array)


@pytest.mark.parametrize("kind", ["file", "mapped"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_an_array_on_a_disk_is_the_one_in_memory(rng, tmp_path, kind, dtype):
    X, y = waves(rng)
    X = (100 * X).astype(dtype)
    np.save(tmp_path / "X.npy", X)
    stored = (
        OnDisk(tmp_path / "X.npy") if kind == "file" else np.load(tmp_path / "X.npy", mmap_mode="r")
    )
    for classifier in [*classifiers(), RecurrentClassifier(4, max_epochs=2, early_stopping=True)]:
        classifier.set_params(random_state=0)
        of_array = classifier.fit(X, y).decision_function(X)
        np.testing.assert_array_equal(classifier.fit(stored, y).decision_function(stored), of_array)
        np.testing.assert_array_equal(classifier.predict(stored), classifier.predict(X))
    regressor = RecurrentRegressor(4, max_epochs=1, random_state=0)
    of_array = regressor.fit(X, y == y[0]).predict(X)
    np.testing.assert_array_equal(regressor.fit(stored, y == y[0]).predict(stored), of_array)


@pytest.mark.parametrize(("save", "sentence"), [
    (lambda path: np.save(path, np.zeros(3)), "X must be an array"),
    (lambda path: np.save(path, np.zeros((2, 0))), "X must be an array"),
    (lambda path: np.save(path, np.array([["a"]])), "is no .npy of numbers"),
    (lambda path: np.save(path, np.array([[None]])), "is no .npy of numbers"),
    (lambda path: np.save(path, np.zeros((3, 4), order="F")), "Fortran's order"),
    (lambda path: path.write_bytes(b"not numpy's"), "is no .npy of numbers"),
])  # fmt: skip
def test_files_that_are_refused(tmp_path, save, sentence):
    path = tmp_path / "X.npy"
    save(path)
    with pytest.raises(ValueError, match=sentence):
        OnDisk(path)


@pytest.mark.parametrize("D", [1, 3])
def test_a_file_is_given_as_arrays_are(rng, tmp_path, D):
    """Split, pickled, of one channel without its axis; the answers are those of the array."""
    X, y = waves(rng, D=D)
    X = X[:, 0] if D == 1 else X
    np.save(tmp_path / "X.npy", X)
    stored = OnDisk(tmp_path / "X.npy")
    for classifier in classifiers():
        expected = classifier.fit(X, y).predict(X)
        np.testing.assert_array_equal(classifier.fit(stored, y).predict(stored), expected)
        scores = cross_val_score(classifier, X, y, cv=3, error_score="raise")
        of_file = cross_val_score(classifier, stored, y, cv=3, error_score="raise", n_jobs=2)
        np.testing.assert_array_equal(of_file, scores)
    rows = [x.reshape(X.shape[1:]) for x in pickle.loads(pickle.dumps(stored))[2:5]]
    np.testing.assert_array_equal(rows, X[2:5])
    np.testing.assert_array_equal(stored[y == y[0]][1].reshape(X.shape[1:]), X[y == y[0]][1])
    np.testing.assert_array_equal(stored[[4, -1]][1].reshape(X.shape[1:]), X[-1])


def test_some_of_a_file_s_sequences_are_read_one_by_one(rng, tmp_path, monkeypatch):
    X, y = waves(rng)
    np.save(tmp_path / "X.npy", X)
    stored, half = OnDisk(tmp_path / "X.npy"), np.sort(rng.permutation(len(X))[: len(X) // 2])

    def refused(self, *_, **__):
        raise AssertionError("all sequences were read into one array")

    monkeypatch.setattr(Lazy, "__array__", refused, raising=False)
    for classifier in classifiers():
        expected = classifier.fit(X[half], y[half]).predict(X[:5])
        classifier.fit(stored.at(half), y[half])
        np.testing.assert_array_equal(classifier.predict(stored.at(np.arange(5))), expected)


def test_what_is_wrong_on_a_disk_is_named(rng, tmp_path):
    X, y = waves(rng)
    X[7, 0, 3] = np.nan
    np.save(tmp_path / "X.npy", X)
    for classifier in classifiers():
        with pytest.raises(ValueError, match=r"X\[7\] contains NaN"):
            classifier.fit(OnDisk(tmp_path / "X.npy"), y)
    stored = OnDisk(tmp_path / "X.npy")
    (tmp_path / "X.npy").write_bytes((tmp_path / "X.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match="has become shorter"):
        list(stored)
    with pytest.raises(IndexError, match="there are"):
        stored[len(X)]
    with pytest.raises(FileNotFoundError):
        OnDisk(tmp_path / "Y.npy")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
@pytest.mark.skipif(kernels is None, reason="without the kernels this takes minutes")
@pytest.mark.parametrize("kind", ["RecurrentClassifier", "ReservoirClassifier"])
def test_a_set_five_times_larger_than_the_memory_allowed(tmp_path, kind):
    """Beyond what the process has when it begins: the file has 5 times what it may add."""
    code = f"""
import resource, sys
import numpy as np
from kru_ref.engine.backend import kernels
from kru_ref.estimators import OnDisk, {kind}
allowed = 40 * 2**20
shape = 5 * allowed // (4 * 2048 * 4), 4, 2048
warm = {kind}(8, random_state=0)
warm.fit(np.random.default_rng(0).standard_normal((4, 4, 300)), np.arange(4) % 2)
X = np.lib.format.open_memmap(sys.argv[1], "w+", np.float32, shape)
rng = np.random.default_rng(0)
for x in X:
    x[:] = rng.standard_normal(shape[1:], np.float32)
X.flush()
del X
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + allowed, size + allowed))
stored = OnDisk(sys.argv[1])
settings = dict(max_epochs=1) if "{kind}" == "RecurrentClassifier" else dict()
model = {kind}(8, random_state=0, **settings).fit(stored, np.arange(len(stored)) % 2)
print(len(model.predict(stored)) == len(stored))
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "X.npy")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["True"]


def test_a_table_and_one_channel_are_the_same_sequences(rng):
    X, y = waves(rng, D=1)
    for classifier in classifiers():
        expected = classifier.fit(X, y).decision_function(X)
        np.testing.assert_array_equal(classifier.decision_function(X[:, 0]), expected)
        np.testing.assert_array_equal(classifier.fit(X[:, 0], y).decision_function(X), expected)
        np.testing.assert_array_equal(classifier.decision_function(list(X)), expected)
        assert classifier.predict([X[0], X[1][:, :15]]).shape == (2,)
        with pytest.raises(ValueError, match=r"X has 5 features, but .* is expecting 20 features"):
            classifier.predict(X[:, 0, :5])


def test_channels_are_not_a_table_s_columns(rng):
    X, y = waves(rng, D=3)
    for classifier in classifiers():
        with pytest.raises(ValueError, match="fitted on sequences of 3 channels"):
            classifier.fit(X, y).predict(X[:, 0, :3])
        with pytest.raises(ValueError, match="fitted on sequences of 1 channels"):
            classifier.fit(X[:, 0, :3], y).predict(X)


def test_a_frame_of_numbers(rng):
    X, y = waves(rng, D=1)
    frame = pd.DataFrame(X[:, 0], columns=[f"t{t}" for t in range(20)])
    for classifier in classifiers():
        predicted = classifier.fit(frame, y).predict(frame)
        np.testing.assert_array_equal(classifier.fit(X[:, 0], y).predict(X[:, 0]), predicted)
        assert list(classifier.fit(frame, y).feature_names_in_) == list(frame.columns)
        with pytest.raises(ValueError, match="feature names"):
            classifier.predict(frame[frame.columns[::-1]])


def of_arrays(X):
    found = np.empty(len(X), object)
    found[:] = list(X)
    return found


X, Y = waves(np.random.default_rng(1))
WRONG_X = {
    "NaN": (np.where(X > 2, np.nan, X), "contains NaN"),
    "infinity": (np.where(X > 2, np.inf, X), "contains infinity"),
    "NaN in a list": ([*X[:-1], X[-1] * np.nan], r"X\[23\] contains NaN.*missing='mask'"),
    "no time points": ([*X[:-1], X[-1][:, :0]], r"must have a time point, got X\[23\]"),
    "no channels": (X[:, :0], "must have a channel and a time point"),
    "four axes": (X[None], "n_cases, n_channels, n_timepoints"),
    "one axis": (X[0, 0], "Expected 2D array"),
    "other channels": ([*X[:-1], X[-1][:1]], r"channels of the first, 2; X\[23\] is \(1, 20\)"),
    "transposed": ([*X[:-1], X[-1].T], r"give x\.T"),
    "strings": (np.full((24, 3), "a"), "could not convert|dtype='numeric'|not compatible"),
    "objects": ([np.array([object()] * 3)] * 24, "must hold real numbers, got object"),
    "an array of arrays": (of_arrays(X), "or an array of arrays: give a list of arrays"),
    "lists": ([[1.0, 2.0], [1.0]] * 12, "got parts of different shapes"),
    "tuples": (((1.0, 2.0), (1.0,)) * 12, "got parts of different shapes"),
    "nested lists": ([[[1, 2]], [[1, 2, 3]]] * 12, "got parts of different shapes"),
    "complex numbers": (X + 1j, "Complex data not supported"),
    "fewer": (X[:-1], "one target for each of 23 sequences in X, got 24"),
    "nothing": ([], "Expected 2D array"),
    "numbers and symbols": ([*X[:-1], np.arange(5)], "all sequences must have the channels"),
}


@pytest.mark.parametrize("what", WRONG_X)
def test_other_sequences_are_refused(what):
    given, message = WRONG_X[what]
    for classifier in classifiers():
        with pytest.raises((ValueError, TypeError), match=message):
            classifier.fit(given, Y)


WRONG_Y = {
    "one class": (np.repeat("a", 24), "at least two classes, got one class, a, alone"),
    "fewer": (Y[:-1], "one target for each of 24 sequences in X, got 23"),
    "numbers": (np.linspace(0, 1, 24), "Unknown label type"),
    "none": (None, "requires y to be passed, but the target y is None"),
    "NaN": (np.full(24, np.nan), "y contains NaN"),
}


@pytest.mark.parametrize("what", WRONG_Y)
def test_other_labels_are_refused(what):
    given, message = WRONG_Y[what]
    for classifier in classifiers():
        with pytest.raises((ValueError, TypeError), match=message):
            classifier.fit(X, given)


def test_other_targets_are_refused():
    regressor = RecurrentRegressor(4, max_epochs=1)
    for y, message in (
        (Y, "could not convert"),
        (np.full(24, np.inf), "y contains infinity"),
        (np.zeros((24, 1, 1)), "Found array with dim 3"),
    ):
        with pytest.raises(ValueError, match=message):
            regressor.fit(X, y)
    with pytest.raises(ValueError, match="class_weight acts on classes only"):
        regressor.set_params(class_weight="balanced").fit(X, np.arange(24))


def test_predictions_on_something_else_are_refused(rng):
    letters, labels = forms(rng)["symbols"]
    for classifier in classifiers():
        classifier.fit(X, Y)
        with pytest.raises(ValueError, match=r"X has 1 features, but .* is expecting 2 features"):
            classifier.predict(X[:, :1])
        classifier.fit(letters, labels)
        with pytest.raises(ValueError, match="fitted on symbols, X holds numbers"):
            classifier.predict([x[None].astype(float) for x in letters])
        classifier.fit(X[:, :1], Y)
        with pytest.raises(ValueError, match="fitted on numbers, X holds symbols"):
            classifier.predict(letters)


def test_a_symbol_that_was_not_there(rng):
    letters, _ = forms(rng)["symbols"]
    scaling = learn_scaling(as_sequences(letters, False), True, "error")
    np.testing.assert_array_equal(scaling.symbols, [3, 7, 20])
    assert scaling.input_size == 4
    (found,) = scaling.transform([np.array([20, 5, 3, 99, 7])])
    np.testing.assert_array_equal(found, [2, 3, 0, 3, 1])


def test_scaling_is_that_of_the_training_set(rng):
    X, _ = waves(rng)
    sequences = of_different_lengths(X, rng)
    for x in sequences:
        x[1] = 5 + 3 * x[1]
    scaled = np.concatenate(learn_scaling(sequences, True, "error").transform(sequences))
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-12)
    (kept,) = learn_scaling(sequences, False, "error").transform(sequences[:1])
    np.testing.assert_array_equal(kept, sequences[0].T)


def test_a_channel_that_never_changes_stays_finite(rng):
    X, y = waves(rng)
    X[:, 1] = 1e9
    for classifier in classifiers():
        classifier.fit(X, y)
        assert np.isfinite(classifier.decision_function(X)).all()


def test_a_missing_value_is_carried_and_marked():
    x = np.array([[np.nan, 1.0, np.nan, np.nan, 3.0], [0.0, 2.0, np.nan, 1.0, 1.0]])
    scaling = learn_scaling([x], True, "mask")
    np.testing.assert_allclose(scaling.mean, [2.0, 1.0])
    (found,) = scaling.transform([x])
    first = (np.array([2, 1, 1, 1, 3]) - 2) / 1
    np.testing.assert_allclose(found[:, 0], first)
    np.testing.assert_array_equal(found[:, 2], [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(found[:, 3], [0, 0, 1, 0, 0])


def test_missing_values_are_taken_where_that_is_asked_for(rng):
    X, y = waves(rng)
    X[rng.random(X.shape) < 0.2] = np.nan
    X[3] = np.nan
    for classifier in classifiers(missing="mask"):
        assert np.isfinite(classifier.fit(X, y).decision_function(X)).all()
        with pytest.raises(ValueError, match="infinity"):
            classifier.fit(np.where(np.isnan(X), np.inf, X), y)


def test_weights_that_are_none_are_refused():
    for classifier in classifiers():
        for weights, message in (
            (np.zeros(24), "all weights are zero"),
            (-np.ones(24), "must be 24 numbers of at least 0"),
            (np.ones(23), "must be 24 numbers"),
        ):
            with pytest.raises(ValueError, match=message):
                classifier.fit(X, Y, sample_weight=weights)


def test_what_is_masked_is_missing(rng):
    X, y = waves(rng)
    is_masked = np.broadcast_to(np.arange(20) == 3, X.shape)
    masked = np.ma.masked_array(np.where(is_masked, -9999.0, X), is_masked)
    for classifier in classifiers(missing="mask"):
        assert abs(classifier.fit(masked, y).scaling_.mean).max() < 1
        assert abs(classifier.fit(list(masked), y).scaling_.mean).max() < 1
    with pytest.raises(ValueError, match="NaN"):
        classifiers()[0].fit(masked, y)


def test_numbers_too_large_to_be_squared(rng):
    for classifier in classifiers():
        with pytest.raises(ValueError, match="below 1e\\+150 in size"):
            classifier.fit(X * 1e200, Y)


@pytest.mark.parametrize("what", ["weights", "labels"])
def test_a_fit_that_cannot_begin_leaves_all_as_it_was(what):
    for classifier in classifiers():
        classifier.fit(X, Y)
        before = classifier.predict(X)
        given = np.full_like(X, np.inf) if what == "labels" else X
        with pytest.raises(ValueError, match=r"zero|infinity"):
            classifier.fit(given, np.repeat(["q", "r"], 12), np.zeros(24))
        np.testing.assert_array_equal(classifier.predict(X), before)
        with pytest.raises(ValueError, match="one class"):
            classifier.fit(X[:, :1], np.repeat("q", 24))
        np.testing.assert_array_equal(classifier.predict(X), before)


def test_states_that_overflow_are_said_to():
    reservoir, trained = classifiers()[1].fit(X, Y), classifiers()[0].fit(X, Y)
    for classifier in (reservoir, trained):
        with pytest.raises(ValueError, match=r"the states overflow|finite"):
            classifier.predict(X * 1e38)


def test_pandas_output_changes_features_alone():
    for classifier in classifiers():
        classifier.fit(X, Y)
        predicted = classifier.predict(X)
        if hasattr(classifier, "get_feature_names_out"):
            classifier.set_output(transform="pandas")
            np.testing.assert_array_equal(classifier.predict(X), predicted)
            assert list(classifier.transform(X).columns) == list(classifier.get_feature_names_out())
