"""Runs on disk: what they write, how they stop, and that resuming repeats them to the bit."""

import copy
import dataclasses
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("filelock", reason="training needs the extra 'train'")

from kru_ref import checkpoint, training
from kru_ref.tasks import Adding, Characters, Copying, Music
from kru_ref.training import Diverged, RunWarning, train

SMALL = Copying(
    delay=5,
    hidden_size=8,
    batch_size=4,
    updates=30,
    log_every=5,
    evaluate_every=10,
    checkpoint_every=10,
    held_out_sequences=6,
)


def metrics(out):
    return [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]


def without_time(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def arrays(out):
    with np.load(out / "checkpoint.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name != "seconds"}


def assert_same_run(a, b):
    first, second = arrays(a), arrays(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert without_time(metrics(a)) == without_time(metrics(b))


class Stop(Exception):
    pass


def stop_after(update, error=Stop):
    def on_update(line):
        if line["step"] == update:
            raise error

    return on_update


def test_what_a_run_leaves(tmp_path):
    out = tmp_path / "a" / "run"
    last = train(SMALL, out)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.npz",
        "checkpoint.previous.npz",
    }
    config = json.loads((out / "config.json").read_text())
    assert config["task"] == "copying"
    assert config["settings"]["delay"] == 5
    assert training.read_config(out) == SMALL
    lines = metrics(out)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30, 30]
    for line in lines:
        assert {"step", "loss", "seconds", "accuracy", "defect", "gradient_norm"} <= line.keys()
    evaluated = [line["step"] for line in lines if "validation_loss" in line]
    assert evaluated == [10, 20, 30, 30]
    assert lines[-1] == last
    assert {"test_loss", "test_accuracy"} <= last.keys()
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    state = arrays(out)
    assert state["update"] == state["optimizer/steps"] == 30
    assert state["params/cell.W.1"].dtype == "complex64"


def test_it_learns(tmp_path):
    """Above chance on fresh data, with the factors moved and still nearly unitary."""
    task = dataclasses.replace(SMALL, hidden_size=32, batch_size=20, updates=300, rate=3e-3)
    last = train(task, tmp_path / "run")
    assert last["test_loss"] < 0.5 * task.baseline[1]
    assert last["test_accuracy"] > 0.4
    assert last["defect"] < 0.1
    start = task.model().init(task.rng("parameters"))
    assert not np.array_equal(start["cell.W.0"], arrays(tmp_path / "run")["params/cell.W.0"])


def test_the_penalty_pulls_towards_unitary(tmp_path):
    """Without a data gradient on W (rate 0 elsewhere), a strong penalty lowers the defect."""
    task = dataclasses.replace(SMALL, factor_rate=1e-2, optimizer="sgd", updates=60, rate=0.0)
    free = train(dataclasses.replace(task, penalty=0.0), tmp_path / "free")
    held = train(dataclasses.replace(task, penalty=1.0), tmp_path / "held")
    assert held["defect"] < free["defect"]


@pytest.mark.parametrize("task", [SMALL, Adding(length=6, hidden_size=8, updates=30)], ids=str)
@pytest.mark.parametrize("stopped_at", [3, 10, 17, 30])
def test_resuming_repeats_the_run_to_the_bit(tmp_path, task, stopped_at):
    task = dataclasses.replace(
        task, log_every=5, evaluate_every=10, checkpoint_every=10, max_norm=0.5
    )
    train(task, tmp_path / "whole")
    with pytest.raises(Stop):
        train(task, tmp_path / "stopped", on_update=stop_after(stopped_at))
    train(task, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    train(SMALL, tmp_path / "run")
    before = metrics(tmp_path / "run")
    train(SMALL, tmp_path / "run", resume=True)
    assert metrics(tmp_path / "run") == before


def test_resuming_with_more_updates(tmp_path):
    longer = dataclasses.replace(SMALL, updates=50)
    train(longer, tmp_path / "whole")
    train(SMALL, tmp_path / "extended")
    train(longer, tmp_path / "extended", resume=True)
    for name, value in arrays(tmp_path / "whole").items():
        np.testing.assert_array_equal(value, arrays(tmp_path / "extended")[name])
    with pytest.raises(ValueError, match="has made 50 updates already"):
        train(SMALL, tmp_path / "extended", resume=True)


def test_the_last_update_is_evaluated_and_kept(tmp_path):
    """Also where it falls between the periods of both."""
    last = train(dataclasses.replace(SMALL, updates=33), tmp_path)
    assert arrays(tmp_path)["update"] == 33
    assert [line["step"] for line in metrics(tmp_path)][-2:] == [33, 33]
    assert "validation_loss" in last


def test_evaluation_is_that_of_the_parameters_kept(tmp_path):
    task = dataclasses.replace(SMALL, held_out_sequences=6, batch_size=4)
    last = train(task, tmp_path)
    kept = arrays(tmp_path)
    params = {k.removeprefix("params/"): v for k, v in kept.items() if k.startswith("params/")}
    for split in ("validation", "test"):
        losses, weights = [], []
        for batch in task.held_out(split):
            logits, _ = task.model().forward(params, batch.x)
            losses.append(task.loss(logits, batch.targets)[0])
            weights.append(batch.x.shape[-1])
        assert weights == [4, 2]
        assert last[f"{split}_loss"] == pytest.approx(np.average(losses, weights=weights))
    assert last["validation_loss"] != last["test_loss"]


def test_schedule_and_clipping_are_applied(tmp_path):
    """The first two updates of SGD, by hand."""
    task = dataclasses.replace(
        SMALL, optimizer="sgd", schedule="cosine", updates=2, max_norm=0.01, penalty=0.3, rate=0.5
    )
    train(task, tmp_path)
    model = task.model()
    params = model.init(task.rng("parameters"))
    for update, scale in ((0, 1.0), (1, 0.5)):
        batch = task.batch(update)
        logits, saved = model.forward(params, batch.x)
        grads = model.backward(params, saved, task.loss(logits, batch.targets)[1])
        for name, gradient in model.penalty(params)[1].items():
            grads[name] = grads[name] + 0.3 * gradient
        norm = np.sqrt(sum(np.sum(np.abs(g) ** 2) for g in grads.values()))
        assert norm > 0.01
        for name in params:
            rate = task.factor_rate if name.startswith("cell.W") else 0.5
            params[name] = params[name] - scale * rate * 0.01 / norm * grads[name]
    for name, value in params.items():
        np.testing.assert_allclose(arrays(tmp_path)[f"params/{name}"], value, rtol=1e-5, atol=1e-7)


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


@pytest.mark.parametrize(
    "settings",
    [
        {"cell": "lstm"},
        {"cell": "gru", "layers": 2, "dropout": 0.2},
        {"cell": "rnn", "layers": 2},
        {"cell": "rnn", "matrix": "full"},
        {"cell": "lstm", "matrix": "restricted"},
    ],
    ids=str,
)
def test_a_resumed_run_carries_the_state(tmp_path, settings):
    """Truncated back-propagation, stopped in the middle of an epoch, goes on to the same bits."""
    text = " ".join("abcd"[i * i % 3] for i in range(200))
    for name in ("train", "valid", "test"):
        (tmp_path / f"ptb.char.{name}.txt").write_text(text)
    task = Characters(
        length=5, batch_size=4, hidden_size=8, updates=8, evaluate_every=8, data_dir=tmp_path,
        own_data=True, schedule="constant", checkpoint_every=3, log_every=1, **settings,
    )  # fmt: skip
    assert [task.batch(u).continues for u in range(10)] == [False, *[True] * 8, False]
    train(task, tmp_path / "whole")
    train(dataclasses.replace(task, updates=5), tmp_path / "parts")
    train(task, tmp_path / "parts", resume=True)
    whole, parts = arrays(tmp_path / "whole"), arrays(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert any(name.startswith("carried/0") for name in whole)
    for name in whole.keys() - {"seconds"}:
        np.testing.assert_array_equal(whole[name], parts[name])
    # and the state matters: from another one the same batch has another loss
    model, batch = task.model(), task.batch(8)
    params = {k.removeprefix("params/"): v for k, v in whole.items() if k.startswith("params/")}
    state = checkpoint.load_checkpoint(
        tmp_path / "whole" / "checkpoint.npz", model, task.optimizer_at(0)
    )
    carried, _ = model.forward(params, batch.x, state.carried)
    fresh, _ = model.forward(params, batch.x)
    assert not np.allclose(carried, fresh)


def test_updates_by_hand(tmp_path):
    """Carried state, dropout, masks and a rate for each layer: the first updates of SGD."""

    class Chunks(Music):
        carries = True

        def batch(self, update):
            return super().batch(update)._replace(continues=update > 0)

        def held_out(self, split):
            for i, batch in enumerate(super().held_out(split)):
                yield batch._replace(continues=i > 0)

    pieces = {
        name: [[[60 + (i * t) % 7] for t in range(4 + i)] for i in range(4)]
        for name in ("train", "valid", "test")
    }
    (tmp_path / "jsb-chorales-quarter.json").write_text(json.dumps(pieces))
    task = Chunks(
        cell="gru", layers=2, dropout=0.3, hidden_size=8, batch_size=2, updates=3, rate=0.5,
        factor_rate=0.2, penalty=0.1, optimizer="sgd", schedule="constant", max_norm=None,
        data_dir=tmp_path, own_data=True, log_every=1, evaluate_every=3,
    )  # fmt: skip
    last = train(task, tmp_path / "run")
    model = task.model()
    params, state = model.init(task.rng("parameters")), None
    for update in range(3):
        batch = task.batch(update)
        assert 0 < batch.mask.mean() <= 1
        logits, saved = model.forward(params, batch.x, state, rng=task.rng("dropout", update))
        _, dlogits = task.loss(logits, batch.targets, batch.mask)
        grads = model.backward(params, saved, dlogits)
        for name, gradient in model.penalty(params)[1].items():
            grads[name] = grads[name] + 0.1 * gradient
        state = copy.deepcopy(saved.last)
        for name in params:
            rate = 0.2 if ".W" in name else 0.5
            params[name] = params[name] - np.float32(rate) * grads[name]
    for name, value in params.items():
        np.testing.assert_allclose(arrays(tmp_path / "run")[f"params/{name}"], value, rtol=1e-5)
    total, steps, state = 0.0, 0.0, None
    for batch in task.held_out("test"):
        logits, saved = model.forward(params, batch.x, state)
        state = saved.last
        total += task.loss(logits, batch.targets, batch.mask)[0] * batch.mask.sum()
        steps += batch.mask.sum()
    assert last["test_loss"] == pytest.approx(total / steps, rel=1e-6)


def test_a_unitary_matrix_stays_unitary_in_training(tmp_path):
    task = dataclasses.replace(SMALL, matrix="full", factor_rate=0.05, updates=50)
    assert train(task, tmp_path)["defect"] < 1e-5
    start = task.model().init(task.rng("parameters"))["cell.W"]
    assert np.linalg.norm(arrays(tmp_path)["params/cell.W"] - start) > 0.1


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    out = tmp_path / "run"
    task = dataclasses.replace(SMALL, optimizer="sgd", rate=1e30)
    with pytest.raises(Diverged, match=r"update \d+: loss .* must all be finite"):
        train(task, out)
    state = arrays(out)
    assert state["update"] == 0
    assert all(np.isfinite(value).all() for value in state.values())


def test_parameters_that_are_not_finite_stop_the_run(tmp_path):
    task = dataclasses.replace(SMALL, dtype="complex128", rate=1e308, factor_rate=1e308)
    with pytest.raises(Diverged, match="update 1 makes parameters that are not finite"):
        train(task, tmp_path)
    assert arrays(tmp_path)["update"] == 0


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_factors_that_overflow_stop_the_run(tmp_path, dtype):
    rate = {"complex64": 1e25, "complex128": 3e90}[dtype]
    task = dataclasses.replace(SMALL, dtype=dtype, factor_rate=rate, hidden_size=64, log_every=1)
    with pytest.raises(Diverged, match=r"update 1 makes W overflow.*another folder"):
        train(task, tmp_path)
    assert arrays(tmp_path)["update"] == 0


@pytest.mark.parametrize("infinite", ["penalty", "backward"])
def test_every_number_of_an_update_is_checked(tmp_path, monkeypatch, infinite):
    """Not only the loss: the penalty and the gradient too."""
    model = type(SMALL.model())
    right = getattr(model, infinite)

    def wrong(self, params, *args):
        if infinite == "penalty":
            return np.inf, right(self, params, *args)[1]
        return {k: g * np.inf for k, g in right(self, params, *args).items()}

    monkeypatch.setattr(model, infinite, wrong)
    with pytest.raises(Diverged, match=r"update 1: loss .* must all be finite"):
        train(SMALL, tmp_path)


def test_a_held_out_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    class Far(Adding):
        def held_out(self, split):
            for batch in super().held_out(split):
                yield batch._replace(targets=batch.targets * 1e200)

    task = Far(length=6, hidden_size=8, updates=10, evaluate_every=5)
    with np.errstate(over="ignore"), pytest.raises(Diverged, match="validation data must be"):
        train(task, tmp_path)


def test_a_nan_in_the_data_stops_the_run(tmp_path):
    class Bad(Adding):
        def batch(self, update):
            batch = super().batch(update)
            if update == 12:
                batch.x[3, 0, 0] = np.nan
            return batch

    task = Bad(length=6, hidden_size=8, updates=30, checkpoint_every=10)
    with pytest.raises(ValueError, match=r"x must be finite, but x\[t, d, b\] is nan at \(3, 0, 0"):
        train(task, tmp_path / "run")
    assert arrays(tmp_path / "run")["update"] == 12


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    train(SMALL, tmp_path / "run")
    content = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    assert len(content) == 4
    for name, kept in content.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(kept)
        with pytest.raises(FileExistsError, match=f"already holds a run .{name}"):
            train(SMALL, folder)
        assert (folder / name).read_bytes() == kept


def test_resuming_without_the_metrics(tmp_path):
    """They are lost, the run is not; a line that is none of ours is taken out, and told."""
    whole = train(SMALL, tmp_path)
    for content, warning in (
        (None, "lines of updates 5, 10, 15, 20, 25, 30 are missing"),
        ('{"mine": 1}\n[1]\nnonsense\n', "that the run did not write were taken out"),
    ):
        (tmp_path / "metrics.jsonl").unlink()
        if content:
            (tmp_path / "metrics.jsonl").write_text(content)
        with pytest.warns(RunWarning, match=warning):
            again = train(SMALL, tmp_path, resume=True)
        assert again["test_loss"] == whole["test_loss"]
        assert again["step"] == 30
        assert again["defect"] == whole["defect"]
        assert len(metrics(tmp_path)) == 1
    assert (tmp_path / "metrics.damaged-1.jsonl").read_text() == content


def test_resuming_refuses_other_settings(tmp_path):
    train(SMALL, tmp_path)
    other = dataclasses.replace(SMALL, rate=0.5, hidden_size=16, log_every=7)
    with pytest.raises(ValueError, match=r"hidden_size is 16, was 8; rate is 0\.5, was 0\.001\."):
        train(other, tmp_path, resume=True)
    with pytest.raises(ValueError, match="holds a run of copying, not of adding"):
        train(Adding(), tmp_path, resume=True)
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(SMALL, tmp_path / "nothing", resume=True)


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


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"task": "copying"}', '{"task": 1, "settings": {}}']
)
def test_resuming_refuses_a_damaged_config(tmp_path, content):
    train(SMALL, tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged or of another version"):
        train(SMALL, tmp_path, resume=True)


def test_an_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write the run to .*file/run"):
        train(SMALL, tmp_path / "file" / "run")


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


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write the run to"):
        train(SMALL, tmp_path / "run")
