"""Music: reading piano rolls, chords."""

import dataclasses
import json

import numpy as np
import pytest
from damage import FUZZ, damaged, reads_or_says_why
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kru_ref as kru
from kru_ref.training.data import piano_rolls
from kru_ref.training.tasks import Music


def test_pieces_of_json(tmp_path):
    path = tmp_path / "music.json"
    pieces = {"train": [[[60, 64], []]], "valid": [[[21], [108]]], "test": [[[21], [22], [23]]]}
    path.write_text(json.dumps(pieces))
    rolls = piano_rolls.read_json(path)
    assert rolls["train"][0].shape == (2, 88)
    assert np.argwhere(rolls["train"][0]).tolist() == [[0, 39], [0, 43]]
    assert np.argwhere(rolls["validation"][0]).tolist() == [[0, 0], [1, 87]]
    assert rolls["test"][0].sum() == 3


def test_other_pieces_than_the_published_ones(tmp_path):
    pieces = dict.fromkeys(("train", "valid", "test"), GOOD)
    (tmp_path / "jsb-chorales-quarter.json").write_text(json.dumps(pieces))
    with pytest.raises(ValueError, match=r"is not the published jsb-chorales.*--own-data"):
        Music(data_dir=tmp_path).batch(0)
    # a MATLAB file beside it is not looked at
    (tmp_path / "JSB_Chorales.mat").write_bytes(b"damaged")
    assert Music(data_dir=tmp_path, own_data=True).batch(0).x.shape == (1, 88, 1)
    with pytest.raises(
        ValueError, match=r"not the published JSB_Chorales\.mat.*Delete or"
    ) as caught:
        Music(data_dir=tmp_path).batch(0)
    assert "--own-data" not in str(caught.value)


def test_a_mat_file_of_another_name(tmp_path):
    for name in ("jsb", "piano-midi"):
        with pytest.raises(ValueError, match=r"one of the files of .* got the name a\.mat"):
            piano_rolls.read_mat(tmp_path / "a.mat", name)
    with pytest.raises(ValueError, match=r"data set must be one of mnist, .*got 'bach'"):
        piano_rolls.read_mat(tmp_path / "JSB_Chorales.mat", "bach")


GOOD = [[[60], [61]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[" + "1" * 5000 + "]", r"music\.json is no JSON \(Exceeds the limit"),
        ("[1, 2]", 'expected an object with "train", "valid" and "test"'),
        ({"train": GOOD, "valid": GOOD}, 'expected an object with "train", "valid" and "test"'),
        ({"train": [], "valid": GOOD, "test": GOOD}, "list of pieces in 'train', got 0 of them"),
        ({"train": GOOD, "valid": {}, "test": GOOD}, "list of pieces in 'valid', got dict"),
        ({"train": [[[60]]], "valid": GOOD, "test": GOOD}, r"chords in train\[0\], got 1 of them"),
        ({"train": GOOD, "valid": GOOD, "test": [[60, 61]]}, r"in test\[0\]\[0\], got 60"),
        ({"train": GOOD, "valid": GOOD, "test": [[[60], [20]]]}, r"test\[0\]\[1\], got \[20\]"),
        ({"train": GOOD, "valid": GOOD, "test": [[[60], [True]]]}, r"test\[0\]\[1\], got \[True\]"),
        ({"train": GOOD, "valid": GOOD, "test": [[[60], [1e9]]]}, r"test\[0\]\[1\], got"),
        ({"train": GOOD, "valid": GOOD, "test": [[[60]] * 100_001]}, "100001 of them"),
    ],
)
def test_json_of_another_form(tmp_path, content, message):
    path = tmp_path / "music.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        piano_rolls.read_json(path)


JSON = json.dumps({name: [[[60, 64], [], [88]]] for name in ("train", "valid", "test")}).encode()


@FUZZ
@given(content=damaged(JSON) | st.binary(max_size=200))
def test_damaged_json(tmp_path_factory, content):
    def valid(rolls):
        assert all(roll.shape[1] == 88 for some in rolls.values() for roll in some)

    path = tmp_path_factory.getbasetemp() / "music.json"
    reads_or_says_why(piano_rolls.read_json, path, content, valid)


@settings(FUZZ, max_examples=30)
@given(choice=st.data())
def test_damaged_mat_files(real, tmp_path_factory, choice):
    content = (real("jsb") / "jsb" / "JSB_Chorales.mat").read_bytes()
    original, content = content, choice.draw(damaged(content))
    assume(content != original)
    path = tmp_path_factory.getbasetemp() / "JSB_Chorales.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not the published JSB_Chorales\.mat: its SHA-256 is"):
        piano_rolls.read_mat(path, "jsb")


def test_jsb_chorales(real, tmp_path):
    """Both forms hold the same; sizes are the published ones."""
    data = real("jsb")
    task = Music(data_dir=data)
    rolls = task._rolls
    assert {split: len(some) for split, some in rolls.items()} == {
        "train": 229,
        "validation": 76,
        "test": 77,
    }
    assert sum(len(roll) for roll in rolls["test"]) == 4725
    copy = tmp_path / "jsb"
    copy.mkdir()
    name = "jsb-chorales-quarter.json"
    (copy / name).write_bytes((data / "jsb" / name).read_bytes())
    for split, some in dataclasses.replace(task, data_dir=tmp_path)._rolls.items():
        for ours, theirs in zip(some, rolls[split], strict=True):
            np.testing.assert_array_equal(ours, theirs)

    # each piece once an epoch, whole, each chord after the one before
    frames = 0.0
    for update in range(12):
        batch = task.batch(update)
        np.testing.assert_array_equal(batch.x[1:], batch.targets[:-1] * batch.mask[1:, None])
        frames += batch.n_steps
    assert frames == sum(len(roll) - 1 for roll in rolls["train"])
    assert not np.array_equal(task.batch(0).x, task.batch(12).x)
    held_out = sum(batch.n_steps for batch in task.held_out("test"))
    assert held_out == 4725 - 77
    assert task.baseline[1] == pytest.approx(11.09, abs=0.01)


def test_piano_midi(real):
    task = Music(data="piano-midi", data_dir=real("piano-midi"), excerpt=50)
    assert {split: len(some) for split, some in task._rolls.items()} == {
        "train": 87,
        "validation": 12,
        "test": 25,
    }
    batch = task.batch(3)
    assert batch.x.shape == (50, 88, 20)
    beginnings = np.stack([roll[:50] for roll in task._rolls["train"]])
    somewhere = [not (beginnings == batch.x[..., b]).all(axis=(1, 2)).any() for b in range(20)]
    assert sum(somewhere) > 10
    np.testing.assert_array_equal(batch.x, task.batch(3).x)
    assert max(b.x.shape[0] for b in task.held_out("test")) == 2644


def test_accuracy_of_chords():
    task = Music()
    logits = np.array([3.0, -3, 3, -3]).reshape(1, 4, 1).repeat(2, axis=0)
    truth = np.array([1, 1, 0, 0]).reshape(1, 4, 1).repeat(2, axis=0)
    batch = kru.training.tasks.task.Batch(logits, truth, np.ones((2, 1)))
    assert task.metrics(0.0, logits, batch)["accuracy"] == pytest.approx(1 / 3)
    silence = batch._replace(targets=0 * truth)
    assert task.metrics(0.0, -abs(logits), silence)["accuracy"] == 1
    masked = batch._replace(mask=np.array([[1.0], [0.0]]))
    logits[1] = 5 * (2 * truth[1] - 1)
    assert task.metrics(0.0, logits, masked)["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("depth", [5, 300, 900, *range(960, 1000, 4), 10_000, 10**6])
def test_json_that_is_nested_deeply(tmp_path, depth):
    path = tmp_path / "nested.json"
    for around in ("%s", '{"train": [%s], "valid": [[[]]], "test": [[[]]]}',
                   '{"train": [[[60], %s]], "valid": [[[]]], "test": [[[]]]}',
                   '{"train": [[[60], [%s]]], "valid": [[[]]], "test": [[[]]]}'):  # fmt: skip
        path.write_text(around % ("[" * depth + "]" * depth))
        with pytest.raises(ValueError, match=r"nested\.json") as caught:
            piano_rolls.read_json(path)
        assert len(str(caught.value).removeprefix(str(path))) < 300
