"""Runs on disk: what they write, how they stop, and that resuming repeats them to the bit."""

import builtins
import copy
import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import threading

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

from kru_ref.engine import backend
from kru_ref.losses import softmax_cross_entropy
from kru_ref.training import checkpoint, config, folder
from kru_ref.training.folder import Locked, RunWarning
from kru_ref.training.loop import Diverged, train
from kru_ref.training.tasks import Adding, Batch, Characters, Music, Pixels, Task, epoch_of, pad


def test_what_a_run_leaves(tmp_path):
    out = tmp_path / "a" / "run"
    last = train(SMALL, out)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.npz",
        "checkpoint.previous.npz",
    }
    written = json.loads((out / "config.json").read_text())
    assert written["task"] == "copying"
    assert written["settings"]["delay"] == 5
    assert config.read_config(out) == SMALL
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Echo(Task):
    """A task that is not the library's: say what was there `delay` steps ago."""

    name = "echo"
    loss = staticmethod(softmax_cross_entropy)
    input_size = 3
    output_size = 3

    delay: int = 2

    def batch(self, update):
        """Draw sequences of different lengths, one epoch of twelve after the other."""
        epoch, first = epoch_of(update, 12, self.batch_size)
        rng = self.rng("training", epoch)
        sequences = [rng.integers(3, size=rng.integers(4, 9)) for _ in range(12)]
        return self._side_by_side(sequences[first : first + self.batch_size])

    def held_out(self, split):
        """Draw some that no update sees."""
        rng = self.rng(split)
        yield self._side_by_side([rng.integers(3, size=n) for n in (5, 9)])

    def _side_by_side(self, sequences):
        x, mask = pad(sequences)
        mask[: self.delay] = 0
        return Batch(x, np.roll(x, self.delay, axis=0), mask)

    def metrics(self, loss, logits, batch):
        """Return nothing."""
        return {}

    @property
    def baseline(self):
        """Chance."""
        return "by chance", float(np.log(3))


@pytest.mark.parametrize("stopped_at", [3, 10])
def test_a_task_of_one_s_own_is_resumed_to_the_bit(tmp_path, stopped_at):
    task = Echo(hidden_size=8, updates=20, batch_size=5, evaluate_every=5, checkpoint_every=5)
    whole = train(task, tmp_path / "whole")
    with pytest.raises(Stop):
        train(task, tmp_path / "run", on_update=stop_after(stopped_at))
    assert train(task, tmp_path / "run", resume=True).keys() == whole.keys()
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(ValueError, match="delay is 3, was 2"):
        train(dataclasses.replace(task, delay=3), tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"task 'echo' that is none of kru_ref's: resume it with"):
        config.read_config(tmp_path / "run")


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

    task = Far(length=6, hidden_size=8, updates=10, evaluate_every=5, dtype="complex128")
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


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write the run to"):
        train(SMALL, tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["settings"].update(batch_size=True),
        lambda c: c["settings"].update(batch_size="4"),
        lambda c: c["settings"].update(batch_size=4.0),
        lambda c: c["settings"].update(batch_size=None),
        lambda c: c["settings"].update(rate="0.1"),
        lambda c: c["settings"].update(rate=True),
        lambda c: c["settings"].update(rate=float("nan")),
        lambda c: c["settings"].update(cell=1),
        lambda c: c["settings"].update(cell="x" * 5000),
        lambda c: c["settings"].update(name=[1]),
        lambda c: c["settings"].update(factors=[[2, 2, 2]]),
        lambda c: c["settings"].update(factors=[[2.0, 2]]),
        lambda c: c["settings"].update(factors=8),
        lambda c: c["settings"].pop("rate"),
        lambda c: c.update(settings=None),
        lambda c: c.update(settings=[]),
        lambda c: c.update(task=[1]),
        lambda c: c.update(task="juggling"),
        lambda c: c.update(version="99.0"),
        lambda c: c.update(kru_ref=None),
        lambda c: c.update(kru_ref=1.0),
        lambda c: c.update(kru_ref="new"),
        lambda c: c.update(kru_ref="99.0"),
        lambda c: c.update(kru_ref="0.99.0"),
        lambda c: c.update(computed={}),
        lambda c: c.update(computed=None),
        lambda c: c.update(computed=[1]),
        lambda c: c.update(computed=[{"threads": 1}]),
    ],
)
def test_each_entry_of_a_config_is_checked(tmp_path, change):
    stopped_run(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    change(content)
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"config\.json .*(again in another|the newer one|resume it with)"
    ) as caught:
        train(SMALL, tmp_path, resume=True)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{", b"", b"[" * 100_000, b'{"task": ' * 50_000, b"null", b"1" * 10_000]
)
def test_a_config_that_is_none(tmp_path, content):
    stopped_run(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged") as caught:
        train(SMALL, tmp_path, resume=True)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoint.npz"])
def test_a_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch, name):
    stopped_run(tmp_path)
    real = builtins.open

    def refuse(path, *args, **kwargs):
        if str(path) == str(tmp_path / name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(PermissionError, match=f"{name}: Permission denied; make it readable"):
        train(SMALL, tmp_path, resume=True)


def test_two_runs_in_one_folder(tmp_path):
    """The second is told who writes there, and touches nothing; so is one of the same process."""
    before = {}

    def second(line):
        if line["step"] != 12:
            return
        before.update({p.name: p.read_bytes() for p in tmp_path.iterdir()})
        for resume in (True, False):
            kind = Locked if resume else FileExistsError
            message = (
                f"process {os.getpid()} on {socket.gethostname()} writes to"
                if resume
                else "already"
            )
            with pytest.raises(kind, match=message):
                train(SMALL, tmp_path, resume=resume)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    train(SMALL, tmp_path, on_update=second)
    assert before
    assert not (tmp_path / "run.lock").exists()


def test_two_runs_that_begin_together(tmp_path):
    """One of them has the folder, whichever it is; the other has nothing in it."""
    outcomes = {}

    def begin(seed):
        try:
            outcomes[seed] = train(dataclasses.replace(SMALL, seed=seed), tmp_path / "run")
        except (Locked, FileExistsError) as error:
            outcomes[seed] = error

    threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (seed,) = [seed for seed, outcome in outcomes.items() if isinstance(outcome, dict)]
    train(dataclasses.replace(SMALL, seed=seed), tmp_path / "alone")
    assert_same_run(tmp_path / "alone", tmp_path / "run")
    assert config.read_config(tmp_path / "run").seed == seed


def test_the_lock_of_a_dead_process(tmp_path):
    stopped_run(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "run.lock").write_text(f"{dead.pid}\n{socket.gethostname()}\n")
    train(SMALL, tmp_path, resume=True)
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.parametrize(
    ("content", "owner"),
    [("77\nelsewhere\n", "process 77 on elsewhere"), ("", "another process")],
)
def test_the_lock_of_another_machine(tmp_path, monkeypatch, content, owner):
    """Whether that process lives cannot be known: the user is told what to do."""
    monkeypatch.setattr(folder, "LEASE", 0.3)
    stopped_run(tmp_path)
    (tmp_path / "run.lock").write_text(content)
    with pytest.raises(Locked, match=rf"{owner} writes to .* delete .*run\.lock"):
        train(SMALL, tmp_path, resume=True)
    (tmp_path / "run.lock").unlink()
    train(SMALL, tmp_path, resume=True)


@pytest.mark.parametrize("is_renewed", [False, True])
def test_the_lock_of_a_machine_that_may_be_gone(tmp_path, monkeypatch, is_renewed):
    """It is taken over when it has not been renewed for a while."""
    monkeypatch.setattr(folder, "LEASE", 1.0)
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    stopped_run(tmp_path)
    with folder.locked(tmp_path):
        record = (tmp_path / "run.lock").read_text()
    (tmp_path / "run.lock").write_text(record.replace("host=here", "host=elsewhere"))
    assert folder.is_locked(tmp_path)
    ended = threading.Event()

    def renew():
        while not ended.wait(0.2):
            os.utime(tmp_path / "run.lock")

    renewing = threading.Thread(target=renew)
    if is_renewed:
        renewing.start()
        with pytest.raises(Locked, match="on elsewhere writes to"):
            train(SMALL, tmp_path, resume=True)
        ended.set()
        renewing.join()
    else:
        train(SMALL, tmp_path, resume=True)
        assert not folder.is_locked(tmp_path)


def test_a_run_records_what_computes_it(tmp_path):
    train(SMALL, tmp_path)
    (part,) = json.loads((tmp_path / "config.json").read_text())["computed"]
    assert part["update"] == 0
    assert part["numpy"] == np.__version__
    assert part["backend"] == backend.resolve("auto")
    assert part["data"] is None
    assert {"kru_ref", "python", "scipy", "machine", "instruction_set", "threads"} <= part.keys()
    assert any("threads" in library for library in part["blas"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("threads", lambda patch: patch.setattr(backend, "n_threads", lambda: 77)),
        ("instruction_set", lambda patch: patch.setattr(backend, "instruction_set", lambda: "x")),
        ("backend", lambda patch: patch.setattr(backend, "kernels", None)),
        ("numpy", lambda patch: patch.setattr(np, "__version__", "2.0")),
        ("scipy", lambda patch: patch.setattr(config.scipy, "__version__", "1.0")),
        ("python", lambda patch: patch.setattr(config.platform, "python_version", lambda: "3")),
        ("machine", lambda patch: patch.setattr(config.platform, "machine", lambda: "pdp11")),
        ("kru_ref", lambda patch: patch.setattr(config, "__version__", "0.2.7")),
        ("blas", lambda patch: patch.setattr("threadpoolctl.threadpool_info", list)),
    ],
)
def test_a_run_that_something_else_goes_on_with(tmp_path, monkeypatch, name, change):
    """It goes on, with a sentence that names what differs; the record has both, and warns once."""
    if backend.kernels is None and name in ("threads", "instruction_set", "backend"):
        pytest.skip("the compiled kernels are not built")
    stopped_run(tmp_path)
    was = config.what_computes(SMALL)[name]
    change(monkeypatch)
    with pytest.warns(RunWarning, match=f"may end at other bits.*{name} was") as caught:
        train(SMALL, tmp_path, resume=True)
    assert len(caught) == 1
    first, second = json.loads((tmp_path / "config.json").read_text())["computed"]
    assert (first["update"], first[name]) == (0, was)
    assert (second["update"], second[name]) == (20, config.what_computes(SMALL)[name])
    train(SMALL, tmp_path, resume=True)


def test_a_run_of_an_earlier_version_goes_on(tmp_path, whole):
    """It recorded neither what computed it nor which lines of metrics there are."""
    stopped_run(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["computed"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with np.load(tmp_path / "checkpoint.npz") as archive:
        old = {name: archive[name] for name in archive.files if name != "rows"}
    np.savez(tmp_path / "checkpoint.npz", **old)
    with pytest.warns(RunWarning) as caught:
        train(SMALL, tmp_path, resume=True)
    assert "may end at other bits than without a stop: kru_ref is " in str(caught[0].message)
    assert "an earlier kru_ref wrote the checkpoint" in str(caught[1].message)
    assert len(caught) == 2
    assert_same_run(whole, tmp_path)
    train(SMALL, tmp_path, resume=True)


def test_settings_that_came_later_are_the_defaults(tmp_path):
    """They are not in the file of a run of before; all others must be."""
    task = Pixels(updates=3, permute=True)
    settings = config.config(task)["settings"]
    for name, refused in (("permutation", False), ("permutation_seed", True)):
        of_before = {key: value for key, value in settings.items() if key != name}
        content = {"task": "pixels", "kru_ref": "0.1.0", "settings": of_before}
        (tmp_path / "config.json").write_text(json.dumps(content))
        if refused:
            with pytest.raises(ValueError, match="settings lack permutation_seed"):
                config.read_config(tmp_path)
        else:
            assert config.read_config(tmp_path) == task


def test_data_of_ones_own_is_part_of_the_record(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"ptb.char.{name}.txt").write_text("a b c " * 100)
    task = Characters(
        length=5, batch_size=4, hidden_size=8, updates=3, data_dir=tmp_path, own_data=True
    )
    train(task, tmp_path / "run")
    train(task, tmp_path / "run", resume=True)
    (tmp_path / "ptb.char.valid.txt").write_text("a c b " * 100)
    changed = dataclasses.replace(task)
    with pytest.warns(RunWarning, match="data was"):
        train(changed, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space, or ask"),
        (errno.EROFS, "read-only: choose another folder"),
        (errno.EACCES, "Make the folder writable"),
        (errno.EPERM, "Make the folder writable"),
        (errno.EIO, "The disk or the network fails"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EFBIG, "Allow larger files"),
        (errno.ESTALE, "Choose a folder that can be written"),
    ],
)
def test_a_failed_write_advises_what_helps(tmp_path, monkeypatch, code, advice):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint.np, "savez", refuse)
    with pytest.raises(OSError, match=f"{os.strerror(code)}.*{advice}") as caught:
        train(SMALL, tmp_path)
    assert ("Free some space" in str(caught.value)) == (code in (errno.ENOSPC, errno.EDQUOT))


def test_an_empty_name_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="out must name the folder of the run"):
        train(SMALL, "")
    assert not list(tmp_path.iterdir())
