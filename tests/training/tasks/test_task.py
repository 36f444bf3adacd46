"""What the tasks hand out, and that it is a function of seed and update alone."""

import dataclasses
import json
import math
import re
import typing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from kru_ref.training.data import datasets, piano_rolls, speech, symbols
from kru_ref.training.data.digits import load_digits
from kru_ref.training.data.idx import read_idx
from kru_ref.training.tasks import (
    TASKS,
    Adding,
    Characters,
    Copying,
    Music,
    Phonemes,
    Pixels,
    phonemes,
)
from kru_ref.training.tasks.task import RING, make_cell, make_matrix


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a task of a name; one that is nothing without files gets some."""
    folder = tmp_path_factory.mktemp("sequences")
    np.save(folder / "X.npy", np.random.default_rng(0).standard_normal((9, 5)))
    np.save(folder / "y.npy", np.arange(9) % 2)

    def made(name, **settings):
        files = {"data_dir": folder} if name == "sequences" else {}
        return TASKS[name](**files | settings)

    return made


@pytest.mark.parametrize("task", [Copying(delay=4, seed=3), Adding(length=6, seed=3)])
def test_batches_depend_on_seed_and_update_alone(task):
    again = dataclasses.replace(task)
    other = dataclasses.replace(task, seed=4)
    for update in (0, 1, 10_000):
        for first, second in zip(task.batch(update), again.batch(update), strict=True):
            np.testing.assert_array_equal(first, second)
        assert not np.array_equal(task.batch(update)[0], other.batch(update)[0])
        assert not np.array_equal(task.batch(update)[0], task.batch(update + 1)[0])


@pytest.mark.parametrize("task", [Copying(delay=4), Adding(length=6)])
def test_held_out_data_is_fresh_and_fixed(task):
    task = dataclasses.replace(task, held_out_sequences=45, batch_size=20)
    splits = {split: list(task.held_out(split)) for split in ("validation", "test")}
    for batches in splits.values():
        assert [batch.x.shape[-1] for batch in batches] == [20, 20, 5]
    first = [task.batch(0)[0], splits["validation"][0][0], splits["test"][0][0]]
    first += [splits["validation"][1][0]]
    for i, a in enumerate(first):
        assert not any(np.array_equal(a, b) for b in first[i + 1 :])
    np.testing.assert_array_equal(next(task.held_out("test"))[0], splits["test"][0][0])


@pytest.mark.parametrize("name", TASKS)
def test_defaults_make_a_model(make, name):
    task = make(name)
    model = task.model()
    assert task.name == name
    # complex for the simple cell, real for each of an LSTM's four gates
    expected = {"rnn": {16: 32, 128: 56, 512: 72}, "lstm": {512: 4 * 36}}[task.cell]
    assert model.n_recurrent_parameters == expected[task.hidden_size]
    assert task.optimizer_at(0).rate_of("cell.W.3") == task.factor_rate
    assert task.optimizer_at(0).rate_of("cell.U") == task.rate


def test_cosine_schedule_falls_to_zero():
    task = Copying(schedule="cosine", updates=100, rate=1.0, factor_rate=0.1)
    assert task.optimizer_at(0).rate == 1
    assert task.optimizer_at(50).rate == pytest.approx(0.5)
    assert task.optimizer_at(50).rate_of("cell.W.0") == pytest.approx(0.05)
    assert task.optimizer_at(100).rate == pytest.approx(0, abs=1e-15)


def test_the_readout_may_have_a_rate_of_its_own():
    task = Copying(schedule="cosine", updates=100, rate=1.0, readout_rate=0.2)
    for update, scale in ((0, 1), (50, 0.5)):
        optimizer = task.optimizer_at(update)
        assert optimizer.rate_of("cell.U") == pytest.approx(scale)
        for name in ("readout.V", "readout.c"):
            assert optimizer.rate_of(name) == pytest.approx(0.2 * scale)
    assert dataclasses.replace(task, readout_rate=None).optimizer_at(0).rate_of("readout.V") == 1
    assert dataclasses.replace(task, readout_rate=0.0).optimizer_at(0).rate_of("readout.V") == 0
    with pytest.raises(ValueError, match="readout"):
        dataclasses.replace(task, readout_rate=-0.2).optimizer_at(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Copying(delay=0), "delay must be at least 1, got 0"),
        (lambda: Adding(length=1), "length must be at least 2, got 1"),
        (lambda: Adding(length=9, first_length=1), "between 2 and length 9, got 1"),
        (lambda: Adding(length=9, first_length=10), "between 2 and length 9, got 10"),
        (lambda: Adding(held_out_sequences=0), "held_out_sequences must be at least 1"),
        (lambda: Copying(updates=0), "updates must be at least 1"),
        (lambda: Copying(batch_size=-1), "batch_size must be at least 1"),
        (lambda: Copying(seed=-1), "seed must be at least 0"),
        (lambda: Copying(penalty=float("nan")), "penalty must be finite"),
        (lambda: Copying(max_norm=0.0), "max_norm must be above 0"),
        (lambda: Copying(rate=-1.0), "learning rate 'rate' must be finite"),
        (lambda: Copying(factors=((2, 2),)), "hidden_size is 128"),
        (lambda: Copying(schedule="Cosine"), "schedule must be one of constant, cosine"),
        (lambda: Copying(optimizer="adagrad"), "optimizer must be one of sgd, rmsprop, adam"),
        (lambda: Copying(held_out_sequences=0), "held_out_sequences must be at least 1, got 0"),
        (lambda: Characters(length=0), "length must be at least 1, got 0"),
        (lambda: Music(excerpt=0), "excerpt must be at least 1, got 0"),
        (lambda: Music(data="piano-midi", own_data=True), "own_data needs data 'jsb'"),
        (lambda: Pixels(permutation_seed=-1), "permutation_seed must be at least 0"),
        (lambda: Pixels(validation_size=60_000), "must leave a batch of training pictures"),
        (lambda: Pixels(batch_size=70_000), "batch_size must be below 60,000, .*, got 70,000"),
        (lambda: Pixels(batch_size=60_000), "batch_size must be below 60,000"),
        (lambda: Copying(layers=1001), "layers must be at most 1,000, got 1,001"),
        (lambda: Copying(layers=10**9), "layers must be at most 1,000"),
        (lambda: Copying(seed=2**128), r"seed must be below 2\^128, got one of 129 bits"),
        (lambda: Copying(updates=10**5000), r"updates must be below 2\^128, got one of 16610 bits"),
        (lambda: Copying(rate=10**400), "rate must be finite, got 1000"),
        (lambda: Copying(rate=10**5000), "rate must be finite, got a int that cannot be shown"),
        (lambda: Copying(max_norm=math.inf), "max_norm must be finite, got inf; leave it out, or"),
        (lambda: Copying(init="spread", dtype="float32"), "needs a complex dtype, got float32"),
        (lambda: Copying(init="spread", hidden_size=8, factors=((2, 4), (4, 2))), "square factors"),
        (lambda: Pixels(data_dir=""), "data_dir must name a file or folder, got ''"),
        (lambda: Pixels(data_dir="a\0b"), "data_dir must name a file or folder"),
        (lambda: Copying(cell=["rnn"]), "cell must be one of rnn, lstm, gru, lru, got"),
        (lambda: Copying(cell=None), "cell must be one of rnn, lstm, gru, lru, got None"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Music(excerpt=1.5), "excerpt"),
        (lambda: Characters(length=2.5), "length"),
        (lambda: Copying(hidden_size="8"), "hidden_size"),
        (lambda: Copying(delay=np.float64(3)), "delay"),
        (lambda: Copying(layers=None), "layers"),
        (lambda: Copying(layers=True), "layers"),
        (lambda: Adding(first_length="9"), "first_length"),
    ],
)
def test_numbers_that_are_not_whole(make, name):
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got"):
        make()
    assert type(Copying(delay=np.int64(3)).delay) is int


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("split", ["train", "training", "valid", None, 0, ["test"]])
def test_splits_that_there_are_not(make, name, split):
    """Before any data is looked for."""
    with pytest.raises(
        ValueError, match=re.escape(f"split must be one of validation, test, got {split!r}")
    ):
        next(make(name).held_out(split))


WRONG = {
    bool: [None, 0, 1, "yes", math.nan, np.zeros(2)],
    int: [None, True, 1.0, math.nan, math.inf, "1", b"1", [1], np.ones(2, int), 1j, object],
    float: [None, True, math.nan, math.inf, -math.inf, "1", [1.0], np.ones(1), 1j, object],
    str: [None, 0, "", "Adam", b"adam", ["rnn"], math.nan, np.zeros(2), object],
    Path: ["", "a\0b", b"folder", 0, 1.5, True, ["folder"], object],
    tuple: ["22", 4, [4], [(2, 2, 2)], [("2", "2")], [(2.0, 2.0)], [(True,)], math.nan, object],
}


def kind_of(field, value):
    if field.name in ("factors", "data_dir"):
        return {"factors": tuple, "data_dir": Path}[field.name]
    optional = dict.fromkeys(("penalty", "max_norm", "readout_rate", *RING), float)
    return optional.get(field.name) or (str if value is None else type(value))


@pytest.mark.parametrize("name", TASKS)
def test_every_setting_against_what_it_must_not_be(make, name):
    """One that may be left out takes None; the error is short and begins with the name."""
    optional_numbers = {
        "first_length": int,
        "excerpt": int,
        "permutation_seed": int,
        "symbols": int,
    }
    for field in dataclasses.fields(TASKS[name]):
        kind = optional_numbers.get(field.name) or kind_of(field, field.default)
        for wrong in WRONG[kind]:
            if wrong is None and type(None) in typing.get_args(field.type):
                make(name, **{field.name: None})
                continue
            with pytest.raises((TypeError, ValueError)) as caught:
                make(name, **{field.name: wrong})
            assert str(caught.value).startswith(f"{field.name} must "), (wrong, caught)
            assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", TASKS)
def test_settings_may_be_numbers_of_any_library(make, name):
    """As config.json holds them, whoever's they were."""
    given = {
        "hidden_size": np.int16(8),
        "batch_size": np.array(4),
        "seed": np.uint64(2**63),
        "dropout": np.float32(0.25),
        "rate": np.float16(0.5),
        "factor_rate": Fraction(1, 4),
        "max_norm": np.longdouble(2),
        "penalty": 1,
        "cell": np.str_("rnn"),
        "activation": np.str_("relu"),
        "dtype": np.str_("float64"),
        "factors": np.array([[2, 4], [4, 2]]),
    }
    made = dataclasses.asdict(make(name, **given))
    plain = {
        "hidden_size": 8, "batch_size": 4, "seed": 2**63, "dropout": 0.25, "rate": 0.5,
        "factor_rate": 0.25, "max_norm": 2.0, "penalty": 1.0, "cell": "rnn", "activation": "relu",
        "dtype": "float64", "factors": ((2, 4), (4, 2)),
    }  # fmt: skip
    for name, value in plain.items():
        assert made[name] == value
        assert type(made[name]) is type(value)
    json.dumps(made, allow_nan=False, default=str)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"cell": "lstm", "activation": "tanh"}, "activation"),
        ({"cell": "gru", "activation": "modrelu"}, "activation"),
        *(({"matrix": m, "factors": ((2, 4), (4, 2))}, "factors") for m in ("dense", "full")),
        *(({"matrix": m, "init": "haar"}, "init") for m in ("dense", "restricted", "full")),
        *(({"matrix": m, "penalty": 0.0}, "penalty") for m in ("restricted", "full")),
        ({"matrix": "restricted", "backend": "cython"}, "backend 'cython'"),
        ({"cell": "lru", "matrix": "diagonal", "activation": "identity"}, "activation"),
        ({"cell": "lru", "matrix": "diagonal", "penalty": 0.1}, "penalty"),
        *(({name: 0.5}, name) for name in RING),
        ({"cell": "lstm", "eigenbasis": True}, "eigenbasis"),
        ({"cell": "lru", "matrix": "diagonal", "eigenbasis": True}, "eigenbasis"),
    ],
)
@pytest.mark.parametrize("task", [Copying, Phonemes])
def test_settings_that_cannot_act(task, settings, name):
    with pytest.raises(ValueError, match=f"^{name} acts only .*: leave it out"):
        task(hidden_size=8, **{"cell": "rnn"} | settings)


def test_an_lru_is_over_a_diagonal_matrix():
    task = Copying(cell="lru", matrix="diagonal", hidden_size=8)
    assert type(task.model().cells[0]).__name__ == "LRU"
    assert task.strength == 0
    with pytest.raises(ValueError, match="cell lru is over matrix diagonal: choose that matrix"):
        Copying(cell="lru", hidden_size=8)
    with pytest.raises(TypeError, match="complex states"):
        Copying(cell="lstm", matrix="diagonal", hidden_size=8)


def test_where_the_eigenvalues_of_a_diagonal_matrix_start(rng):
    task = Copying(
        cell="lru", matrix="diagonal", hidden_size=500, r_min=0.99, r_max=0.995, max_phase=0.3
    )
    cell = task.model().cells[0]
    (W,) = cell.matrices(cell.init(rng))
    eigenvalues = cell.matrix.eigenvalues(W)
    assert np.all((abs(eigenvalues) > 0.9899) & (abs(eigenvalues) < 0.9951))
    assert 0.29 < np.angle(eigenvalues).max() <= 0.3
    assert np.angle(eigenvalues).min() > 0
    with pytest.raises(ValueError, match="r_max must be 0 ≤ r_min ≤ r_max < 1"):
        Copying(cell="lru", matrix="diagonal", r_min=0.9995)


def test_a_linear_network_trains_the_same_in_its_eigenbasis():
    task = Copying(hidden_size=12, delay=4, activation="identity", dtype="complex128")
    inside = dataclasses.replace(task, eigenbasis=True)
    assert inside.model().cells[0].eigenbasis
    params = task.model().init(task.rng("parameters"))
    batch = task.batch(0)
    logits = [of.model().forward(params, batch.x)[0] for of in (task, inside)]
    np.testing.assert_allclose(*logits, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="eigenbasis is for a recurrence that is linear"):
        Copying(eigenbasis=True)


def test_a_seed_of_an_order_that_is_not_drawn():
    with pytest.raises(ValueError, match="permutation_seed acts only with permute: leave it out"):
        Pixels(permutation_seed=0)
    assert Pixels(permute=True, permutation_seed=0).permutation_seed == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Copying(matrix="dense", hidden_size=2**25),
        lambda: Copying(hidden_size=2**40),
        lambda: Copying(matrix="full", hidden_size=2**39),
        lambda: Copying(layers=1000, hidden_size=2**14),
        lambda: Copying(batch_size=2**40),
        lambda: Copying(delay=2**100),
        lambda: Adding(length=10**30),
        lambda: Characters(length=2**40),
        lambda: Pixels(hidden_size=2**21, batch_size=10_000, validation_size=1),
        lambda: Music(matrix="dense", hidden_size=2**24),
    ],
)
def test_what_no_machine_holds_is_refused_at_once(make):
    with pytest.raises(MemoryError, match=r"need at least .* GiB, this machine has"):
        make()


@pytest.mark.parametrize("task", [Copying(delay=4), Adding(length=6)])
@pytest.mark.parametrize("update", [None, -1, 1.5, math.nan, math.inf, "0", True, [0]])
def test_updates_that_there_are_not(task, update):
    for call in (task.batch, task.optimizer_at, lambda u: task.rng("training", u)):
        with pytest.raises((TypeError, ValueError), match=r"(update|index) must be .*, got"):
            call(update)
    assert task.batch(np.int64(3)).x.shape == task.batch(3).x.shape


@pytest.mark.parametrize("stream", [None, "Training", 0, ["test"], math.nan])
def test_streams_that_there_are_not(stream):
    with pytest.raises(ValueError, match="stream must be one of parameters, training"):
        Copying().rng(stream)


READERS = {
    "read_at_most": lambda path: datasets.read_at_most(10, path),
    "read_verified": lambda path: datasets.read_verified(path, "jsb"),
    "files_below": lambda path: list(datasets.files_below(path, ".phn")),
    "read_idx": lambda path: read_idx(path, (1,)),
    "load_digits": lambda path: load_digits("train", 10, path if path is not None else 0),
    "locate": lambda path: datasets.locate("mnist", "images", path if path is not None else 0),
    "state": lambda path: datasets.state("timit", path if path is not None else 0),
    "read_symbols": symbols.read_symbols,
    "read_json": piano_rolls.read_json,
    "read_mat": lambda path: piano_rolls.read_mat(path, "jsb"),
    "read_phonemes": speech.read_phonemes,
    "read_utterance": phonemes.read_utterance,
    "split_speakers": phonemes.split_speakers,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("path", [None, 0, 5, 1.5, b"x", ["x"], np.zeros(3), object(), "", "a\0b"])
def test_paths_that_are_none(name, path):
    """A number would be one of the process's open files, nothing this folder."""
    with pytest.raises((TypeError, ValueError), match=r"^(path|folder|root|data_dir) must "):
        READERS[name](path)


@pytest.mark.parametrize("shape", [(), (0,), (-1,), (2**32,), (1,) * 256, (1.5,), ("1",), (True,)])
def test_shapes_that_are_none(tmp_path, shape):
    with pytest.raises((TypeError, ValueError), match=r"^shape must be"):
        read_idx(tmp_path / "x", shape)


@pytest.mark.parametrize(
    "samples", [None, 0.0, "x", [], np.zeros(1039), np.zeros((2, 2000)), np.zeros(2000, complex),
                np.full(2000, np.nan), np.full(2000, np.inf)],
)  # fmt: skip
def test_samples_of_no_sound(samples):
    with pytest.raises((TypeError, ValueError), match="samples"):
        speech.mfcc(samples)


@pytest.mark.parametrize("name", [None, "", "Dense", "KRU", 0, ["rnn"]])
def test_names_of_no_cell_and_no_matrix(name):
    with pytest.raises(ValueError, match="cell must be one of rnn, lstm, gru, lru, got"):
        make_cell(name, 1, 2, make_matrix("dense", None, "auto"), "tanh", "float32")
    with pytest.raises(ValueError, match="matrix must be one of kronecker, dense, restricted"):
        make_matrix(name, None, "auto")
