"""Signals: what ends a run saves it first."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("filelock", reason="training needs the extra 'train'")
from runs import (
    SMALL,
    Stop,
    arrays,
    assert_same_run,
    stop_after,
)

from kru_ref.training import checkpoint
from kru_ref.training import loop as training
from kru_ref.training.loop import train


def test_interrupt_saves_the_last_update(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, out, on_update=stop_after(13, KeyboardInterrupt))
    assert arrays(out)["update"] == 13
    train(SMALL, tmp_path / "whole")
    train(SMALL, out, resume=True)
    assert_same_run(tmp_path / "whole", out)


def test_interrupt_during_an_evaluation_repeats_it(tmp_path, monkeypatch):
    out, evaluate = tmp_path / "run", training.evaluate
    train(SMALL, tmp_path / "whole")

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, out)
    monkeypatch.setattr(training, "evaluate", evaluate)
    assert arrays(out)["update"] == 9
    train(SMALL, out, resume=True)
    assert_same_run(tmp_path / "whole", out)


def run_command(out, *more):
    settings = "--delay 5 --hidden-size 8 --batch-size 4 --updates 3000 --held-out-sequences 6"
    every = "--log-every 10 --evaluate-every 50 --checkpoint-every 20"
    command = [sys.executable, "-m", "kru_ref", "train", "copying", "--quiet", "--out", str(out)]
    options = [*settings.split(), *every.split()] if "--resume" not in more else []
    return subprocess.Popen(
        [*command, *options, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=out.parent,
    )


def finish(process):
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(tmp_path):
    """Ten kills of the same run: while it starts, reads, trains or writes."""
    pytest.importorskip("tyro", reason="the command line needs the extra 'train'")
    finish(run_command(tmp_path / "whole"))
    out, checkpoint_file = tmp_path / "killed", tmp_path / "killed" / "checkpoint.npz"
    moments = random.Random()

    def written():
        return checkpoint_file.stat().st_mtime_ns if checkpoint_file.exists() else None

    for kill in range(10):
        before = written()
        # at a moment before its first checkpoint, or soon after; the first run gets that far
        latest = time.monotonic() + (moments.uniform(0, 2) if kill else 600)
        with run_command(out, *(["--resume"] if kill else [])) as process:
            while written() == before and time.monotonic() < latest:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
            assert process.poll() is None, "the run ended before it was killed"
            process.send_signal(signal.SIGKILL)
    finish(run_command(out, "--resume"))
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_control_c_ends_cleanly(tmp_path):
    pytest.importorskip("tyro", reason="the command line needs the extra 'train'")
    out = tmp_path / "run"
    # tests in the background may have been told to ignore it, and so would the command be
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = run_command(out, "--updates", "10000000")
    signal.signal(signal.SIGINT, before)
    while not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "stopped; continue with: kru-ref train copying --out" in err
    assert "Traceback" not in err
    assert arrays(out)["update"] > 0


@pytest.mark.parametrize("error", [Stop, MemoryError, SystemExit, GeneratorExit, RuntimeError])
def test_whatever_ends_a_run_saves_it_first(tmp_path, error, whole):
    with pytest.raises(error) as caught:
        train(SMALL, tmp_path, on_update=stop_after(13, error))
    assert arrays(tmp_path)["update"] == 13
    assert caught.value.__notes__ == [f"{tmp_path / 'checkpoint.npz'} holds update 13"]
    train(SMALL, tmp_path, resume=True)
    assert_same_run(whole, tmp_path)


def test_a_state_that_cannot_be_saved_does_not_hide_why_the_run_ended(tmp_path, monkeypatch):
    def stop(line):
        if line["step"] == 13:
            monkeypatch.setattr(checkpoint.np, "savez", None)
            raise Stop

    with pytest.raises(Stop) as caught:
        train(SMALL, tmp_path, on_update=stop)
    assert "update 13 could not be saved" in caught.value.__notes__[0]
    assert caught.value.__notes__[1].endswith("holds update 10")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_that_end_a_run_in_a_script(tmp_path, name, status):
    number = getattr(signal, name)
    before = signal.getsignal(number)

    def send(line):
        if line["step"] == 13:
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as caught:
        train(SMALL, tmp_path, on_update=send)
    assert caught.value.code == status
    assert arrays(tmp_path)["update"] == 13
    assert signal.getsignal(number) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_that_somebody_handles_is_left_to_them(tmp_path):
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        train(SMALL, tmp_path, on_update=lambda line: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(received) == 30


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_second_control_c_does_not_interrupt_the_saving(tmp_path, monkeypatch):
    save = training.save_checkpoint

    def interrupted(*args):
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGINT)
        save(*args)

    def stop(line):
        if line["step"] == 13:
            monkeypatch.setattr(training, "save_checkpoint", interrupted)
            raise error

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for error in (Stop, KeyboardInterrupt):
            monkeypatch.setattr(training, "save_checkpoint", save)
            with pytest.raises(error):
                train(SMALL, tmp_path / error.__name__, on_update=stop)
            assert arrays(tmp_path / error.__name__)["update"] == 13
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_five_signals_in_a_row_end_the_command_cleanly(tmp_path, name, status):
    pytest.importorskip("tyro", reason="the command line needs the extra 'train'")
    out = tmp_path / "run"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = run_command(out, "--updates", "10000000")
    signal.signal(signal.SIGINT, before)
    while not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
        assert process.poll() is None
    for _ in range(5):
        process.send_signal(getattr(signal, name))
        time.sleep(0.005)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err
    update = arrays(out)["update"]
    assert f"holds update {update}" in err
    assert "stopped; continue with: kru-ref train copying --out" in err
    assert not (out / "run.lock").exists()
    finish(run_command(out, "--resume", "--updates", str(update + 1)))
