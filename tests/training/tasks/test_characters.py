"""Characters: reading text, batches that go through it."""

import gzip
import hashlib

import numpy as np
import pytest
from damage import FUZZ, damaged, reads_or_says_why
from hypothesis import given
from hypothesis import strategies as st

from kru_ref.training.data.symbols import read_symbols
from kru_ref.training.tasks import Characters


def test_symbols(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b" a b _ c \n d ' \n")
    assert bytes(read_symbols(path)) == b"ab_c\nd'\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a", "expected a text, got 1 symbols"),
        (b" a b \n c dd e \n", r"line 2: expected single ASCII characters.*got .* c dd"),
        (b"a b \xe9 c\n", r"line 1: expected single ASCII"),
        (b"a b \x00 c\n", r"line 1: expected single ASCII"),
        (gzip.compress(b"a b c", mtime=0), "line 1"),
    ],
)
def test_texts_of_another_form(tmp_path, content, message):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_symbols(path)


@FUZZ
@given(content=damaged(b" a b _ c \n d e f ' \n" * 20) | st.binary(max_size=200))
def test_damaged_texts(tmp_path_factory, content):
    def valid(symbols):
        assert symbols.max() < 128
        assert len(symbols) <= len(content)

    path = tmp_path_factory.getbasetemp() / "text"
    reads_or_says_why(read_symbols, path, content, valid)


def test_another_text_than_the_published_one(tmp_path):
    """One that was cut, in the form of the right one, is refused unless it is meant."""
    write_ptb(tmp_path)
    path = tmp_path / "ptb.char.train.txt"
    with pytest.raises(ValueError, match=r"is not the published ptb\.char\.train\.txt") as caught:
        Characters(data_dir=tmp_path).batch(0)
    message = str(caught.value)
    for part in (hashlib.sha256(path.read_bytes()).hexdigest(), "e313d914", "--own-data"):
        assert part in message
    assert f"Delete or replace {path}. Penn Treebank is licensed" in message
    assert not message.endswith(":")
    Characters(data_dir=tmp_path, own_data=True, length=2, batch_size=2).batch(0)


def write_ptb(folder, train=None, valid="b a b a ", test="a a b b "):
    train = train or " ".join("abcd" * 50)
    for name, text in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"ptb.char.{name}.txt").write_text(text)


def test_batches_go_through_the_text(tmp_path):
    """Every character but the rest is a target once an epoch; sequences are carried on."""
    write_ptb(tmp_path, train=" ".join("abcd\n"[i * i % 5] for i in range(203)))
    task = Characters(length=7, batch_size=4, data_dir=tmp_path, own_data=True, hidden_size=8)
    text = read_symbols(tmp_path / "ptb.char.train.txt")
    alphabet = np.unique(text)
    size = (len(text) - 1) // 4
    seen = [[], [], [], []]
    for update in range(size // 7):
        batch = task.batch(update)
        assert batch.continues == (update > 0)
        assert batch.x.shape == batch.targets.shape == (7, 4)
        np.testing.assert_array_equal(batch.x[1:], batch.targets[:-1])
        for b in range(4):
            seen[b] += [batch.x[0, b], *batch.targets[:, b]][bool(seen[b]) :]
    for b in range(4):
        expected = text[b * size : b * size + len(seen[b])]
        np.testing.assert_array_equal(alphabet[seen[b]], expected)
    again = task.batch(size // 7)
    assert not again.continues
    np.testing.assert_array_equal(again.x, task.batch(0).x)


def test_held_out_text_is_whole(tmp_path):
    write_ptb(tmp_path, test=" ".join("abcd"[i * i % 4] for i in range(50)))
    task = Characters(length=5, batch_size=3, data_dir=tmp_path, own_data=True, hidden_size=8)
    batches = list(task.held_out("test"))
    assert [b.continues for b in batches] == [False, True, True, True]
    assert sum(b.targets.size for b in batches) == 48
    assert task.metrics(np.log(2.0), np.zeros(()), batches[0]) == {"bits": pytest.approx(1)}


def test_texts_that_do_not_fit(tmp_path):
    write_ptb(tmp_path, valid="a b z")
    with pytest.raises(ValueError, match=r"valid\.txt: 'z' does not occur in .*train\.txt"):
        Characters(data_dir=tmp_path, own_data=True).batch(0)
    write_ptb(tmp_path)
    with pytest.raises(ValueError, match="200 characters are too few for 50 sequences of 100"):
        Characters(data_dir=tmp_path, own_data=True).batch(0)
    write_ptb(tmp_path, train=" ".join(chr(33 + i) for i in range(60)))
    with pytest.raises(ValueError, match="expected 50 different symbols at most, got 60"):
        Characters(data_dir=tmp_path, own_data=True).batch(0)
    write_ptb(tmp_path)
    with pytest.raises(ValueError, match="4 characters of validation are too few for 7 sequences"):
        list(Characters(data_dir=tmp_path, own_data=True, batch_size=7).held_out("validation"))
    (tmp_path / "ptb.char.test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"LDC99T42.*--data-dir"):
        Characters(data_dir=tmp_path, own_data=True).batch(0)


def test_penn_treebank(real):
    task = Characters(data_dir=real("ptb"))
    texts = task._texts
    assert {split: len(text) for split, text in texts.items()} == {
        "train": 5_017_482,
        "validation": 393_042,
        "test": 442_423,
    }
    assert len(np.unique(texts["train"])) == 50
    assert task.batch(0).x.max() < 50
