"""Sequences of one's own, on the disk: batches as from memory, and never more than a few in it."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("filelock", reason="training needs the extra 'train'")
from runs import Stop, assert_same_run, stop_after

from kru_ref.engine.backend import kernels
from kru_ref.files import StoredArray
from kru_ref.training import cli, config, loop
from kru_ref.training.tasks import Copying, Sequences

n, D, T = 47, 3, 9
SMALL = {
    "hidden_size": 12, "batch_size": 7, "updates": 12, "evaluate_every": 6, "checkpoint_every": 4,
    "log_every": 3,
}  # fmt: skip


def stored(folder, X, y, what=""):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"X{what}.npy", X)
    np.save(folder / f"y{what}.npy", y)
    return folder


@pytest.fixture
def X(rng):
    return (5 * rng.standard_normal((n, D, T)) + [[100], [-7], [0]]).astype(np.float32)


KINDS = {
    "a class": lambda rng: np.arange(n) % 4,
    "a truth value": lambda rng: np.arange(n) % 2 == 0,
    "a class of each step": lambda rng: rng.integers(5, size=(n, T)),
    "a number": lambda rng: 30 + 4 * rng.standard_normal(n),
    "numbers": lambda rng: rng.standard_normal((n, 2)) * [1, 1000],
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_from_memory(rng, tmp_path, X, kind):
    y = KINDS[kind](rng)
    task = Sequences(data_dir=stored(tmp_path, X, y), **SMALL)
    shares = {split: list(task.held_out(split)) for split in ("validation", "test")}
    n_held_out = [sum(batch.x.shape[-1] for batch in batches) for batches in shares.values()]
    assert n_held_out == [5, 5]
    epoch = [task.batch(update) for update in range(6)]
    assert [batch.x.shape[-1] for batch in epoch] == [7, 7, 7, 7, 7, 2]

    train = [i for i in range(n) if i in set(task._shares["train"].tolist())]
    channels = X[train].astype(np.float64).transpose(1, 0, 2).reshape(D, -1)
    scaled = (X - channels.mean(axis=1)[:, None]) / channels.std(axis=1)[:, None]
    numbers = y.reshape(n, -1)
    if y.dtype.kind == "f":
        numbers = (numbers - numbers[train].mean(axis=0)) / numbers[train].std(axis=0)
    found = []
    for batch in [*epoch, *shares["validation"], *shares["test"]]:
        for b in range(batch.x.shape[-1]):
            near = np.abs(scaled - batch.x[:, :, b].T).max(axis=(1, 2))
            i = int(near.argmin())
            assert near[i] < 1e-5
            np.testing.assert_allclose(batch.targets[..., b].ravel(), numbers[i], rtol=1e-12)
            found.append(i)
    assert sorted(found) == list(range(n))
    assert found[: len(train)] != sorted(found[: len(train)])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_trains_and_resumes_to_the_bit(rng, tmp_path, X, kind):
    task = Sequences(data_dir=stored(tmp_path / "data", X, KINDS[kind](rng)), **SMALL)
    through = loop.train(task, tmp_path / "through")
    with pytest.raises(Stop):
        loop.train(task, tmp_path / "stopped", on_update=stop_after(8))
    loop.train(task, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "through")
    what, baseline = task.baseline
    metric = "explained" if y_is_numbers(kind) else "accuracy"
    assert metric in through
    if kind == "a class":
        often = np.bincount(np.arange(n) % 4) / n
        assert baseline == pytest.approx(-np.sum(often * np.log(often)))
    elif y_is_numbers(kind):
        assert (what, baseline) == ("for always telling the mean", 1.0)
        assert through["test_explained"] == pytest.approx(1 - through["test_loss"])


def y_is_numbers(kind):
    return kind in ("a number", "numbers")


def test_a_class_of_each_step_is_told_at_each(rng, tmp_path, X):
    task = Sequences(data_dir=stored(tmp_path, X, rng.integers(5, size=(n, T))), **SMALL)
    model = task.model()
    logits, _ = model.forward(model.init(rng), task.batch(0).x)
    assert logits.shape == (T, 5, 7)
    with pytest.raises(ValueError, match="pooling acts only where a sequence has one target"):
        dataclasses.replace(task, pooling="mean")


def test_pooling_is_the_models(rng, tmp_path, X):
    task = Sequences(data_dir=stored(tmp_path, X, np.arange(n) % 2), **SMALL)
    assert task.model().pooling == "moments"
    assert dataclasses.replace(task, pooling="last").model().pooling == "last"


def test_symbols(rng, tmp_path):
    """Which of two symbols begins a sequence is found out by a network that can keep it."""
    symbols = rng.integers(4, size=(400, 6)).astype(np.int8)
    symbols[:, 0] %= 2
    folder = stored(tmp_path / "data", symbols, symbols[:, 0])
    task = Sequences(
        data_dir=folder, symbols=4, hidden_size=16, updates=300, pooling="last", rate=1e-2
    )
    assert task.input_size == 4
    assert task.batch(0).x.shape == (6, 50)
    assert task.batch(0).x.dtype == np.intp
    assert loop.train(task, tmp_path / "run")["test_accuracy"] > 0.95


def test_what_is_learned_from_a_file(rng, tmp_path):
    """The frequency of a wave, as a class and as a number, with a test set of its own."""
    which = np.arange(360) % 3
    waves = np.sin(0.3 * (which[:, None] + 1) * np.arange(40) + rng.uniform(0, 6, (360, 1)))
    waves += 0.3 * rng.standard_normal(waves.shape)
    for y, metric in ((which, "accuracy"), (which * 10.0, "explained")):
        folder = stored(tmp_path / metric, waves[:300], y[:300])
        stored(folder, waves[300:], y[300:], "_test")
        task = Sequences(data_dir=folder, hidden_size=16, updates=400, batch_size=20)
        assert sum(batch.x.shape[-1] for batch in task.held_out("test")) == 60
        assert len(task._shares["train"]) == 270
        assert loop.train(task, tmp_path / f"{metric}-run")[f"test_{metric}"] > 0.9


@pytest.mark.parametrize("value", [12, 0.1, 1 / 3])
def test_a_constant_channel_is_0(tmp_path, X, value):
    """Its mean may be rounded."""
    X = X.astype(np.float64)
    X[:, 1] = value
    task = Sequences(data_dir=stored(tmp_path, X, np.arange(n) % 2), **SMALL)
    np.testing.assert_allclose(task.batch(0).x[:, 1], 0, atol=1e-12)


BAD = {
    "no X": (lambda X, y: (None, y), "there is no .*X.npy"),
    "no y": (lambda X, y: (X, None), "there is no .*y.npy"),
    "four axes": (lambda X, y: (X[None], y), "must hold .n, D, T. or .n, T."),
    "no steps": (lambda X, y: (X[..., :0], y), "one or more"),
    "other lengths": (lambda X, y: (X, y[1:]), "a row for each of 47 sequences, got 46"),
    "objects": (lambda X, y: (X, y.astype(object)), "no .npy of numbers"),
    "texts": (lambda X, y: (X, y.astype(str)), "no .npy of numbers"),
    "complex": (lambda X, y: (X + 0j, y), "no .npy of numbers"),
    "Fortran's": (lambda X, y: (np.asfortranarray(X), y), "Fortran's order"),
    "from 1 on": (lambda X, y: (X, y + 1), "there is no 0; classes, y = np.unique"),
    "with a gap": (lambda X, y: (X, 2 * y), "there is no 1; classes, y = np.unique"),
    "below 0": (lambda X, y: (X, y - 1), "got -1 to 2; classes, y = np.unique"),
    "identifiers": (lambda X, y: (X, y + 10**9), "to 1000000003; classes, y = np.unique"),
    "one class": (lambda X, y: (X, 0 * y), "two classes or more, got class 0 alone"),
    "rows of classes": (lambda X, y: (X, np.stack([y] * 4, 1)), "beside .47, 3, 9.*argmax"),
    "a column of classes": (lambda X, y: (X, y[:, None]), "take y.:, 0. of one column"),
    "NaN in y": (lambda X, y: (X, np.where(np.arange(n) == 5, np.nan, y)), "y.npy, row 5 holds"),
    "names of classes": (lambda X, y: (X, y.astype(str)), "np.unique.texts, return_inverse"),
    "two sequences": (lambda X, y: (X[:2], y[:2]), "3 sequences or more, got 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_files_that_are_refused(tmp_path, X, what):
    spoil, sentence = BAD[what]
    for name, array in zip("Xy", spoil(X, np.arange(n) % 4), strict=True):
        if array is not None:
            np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        Sequences(data_dir=tmp_path, **SMALL)


def test_settings_that_are_refused(tmp_path, X):
    folder = stored(tmp_path, X, np.arange(n) % 4)
    with pytest.raises(ValueError, match=r"symbols \(n, T\), whole numbers"):
        Sequences(data_dir=folder, symbols=4)
    with pytest.raises(ValueError, match="symbols must be at least 2"):
        Sequences(data_dir=folder, symbols=1)
    for share in (0, 0.5, -1):
        with pytest.raises(ValueError, match="validation_share must be above 0 and at most"):
            Sequences(data_dir=folder, validation_share=share)


@pytest.mark.parametrize(("X_test", "y_test", "sentence"), [
    (lambda X: X[:, :2], lambda y: y, "sequences of (3, 9), one or more, got (47, 2, 9)"),
    (lambda X: X, lambda y: y + 0.5, "must be as"),
    (lambda X: X, lambda y: y[:, None], "must be as"),
])  # fmt: skip
def test_test_sets_that_do_not_fit(tmp_path, X, X_test, y_test, sentence):
    y = np.arange(n) % 4
    stored(stored(tmp_path, X, y), X_test(X), y_test(y), "_test")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Sequences(data_dir=tmp_path, **SMALL)


def test_values_that_are_found_bad_as_they_are_read(tmp_path, X):
    y = np.arange(n) % 4
    folder = stored(tmp_path / "data", X, y)
    stored(folder, X, y + 1, "_test")
    with pytest.raises(ValueError, match="must hold classes 0 … 3, as in training, got 4"):
        loop.train(Sequences(data_dir=folder, **SMALL), tmp_path / "run")
    X[5, 1, 2] = np.nan
    stored(folder, X, y)
    stored(folder, X, y, "_test")
    with pytest.raises(ValueError, match=r"X_test.npy, sequence 5 holds NaN"):
        list(Sequences(data_dir=folder, **SMALL).held_out("test"))
    stored(folder, np.arange(n * T).reshape(n, T), y)
    stored(folder, np.arange(n * T).reshape(n, T), y, "_test")
    with pytest.raises(ValueError, match=r"sequence \d+: symbols must be from 0 to 4, got"):
        Sequences(data_dir=folder, symbols=5, **SMALL).batch(0)


def test_numbers_that_are_too_large_are_told(tmp_path, X):
    X = X.astype(np.float64)
    X[:] = 1e200
    with pytest.raises(ValueError, match=r"holds NaN, or numbers above 1e\+150"):
        Sequences(data_dir=stored(tmp_path, X, np.arange(n) % 4), **SMALL).batch(0)


def test_a_test_set_s_nan_is_told_before_training(tmp_path, X):
    y = np.linspace(0, 1, n)
    folder = stored(tmp_path, X, y)
    stored(folder, X, np.where(np.arange(n) == 7, np.inf, y), "_test")
    with pytest.raises(ValueError, match=r"y_test.npy, row 7 holds NaN or infinity"):
        Sequences(data_dir=folder, **SMALL)


def test_a_run_goes_on_where_its_data_was_moved(tmp_path, X, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "old", X, np.arange(n) % 4)
    task = Sequences(data_dir="old", **SMALL)
    loop.train(task, tmp_path / "through")
    with pytest.raises(Stop):
        loop.train(task, tmp_path / "stopped", on_update=stop_after(8))
    (tmp_path / "old").rename("new")
    command = ["train", "sequences", "--out", "stopped", "--resume", "--quiet"]
    assert cli.main(command) == 1
    assert "give data_dir if the run's data was moved" in capsys.readouterr().err
    assert cli.main([*command, "--data-dir", "new"]) == 0
    assert_same_run(tmp_path / "stopped", tmp_path / "through")


def test_few_updates_of_numbers_are_no_divergence(rng, tmp_path, X):
    """Squares of states are far from 0 before anything is learned."""
    task = Sequences(data_dir=stored(tmp_path / "data", 9 * X, rng.standard_normal(n)), **SMALL)
    task = dataclasses.replace(task, updates=1, hidden_size=256, rate=1e-6)
    metrics = loop.train(task, tmp_path / "run")
    assert loop.why_diverged(task, metrics) == ""
    assert "lower rates" in loop.why_diverged(task, {"test_loss": 100 * metrics["test_loss"]})


def test_other_data_than_a_run_had_is_told(tmp_path, X):
    folder = stored(tmp_path / "data", X, np.arange(n) % 4)
    task = Sequences(data_dir=folder, **SMALL | {"schedule": "constant"})
    loop.train(dataclasses.replace(task, updates=4), tmp_path / "run")
    stored(folder, X + 1, np.arange(n) % 4)
    again = Sequences(data_dir=folder, **SMALL | {"schedule": "constant"})
    with pytest.warns(loop.RunWarning, match="the files of data are others"):
        loop.train(again, tmp_path / "run", resume=True)


def test_a_file_that_is_cut_off(tmp_path, X):
    np.save(tmp_path / "X.npy", X)
    whole = (tmp_path / "X.npy").read_bytes()
    (tmp_path / "X.npy").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="is cut off"):
        StoredArray(tmp_path / "X.npy")
    (tmp_path / "X.npy").write_bytes(whole)
    array = StoredArray(tmp_path / "X.npy")
    np.testing.assert_array_equal(array[n - 1], X[-1])
    np.testing.assert_array_equal(array.rows(40, 100), X[40:])
    (tmp_path / "X.npy").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="has become shorter"):
        array[n - 1]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
@pytest.mark.skipif(kernels is None, reason="without the kernels this takes minutes")
def test_train_on_five_times_the_memory_allowed(tmp_path):
    """Beyond what the process has when it begins: the file has 5 times what it may add."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from kru_ref.training.loop import train
from kru_ref.training.tasks import Copying, Sequences
folder, out, allowed = Path(sys.argv[1]), Path(sys.argv[2]), 40 * 2**20
rng = np.random.default_rng(0)
settings = dict(hidden_size=8, batch_size=8, updates=60, evaluate_every=60)
def write(n):
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (n, 4, 2048))
    for x in X:
        x[:] = rng.standard_normal(x.shape, np.float32)
    np.save(folder / "y.npy", np.arange(n) % 2)
write(40)
train(Sequences(data_dir=folder, **settings | dict(updates=1)), out / "warm")
write(5 * allowed // (4 * 2048 * 4))
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + allowed, size + allowed))
task = Sequences(data_dir=folder, **settings)
print(train(task, out / "run")["step"], (folder / "X.npy").stat().st_size > 5 * allowed)
"""
    (tmp_path / "data").mkdir()
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["60", "True"]


def test_a_run_without_data_is_not_called_damaged(tmp_path):
    task = Copying(delay=3, hidden_size=4, updates=1, held_out_sequences=4)
    loop.train(task, tmp_path / "run")
    assert config.read_config(tmp_path / "run", tmp_path / "elsewhere") == task
