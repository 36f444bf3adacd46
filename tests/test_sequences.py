"""Characters, music and speech: the parsers, the batches, and files that are not what they say."""

import dataclasses
import gzip
import hashlib
import json
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kru_ref as kru
from kru_ref.training.tasks import Characters, Music, Phonemes, music, phonemes
from kru_ref.training.tasks.characters import read_symbols
from kru_ref.training.tasks.task import epoch_of, pad

FUZZ = settings(max_examples=150)


@st.composite
def damaged(draw, content):
    """Draw a file with bytes changed, cut, doubled or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "huge"]))
        if kind == "change" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 2000))]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        else:
            content[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(content)


def reads_or_says_why(read, path, content, valid):
    """Read, or raise a ValueError that names the file; never with much memory."""
    path.write_bytes(content)
    why = None
    tracemalloc.start()
    try:
        valid(read(path))
    except ValueError as error:
        why = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert why is None or str(path) in why
    assert peak < 60 * len(content) + 2_000_000


# Penn Treebank


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


# Music


def test_pieces_of_json(tmp_path):
    path = tmp_path / "music.json"
    pieces = {"train": [[[60, 64], []]], "valid": [[[21], [108]]], "test": [[[21], [22], [23]]]}
    path.write_text(json.dumps(pieces))
    rolls = music.read_json(path)
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
            music.read_mat(tmp_path / "a.mat", name)
    with pytest.raises(ValueError, match=r"data set must be one of mnist, .*got 'bach'"):
        music.read_mat(tmp_path / "JSB_Chorales.mat", "bach")


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
        music.read_json(path)


JSON = json.dumps({name: [[[60, 64], [], [88]]] for name in ("train", "valid", "test")}).encode()


@FUZZ
@given(content=damaged(JSON) | st.binary(max_size=200))
def test_damaged_json(tmp_path_factory, content):
    def valid(rolls):
        assert all(roll.shape[1] == 88 for some in rolls.values() for roll in some)

    path = tmp_path_factory.getbasetemp() / "music.json"
    reads_or_says_why(music.read_json, path, content, valid)


@settings(FUZZ, max_examples=30)
@given(choice=st.data())
def test_damaged_mat_files(real, tmp_path_factory, choice):
    content = (real("jsb") / "jsb" / "JSB_Chorales.mat").read_bytes()
    original, content = content, choice.draw(damaged(content))
    assume(content != original)
    path = tmp_path_factory.getbasetemp() / "JSB_Chorales.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not the published JSB_Chorales\.mat: its SHA-256 is"):
        music.read_mat(path, "jsb")


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


# Speech


def test_labels():
    assert len(phonemes.LABELS) == len(set(phonemes.LABELS)) == 61
    assert len(phonemes.CLASSES) == 39
    assert set(phonemes.FOLDED) <= set(phonemes.LABELS)


def write_utterance(folder, name="si1", n=16_000, container="WAV", labels=None, shorter=0):
    soundfile = pytest.importorskip("soundfile", reason="speech needs the extra 'speech'")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n)
    samples = (3000 * rng.standard_normal(n)).astype(np.int16)
    path = folder / f"{name}.wav"
    soundfile.write(path, samples, 16_000, format=container, subtype="PCM_16")
    labels = labels or f"0 {n // 2} h#\n{n // 2} {n - shorter} iy\n"
    (folder / f"{name}.phn").write_text(labels)
    return folder / f"{name}.phn", samples


@pytest.mark.parametrize("container", ["WAV", "NIST"])
@pytest.mark.parametrize("shorter", [0, 1, 200, -1])
def test_an_utterance(tmp_path, container, shorter):
    """The list may end a little before or behind the recording."""
    path, samples = write_utterance(tmp_path, container=container, shorter=shorter)
    np.testing.assert_array_equal(phonemes.read_samples(path.with_suffix(".wav")), samples / 2**15)
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    features, labels, weights = phonemes.read_utterance(path)
    assert weights.shape == (98,)
    assert features.shape == (98, 39)
    assert features.dtype == "float32"
    assert labels.shape == (98,)
    middles = np.arange(98) * 160 + 200
    np.testing.assert_array_equal(labels == phonemes.LABELS.index("iy"), middles >= 8000)
    # a middle that is the end of one phoneme belongs to the next
    path.write_text(f"0 {middles[50]} h#\n{middles[50]} 16000 iy\n")
    assert (phonemes.read_utterance(path).labels == phonemes.LABELS.index("iy")).argmax() == 50


def test_features_are_energy_and_cepstrum(tmp_path):
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    t = np.arange(8000) / 16_000
    loud, quiet = (a * np.sin(2 * np.pi * 440 * t).astype(np.float32) for a in (0.5, 0.05))
    a, b = phonemes.mfcc(loud), phonemes.mfcc(quiet)
    np.testing.assert_allclose(a[:, 0] - b[:, 0], np.log(100), rtol=1e-3)
    np.testing.assert_allclose(a[5, 0], np.log(400 * 0.5**2 / 2), rtol=0.02)
    high = phonemes.mfcc(0.5 * np.sin(2 * np.pi * 4000 * t).astype(np.float32))
    assert np.abs(a[20, 1:13] - high[20, 1:13]).max() > 10
    np.testing.assert_allclose(a[10:-10, 13], 0, atol=0.02)


def test_a_frame_does_not_depend_on_another(rng):
    """A loud bang leaves the quiet rest as it is, but for the four frames that changes reach."""
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    quiet = (1e-4 * rng.standard_normal(16_000)).astype(np.float32)
    loud = quiet.copy()
    loud[:400] += rng.standard_normal(400).astype(np.float32)
    np.testing.assert_allclose(phonemes.mfcc(loud)[10:], phonemes.mfcc(quiet)[10:], rtol=1e-4)


def test_the_second_change_is_that_of_the_first(rng):
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    features = phonemes.mfcc(rng.standard_normal(16_000).astype(np.float32))
    for start in (0, 13):
        # slope of the straight line through five frames
        before = features[:, start : start + 13].astype(np.float64)
        slope = sum(k * before[2 + k : len(before) - 2 + k] for k in range(-2, 3)) / 10
        after = features[2:-2, start + 13 : start + 26]
        np.testing.assert_allclose(after, slope, rtol=1e-3, atol=1e-4)


def test_names_in_either_case(tmp_path):
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    path, _ = write_utterance(tmp_path)
    upper = path.rename(tmp_path / "SI1.PHN")
    assert len(phonemes.read_utterance(upper).labels) == 98


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("0 100\n", "line 1: expected first sample, end and one of TIMIT's 61 labels, got '0 100'"),
        ("0 100 h#\n100 200 zz\n", "line 2: expected first sample.*got '100 200 zz'"),
        ("0 100 h#\n100 x sh\n", "line 2"),
        ("-5 100 h#\n", "line 1"),
        ("0 100 h#\n50 200 sh\n", "line 2: phonemes must follow .*from 100 on, got 50 to 200"),
        ("0 100 h#\n150 200 sh\n", "line 2: phonemes must follow .*from 100 on, got 150 to 200"),
        ("10 100 h#\n", "line 1: phonemes must follow .*from 0 on, got 10 to 100"),
        ("0 100 h#\n100 100 sh\n", "line 2: phonemes must follow"),
        (
            "0 99999999999999999999 h#\n",
            "line 1: phonemes must follow .*within",
        ),
        ("0 100 h# " + "x" * 200, "line 1"),
    ],
)
def test_lists_of_another_form(tmp_path, text, message):
    path = tmp_path / "a.phn"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        phonemes.read_phonemes(path)


@FUZZ
@given(content=damaged(b"0 100 h#\n100 200 sh\n200 350 iy\n") | st.binary(max_size=100))
def test_damaged_lists(tmp_path_factory, content):
    def valid(columns):
        ends, labels = columns
        assert (np.diff([0, *ends]) > 0).all()
        assert labels.max() < 61

    path = tmp_path_factory.getbasetemp() / "list.phn"
    reads_or_says_why(phonemes.read_phonemes, path, content, valid)


@pytest.mark.parametrize("container", ["WAV", "NIST"])
def test_damaged_recordings(tmp_path, container):
    path, samples = write_utterance(tmp_path, n=2000, container=container)
    whole = path.with_suffix(".wav").read_bytes()
    # most damage to the header, which is 44 or 1024 bytes long
    header = len(whole) - 2 * len(samples)

    @FUZZ
    @given(content=damaged(whole[:header]), rest=damaged(whole[header:]), both=st.booleans())
    def check(content, rest, both):
        def valid(read):
            assert np.isfinite(read).all()

        content += rest if both else whole[header:]
        reads_or_says_why(phonemes.read_samples, tmp_path / "x.wav", content, valid)

    check()


@pytest.mark.parametrize("container", ["WAV", "NIST"])
@pytest.mark.parametrize("left", [20_000, -1, -2])
def test_recordings_that_were_cut(tmp_path, container, left):
    path, _ = write_utterance(tmp_path, container=container)
    path = path.with_suffix(".wav")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"si1\.wav: .*says 32000 bytes of samples, it has .*cut"):
        phonemes.read_samples(path)


def nist(samples, **fields):
    """Return a NIST SPHERE file, with other values of some of its fields; None leaves one out."""
    lines = {
        "database_id": "-s5 TIMIT", "utterance_id": "-s8 cjf0_sa1", "channel_count": "-i 1",
        "sample_count": f"-i {len(samples)}", "sample_rate": "-i 16000", "sample_min": "-i -9",
        "sample_n_bytes": "-i 2", "sample_byte_format": "-s2 01", "sample_sig_bits": "-i 16",
    }  # fmt: skip
    lines = {name: value for name, value in (lines | fields).items() if value is not None}
    head = "NIST_1A\n   1024\n" + "".join(f"{k} {v}\n" for k, v in lines.items()) + "end_head\n"
    order = ">i2" if lines.get("sample_byte_format") == "-s2 10" else "<i2"
    return head.encode().ljust(1024) + samples.astype(order).tobytes()


@pytest.fixture
def sound(rng):
    pytest.importorskip("soundfile", reason="speech needs the extra 'speech'")
    return (3000 * rng.standard_normal(1500)).astype(np.int16)


@pytest.mark.parametrize("fields", [{}, {"sample_byte_format": "-s2 10"}, {"x": "-r 1.5"}])
def test_nist_headers_that_are_right(tmp_path, sound, fields):
    (tmp_path / "a.wav").write_bytes(nist(sound, **fields))
    np.testing.assert_array_equal(phonemes.read_samples(tmp_path / "a.wav"), sound / 2**15)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("sample_byte_format", "-s2 11", "says '11' for sample_byte_format"),
        ("sample_byte_format", "-s1 1", "says '1' for"),
        ("sample_byte_format", None, "says 'nothing' for sample_byte_format"),
        ("sample_byte_format", "-s3 01", "is none"),
        ("sample_byte_format", "-i 01x", "is none"),
        ("sample_byte_format", "01", "is none"),
        (
            "sample_byte_fosmat",
            "-s2 10\nsample_byte_format -s2 01\nsample_byte_fosmat -s1 x",
            "none",
        ),
        ("sample_n_bytes", "-i 1", "says '1' for sample_n_bytes"),
        ("sample_n_bytes", None, "says 'nothing' for sample_n_bytes"),
        ("sample_sig_bits", "-i 12", "says '12' for sample_sig_bits"),
        ("sample_rate", "-i 8000", "says '8000' for sample_rate"),
        ("channel_count", "-i 2", "says '2' for channel_count"),
        ("sample_coding", "-s4 ulaw", "says 'ulaw' for sample_coding"),
        ("sample_coding", "-s26 pcm,embedded-shorten-v2.00", "says .*shorten.* for sample_coding"),
        ("sample_count", None, "says 0 bytes of samples, it has 3000"),
        ("end_head\nx", "-i 3", "is none"),
    ],
)
def test_nist_headers_that_are_wrong(tmp_path, sound, name, value, says):
    path = tmp_path / "a.wav"
    path.write_bytes(nist(sound, **{name: value}))
    with pytest.raises(ValueError, match=rf"a\.wav: expected NIST.*{says}") as caught:
        phonemes.read_samples(path)
    assert len(str(caught.value).removeprefix(str(path))) < 300


@pytest.mark.parametrize("container", ["WAV", "NIST"])
def test_no_changed_bit_of_a_header_changes_samples(tmp_path, sound, container):
    """Each is either refused or of no matter."""
    whole = nist(sound)
    path = tmp_path / "a.wav"
    if container == "WAV":
        whole = write_utterance(tmp_path, n=1500)[0].with_suffix(".wav").read_bytes()
    path.write_bytes(whole)
    right, refused = phonemes.read_samples(path), 0
    for bit in range(8 * 360 if container == "NIST" else 8 * 44):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            np.testing.assert_array_equal(phonemes.read_samples(path), right)
        except ValueError:
            refused += 1
    assert refused > 250


@pytest.mark.parametrize("count", [99_999, 15_999, 2**40, 0, -5, "many"])
def test_a_forged_number_of_samples(tmp_path, count):
    path, _ = write_utterance(tmp_path, container="NIST")
    path = path.with_suffix(".wav")
    content = path.read_bytes()
    line = f"sample_count -i {count}\n".encode()
    forged = content.replace(b"sample_count -i 16000\n", line)
    assert forged != content
    path.write_bytes(forged[:1024].ljust(1024) + content[1024:])
    with pytest.raises(ValueError, match=r"si1\.wav: expected NIST SPHERE or RIFF"):
        phonemes.read_samples(path)


def test_an_odd_number_of_bytes(tmp_path):
    path, _ = write_utterance(tmp_path, n=2000)
    path = path.with_suffix(".wav")
    content = bytearray(path.read_bytes()) + b"xx"
    content[40:44] = struct.pack("<I", 4001)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="says 4001 bytes of samples"):
        phonemes.read_samples(path)


def test_other_chunks_around_the_samples(tmp_path):
    path, samples = write_utterance(tmp_path)
    path = path.with_suffix(".wav")
    content = path.read_bytes()
    more = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    content = content[:36] + more + content[36:] + more
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    np.testing.assert_array_equal(phonemes.read_samples(path), samples / 2**15)


def test_recordings_that_cannot_be_read(tmp_path):
    pytest.importorskip("soundfile", reason="speech needs the extra 'speech'")
    with pytest.raises(FileNotFoundError, match=r"cannot read .*a\.wav: No such file"):
        phonemes.read_samples(tmp_path / "a.wav")
    with pytest.raises(IsADirectoryError, match=r"cannot read .*: it is a folder"):
        phonemes.read_samples(tmp_path)


@pytest.mark.parametrize("n", [2**31 - 8, 2**32 - 1])
def test_a_forged_size_takes_no_memory(tmp_path, n):
    path, _ = write_utterance(tmp_path, n=2000)
    content = bytearray(path.with_suffix(".wav").read_bytes())
    content[40:44] = struct.pack("<I", n)
    forged = tmp_path / "forged.wav"
    reads_or_says_why(phonemes.read_samples, forged, bytes(content), len)


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"samplerate": 8000}, "8000 Hz"),
        ({"subtype": "PCM_24"}, "PCM_24"),
        ({"format": "FLAC"}, "FLAC"),
        ({"channels": 2}, "2 channels"),
    ],
)
def test_recordings_of_another_kind(tmp_path, settings, got):
    soundfile = pytest.importorskip("soundfile", reason="speech needs the extra 'speech'")
    channels = settings.pop("channels", 1)
    settings = {"samplerate": 16_000, "subtype": "PCM_16", "format": "WAV"} | settings
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((4000, channels)), **settings)
    with pytest.raises(ValueError, match=f"expected NIST SPHERE or RIFF.*got .*{got}"):
        phonemes.read_samples(path)


def test_recordings_and_lists_that_do_not_fit(tmp_path):
    path, _ = write_utterance(tmp_path, labels="0 3000 h#\n")
    with pytest.raises(ValueError, match=r"to sample 3000 do not fit the 16000 samples of si1"):
        phonemes.read_utterance(path)
    write_utterance(tmp_path, labels="0 30000 h#\n")
    with pytest.raises(ValueError, match=r"to sample 30000 do not fit the 16000 samples of si1"):
        phonemes.read_utterance(path)
    path.with_suffix(".wav").unlink()
    with pytest.raises(FileNotFoundError, match=r"no recording si1\.wav beside it"):
        phonemes.read_utterance(path)
    write_utterance(tmp_path, n=1000, labels="0 1000 h#\n")
    with pytest.raises(ValueError, match="1000 samples are too short for 5 frames"):
        phonemes.read_utterance(path)


def test_speakers_are_split(tmp_path):
    def touch(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0 1 h#")

    touch("dr1-fvmh0/si1.phn", "dr1-fvmh0/sa1.phn", "dr6-fapb0/sx2.phn", "dr2-faem0/si3.PHN")
    paths = phonemes.split_speakers(tmp_path)
    assert [p.name for p in paths["test"]] == ["si1.phn"]
    assert [p.name for p in paths["validation"]] == ["sx2.phn"]
    assert [p.name for p in paths["train"]] == ["si3.PHN"]
    with pytest.raises(ValueError, match=r"no speaker for train.*the speakers fal"):
        phonemes.split_speakers(tmp_path / "dr1-fvmh0")
    touch("train/dr1/fcjf0/si1.phn")
    for root in (tmp_path, tmp_path / "train"):
        with pytest.raises(ValueError, match=r"expected all of TIMIT, 3,696 sentences of 462 "):
            phonemes.split_speakers(root)


@pytest.mark.parametrize("upper", [False, True])
def test_all_of_timit_is_split_as_published(tmp_path, upper):
    """Training, Halberstadt's development speakers, and the core test set; not sa1 and sa2."""
    held_out = phonemes.PUBLISHED_SPLIT["validation"] | phonemes.PUBLISHED_SPLIT["test"]
    speakers = [f"train/dr{1 + i % 8}/m{i:03}0" for i in range(462)]
    speakers += [f"test/dr1/{speaker}" for speaker in sorted(held_out)]
    speakers += [f"test/dr1/fx{i:02}0" for i in range(94)]
    sentences = ["sa1", "sa2", "si1", "si2", "si3", "sx1", "sx2", "sx3", "sx4", "sx5"]
    for speaker in speakers:
        folder = tmp_path / "timit" / (speaker.upper() if upper else speaker)
        folder.mkdir(parents=True)
        for name in sentences:
            (folder / (f"{name}.PHN" if upper else f"{name}.phn")).touch()
    paths = phonemes.split_speakers(tmp_path / "timit")
    assert {split: len(some) for split, some in paths.items()} == {
        "train": 3696,
        "validation": 400,
        "test": 192,
    }
    found = {split: {p.parent.name.lower() for p in some} for split, some in paths.items()}
    assert found["train"] == {f"m{i:03}0" for i in range(462)}
    assert {split: found[split] for split in ("validation", "test")} == phonemes.PUBLISHED_SPLIT
    assert found["test"] >= {"mdab0", "fmld0"}
    next(p for p in paths["test"]).unlink()
    with pytest.raises(ValueError, match=r"192 sentences of 24 speakers for test; got 191 of 24"):
        phonemes.split_speakers(tmp_path / "timit")
    for path in paths["validation"] + paths["test"]:
        path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"400 sentences of 50 speakers for validation; got 0"):
        phonemes.split_speakers(tmp_path / "timit")


def write_speakers(folder, labels):
    """Write three utterances of each speaker of the sample's split, and of another."""
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    for speaker in ("fapb0", "madd0", "fvmh0", "marc0", "falr0", "mbgt0", "fabc0"):
        for i in range(3):
            n = 3000 + 2000 * i
            write_utterance(folder / speaker, f"si{i}", n=n, labels=labels(n))


def test_the_glottal_stop_does_not_count(tmp_path, rng):
    """The mean over batches is the share of all frames that are not q and are named wrong."""
    write_speakers(tmp_path, lambda n: f"0 1000 h#\n1000 2500 q\n2500 {n} iy\n")
    task = Phonemes(data_dir=tmp_path, batch_size=5)
    q = phonemes.LABELS.index("q")
    means = {"frame_error": 0.0, "frame_error_61": 0.0}
    wrong, counted, steps = 0, 0, 0.0
    shares = set()
    for batch in task.held_out("test"):
        # half right, half drawn from all labels, q among them
        named = np.where(
            rng.random(batch.targets.shape) < 0.5, batch.targets, rng.integers(61, size=(1, 1))
        )
        logits = np.eye(61)[named].transpose(0, 2, 1)
        for name, value in task.metrics(0.0, logits, batch).items():
            means[name] += batch.n_steps * value
        steps += batch.n_steps
        here = (batch.mask > 0) & (batch.targets != q)
        shares.add(here.sum() / batch.n_steps)
        counted += here.sum()
        wrong += (here & (phonemes.CLASS_OF[named] != phonemes.CLASS_OF[batch.targets])).sum()
    assert len(shares) > 1
    assert means["frame_error"] / steps == pytest.approx(wrong / counted, rel=1e-12)
    batch = next(task.held_out("test"))
    only_q = np.eye(61)[np.full_like(batch.targets, q)].transpose(0, 2, 1)
    found = task.metrics(0.0, only_q, batch)
    right = ((batch.mask > 0) & (batch.targets == q)).sum() / batch.n_steps
    assert found["frame_error_61"] == pytest.approx(1 - right)
    assert found["frame_error"] == pytest.approx(batch.weights.sum() / batch.n_steps)


def test_silence_is_refused(tmp_path):
    soundfile = pytest.importorskip("soundfile", reason="speech needs the extra 'speech'")
    write_speakers(tmp_path, lambda n: f"0 {n} h#\n")
    for path in tmp_path.glob("fabc0/*.wav"):
        n = len(soundfile.read(path)[0])
        soundfile.write(path, np.zeros(n, np.int16), 16_000, subtype="PCM_16")
    with pytest.raises(ValueError, match=r"expected speech.*are they silent") as caught:
        Phonemes(data_dir=tmp_path).batch(0)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_timit_sample(real):
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    task = Phonemes(data_dir=real("timit-sample"), batch_size=7)
    utterances = task._utterances
    assert {split: len(some) for split, some in utterances.items()} == {
        "train": 80,
        "validation": 16,
        "test": 32,
    }
    frames = np.concatenate([u.features for u in utterances["train"]])
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-4)
    batch = task.batch(0)
    assert batch.x.shape == (batch.targets.shape[0], 39, 7)
    n = sum(b.n_steps for b in task.held_out("test"))
    assert n == sum(len(u.labels) for u in utterances["test"])
    right = np.eye(61)[batch.targets].transpose(0, 2, 1)
    assert task.metrics(0.0, right, batch) == {"frame_error": 0, "frame_error_61": 0}
    # the closure of a p is silence to the 39 classes, and wrong to the 61
    wrong = right.copy()
    p, silence = phonemes.LABELS.index("pcl"), phonemes.LABELS.index("h#")
    wrong[:, [p, silence]] = wrong[:, [silence, p]]
    found = task.metrics(0.0, wrong, batch)
    assert found["frame_error"] == 0
    assert found["frame_error_61"] > 0


# Sequences of different lengths


def test_pad():
    padded, mask = pad([np.ones((2, 3)), 2 * np.ones((4, 3)), 3 * np.ones((1, 3))])
    assert padded.shape == (4, 3, 3)
    np.testing.assert_array_equal(mask.sum(axis=0), [2, 4, 1])
    np.testing.assert_array_equal(padded.sum(axis=(0, 1)), [6, 24, 9])
    np.testing.assert_array_equal(padded[:, 0] * (1 - mask), 0)
    labels, _ = pad([np.array([5, 6]), np.array([7])])
    np.testing.assert_array_equal(labels, [[5, 7], [6, 0]])


def test_epochs():
    assert [epoch_of(u, 5, 2) for u in range(5)] == [(0, 0), (0, 2), (0, 4), (1, 0), (1, 2)]


CELLS = {
    "kru": lambda backend: kru.KRU(3, 12, dtype="complex128", backend=backend),
    "lstm": lambda backend: kru.LSTM(3, 12, kru.Kronecker(backend=backend), "float64"),
    "gru": lambda backend: kru.GRU(3, 12, kru.Kronecker(backend=backend), "float64"),
    "dense": lambda backend: kru.LSTM(3, 12, kru.Dense(), "float64"),
}


@pytest.mark.parametrize("cell", CELLS)
def test_padded_steps_change_nothing(rng, cell, backend):
    """Neither loss nor gradients: those of the batch are the sums of the sequences' own."""
    model = kru.SequenceModel(CELLS[cell](backend), 4)
    params = model.init(rng)
    xs = [rng.standard_normal((T, 3)) for T in (5, 2, 7)]
    targets = [rng.integers(2, size=(len(x), 4)) for x in xs]
    total, n = dict.fromkeys(params, 0.0), sum(len(x) for x in xs)
    value = 0.0
    for x, target in zip(xs, targets, strict=True):
        logits, saved = model.forward(params, x[..., None])
        loss, dlogits = kru.bernoulli_cross_entropy(logits, target[..., None])
        value += loss * len(x) / n
        for name, g in model.backward(params, saved, dlogits).items():
            total[name] = total[name] + g * len(x) / n
    x, mask = pad(xs)
    logits, saved = model.forward(params, x)
    loss, dlogits = kru.bernoulli_cross_entropy(logits, pad(targets)[0], mask)
    grads = model.backward(params, saved, dlogits)
    assert loss == pytest.approx(value, rel=1e-13)
    for name, g in grads.items():
        np.testing.assert_allclose(g, total[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("depth", [5, 300, 900, *range(960, 1000, 4), 10_000, 10**6])
def test_json_that_is_nested_deeply(tmp_path, depth):
    path = tmp_path / "nested.json"
    for around in ("%s", '{"train": [%s], "valid": [[[]]], "test": [[[]]]}',
                   '{"train": [[[60], %s]], "valid": [[[]]], "test": [[[]]]}',
                   '{"train": [[[60], [%s]]], "valid": [[[]]], "test": [[[]]]}'):  # fmt: skip
        path.write_text(around % ("[" * depth + "]" * depth))
        with pytest.raises(ValueError, match=r"nested\.json") as caught:
            music.read_json(path)
        assert len(str(caught.value).removeprefix(str(path))) < 300
