"""Where data is looked for, and downloads from a server on this machine."""

import functools
import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest

from kru_ref import datasets
from kru_ref.cli import main

pytest.importorskip("pooch", reason="downloads need the extra 'train'")

FILES = {f"{part}.gz": f"content of {part}".encode() for part in ("images", "labels")}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give the test a cache of its own, and a data set of two small files under the name mnist."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.delenv(datasets.VARIABLE, raising=False)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    urls = {name: f"http://127.0.0.1:9/somewhere/{name}" for name in FILES}
    dataset = datasets.Dataset("small", "free", "here", digests, urls)
    monkeypatch.setitem(datasets.DATASETS, "mnist", dataset)
    return tmp_path / "cache"


def test_fetch_verifies_and_stores(server, cache, capsys):
    paths = datasets.fetch("mnist", server)
    assert paths == [cache / "mnist" / name for name in FILES]
    assert [path.read_bytes() for path in paths] == list(FILES.values())
    assert datasets.locate("mnist", "images") == cache / "mnist" / "images.gz"


def test_what_is_there_is_not_fetched_again(server, cache):
    datasets.fetch("mnist", server)
    assert datasets.fetch("mnist", "http://127.0.0.1:9") == [cache / "mnist" / n for n in FILES]


def test_a_wrong_file_is_refused(server, cache, tmp_path):
    (tmp_path / "served" / "labels.gz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"labels\.gz"):
        datasets.fetch("mnist", server)
    assert not (cache / "mnist" / "labels.gz").exists()


def test_a_server_that_does_not_answer(cache):
    with pytest.raises(ConnectionError, match=r"cannot download .*images\.gz.*--url"):
        datasets.fetch("mnist")


def test_a_file_the_server_does_not_have(server, cache, tmp_path):
    (tmp_path / "served" / "images.gz").unlink()
    with pytest.raises(ConnectionError, match="404"):
        datasets.fetch("mnist", server)


def test_command_line(server, cache, capsys):
    assert main(["data", "fetch", "mnist", "--url", server]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [str(cache / "mnist" / name) for name in FILES]
    assert main(["data", "fetch", "mnist", "--url", "http://127.0.0.1:9/x"]) == 0
    (cache / "mnist" / "images.gz").unlink()
    assert main(["data", "fetch", "mnist", "--url", "http://127.0.0.1:9/x"]) == 1
    assert "kru-ref: cannot download" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ptb", "timit"])
def test_licensed_data_is_not_fetched(name):
    with pytest.raises(ValueError, match=f"{name} may not be downloaded freely.*LDC"):
        datasets.fetch(name)


def test_the_state_of_the_files(server, cache, tmp_path, capsys):
    assert datasets.state("mnist") == dict.fromkeys(FILES, ("missing", None))
    datasets.fetch("mnist", server)
    places = {name: cache / "mnist" / name for name in FILES}
    assert datasets.state("mnist") == {name: ("verified", p) for name, p in places.items()}
    places["labels.gz"].write_bytes(b"something else")
    assert datasets.state("mnist")["labels.gz"] == ("differs", places["labels.gz"])
    unzipped = cache / "mnist" / "images"
    places["images.gz"].rename(unzipped)
    assert datasets.state("mnist")["images.gz"] == ("unverified", unzipped)
    assert datasets.state("timit") == {"*.phn": ("missing", None)}
    speaker = cache / "timit" / "dr1-fvmh0"
    speaker.mkdir(parents=True)
    (speaker / "SI1.PHN").touch()
    assert datasets.state("timit") == {"*.phn": ("unverified", cache / "timit")}

    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    for name, dataset in datasets.DATASETS.items():
        assert f"{name}: {dataset.title}" in out
        assert dataset.licence in out
        assert dataset.origin in out
    assert "differs    labels.gz" in out
    assert f"unverified images.gz {unzipped}" in out
    assert "missing    Piano_midi.mat" in out
    assert "kru-ref data fetch jsb" in out
    assert "catalog.ldc.upenn.edu/LDC99T42" in out


def test_only_what_is_published_gzipped_is_looked_for_gzipped(cache, tmp_path):
    for name in ("JSB_Chorales.mat.gz", "train-images-idx3-ubyte.gz"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError) as caught:
        datasets.locate("jsb", "JSB_Chorales.mat", tmp_path)
    assert "gzipped" not in str(caught.value)


def test_a_tree_that_is_not_there(cache, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)no \.phn files of timit in any of.*LDC93S1"):
        datasets.locate_folder("timit", ".phn")
    with pytest.raises(FileNotFoundError, match=r"Name a folder"):
        datasets.locate_folder("timit", ".phn", tmp_path)


def test_a_file_larger_than_it_may_be(tmp_path):
    (tmp_path / "file").write_bytes(b"four")
    assert datasets.read_at_most(4, tmp_path / "file") == b"four"
    with pytest.raises(ValueError, match="file: expected at most 3 bytes, got 4"):
        datasets.read_at_most(3, tmp_path / "file")


def test_unknown_data_set():
    with pytest.raises(ValueError, match=r"data set must be one of mnist, .*got 'imagenet'"):
        datasets.fetch("imagenet")


def test_folders_are_searched_in_order(cache, tmp_path, monkeypatch):
    def put(folder, content):
        folder.mkdir(parents=True)
        (folder / "images").write_bytes(content)

    put(cache / "mnist", b"cache")
    put(tmp_path / "variable" / "mnist", b"variable")
    put(tmp_path / "given", b"given")
    empty = tmp_path / "empty"
    empty.mkdir()

    def found(data_dir=None):
        return datasets.locate("mnist", "images", data_dir).read_bytes()

    assert found() == b"cache"
    monkeypatch.setenv(datasets.VARIABLE, str(empty))
    assert found() == b"cache"
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path / "variable"))
    assert found() == b"variable"
    assert found(tmp_path / "given") == b"given"
    with pytest.raises(FileNotFoundError) as caught:
        found(empty)
    message = str(caught.value)
    assert "kru-ref data fetch mnist" in message
    assert str(empty) in message
    assert str(cache) not in message
    for name, content in FILES.items():
        assert name in message
        assert hashlib.sha256(content).hexdigest() in message


@pytest.mark.parametrize("name", [n for n, d in datasets.DATASETS.items() if d.files])
def test_the_real_files_have_the_published_checksums(name):
    root = os.environ.get("KRU_REF_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"needs real files: set KRU_REF_DATA to a folder that holds {name}/")
    assert {state for state, _ in datasets.state(name, Path(root)).values()} == {"verified"}
