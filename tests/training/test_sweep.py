"""Sweeps: every run as if it had been made alone, whatever becomes of those who make them."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("filelock", reason="training needs the extra 'train'")
pytest.importorskip("optuna", reason="sweeps need the extra 'sweep'")
from runs import SMALL, Stop, assert_same_run, stop_after

from kru_ref.training import loop, sweep
from kru_ref.training.cli import main
from kru_ref.training.tasks import Copying, Pixels

FIXED = {
    name: (getattr(SMALL, name),)
    for name in (
        "delay", "hidden_size", "batch_size", "updates", "log_every", "evaluate_every",
        "checkpoint_every", "held_out_sequences",
    )
}  # fmt: skip
CHOICES = FIXED | {"rate": (1e-3, 3e-3), "seed": (0, 1)}
OPTIONS = [
    word for name, (value,) in FIXED.items() for word in (f"--{name.replace('_', '-')}", str(value))
]
HERE = sweep.Workers(jobs=2)


def alone(run, folder):
    """Make a run by itself."""
    loop.train(run.task, folder)
    return folder


def states(runs):
    return [sweep.status(run).state for run in runs]


def test_a_grid_has_every_combination(tmp_path):
    runs = sweep.grid(Copying, CHOICES, tmp_path)
    assert [run.folder.name for run in runs] == [
        "rate=0.001,seed=0", "rate=0.001,seed=1", "rate=0.003,seed=0", "rate=0.003,seed=1",
    ]  # fmt: skip
    assert runs[3].task == dataclasses.replace(SMALL, rate=3e-3, seed=1)
    assert [run.folder.name for run in sweep.grid(Copying, FIXED, tmp_path)] == ["run"]
    assert states(runs) == ["waiting"] * 4


@pytest.mark.parametrize(("choices", "sentence"), [
    ({"rate": ()}, "rate must have a value"),
    ({"rate": (1e-3, 1e-3)}, "rate has the value 0.001 twice"),
    ({"factors": (None, ((2, 2), (64, 64)))}, "factors must be the same for all runs"),
    ({"cell": ("rnn", "lstm"), "activation": ("relu",)}, "cell=rnn: activation 'relu' is defined"),
    ({"seed": (1, -1)}, "seed=-1: seed must be at least 0"),
])  # fmt: skip
def test_a_grid_that_is_refused(tmp_path, choices, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        sweep.grid(Copying, choices, tmp_path)


def test_the_command_makes_each_run_as_alone(tmp_path, capsys):
    out = tmp_path / "sweep"
    words = ["sweep", "copying", *OPTIONS, "--rate", "1e-3", "3e-3", "--seed", "0", "1"]
    assert main([*words, "--out", str(out), "--jobs", "2"]) == 0
    shown = capsys.readouterr()
    assert "| rate | ended | validation loss | otherwise |" in shown.out
    assert shown.out.count("| 2 of 2 |") == 2
    assert "4 ended" in shown.err
    runs = sweep.runs_of(out)
    for run in runs:
        assert_same_run(run.folder, alone(run, tmp_path / f"alone {run.folder.name}"))
    rows = (out / "sweep.csv").read_text().splitlines()
    assert rows[0].startswith("rate,seed,state,updates,validation_loss")
    assert len(rows) == 5
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    times = [(run.folder / "metrics.jsonl").stat().st_mtime_ns for run in runs]
    assert main([*words, "--out", str(out), "--quiet"]) == 0
    assert [(run.folder / "metrics.jsonl").stat().st_mtime_ns for run in runs] == times
    capsys.readouterr()
    assert main(["sweep", "--status", str(out)]) == 0
    assert "4 ended" in capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on(tmp_path):
    runs = sweep.grid(Copying, CHOICES, tmp_path)
    with pytest.raises(Stop):
        loop.train(runs[1].task, runs[1].folder, on_update=stop_after(20))
    assert states(runs) == ["waiting", "stopped", "waiting", "waiting"]
    sweep.make(runs[1], 1)
    assert_same_run(runs[1].folder, alone(runs[1], tmp_path / "alone"))


def test_one_that_another_process_makes_is_left_to_it(tmp_path):
    (run,) = sweep.grid(Copying, FIXED, tmp_path)
    seen = []

    def second(line):
        if line["step"] == 12:
            seen.append(sweep.status(run).state)
            sweep.make(run, 1)

    loop.train(run.task, run.folder, on_update=second)
    assert seen == ["running"]
    assert sweep.status(run).state == "ended"


def test_what_diverges_or_fails_stops_nobody(tmp_path, capsys, monkeypatch):
    out = tmp_path / "sweep"
    words = ["sweep", "copying", *OPTIONS, "--rate", "1e-3", "1e30", "--out", str(out), "--quiet"]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "rate=1e+30 is diverged: update" in shown.err
    assert "1 diverged" in shown.out
    good, bad = sweep.runs_of(out)
    assert states([good, bad]) == ["ended", "diverged"]
    before = (bad.folder / "checkpoint.npz").stat()
    sweep.make(bad, 1)  # it would do so again
    assert (bad.folder / "checkpoint.npz").stat() == before

    (away,) = sweep.grid(Pixels, {"data_dir": (tmp_path,), "updates": (1,)}, tmp_path / "pixels")
    sweep.make(away, 1)
    found = sweep.status(away)
    assert found.state == "failed"
    assert "mnist" in found.why
    monkeypatch.setattr(loop, "train", lambda *args, **options: {})
    monkeypatch.setattr(loop, "why_diverged", lambda *args: "")
    sweep.make(away, 1)  # the data may be there now
    assert sweep.status(away).state == "waiting"


def test_a_run_that_diverges_without_overflowing_is_told_as_by_itself(tmp_path, capsys):
    words = [*OPTIONS, "--rate", "1e6", "--quiet", "--out"]
    assert main(["train", "copying", *words, str(tmp_path / "alone")]) == 1
    assert main(["sweep", "copying", *words, str(tmp_path / "sweep")]) == 1
    sentences = [
        line for line in capsys.readouterr().err.splitlines() if "the run diverged" in line
    ]
    assert len(sentences) == 2
    (run,) = sweep.runs_of(tmp_path / "sweep")
    assert states([run]) == ["diverged"]
    assert "the run diverged: its test loss is" in sweep.status(run).why


def test_two_processes_may_tell_a_trial(tmp_path):
    """Each was told by its own copy of the journal that nobody had."""
    optuna = pytest.importorskip("optuna", reason="a search needs the extra 'sweep'")
    begin = {"rate": (1e-4, 1e-1)}
    sweep.begin(tmp_path, Copying, begin, 2)
    study = sweep._study(tmp_path)
    asked = study.ask(sweep.space(Copying, begin, 2))

    class Late:
        """A study that has not read what another process told."""

        def tell(self, number, value, skip_if_finished):
            complete = optuna.trial.TrialState.COMPLETE
            study._storage.set_trial_state_values(asked._trial_id, complete, [value])

    sweep._tell(study, asked.number, 0.5)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        Late().tell(asked.number, 0.5, True)
    sweep._tell(Late(), asked.number, 0.5)
    (trial,) = study.get_trials()
    assert trial.value == 0.5


def test_a_folder_holds_one_sweep(tmp_path):
    sweep.begin(tmp_path, Copying, CHOICES, None)
    sweep.begin(tmp_path, Copying, CHOICES, None)
    with pytest.raises(ValueError, match="holds another sweep, of copying with"):
        sweep.begin(tmp_path, Copying, CHOICES | {"seed": (0, 2)}, None)
    assert sweep.runs_of(tmp_path) == sweep.grid(Copying, CHOICES, tmp_path)


def test_a_sweep_is_read_as_it_was_begun(tmp_path):
    choices = {"data_dir": (tmp_path,), "factors": (((2, 2), (4, 4)),), "hidden_size": (8,)}
    sweep.begin(tmp_path, Pixels, choices, None)
    (run,) = sweep.runs_of(tmp_path)
    assert run.task == Pixels(data_dir=tmp_path, factors=((2, 2), (4, 4)), hidden_size=8)


@pytest.mark.parametrize(("content", "sentence"), [
    (None, "holds no sweep"),
    ("{", "is damaged"),
    ("[]", "must have task, choices and trials"),
    ('{"task": "juggling", "choices": {}, "trials": null}', "no task 'juggling'"),
])  # fmt: skip
def test_a_folder_without_a_good_sweep(tmp_path, capsys, content, sentence):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    assert main(["sweep", "--status", str(tmp_path)]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("words", "sentence"), [
    (["sweep"], "a sweep needs a task and the folder"),
    (["sweep", "copying"], "--out DIR"),
    (["sweep", "copying", "--out", "x", "--jobs", "0"], "jobs must be at least 1, got 0"),
    (["sweep", "copying", "--out", "x", "--trials", "3"], "needs a setting with several values"),
    (["sweep", "copying", "--rate", "1", "2", "--out", "x", "--trials", "0"], "at least 1, got 0"),
    (["sweep", "copying", "--rate", "1", "2", "--status", "x"], "--status shows a sweep and runs"),
    (["reproduce", "copying-1000-kru", "--seeds", "0", "1", "--resume"], "no --out, no --resume"),
    (["reproduce", "--seeds", "0", "1"], "name must be one of those"),
])  # fmt: skip
def test_commands_that_are_refused(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("jobs", "cores", "threads"), [(1, 8, 8), (3, 8, 2), (9, 8, 1)])
def test_all_threads_are_no_more_than_the_cores(monkeypatch, jobs, cores, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert sweep.Workers(jobs).threads == threads


def test_several_recipes_and_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "tone-kru", "tone-kru-frozen", "--seeds", "4", "5", "--updates", "2"]
    assert main([*words, "--quiet"]) == 0
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == ["tone-kru-4", "tone-kru-5", "tone-kru-frozen-4", "tone-kru-frozen-5"]
    assert main(["reproduce", "tone-kru", "--seed", "4", "--updates", "2"]) == 1
    assert "already holds a run" in capsys.readouterr().err


# Search


def test_a_search_is_shared(tmp_path):
    """Two processes, one search: together they make so many runs, and no more."""
    out = tmp_path / "sweep"
    words = ["sweep", "copying", *OPTIONS, "--rate", "1e-4", "1e-1", "--cell", "rnn", "gru"]
    words += ["--dtype", "float32", "--trials", "6", "--out", str(out), "--quiet"]
    command = [sys.executable, "-P", "-m", "kru_ref", *words]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    runs = sweep.runs_of(out)
    assert states(runs) == ["ended"] * 6
    assert sorted(run.folder.name[:4] for run in runs) == [f"{n:04}" for n in range(6)]
    assert all(1e-4 <= run.varied["rate"] <= 1e-1 for run in runs)
    assert_same_run(runs[2].folder, alone(runs[2], tmp_path / "alone"))


def test_a_search_goes_on_with_what_a_dead_process_left(tmp_path):
    choices = FIXED | {"rate": (1e-3, 1e-1)}
    sweep.begin(tmp_path, Copying, choices, 2)
    code = f"""
import os
from kru_ref.training import loop, sweep
from kru_ref.training.tasks import Copying
from pathlib import Path
train = loop.train
def die(line):
    if line["step"] == 25:
        os._exit(9)
loop.train = lambda *args, **options: train(*args, **options, on_update=die)
sweep.trial(Copying, {choices!r}, Path({str(tmp_path)!r}), 2, 1)
"""
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 9
    (run,) = sweep.runs_of(tmp_path)
    assert sweep.status(run).state == "stopped"
    found = sweep.search(Copying, choices, tmp_path, 2, sweep.Workers())
    assert [of.state for of in found] == ["ended", "ended"]
    assert_same_run(run.folder, alone(run, tmp_path / "alone"))


def test_what_a_search_looks_in(tmp_path):
    space = sweep.space(
        Copying,
        {"rate": (1e-4, 1e-1), "dropout": (0.1, 0.5), "layers": (1, 3), "cell": ("rnn", "gru"),
         "batch_size": (2, 4, 8), "seed": (0,)},
        3,
    )  # fmt: skip
    assert {name: type(of).__name__[:3] for name, of in space.items()} == {
        "rate": "Flo", "dropout": "Flo", "layers": "Int", "cell": "Cat", "batch_size": "Cat",
    }  # fmt: skip
    assert space["rate"].log
    assert not space["dropout"].log


def test_settings_that_do_not_go_together_end_no_search(tmp_path):
    choices = FIXED | {"cell": ("rnn", "lstm"), "activation": ("relu",), "dtype": ("float32",)}
    sweep.begin(tmp_path, Copying, choices, 6)
    found = sweep.search(Copying, choices, tmp_path, 6, sweep.Workers())
    assert all(of.run.task.cell == "rnn" and of.state == "ended" for of in found)


def test_a_trial_that_was_asked_for_and_never_begun(tmp_path, monkeypatch):
    """Its process died before there was a folder; after a while somebody else begins it."""
    choices = FIXED | {"rate": (1e-3, 1e-1)}
    sweep.begin(tmp_path, Copying, choices, 2)
    study = sweep._study(tmp_path)
    for number in range(2):
        asked = study.ask(sweep.space(Copying, choices, 2))
        if number == 1:
            asked.set_user_attr("folder", "0001,rate=x")
    monkeypatch.setattr(sweep, "LEASE", -1)
    found = sweep.search(Copying, choices, tmp_path, 2, sweep.Workers())
    assert [(of.run.folder.name, of.state) for of in found] == [("0001,rate=x", "ended")]


def test_it_can_be_stopped_and_goes_on(tmp_path):
    out = tmp_path / "sweep"
    words = ["sweep", "copying", *OPTIONS, "--updates", "500", "--seed", "0", "1"]
    words += ["--out", str(out), "--jobs", "2", "--quiet"]
    command = [sys.executable, "-P", "-m", "kru_ref", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(out.glob("*/checkpoint.previous.npz")):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate()
    assert process.returncode == 130
    assert "stopped; the same command goes on" in shown
    assert "Traceback" not in shown
    runs = sweep.runs_of(out)
    assert set(states(runs)) <= {"stopped", "waiting"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert states(runs) == ["ended"] * 2
    assert_same_run(runs[0].folder, alone(runs[0], tmp_path / "alone"))


# Workers that die


def test_a_process_that_dies_is_replaced(tmp_path):
    """Of joblib's own processes, killed at random moments."""
    runs = sweep.grid(Copying, CHOICES | {"updates": (300,)}, tmp_path)
    ended, rng, killed = threading.Event(), random.Random(0), []

    def kill():
        while not ended.wait(rng.uniform(0.3, 0.8)) and len(killed) < 3:
            owners = {owner_of(run) for run in runs} - {None, os.getpid()}
            for owner in list(owners)[:1]:
                with contextlib.suppress(ProcessLookupError):  # it has ended since
                    os.kill(owner, signal.SIGKILL)
                    killed.append(owner)

    def owner_of(run):
        with contextlib.suppress(FileNotFoundError, IndexError):
            return int((run.folder / "run.lock").read_text().split("pid=")[1].split()[0])

    killing = threading.Thread(target=kill)
    killing.start()
    found = sweep.make_all(runs, HERE)
    ended.set()
    killing.join()
    assert killed
    assert [of.state for of in found] == ["ended"] * 4
    for run in runs:
        assert_same_run(run.folder, alone(run, tmp_path / f"alone {run.folder.name}"))


def test_workers_that_always_die_are_told_of(tmp_path):
    runs = sweep.grid(Copying, FIXED, tmp_path)

    class Dying(sweep.Workers):
        def each(self, do, tasks):
            raise sweep.WorkerDied("a worker died")

    with pytest.raises(sweep.WorkerDied, match="3 times before any run came further"):
        sweep.make_all(runs, Dying())


def test_a_cluster_whose_worker_is_killed_again_and_again(tmp_path):
    """24 runs on two workers, one of which dies at random moments: each is as if made alone."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    choices = FIXED | {"updates": (60,), "rate": (1e-3, 3e-3, 1e-2), "seed": tuple(range(8))}
    runs, rng = sweep.grid(Copying, choices, tmp_path), random.Random(1)
    ended = threading.Event()
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        killed = []

        def kill():
            while not ended.wait(rng.uniform(1.0, 3.0)) and len(killed) < 2:
                process = cluster.workers[0].process
                with contextlib.suppress(ProcessLookupError):
                    if process is not None and process.pid:
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)

        killing = threading.Thread(target=kill)
        killing.start()
        found = sweep.make_all(runs, sweep.Workers(scheduler=cluster.scheduler_address))
        ended.set()
        killing.join()
    assert killed
    assert [of.state for of in found] == ["ended"] * 24
    for run in runs:
        assert_same_run(run.folder, alone(run, tmp_path / f"alone {run.folder.name}"))


def test_a_scheduler_that_is_not_there(tmp_path, capsys):
    pytest.importorskip("distributed", reason="Dask is not installed")
    words = ["sweep", "copying", *OPTIONS, "--out", str(tmp_path), "--quiet"]
    assert main([*words, "--scheduler", "tcp://127.0.0.1:9"]) == 1
    assert "tcp://127.0.0.1:9" in capsys.readouterr().err


def test_the_last_line_has_what_the_last_evaluation_found(tmp_path):
    lines = [{"step": 5, "loss": 2.0, "validation_loss": 3.0}, {"step": 6, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 7')
    assert sweep.last_line(tmp_path) == {"step": 6, "loss": 1.0, "validation_loss": 3.0}
    assert sweep.last_line(tmp_path / "nothing") == {}
