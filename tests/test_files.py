"""Archives of arrays that were damaged, or made to do harm: one kind of error, which names them."""

import errno
import io
import os
import struct
import zipfile

import numpy as np
import pytest

from kru_ref import files as archive
from kru_ref.files import ArchiveError, read_npz

ARRAYS = {
    "a": np.arange(6.0).reshape(2, 3),
    "b/c": np.array(7),
    "d": np.asfortranarray(np.arange(6).reshape(2, 3) + 1j),
    "e": np.zeros((0, 4), np.float32),
    "f": np.array([True, False]),
}


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text):
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def archive_of(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)


def refused(path, *args):
    with pytest.raises(ArchiveError) as caught:
        read_npz(path, *args)
    message = str(caught.value)
    assert str(path) in message
    assert "pickle" not in message
    assert len(message) < len(str(path)) + 300
    return message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_was_written_is_read(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS, big=ARRAYS["a"].astype(">f8"))
    read = read_npz(tmp_path / "a.npz", 10_000)
    assert read.keys() == {*ARRAYS, "big"}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
        assert read[name].flags.writeable
    assert read["big"].dtype.isnative
    np.testing.assert_array_equal(read["big"], ARRAYS["a"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_flipped_bit_raises_anything_else(tmp_path, save):
    """Every byte of an archive, one bit of it: refused, or the same arrays."""
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    whole = path.read_bytes()
    right, messages = read_npz(path, 10_000), []
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            read = read_npz(path, 10_000)
        except ArchiveError as error:
            messages.append(str(error))
            continue
        for name in read.keys() & right.keys():
            np.testing.assert_array_equal(read[name], right[name])
    assert len(messages) > len(whole) / 4
    assert not any("pickle" in message for message in messages)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04", npy(np.ones(3))])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    assert "is no .npz of plain arrays" in refused(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"words", "'a.txt', which is no .npy"),
        ("a.npy", b"words", "no NPY file"),
        ("a.npy", b"", "no NPY file"),
        ("a.npy", npy(np.array([print], object)), "it holds Python objects"),
        ("a.npy", npy(np.array(["word"])), "must hold numbers, got <U4"),
        ("a.npy", npy(np.zeros(2, "datetime64[s]")), "must hold numbers"),
        ("a.npy", npy(np.zeros(2, [("x", "f8")])), "must hold numbers"),
        ("a.npy", npy(np.ones(3))[:-1], "not those of its shape"),
        ("a.npy", npy(np.ones(3)) + b"1", "not those of its shape"),
        ("a.npy", npy(np.ones(3)).replace(b"\x01\x00", b"\x03\x00", 1), "no NPY file"),
        ("a.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,)}"), "NPY"),
        (
            "a.npy",
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,)}"),
            "not those of its shape",
        ),
        (
            "a.npy",
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}") + bytes(8),
            "not those of its shape",
        ),
        ("a.npy", header("{" * 100), "NPY"),
        ("x" * 5000 + ".txt", b"", "which is no .npy"),
    ],
)
def test_members_that_are_no_arrays(tmp_path, name, content, reason):
    archive_of(tmp_path / "a.npz", [(name, content)])
    message = refused(tmp_path / "a.npz", 10_000)
    assert reason == "NPY" or reason in message


def test_sums_are_bounded_before_anything_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    zeros = npy(np.zeros(1000))
    archive_of(path, [(f"{i}.npy", zeros) for i in range(100)], zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    assert "its arrays together are larger than 100,000 bytes" in refused(path, 100_000)
    assert "its arrays together are larger than" in refused(path)
    archive_of(path, [("a.npy", npy(np.zeros(10**5)))], zipfile.ZIP_DEFLATED)
    assert "a.npy is larger than" in refused(path)


def test_a_name_that_is_there_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive_of(tmp_path / "a.npz", [("a.npy", npy(np.ones(1)))] * 2)
    assert "it holds 'a' twice" in refused(tmp_path / "a.npz")


def test_files_that_cannot_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"cannot read .*a\.npz: No such file"):
        read_npz(tmp_path / "a.npz")
    (tmp_path / "a.npz").mkdir()
    assert "it is a folder or a device" in refused(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **ARRAYS)

    def refuse(*args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(archive, "open", refuse, raising=False)
    with pytest.raises(PermissionError, match=r"b\.npz: Permission denied; make it readable"):
        read_npz(tmp_path / "b.npz")
