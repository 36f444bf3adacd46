"""Files of fitted estimators: what comes back, and what is refused."""

import json
import struct

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: kru_ref[sklearn]")
pytest.importorskip("safetensors", reason="safetensors is not installed: kru_ref[sklearn]")
import safetensors.numpy
from series import forms, waves
from sklearn.exceptions import NotFittedError

from kru_ref.estimators import (
    KroneckerReservoir,
    RecurrentClassifier,
    RecurrentRegressor,
    ReservoirClassifier,
    ReservoirRegressor,
    load,
    save,
)

RNG = np.random.default_rng(0)
FORMS = forms(RNG)
NUMBERS = np.stack([np.arange(24.0), 5 - np.arange(24.0)], axis=1)
FITTED = {
    "classifier": RecurrentClassifier(8, max_epochs=2, random_state=0).fit(*FORMS["lengths"]),
    "double": RecurrentClassifier(
        6, factors=[(2, 3), (3, 2)], dtype="complex128", max_epochs=1, class_weight={"noise": 2.0}
    ).fit(*FORMS["3-D"]),
    "gru": RecurrentClassifier(8, cell="gru", n_layers=2, max_epochs=1).fit(*FORMS["symbols"]),
    "stopped early": RecurrentClassifier(4, max_epochs=2, early_stopping=True).fit(*FORMS["3-D"]),
    "regressor": RecurrentRegressor(8, max_epochs=1, missing="mask").fit(FORMS["3-D"][0], NUMBERS),
    "one column": RecurrentRegressor(8, max_epochs=1).fit(FORMS["2-D"][0], NUMBERS[:, 0]),
    "reservoir": KroneckerReservoir(8, (0.5, 0.9)).fit(FORMS["lengths"][0]),
    "reservoir classifier": ReservoirClassifier(8).fit(*FORMS["symbols"]),
    "reservoir regressor": ReservoirRegressor(8, 0.5, dtype="float64").fit(
        FORMS["3-D"][0], NUMBERS
    ),
}


def sequences_of(name):
    given = {"classifier": "lengths", "gru": "symbols", "one column": "2-D"}
    given |= {"reservoir": "lengths", "reservoir classifier": "symbols"}
    return FORMS[given.get(name, "3-D")][0]


@pytest.mark.parametrize("name", FITTED)
def test_what_comes_back_predicts_the_same_bits(tmp_path, name):
    estimator, X = FITTED[name], sequences_of(name)
    save(estimator, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert type(loaded) is type(estimator)
    plain = {k: v for k, v in estimator.get_params().items() if not isinstance(v, list | tuple)}
    assert plain.items() <= loaded.get_params().items()
    for method in ("predict", "decision_function", "predict_proba", "transform"):
        if hasattr(estimator, method):
            found, wanted = getattr(loaded, method)(X), getattr(estimator, method)(X)
            np.testing.assert_array_equal(found, wanted)
            assert found.dtype == wanted.dtype
    for attribute in ("loss_curve_", "validation_scores_", "best_epoch_", "n_iter_", "alpha_"):
        assert getattr(loaded, attribute, None) == getattr(estimator, attribute, None)
    assert loaded.n_features_in_ == estimator.n_features_in_


def test_training_goes_on_after_loading(tmp_path):
    X, y = FORMS["lengths"]
    save(FITTED["classifier"], tmp_path / "m")
    loaded = load(tmp_path / "m").partial_fit(X, y)
    assert loaded.n_iter_ == 3
    assert loaded.set_params(warm_start=True).fit(X, y).n_iter_ == 5


def test_names_of_columns_come_back(tmp_path):
    pd = pytest.importorskip("pandas")
    X, y = FORMS["2-D"]
    frame = pd.DataFrame(X, columns=[f"t{t}" for t in range(20)])
    save(ReservoirClassifier(8).fit(frame, y), tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert list(loaded.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame[frame.columns[::-1]])


def test_what_is_not_to_be_saved(tmp_path):
    with pytest.raises(NotFittedError):
        save(RecurrentClassifier(), tmp_path / "m")
    with pytest.raises(TypeError, match="estimator must be one of RecurrentClassifier"):
        save(object(), tmp_path / "m")
    with pytest.raises(FileNotFoundError):
        save(FITTED["classifier"], tmp_path / "no" / "folder")
    assert not list(tmp_path.iterdir())


def contents(tmp_path, name="classifier"):
    """Return the header and the tensors of a file."""
    save(FITTED[name], tmp_path / "m")
    with safetensors.safe_open(tmp_path / "m", framework="numpy") as file:
        return json.loads(file.metadata()["kru_ref"]), safetensors.numpy.load_file(tmp_path / "m")


def written(tmp_path, header, tensors):
    path = tmp_path / "changed"
    text = header if isinstance(header, str) else json.dumps(header)
    safetensors.numpy.save_file(tensors, path, {"kru_ref": text})
    return path


def change(header, tensors, *, settings=None, facts=None, **others):
    header["settings"] |= settings or {}
    header["facts"] |= facts or {}
    header |= others
    return header, tensors


DAMAGE = {
    "a later format": lambda h, t: change(h, t, format=2, version="9.1"),
    "another class": lambda h, t: change(h, t, estimator="os.system"),
    "no class": lambda h, t: change(h, t, estimator=["RecurrentClassifier"]),
    "another setting": lambda h, t: change(h, t, settings={"colour": "red"}),
    "a huge size": lambda h, t: change(h, t, settings={"hidden_size": 2**40}),
    "another size": lambda h, t: change(h, t, settings={"hidden_size": 16}),
    "many layers": lambda h, t: change(h, t, settings={"n_layers": 10**9}),
    "no number": lambda h, t: change(h, t, settings={"hidden_size": "8"}),
    "a setting of another kind": lambda h, t: change(h, t, settings={"factors": {"pairs": 3}}),
    "other classes": lambda h, t: change(h, t, classes={"dtype": "<i8", "labels": [1]}),
    "classes that are objects": lambda h, t: change(h, t, classes={"dtype": "O", "labels": [{}]}),
    "a dtype that runs": lambda h, t: change(h, t, classes={"dtype": "V3,O", "labels": ["a"]}),
    "a curve of words": lambda h, t: change(h, t, facts={"loss_curve_": ["low"]}),
    "no facts": lambda h, t: change(h, t) and ({k: v for k, v in h.items() if k != "facts"}, t),
    "facts that are none": lambda h, t: ({**h, "facts": 3}, t),
    "a tensor less": lambda h, t: (h, {k: v for k, v in t.items() if k != "params.cell.W.0"}),
    "a shape": lambda h, t: (h, t | {"params.readout.V": t["params.readout.V"][:1]}),
    "a dtype": lambda h, t: (h, t | {"params.readout.V": t["params.readout.V"].astype("int8")}),
    "no pairs": lambda h, t: (h, t | {"params.cell.U": t["params.cell.U"][..., 0]}),
    "scales of 0": lambda h, t: (h, t | {"scaling.scale": np.zeros(2)}),
    "scales of another size": lambda h, t: (h, t | {"scaling.scale": np.ones(3)}),
    "no channels": lambda h, t: (
        h,
        t | dict.fromkeys(("scaling.scale", "scaling.mean"), np.ones(0)),
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_changed_file_is_refused(tmp_path, what):
    path = written(tmp_path, *DAMAGE[what](*contents(tmp_path)))
    with pytest.raises(ValueError, match=r"is damaged, or was written by another version|format 2"):
        load(path)


def test_a_changed_reservoir_is_refused(tmp_path):
    for name, new in (
        ("coef_", np.zeros((1, 3))),
        ("intercept_", np.zeros((1, 1))),
        ("part.0.thresholds", np.zeros((2, 2), "float32")),
        ("part.1.U", np.zeros((2, 2), "float32")),
    ):
        header, tensors = contents(tmp_path, "reservoir classifier")
        with pytest.raises(ValueError, match="is damaged"):
            load(written(tmp_path, header, tensors | {name: new}))


@pytest.mark.parametrize("text", ["", "[]", "3", '{"format": 1}', "[" * 10**5])
def test_a_header_that_is_none(tmp_path, text):
    with pytest.raises(ValueError, match=r"was not written by kru_ref\.estimators\.save"):
        load(written(tmp_path, text, {"a": np.zeros(1)}))


def test_a_file_that_was_cut_off(tmp_path):
    save(FITTED["classifier"], tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for n in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:n])
        with pytest.raises(ValueError, match="is no safetensors file"):
            load(tmp_path / "cut")


def test_a_header_that_says_it_is_huge(tmp_path):
    (tmp_path / "huge").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load(tmp_path / "huge")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")
    with pytest.raises(OSError, match="directory"):
        load(tmp_path)


def test_labels_that_json_has_not(tmp_path):
    X, _ = waves(RNG)
    labels = np.array(["a", "b"] * 12, dtype=object)
    save(ReservoirClassifier(8).fit(X, labels), tmp_path / "m")
    assert load(tmp_path / "m").predict(X).dtype == object
    for y in (np.arange(24) % 3, np.arange(24) % 2 == 0, (np.arange(24) % 2).astype("float32")):
        estimator = ReservoirClassifier(8, random_state=0).fit(X, y)
        save(estimator, tmp_path / "m")
        found = load(tmp_path / "m").predict(X)
        np.testing.assert_array_equal(found, estimator.predict(X))
        assert found.dtype == y.dtype


def test_dtypes_as_numpy_has_them(tmp_path):
    X, y = FORMS["3-D"]
    estimator = ReservoirClassifier(8, dtype=np.complex128).fit(X, y)
    save(estimator, tmp_path / "m")
    np.testing.assert_array_equal(load(tmp_path / "m").predict(X), estimator.predict(X))


def test_settings_that_were_changed_after_the_fit(tmp_path):
    estimator = ReservoirClassifier(8).fit(*FORMS["3-D"]).set_params(hidden_size=16)
    with pytest.raises(ValueError, match=r"settings are not those of the fit .*: fit again"):
        save(estimator, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_readouts_that_do_not_fit_their_classes(tmp_path):
    for change in (
        lambda h, t: h["classes"].update(labels=[0, 1, 2]),
        lambda h, t: h.pop("classes"),
        lambda h, t: t.pop("coef_"),
        lambda h, t: t.update(coef_=t["coef_"] * np.nan),
        lambda h, t: t.update({"scaling.symbols": t["scaling.symbols"][::-1].copy()}),
    ):
        header, tensors = contents(tmp_path, "reservoir classifier")
        change(header, tensors)
        with pytest.raises(ValueError, match="is damaged"):
            load(written(tmp_path, header, tensors))
