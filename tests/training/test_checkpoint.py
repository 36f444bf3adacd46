"""What is on the disk: written whole, read strictly."""

import dataclasses
import errno
import itertools
import os
import re
import resource
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("filelock", reason="training needs the extra 'train'")
from runs import (
    SMALL,
    Stop,
    arrays,
    assert_same_run,
    metrics,
    stop_after,
    stopped_run,
)

from kru_ref import files
from kru_ref.training import checkpoint
from kru_ref.training.folder import RunWarning
from kru_ref.training.loop import train


def test_resuming_refuses_the_checkpoint_of_another_model(tmp_path):
    train(SMALL, tmp_path / "a")
    train(dataclasses.replace(SMALL, hidden_size=16), tmp_path / "b")
    os.replace(tmp_path / "b" / "checkpoint.npz", tmp_path / "a" / "checkpoint.npz")
    with pytest.raises(ValueError, match=r"is the checkpoint of another model: .*W\.3"):
        train(SMALL, tmp_path / "a", resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"not an archive",
        lambda content: content[:300] + bytes(50) + content[350:],
    ],
)
def test_resuming_refuses_a_damaged_checkpoint(tmp_path, damage):
    train(SMALL, tmp_path)
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint\.npz is damaged or no checkpoint"):
        train(SMALL, tmp_path, resume=True)


def test_nothing_is_unpickled(tmp_path):
    train(SMALL, tmp_path)

    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    with np.load(tmp_path / "checkpoint.npz") as archive:
        content = dict(archive)
    content["params/cell.b"] = np.array([Payload()], dtype=object)
    np.savez(tmp_path / "checkpoint.npz", **content)
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        train(SMALL, tmp_path, resume=True)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_keeps_the_checkpoint(tmp_path, monkeypatch, code):
    with pytest.raises(Stop):
        train(SMALL, tmp_path, on_update=stop_after(12))
    before = (tmp_path / "checkpoint.npz").read_bytes()

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint.np, "savez", refuse)
    with pytest.raises(OSError, match=f"{os.strerror(code)}.*checkpoint.npz is intact"):
        train(SMALL, tmp_path, resume=True)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_write_that_fails_half_way_keeps_the_checkpoint(tmp_path):
    """The operating system refuses files beyond a size, in the middle of a checkpoint."""
    task = dataclasses.replace(SMALL, hidden_size=256, updates=20)
    with pytest.raises(Stop):
        train(task, tmp_path, on_update=stop_after(12))
    before = (tmp_path / "checkpoint.npz").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint\.npz is intact, resume from it"):
            train(task, tmp_path, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    train(task, tmp_path, resume=True)
    train(task, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path)


def test_a_checkpoint_that_is_gone_is_no_new_run(tmp_path, whole):
    """Not a byte of the run is touched, and the way on is named."""
    stopped_run(tmp_path)
    (tmp_path / "checkpoint.npz").unlink()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    message = r"checkpoint\.npz is gone.*metrics\.jsonl.*previous\.npz is whole and holds update 10"
    with pytest.raises(FileNotFoundError, match=message):
        train(SMALL, tmp_path, resume=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / "checkpoint.previous.npz").rename(tmp_path / "checkpoint.npz")
    train(SMALL, tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoint.previous.npz"])
def test_either_trace_of_updates_is_enough(tmp_path, left):
    stopped_run(tmp_path)
    for name in {"metrics.jsonl", "checkpoint.npz", "checkpoint.previous.npz"} - {left}:
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.npz is gone, but"):
        train(SMALL, tmp_path, resume=True)


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins(tmp_path):
    train(SMALL, tmp_path / "whole")
    (tmp_path / "run").mkdir()
    config = (tmp_path / "whole" / "config.json").read_bytes()
    (tmp_path / "run" / "config.json").write_bytes(config)
    with pytest.warns(RunWarning, match="the run begins at update 1"):
        train(SMALL, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_damaged_checkpoint_names_the_one_before(tmp_path):
    stopped_run(tmp_path, 25)
    assert arrays(tmp_path)["update"] == 25
    (tmp_path / "checkpoint.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged.*previous\.npz is whole and holds update 20"):
        train(SMALL, tmp_path, resume=True)
    (tmp_path / "checkpoint.previous.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged.*start again.*previous\.npz is damaged"):
        train(SMALL, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("update", np.array(-5), "update must be a whole number"),
        ("update", np.array(20.0), "update must be a whole number"),
        ("update", np.array([20]), "update must be a whole number"),
        ("update", np.array(True), "update must be a whole number"),
        ("update", np.array(19), "update is 19, but optimizer/steps 20"),
        ("optimizer/steps", np.array(19), "update is 20, but optimizer/steps 19"),
        ("optimizer/steps", np.array(20.0), "optimizer/steps must be a whole number"),
        ("seconds", np.array(np.nan), "seconds must be finite"),
        ("seconds", np.array(-1.0), "seconds must be at least 0"),
        ("seconds", np.array(1), "seconds must be a real number"),
        ("rows", np.array([5, 5]), "rows must be updates in order"),
        ("rows", np.array([5, 25]), "rows must be updates in order, from 1 to 20"),
        ("rows", np.array([0, 5]), "rows must be updates in order"),
        ("rows", np.array([[5]]), "rows must be whole numbers"),
        ("optimizer/steps", None, "it lacks 'optimizer/steps'"),
        ("seconds", None, "it lacks 'seconds'"),
        ("mine", np.array(1), "it holds 'mine'"),
        ("optimizer/mine/cell.b", np.array(1), "it holds 'optimizer/mine"),
        ("params/cell.b", np.full(8, np.nan, np.float32), "params/cell.b must be finite"),
        ("optimizer/mean_square/cell.b", np.full(8, np.inf, np.float32), "must be finite"),
        ("params/cell.b", np.zeros(8), "cell.b must have dtype float32"),
        ("params/" + "x" * 5000, np.zeros(8), "another model"),
    ],
)  # fmt: skip
def test_each_member_of_a_checkpoint_is_checked(tmp_path, name, value, message):
    stopped_run(tmp_path)
    path = tmp_path / "checkpoint.npz"
    with np.load(path) as archive:
        content = dict(archive)
    content[name] = value
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    with pytest.raises(ValueError, match=r"checkpoint\.npz is .*" + message) as caught:
        train(SMALL, tmp_path, resume=True)
    assert "checkpoint.previous.npz is whole and holds update 10" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "carried",
    [
        {"carried/0/0": np.zeros((9, 4), np.complex64)},
        {"carried/0/0": np.zeros(8, np.complex64)},
        {"carried/0/0": np.zeros((8, 4), np.complex128)},
        {"carried/0/0": np.full((8, 4), np.nan, np.complex64)},
        {"carried/1/0": np.zeros((8, 4), np.complex64)},
    ],
)
def test_a_carried_state_is_checked(tmp_path, carried):
    stopped_run(tmp_path)
    path = tmp_path / "checkpoint.npz"
    with np.load(path) as archive:
        content = dict(archive)
    np.savez(path, **content, **carried)
    with pytest.raises(ValueError, match=r"checkpoint\.npz is"):
        train(SMALL, tmp_path, resume=True)


def test_metrics_are_on_the_disk_before_the_checkpoint_that_knows_of_them(tmp_path, monkeypatch):
    done = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        done.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        return real_fsync(descriptor)

    def replace(source, target):
        done.append(("replace", str(target)))
        return real_replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    train(SMALL, tmp_path / "run")
    path = str(tmp_path / "run" / "checkpoint.npz")
    renamed = [i for i, what in enumerate(done) if what == ("replace", path)]
    assert len(renamed) == 4
    for before, i in itertools.pairwise(renamed):
        assert ("fsync", str(tmp_path / "run" / "metrics.jsonl")) in done[before:i]
        assert ("replace", str(tmp_path / "run" / "checkpoint.previous.npz")) in done[before:i]
        assert done[i + 1] == ("fsync", str(tmp_path / "run"))


ROW = '"loss": 1.0, "gradient_norm": 1.0, "defect": 0.1, "seconds": 0.1'


@pytest.mark.parametrize(
    ("damage", "warning"),
    [
        (lambda rows: rows[1:], "lines of updates 5 are missing"),
        (lambda rows: [rows[0], *rows[2:]], "lines of updates 10 are missing"),
        (lambda rows: rows[:-1], "lines of updates 20 are missing"),
        (lambda rows: [], "lines of updates 5, 10, 15, 20 are missing"),
        (lambda rows: [*rows[:-1], rows[-1][:-9]], "lines of updates 20 are missing"),
        (lambda rows: [rows[0][:30] + "\n", *rows[1:]], "updates 5 are missing; lines that"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "lines that the run did not write"),
        (lambda rows: [*rows, rows[-1]], "lines that the run did not write"),
        (lambda rows: [*rows, '{"mine": 1}\n'], "lines that the run did not write"),
        (lambda rows: [f'{{"step": 7, {ROW}}}\n', *rows], "lines that the run did not write"),
        (lambda rows: ["\n", *rows], "lines that the run did not write"),
        (lambda rows: ["\0" * 500 + "\n", *rows], "lines that the run did not write"),
        (lambda rows: ["[" * 100_000 + "\n", *rows], "lines that the run did not write"),
        (
            lambda rows: [r.replace('"step": 20', '"step": ' + '"20"') for r in rows],
            "updates 20 are missing",
        ),
        (
            lambda rows: [r.replace('"step": 20', '"step": ' + "null") for r in rows],
            "updates 20 are missing",
        ),
        (
            lambda rows: [r.replace('"step": 20', '"step": ' + "true") for r in rows],
            "updates 20 are missing",
        ),
        (lambda rows: [r.replace('"seconds": ', '"seconds": NaN, "x": ') for r in rows], "5, 10"),
        (lambda rows: [r.replace("loss", "lo\x7fs") for r in rows], "5, 10, 15, 20 are missing"),
        (lambda rows: [r.replace(", ", ",\r", 1) for r in rows], "5, 10, 15, 20 are missing"),
        (
            lambda rows: [r.replace("accuracy", "a\u2028") for r in rows],
            "5, 10, 15, 20 are missing",
        ),
        (lambda rows: [r.replace('"loss"', '"loss": 1.0, "loss"') for r in rows], "5, 10, 15, 20"),
        (lambda rows: [r.encode().replace(b"loss", b"lo\xffs") for r in rows], "5, 10, 15, 20"),
    ],
)
def test_metrics_are_never_lost_silently(tmp_path, damage, warning, whole):
    """What is missing is told, what was changed is kept beside; the run goes on, and once told."""
    stopped_run(tmp_path)
    path = tmp_path / "metrics.jsonl"
    rows = damage([r.replace("\n", "") + "\n" for r in path.read_text().splitlines()])
    damaged = b"".join(r if isinstance(r, bytes) else r.encode() for r in rows)
    path.write_bytes(damaged)
    with pytest.warns(RunWarning, match=f"metrics.jsonl: .*{warning}") as caught:
        train(SMALL, tmp_path, resume=True)
    assert len(caught) == 1
    assert len(str(caught[0].message)) < 500
    left = metrics(tmp_path)
    steps = [row["step"] for row in left]
    assert steps == sorted(steps)
    told = re.search(r"updates ([\d, ]+) are missing", str(caught[0].message))
    missing = [int(step) for step in told[1].split(",")] if told else []
    assert sorted([*missing, *steps]) == [5, 10, 15, 20, 25, 30, 30]
    aside = tmp_path / "metrics.damaged-1.jsonl"
    assert aside.exists() == ("did not write" in str(caught[0].message))
    if aside.exists():
        assert aside.read_bytes() == damaged
    train(SMALL, tmp_path, resume=True)
    for name, value in arrays(whole).items():
        if name != "rows":
            np.testing.assert_array_equal(arrays(tmp_path)[name], value)


def test_an_incomplete_last_line_is_what_a_kill_leaves(tmp_path, whole):
    stopped_run(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 25, "lo')
    train(SMALL, tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links and a umask")
def test_temporary_files_are_nobody_elses(tmp_path, monkeypatch):
    """Each has a name of its own; a link in its place is not followed; permissions are usual."""
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"mine")
    drawn = iter(["taken", "free", "free"])
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: next(drawn))
    (tmp_path / ".file.taken.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        checkpoint.write_atomically(path, lambda file: file.write(b"new"))
    assert victim.read_bytes() == b"mine"
    before = os.umask(0o027)
    try:
        checkpoint.write_atomically(path, lambda file: file.write(b"new"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == b"new"


def test_what_killed_writers_left_is_removed(tmp_path):
    stopped_run(tmp_path)
    for name in (".checkpoint.npz.0a.partial", ".metrics.jsonl.1b.partial", "own.partial"):
        (tmp_path / name).write_text("half")
    train(SMALL, tmp_path, resume=True)
    assert [p.name for p in tmp_path.glob("*.partial")] == ["own.partial"]
