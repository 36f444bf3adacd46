"""Where data is looked for, and downloads from a server on this machine."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kru_ref.training.cli import main
from kru_ref.training.data import datasets, download
from kru_ref.training.data.digits import load_digits

pytest.importorskip("pooch", reason="downloads need the extra 'train'")

FILES = {f"{part}.gz": f"content of {part}".encode() for part in ("images", "labels")}


class Quiet(http.server.SimpleHTTPRequestHandler):
    length = None

    def log_message(self, *args):
        pass

    def send_header(self, name, value):
        changed = self.length if name.lower() == "content-length" else None
        super().send_header(name, changed or value)


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
    paths = download.fetch("mnist", server)
    assert paths == [cache / "mnist" / name for name in FILES]
    assert [path.read_bytes() for path in paths] == list(FILES.values())
    assert datasets.locate("mnist", "images") == cache / "mnist" / "images.gz"


def test_what_is_there_is_not_fetched_again(server, cache):
    download.fetch("mnist", server)
    assert download.fetch("mnist", "http://127.0.0.1:9") == [cache / "mnist" / n for n in FILES]


def test_a_wrong_file_is_refused(server, cache, tmp_path):
    (tmp_path / "served" / "labels.gz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"labels\.gz"):
        download.fetch("mnist", server)
    assert not (cache / "mnist" / "labels.gz").exists()


def test_a_server_that_does_not_answer(cache):
    with pytest.raises(ConnectionError, match=r"cannot download .*images\.gz.*--url"):
        download.fetch("mnist")


def test_a_file_the_server_does_not_have(server, cache, tmp_path):
    (tmp_path / "served" / "images.gz").unlink()
    with pytest.raises(ConnectionError, match="404"):
        download.fetch("mnist", server)


def test_what_is_wrong_with_a_download_is_told(server, cache, tmp_path, monkeypatch):
    def message(kind):
        with pytest.raises(kind) as caught:
            download.fetch("mnist", server)
        assert f"{server}/images.gz" in str(caught.value)
        assert str(cache / "mnist" / "images.gz") in str(caught.value)
        return str(caught.value)

    (tmp_path / "served" / "images.gz").write_bytes(b"something else")
    told = message(ValueError)
    for content in (FILES["images.gz"], b"something else"):
        assert hashlib.sha256(content).hexdigest() in told
    assert "--url" in told
    monkeypatch.setattr(download, "LARGEST_DOWNLOAD", 10)
    assert "it sends more than 10 bytes" in message(ValueError)
    assert list((cache / "mnist").iterdir()) == []


def test_a_wrong_length_of_a_right_file_is_no_matter(server, cache, monkeypatch):
    monkeypatch.setattr(Quiet, "length", "many")
    assert [path.read_bytes() for path in download.fetch("mnist", server)] == list(FILES.values())
    (cache / "mnist" / "images.gz").unlink()
    monkeypatch.setattr(Quiet, "length", "100")
    with pytest.raises(ConnectionError, match=r"cannot download .*images\.gz.*try again"):
        download.fetch("mnist", server)


def test_what_cannot_be_written_is_told(server, cache):
    (cache / "mnist" / "images.gz").mkdir(parents=True)
    with pytest.raises(
        IsADirectoryError, match=r"cannot write .*images\.gz.*delete what is in its"
    ):
        download.fetch("mnist", server)
    (cache / "mnist" / "images.gz").rmdir()
    (cache / "mnist").rmdir()
    (cache / "mnist").touch()
    with pytest.raises(OSError, match=r"cannot write .*images\.gz.*delete what is in its place"):
        download.fetch("mnist", server)


@pytest.mark.parametrize(
    "url",
    [
        "",
        5,
        b"http://x",
        ["http://x"],
        "file:///tmp",
        "ftp://localhost",
        "localhost/mnist",
        "http://",
        "http://[",
        "https:/",
    ],
)
def test_what_is_no_web_address(cache, url):
    with pytest.raises(ValueError, match=r"url must begin with http:// or https://.*got"):
        download.fetch("mnist", url)


def test_others_may_read_what_is_fetched(server, cache):
    before = os.umask(0o027)
    try:
        path = download.fetch("mnist", server)[0]
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


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
        download.fetch(name)


def test_the_state_of_the_files(server, cache, tmp_path, capsys):
    assert datasets.state("mnist") == dict.fromkeys(FILES, ("missing", None))
    download.fetch("mnist", server)
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
    with pytest.raises(
        FileNotFoundError,
        match=r"name a folder that has it with --data-dir",
    ):
        datasets.locate_folder("timit", ".phn", tmp_path)


def test_a_file_larger_than_it_may_be(tmp_path):
    (tmp_path / "file").write_bytes(b"four")
    assert datasets.read_at_most(4, tmp_path / "file") == b"four"
    with pytest.raises(ValueError, match="file: expected at most 3 bytes, got 4"):
        datasets.read_at_most(3, tmp_path / "file")


def test_what_cannot_be_read_is_named(cache, tmp_path, monkeypatch, capsys):
    """And the rest is listed."""
    folder = cache / "mnist" / "images"
    folder.mkdir(parents=True)
    assert datasets.locate("mnist", "images") == folder
    with pytest.raises(IsADirectoryError, match=r"cannot read .*images: it is a folder"):
        datasets.read_at_most(4, folder)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError, match=r"cannot read .*pipe: it is a folder or a device"):
        datasets.read_at_most(4, tmp_path / "pipe")
    speaker = cache / "timit" / "fvmh0"
    speaker.mkdir(parents=True)
    (speaker / "si1.phn").touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("fvmh0"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"cannot read the folder .*fvmh0: Permission denied"):
        list(datasets.files_below(cache, ".phn"))
    assert datasets.state("timit") == {"*.phn": ("unreadable", cache / "timit")}
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert f"unreadable images.gz {folder}" in out
    assert f"unreadable *.phn {cache / 'timit'}" in out
    assert f"Put it into {cache / 'ptb'}, or name a folder" in out


def test_the_error_of_a_damaged_file_says_what_to_do(cache, tmp_path, monkeypatch):
    path = tmp_path / "images.gz"
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is not the published") as caught:
        datasets.read_verified(path, "mnist")
    message = str(caught.value)
    assert f"Delete or replace {path}. `kru-ref data fetch mnist` downloads it into" in message
    assert str(cache / "mnist") in message
    assert "--data-dir, which is then the only one searched" in message
    assert message.endswith(".")

    def missing():
        raise ImportError("this needs the package pooch")

    monkeypatch.setattr(datasets, "cache_directory", missing)
    with pytest.raises(ValueError, match="downloads it into the user's cache"):
        datasets.read_verified(path, "mnist")


def test_a_whole_timit_comes_before_a_sample(cache):
    for name in ("timit-sample", "TIMIT"):
        (cache / name).mkdir(parents=True)
        (cache / name / "si1.phn").touch()
    assert datasets.locate_folder("timit", ".phn") == cache / "TIMIT"


def test_unknown_data_set():
    with pytest.raises(ValueError, match=r"data set must be one of mnist, .*got 'imagenet'"):
        download.fetch("imagenet")


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
    assert f"none of: {empty / 'mnist'}, {empty}\n" in message
    for name, content in FILES.items():
        assert name in message
        assert hashlib.sha256(content).hexdigest() in message


@pytest.mark.parametrize("name", [n for n, d in datasets.DATASETS.items() if d.files])
def test_the_real_files_have_the_published_checksums(name, real):
    root = real(name)
    assert {state for state, _ in datasets.state(name, root).values()} == {"verified"}


def test_unzipped_files_have_the_published_checksums(real, tmp_path):
    for path in (real("mnist") / "mnist").glob("*.gz"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert {state for state, _ in datasets.state("mnist", tmp_path).values()} == {"verified"}
    assert load_digits("t10k", 10_000, tmp_path).labels[0] == 7


@pytest.fixture
def dribbling():
    """Serve a byte now and then: of the headers, or of the file behind them."""
    stop = threading.Event()

    class Dribble(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if "headers" in self.path:
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
            else:
                self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            with contextlib.suppress(OSError):
                while not stop.wait(0.02):
                    self.wfile.write(b"x")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dribble) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        stop.set()
        http_server.shutdown()
        thread.join()


@pytest.mark.parametrize("place", ["headers", "body"])
def test_a_server_that_dribbles_is_left(dribbling, cache, monkeypatch, place):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    with pytest.raises(ConnectionError, match=r"cannot download .*images\.gz .*less than 1,000 a"):
        download.fetch("mnist", f"{dribbling}/{place}")
    assert list((cache / "mnist").iterdir()) == []
    assert [path.name for path in cache.iterdir()] == ["mnist"]


def test_what_a_killed_download_left_is_deleted(server, dribbling, cache):
    """It is killed as it waits; what else is in the folder stays."""
    (cache / "mnist").mkdir(parents=True)
    (cache / "mnist" / "tmp of mine").touch()
    program = (
        "import pathlib, sys; from kru_ref.training.data import datasets, download\n"
        "cache, url = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "datasets.cache_directory = lambda: cache\n"
        "download.fetch('mnist', url)"
    )
    command = [sys.executable, "-c", program, str(cache), f"{dribbling}/body"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while len(list((cache / "mnist").iterdir())) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        # while it lives, nobody else takes its file away
        with pytest.raises(OSError, match=r"another process does.*mnist\.lock"):
            download.fetch("mnist", server)
        process.kill()
    assert len(list((cache / "mnist").iterdir())) == 2
    download.fetch("mnist", server)
    assert {path.name for path in (cache / "mnist").iterdir()} == {*FILES, "tmp of mine"}
    assert [path.name for path in cache.iterdir()] == ["mnist"]


def test_a_cache_that_cannot_be_written_is_enough_where_all_is_there(server, cache, monkeypatch):
    download.fetch("mnist", server)
    monkeypatch.setattr(download, "_only_process", None)
    assert len(download.fetch("mnist", server)) == 2


@pytest.fixture(params=["an error", "a path"])
def homeless(request, tmp_path, monkeypatch):
    """No home directory, as versions of platformdirs tell it."""
    import pooch

    def os_cache(project):
        if request.param == "an error":
            raise RuntimeError("could not determine the home directory")
        return Path("~/.cache") / project

    monkeypatch.setattr(pooch, "os_cache", os_cache)
    monkeypatch.delenv(datasets.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("more", [[], ["--data-dir", "."]])
def test_without_a_home_directory(homeless, more, capsys):
    assert main(["data", "list", *more]) == 0
    assert "the user's cache" in capsys.readouterr().out
    for task in ("pixels", "characters", "music", "phonemes"):
        assert main(["train", task, "--out", "run", *more]) == 1
        where = "no folder at all, for there is no home" if not more else ": "
        err = capsys.readouterr().err
        assert where in err
        assert "--data-dir" in err
    assert main(["data", "fetch", "jsb"]) == 1
    assert "there is no home directory to keep data in: set HOME" in capsys.readouterr().err
    assert list(homeless.iterdir()) == []


@pytest.mark.parametrize("name", [None, 5, ["mnist"], "", "MNIST", float("nan")])
def test_names_of_no_data_set(name):
    for call in (
        datasets.dataset, download.fetch, datasets.state, datasets.remedy,
        lambda name: datasets.locate(name, "images"),
        lambda name: datasets.locate_folder(name, ".phn"),
        lambda name: datasets.read_verified(Path("x"), name),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="data set must be one of mnist, "):
            call(name)
