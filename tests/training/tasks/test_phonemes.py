"""Phonemes: reading speech, features, labels."""

import struct

import numpy as np
import pytest
from damage import FUZZ, damaged, reads_or_says_why
from hypothesis import given
from hypothesis import strategies as st

from kru_ref.training.data import speech
from kru_ref.training.tasks import Phonemes, phonemes


def test_labels():
    assert len(speech.LABELS) == len(set(speech.LABELS)) == 61
    assert len(phonemes.CLASSES) == 39
    assert set(phonemes.FOLDED) <= set(speech.LABELS)


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
    np.testing.assert_array_equal(speech.read_samples(path.with_suffix(".wav")), samples / 2**15)
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    features, labels, weights = phonemes.read_utterance(path)
    assert weights.shape == (98,)
    assert features.shape == (98, 39)
    assert features.dtype == "float32"
    assert labels.shape == (98,)
    middles = np.arange(98) * 160 + 200
    np.testing.assert_array_equal(labels == speech.LABELS.index("iy"), middles >= 8000)
    # a middle that is the end of one phoneme belongs to the next
    path.write_text(f"0 {middles[50]} h#\n{middles[50]} 16000 iy\n")
    assert (phonemes.read_utterance(path).labels == speech.LABELS.index("iy")).argmax() == 50


def test_features_are_energy_and_cepstrum(tmp_path):
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    t = np.arange(8000) / 16_000
    loud, quiet = (a * np.sin(2 * np.pi * 440 * t).astype(np.float32) for a in (0.5, 0.05))
    a, b = speech.mfcc(loud), speech.mfcc(quiet)
    np.testing.assert_allclose(a[:, 0] - b[:, 0], np.log(100), rtol=1e-3)
    np.testing.assert_allclose(a[5, 0], np.log(400 * 0.5**2 / 2), rtol=0.02)
    high = speech.mfcc(0.5 * np.sin(2 * np.pi * 4000 * t).astype(np.float32))
    assert np.abs(a[20, 1:13] - high[20, 1:13]).max() > 10
    np.testing.assert_allclose(a[10:-10, 13], 0, atol=0.02)


def test_a_frame_does_not_depend_on_another(rng):
    """A loud bang leaves the quiet rest as it is, but for the four frames that changes reach."""
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    quiet = (1e-4 * rng.standard_normal(16_000)).astype(np.float32)
    loud = quiet.copy()
    loud[:400] += rng.standard_normal(400).astype(np.float32)
    np.testing.assert_allclose(speech.mfcc(loud)[10:], speech.mfcc(quiet)[10:], rtol=1e-4)


def test_the_second_change_is_that_of_the_first(rng):
    pytest.importorskip("librosa", reason="speech needs the extra 'speech'")
    features = speech.mfcc(rng.standard_normal(16_000).astype(np.float32))
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
        speech.read_phonemes(path)


@FUZZ
@given(content=damaged(b"0 100 h#\n100 200 sh\n200 350 iy\n") | st.binary(max_size=100))
def test_damaged_lists(tmp_path_factory, content):
    def valid(columns):
        ends, labels = columns
        assert (np.diff([0, *ends]) > 0).all()
        assert labels.max() < 61

    path = tmp_path_factory.getbasetemp() / "list.phn"
    reads_or_says_why(speech.read_phonemes, path, content, valid)


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
        reads_or_says_why(speech.read_samples, tmp_path / "x.wav", content, valid)

    check()


@pytest.mark.parametrize("container", ["WAV", "NIST"])
@pytest.mark.parametrize("left", [20_000, -1, -2])
def test_recordings_that_were_cut(tmp_path, container, left):
    path, _ = write_utterance(tmp_path, container=container)
    path = path.with_suffix(".wav")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"si1\.wav: .*says 32000 bytes of samples, it has .*cut"):
        speech.read_samples(path)


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
    np.testing.assert_array_equal(speech.read_samples(tmp_path / "a.wav"), sound / 2**15)


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
        speech.read_samples(path)
    assert len(str(caught.value).removeprefix(str(path))) < 300


@pytest.mark.parametrize("container", ["WAV", "NIST"])
def test_no_changed_bit_of_a_header_changes_samples(tmp_path, sound, container):
    """Each is either refused or of no matter."""
    whole = nist(sound)
    path = tmp_path / "a.wav"
    if container == "WAV":
        whole = write_utterance(tmp_path, n=1500)[0].with_suffix(".wav").read_bytes()
    path.write_bytes(whole)
    right, refused = speech.read_samples(path), 0
    for bit in range(8 * 360 if container == "NIST" else 8 * 44):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            np.testing.assert_array_equal(speech.read_samples(path), right)
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
        speech.read_samples(path)


def test_an_odd_number_of_bytes(tmp_path):
    path, _ = write_utterance(tmp_path, n=2000)
    path = path.with_suffix(".wav")
    content = bytearray(path.read_bytes()) + b"xx"
    content[40:44] = struct.pack("<I", 4001)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="says 4001 bytes of samples"):
        speech.read_samples(path)


def test_other_chunks_around_the_samples(tmp_path):
    path, samples = write_utterance(tmp_path)
    path = path.with_suffix(".wav")
    content = path.read_bytes()
    more = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    content = content[:36] + more + content[36:] + more
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    np.testing.assert_array_equal(speech.read_samples(path), samples / 2**15)


def test_recordings_that_cannot_be_read(tmp_path):
    pytest.importorskip("soundfile", reason="speech needs the extra 'speech'")
    with pytest.raises(FileNotFoundError, match=r"cannot read .*a\.wav: No such file"):
        speech.read_samples(tmp_path / "a.wav")
    with pytest.raises(IsADirectoryError, match=r"cannot read .*: it is a folder"):
        speech.read_samples(tmp_path)


@pytest.mark.parametrize("n", [2**31 - 8, 2**32 - 1])
def test_a_forged_size_takes_no_memory(tmp_path, n):
    path, _ = write_utterance(tmp_path, n=2000)
    content = bytearray(path.with_suffix(".wav").read_bytes())
    content[40:44] = struct.pack("<I", n)
    forged = tmp_path / "forged.wav"
    reads_or_says_why(speech.read_samples, forged, bytes(content), len)


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
        speech.read_samples(path)


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
    q = speech.LABELS.index("q")
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
    p, silence = speech.LABELS.index("pcl"), speech.LABELS.index("h#")
    wrong[:, [p, silence]] = wrong[:, [silence, p]]
    found = task.metrics(0.0, wrong, batch)
    assert found["frame_error"] == 0
    assert found["frame_error_61"] > 0
