"""IDX files: what is right is read, what is wrong is named."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kru_ref.training.data.digits import load_digits
from kru_ref.training.data.idx import read_idx

SHAPE = (3, 4, 2)


def idx(data, kind=8):
    return struct.pack(f">BBBB{data.ndim}I", 0, 0, kind, data.ndim, *data.shape) + data.tobytes()


@pytest.fixture
def data(rng):
    return rng.integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.mark.parametrize("zipped", [False, True])
def test_it_reads(tmp_path, data, zipped):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(data)) if zipped else idx(data))
    np.testing.assert_array_equal(read_idx(path, SHAPE), data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: idx(d)[:-1], "expected 24 bytes of data after the header, got 23"),
        (lambda d: idx(d) + b"x", "got more"),
        (lambda d: idx(d)[:10], "type 0x08 with 3 dimensions"),
        (lambda d: b"", "begins with nothing"),
        (lambda d: b"PNG" + idx(d), "begins with 50 4e 47 00"),
        (lambda d: idx(d, kind=13), r"type 0x0d with shape \(3, 4, 2\)"),
        (lambda d: idx(d[:2]), r"expected .* shape \(3, 4, 2\), got type 0x08 with shape \(2, 4"),
        (lambda d: idx(d[0, 0]), r"with shape \(2,\)"),
        (lambda d: gzip.compress(idx(d))[:-4], "damaged gzip file"),
        (lambda d: gzip.compress(idx(d))[:20] + b"\xff" * 30, "damaged gzip file"),
        (lambda d: b"\x1f\x8b", "damaged gzip file"),
        (lambda d: gzip.compress(idx(d)) + gzip.compress(b""), "something behind its end"),
        (lambda d: gzip.compress(b"") * 100, "something behind its end"),
        (lambda d: gzip.compress(b"") * 1000, "expected at most .* bytes, got 20,000"),
        (lambda d: gzip.compress(idx(d) + b"x"), "got more"),
    ],
)
def test_it_names_the_damage(tmp_path, data, damage, message):
    path = tmp_path / "digits-idx3-ubyte"
    path.write_bytes(damage(data))
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path, SHAPE)
    assert "digits-idx3-ubyte" in str(caught.value)


def test_memory_is_not_taken_on_the_word_of_a_file(tmp_path):
    """A header that promises 4 GiB, and a gzip bomb: neither is believed."""
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**16, 2**8, 2**8)
    forged, bomb = tmp_path / "forged", tmp_path / "bomb"
    forged.write_bytes(header)
    bomb.write_bytes(gzip.compress(idx(np.zeros(SHAPE, np.uint8)) + bytes(10**8), 1))
    for path in (forged, bomb):
        tracemalloc.start()
        with pytest.raises(ValueError, match=path.name):
            read_idx(path, SHAPE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 5e6


@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, with_header, zipped):
    if with_header:  # then 24 bytes more make it whole
        content = idx(np.zeros(SHAPE, np.uint8))[:16] + content
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(content) if zipped else content)
    right = idx(np.zeros(SHAPE, np.uint8))
    if content[:16] == right[:16] and len(content) == len(right):
        assert read_idx(path, SHAPE).shape == SHAPE
    else:
        with pytest.raises(ValueError, match="file"):
            read_idx(path, SHAPE)


def test_images_and_labels_of_mnist(tmp_path, rng):
    def write(name, data):
        (tmp_path / name).write_bytes(idx(data))

    images = rng.integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([3, 1, 4, 1, 5], np.uint8)
    write("t10k-images-idx3-ubyte", images)
    write("t10k-labels-idx1-ubyte", labels)
    digits = load_digits("t10k", 5, tmp_path, own_data=True)
    np.testing.assert_array_equal(digits.pixels, images.reshape(5, 784))
    np.testing.assert_array_equal(digits.labels, labels)
    with pytest.raises(ValueError, match=r"not the published t10k-images-idx3-ubyte.*--own"):
        load_digits("t10k", 5, tmp_path)

    write("t10k-labels-idx1-ubyte", labels + 8)
    with pytest.raises(ValueError, match="labels must be digits from 0 to 9, got 13"):
        load_digits("t10k", 5, tmp_path, own_data=True)
    write("t10k-labels-idx1-ubyte", images)
    with pytest.raises(ValueError, match="is it the file its name says"):
        load_digits("t10k", 5, tmp_path, own_data=True)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte of mnist is in none of"):
        load_digits("t10k", 5, tmp_path, own_data=True)
