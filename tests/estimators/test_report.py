"""``kru-ref fit`` and ``kru-ref predict``: from a file to a model, and to predictions."""

import io

import numpy as np
import pytest

pytest.importorskip("pandas", reason="pandas is not installed: kru_ref[sklearn]")
import pandas as pd

from kru_ref.estimators import load
from kru_ref.estimators.report import estimator_of, learning_curve
from kru_ref.training import cli

pytest.importorskip("matplotlib", reason="matplotlib, which draws the report, is not installed")


def csv(tmp_path, rng, target="kind", n=30, missing=False, name="data.csv"):
    """Write sequences of two classes, or numbers, in long form."""
    rows = []
    for i in range(n):
        wave = i % 2
        x = 0.3 * rng.standard_normal((15 + i % 10, 2))
        x += wave * np.sin(np.arange(len(x)))[:, None]
        y = {"kind": ["noise", "wave"][wave], "height": 100 + 5 * x[:, 0].std()}[target]
        rows += [(f"s{i}", t, a, b, y) for t, (a, b) in enumerate(x)]
    frame = pd.DataFrame(rows, columns=["id", "time", "a", "b", target])
    if missing:
        frame.loc[::17, "b"] = np.nan
    frame.to_csv(tmp_path / name, index=False)
    return tmp_path / name


CHANCES = [0.4, 0.4, 0.1, 0.1]


def run(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.mark.parametrize("model", ["reservoir", "kru"])
@pytest.mark.parametrize("missing", [False, True])
def test_from_a_file_to_predictions(tmp_path, rng, capsys, model, missing):
    data, out = csv(tmp_path, rng, missing=missing), tmp_path / "model.safetensors"
    options = ("--target", "kind", "--out", out, "--folds", 2, "--model", model)
    assert run("fit", data, *options) == 0
    shown = capsys.readouterr().out
    assert "30 of numbers (a, b)" in shown
    assert "15 to 24" in shown
    assert ("none" not in shown) == missing
    assert "2 classes: noise (15), wave (15)" in shown
    assert "held-out accuracy" in shown
    assert "a ridge on plain statistics" in shown
    for name in ("confusion.png", "learning_curve.png"):
        assert (tmp_path / "model.report" / name).read_bytes()[:4] == b"\x89PNG"
    assert run("predict", out, data) == 0
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(found["id"]) == [f"s{i}" for i in range(30)]
    assert (found["kind"] == np.tile(["noise", "wave"], 15)).mean() > 0.9
    assert ("P(wave)" in found) == (model == "kru")
    assert run("predict", out, data, "--out", tmp_path / "found.csv") == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "found.csv"), found)


def test_numbers_are_predicted_too(tmp_path, rng, capsys):
    data, out = csv(tmp_path, rng, target="height"), tmp_path / "m.safetensors"
    assert run("fit", data, "--target", "height", "--out", out, "--folds", 3) == 0
    shown = capsys.readouterr().out
    assert "numbers from 1" in shown
    assert "held-out R²" in shown
    assert (tmp_path / "m.report" / "predictions.png").exists()
    assert run("predict", out, data) == 0
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert found["height"].between(95, 110).all()
    assert load(out).table_["channels"] == ["a", "b"]


def test_symbols_are_classified(tmp_path, rng, capsys):
    rows = [
        (i, t, c, "gc" if i % 2 else "at")
        for i in range(20)
        for t, c in enumerate(rng.choice(list("GCAT" if i % 2 else "ATGC"), 12, p=CHANCES))
    ]
    data, out = tmp_path / "dna.csv", tmp_path / "m.safetensors"
    pd.DataFrame(rows, columns=["id", "time", "base", "kind"]).to_csv(data, index=False)
    assert run("fit", data, "--target", "kind", "--out", out, "--folds", 2) == 0
    assert "20 of symbols" in capsys.readouterr().out
    assert run("predict", out, data) == 0


def test_what_is_refused(tmp_path, rng, capsys):
    data, out = csv(tmp_path, rng), tmp_path / "m.safetensors"
    options = ("--target", "kind", "--out", out)
    out.write_text("mine")
    assert run("fit", data, *options) == 1
    assert "is there already: give --replace" in capsys.readouterr().err
    assert run("fit", data, "--target", "kind", "--out", data, "--replace") == 1
    assert "out must be another file than the data" in capsys.readouterr().err
    assert run("fit", data, "--target", "kind", "--out", tmp_path / "no" / "m") == 1
    assert "no folder" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert run("predict", out, data, "--out", data) == 1
    assert "is there already: give another file" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert run("fit", data, *options, "--folds", 16, "--replace") == 1
    assert "each of 16 folds needs a sequence of every class, but noise" in capsys.readouterr().err
    assert run("fit", data, *options, "--folds", 2, "--replace") == 0
    capsys.readouterr()
    gaps = csv(tmp_path, rng, missing=True, name="gaps.csv")
    assert run("predict", out, gaps) == 1
    assert "missing values, and" in capsys.readouterr().err
    pd.read_csv(data).drop(columns="b").to_csv(gaps, index=False)
    assert run("predict", out, gaps) == 1
    assert "has no column 'b'; it has id, time, a, kind" in capsys.readouterr().err
    assert run("predict", data, data) == 1
    assert "is no safetensors file" in capsys.readouterr().err


def test_a_baseline_that_does_as_well_is_named(tmp_path, rng, capsys):
    rows = [(i, t, 10 * (i % 2) + t % 2, i % 2) for i in range(24) for t in range(9)]
    data = tmp_path / "level.csv"
    pd.DataFrame(rows, columns=["id", "time", "a", "kind"]).to_csv(data, index=False)
    assert run("fit", data, "--target", "kind", "--out", tmp_path / "m", "--folds", 2) == 0
    assert "does as well or better" in capsys.readouterr().out


def test_a_learning_curve_of_a_sorted_file_is_that_of_its_rows(rng):
    X = [rng.standard_normal((1, 12)) for _ in range(60)]
    y = np.array([x.mean() for x in X])
    order = np.argsort(y)
    curve = learning_curve(
        estimator_of("reservoir", "regression", random_state=0), [X[i] for i in order], y[order],
        "regression", 3,
    )  # fmt: skip
    assert curve["test_scores"].shape == (4, 3)
    assert curve["test_scores"][1].mean() > -0.5
