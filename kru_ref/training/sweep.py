"""Many runs of a task, side by side: a grid of settings or a search, each run in its own folder.

A sweep's folder holds ``sweep.json``, what it is to do, and a folder for each run, named by what
distinguishes it; a search has Optuna's ``journal.log`` besides. Each run is one of ``kru-ref
train`` and can be resumed by it. What has become of a run is read from its folder alone, so that
several processes and machines may work on one sweep, and none has to be told what others did.

Needs the extra "sweep": joblib, which decides where runs are made, and Optuna for a search.
"""

import contextlib
import datetime as dt
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

from ..extras import require
from ..files import read_at_most, shortened, write_json
from . import loop
from .config import LARGEST_CONFIG, read_config
from .folder import CONFIG, LEASE, METRICS, Locked, RunWarning, is_locked
from .metrics import LARGEST_METRICS, Metrics
from .tasks import TASKS, Task

SWEEP, OUTCOME, JOURNAL = "sweep.json", "outcome.json", "journal.log"
# Settings that say where a run is made, not what it is: each has one value.
OF_ALL = ("data_dir", "factors", "backend")
# Times that all workers may die without one update being made.
MOST_DEATHS = 3
# Seconds to wait for a scheduler.
CONNECTION = 10
# Seconds between two looks at runs that somebody else makes.
PAUSE = 2.0

State = Literal["waiting", "running", "stopped", "ended", "diverged", "failed"]


class Run(NamedTuple):
    """A run of a sweep: its folder, what it trains, and what distinguishes it from the others."""

    folder: Path
    task: Task
    varied: dict[str, Any]


class Status(NamedTuple):
    """What has become of a run.

    Attributes
    ----------
    run : Run
    state : str
        "waiting", "running", "stopped" (somebody stopped it, or died), "ended", or "diverged" or
        "failed", for the reason in ``why``.
    last : dict
        Its last line of metrics, with those of the last evaluation; empty if there is none.
    why : str
    """

    run: Run
    state: State
    last: Metrics
    why: str = ""

    @property
    def updates(self) -> int:
        """Updates made, but for those since the last line of metrics."""
        return int(self.last.get("step", 0))


def grid(kind: type[Task], choices: Mapping[str, Sequence[Any]], out: Path) -> list[Run]:
    """Return a run for each combination of the values given.

    Parameters
    ----------
    kind : type of Task
    choices : mapping of str to sequence
        Values of each setting that is not left at its default.
    out : Path
        Folder of the sweep.

    Raises
    ------
    ValueError, TypeError
        No value or one that occurs twice, several of a setting that has one for all runs, or a
        combination that the task refuses.
    """
    for name, values in choices.items():
        _check_values(name, values)
    varied = [name for name, values in choices.items() if len(values) > 1]
    runs = []
    for values in itertools.product(*choices.values()):
        settings = dict(zip(choices, values, strict=True))
        own = {name: settings[name] for name in varied}
        try:
            task = kind(**settings)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name_of(own)}: {error}") from error
        runs.append(Run(out / name_of(own), task, own))
    return runs


def _check_values(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ValueError(f"{name} must have a value")
    if len(values) > 1 and name in OF_ALL:
        raise ValueError(f"{name} must be the same for all runs, got {len(values)} values")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"{name} has the value {shortened(repr(value))} twice")


def name_of(settings: Mapping[str, Any]) -> str:
    """Return the name of the folder of a run with these settings."""
    return ",".join(f"{name}={value}" for name, value in settings.items()) or "run"


def begin(
    out: Path, kind: type[Task], choices: Mapping[str, Sequence[Any]], trials: int | None
) -> None:
    """Write down what a sweep is to do, or find that it is what the folder's is.

    Raises
    ------
    ValueError
        The folder holds another sweep.
    """
    path, what = out / SWEEP, {"task": kind.name, "choices": choices, "trials": trials}
    as_read = json.loads(json.dumps(what, default=str))
    if not os.path.lexists(path):
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, as_read)
    if (found := read_sweep(out)) != as_read:
        raise ValueError(
            f"{out} holds another sweep, of {found['task']} with {found['choices']}, trials "
            f"{found['trials']}: go on with its own settings, or choose another folder"
        )


def read_sweep(out: Path) -> dict[str, Any]:
    """Return what the sweep in a folder is to do.

    Raises
    ------
    FileNotFoundError
        It holds none.
    ValueError
        sweep.json is damaged.
    """
    path = out / SWEEP
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{out} holds no sweep: there is no {SWEEP}")
    try:
        found = json.loads(read_at_most(LARGEST_CONFIG, path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not isinstance(found, dict) or not {"task", "choices", "trials"} <= found.keys():
        raise ValueError(f"{path} is damaged: it must have task, choices and trials")
    return found


def runs_of(out: Path) -> list[Run]:
    """Return the runs of the sweep in a folder: all of a grid, of a search those begun."""
    what = read_sweep(out)
    if what["task"] not in TASKS:
        raise ValueError(f"{out / SWEEP} is damaged: there is no task {what['task']!r}")
    kind = TASKS[what["task"]]
    if what["trials"] is None:
        hints = get_type_hints(kind)
        choices = {n: [_as_given(v, hints[n]) for v in vs] for n, vs in what["choices"].items()}
        return grid(kind, choices, out)
    folders = sorted(path.parent for path in out.glob(f"*/{CONFIG}"))
    tasks = [read_config(folder) for folder in folders]
    varied = [name for name, values in what["choices"].items() if len(values) > 1]
    return [
        Run(folder, task, {name: getattr(task, name) for name in varied})
        for folder, task in zip(folders, tasks, strict=True)
    ]


def _as_given(value: Any, hint: Any) -> Any:
    """Return a value as the task takes it: JSON has lists for pairs, and text for paths."""
    if isinstance(value, list):
        return tuple(tuple(pair) for pair in value)
    return (
        Path(value) if isinstance(value, str) and Path in getattr(hint, "__args__", ()) else value
    )


def status(run: Run) -> Status:
    """Return what has become of a run."""
    folder = run.folder
    last = last_line(folder)
    if os.path.lexists(folder / OUTCOME):
        outcome = json.loads(read_at_most(LARGEST_CONFIG, folder / OUTCOME))
        return Status(run, outcome["state"], last, outcome["why"])
    if "test_loss" in last and last["step"] == run.task.updates:
        return Status(run, "ended", last)
    if not os.path.lexists(folder / CONFIG):
        return Status(run, "waiting", last)
    return Status(run, "running" if is_locked(folder) else "stopped", last)


def last_line(folder: Path) -> Metrics:
    """Return the last line of metrics of a run, with what the last evaluation found."""
    if not os.path.lexists(folder / METRICS):
        return {}
    content = read_at_most(LARGEST_METRICS, folder / METRICS)
    found: Metrics = {}
    for line in content[: content.rfind(b"\n") + 1].splitlines()[-200:]:
        with_this = json.loads(line)
        found = {n: v for n, v in found.items() if n.startswith("validation_")} | with_this
    return found


def make(run: Run, threads: int) -> None:
    """Make a run, or go on with it where it was; leave what became of it in its folder.

    One that diverges does so again, and is not repeated; one that failed is. Where another process
    makes it, nothing is done.
    """
    threadpoolctl = require("threadpoolctl", "sweep")
    folder = run.folder
    if status(run).state in ("ended", "diverged"):
        return
    (folder / OUTCOME).unlink(missing_ok=True)
    with threadpoolctl.threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        try:
            metrics = loop.train(run.task, folder, resume=os.path.lexists(folder / CONFIG))
            if why := loop.why_diverged(run.task, metrics):
                _note(folder, "diverged", loop.Diverged(why))
        except Locked:
            return
        except loop.Diverged as error:
            _note(folder, "diverged", error)
        except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
            _note(folder, "failed", error)


def _note(folder: Path, state: State, error: Exception) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    why = str(error) or type(error).__name__
    write_json(folder / OUTCOME, {"state": state, "why": why})


def checked_jobs(jobs: int) -> int:
    """Return how many runs are made side by side."""
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    return jobs


class Workers(NamedTuple):
    """Where runs are made.

    Attributes
    ----------
    jobs : int
        Processes on this machine.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers make the runs instead.
    """

    jobs: int = 1
    scheduler: str | None = None

    @property
    def threads(self) -> int:
        """How many threads each run gets: all of them together no more than there are cores."""
        return max(1, (os.cpu_count() or 1) // self.jobs) if self.scheduler is None else 1

    def each(self, do: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> None:
        """Call a function with each of these arguments, by joblib.

        Raises
        ------
        WorkerDied
            A worker died.
        OSError
            The scheduler is not there.
        """
        joblib = require("joblib", "sweep")
        calls = [joblib.delayed(do)(*arguments) for arguments in tasks]
        if self.scheduler is None:
            with joblib.parallel_config("loky", inner_max_num_threads=self.threads):
                _worker_may_die(lambda: joblib.Parallel(n_jobs=self.jobs)(calls))
            return
        distributed = require("distributed", "sweep")
        try:
            client = distributed.Client(self.scheduler, timeout=CONNECTION)
        except OSError as error:
            raise OSError(
                f"no Dask scheduler answers at {self.scheduler} ({error}): start it there with "
                "`dask scheduler`, and the same command goes on"
            ) from error
        with client:
            client.wait_for_workers(1)
            with joblib.parallel_config("dask", client=client):
                _worker_may_die(lambda: joblib.Parallel(n_jobs=-1)(calls))


class WorkerDied(OSError):
    """A process or a machine that made a run is gone."""


def _worker_may_die(work: Callable[[], Any]) -> None:
    """Turn what the engines raise when a worker dies into one kind of error."""
    dead = ("TerminatedWorkerError", "BrokenProcessPool", "KilledWorker", "FutureCancelledError")
    try:
        work()
    except Exception as error:
        if type(error).__name__ in dead:
            raise WorkerDied(f"a worker died ({shortened(str(error))})") from error
        raise


def make_all(runs: Sequence[Run], workers: Workers) -> list[Status]:
    """Make all runs that have not ended, wherever the workers are; return what became of them.

    Where a worker dies its run is gone on with from its last checkpoint, by any other; runs that
    somebody else makes are waited for.

    Raises
    ------
    WorkerDied
        They die again and again before one makes a checkpoint.
    OSError
        The scheduler is not there.
    """
    tried = _Patience(runs)
    while True:
        found = [status(run) for run in runs]
        # what failed is tried once more, in the first call
        settled = ("ended", "diverged", "failed") if tried.once else ("ended", "diverged")
        left = [of.run for of in found if of.state not in settled]
        if not left:
            return found
        if tried.once:
            time.sleep(PAUSE)
        tried.call(workers, make, [(run, workers.threads) for run in left])


class _Patience:
    """Calls workers, which may die, but not for ever without one update being made."""

    def __init__(self, runs: Sequence[Run] | Path) -> None:
        self.runs, self.once, self.deaths = runs, False, 0

    def call(
        self, workers: Workers, do: Callable[..., None], arguments: Sequence[tuple[Any, ...]]
    ) -> None:
        """Call, and count how often workers have died since a run came further."""
        before = self._updates()
        try:
            workers.each(do, arguments)
        except WorkerDied as error:
            self.deaths = 0 if self._updates() > before else self.deaths + 1
            if self.deaths == MOST_DEATHS:
                raise WorkerDied(
                    f"{error}, {self.deaths} times before any run came further: do they have "
                    "memory enough?"
                ) from error
        else:
            self.once = True

    def _updates(self) -> int:
        runs = runs_of(self.runs) if isinstance(self.runs, Path) else self.runs
        return sum(status(run).updates for run in runs)


# Search


def space(kind: type[Task], choices: Mapping[str, Sequence[Any]], trials: int) -> dict[str, Any]:
    """Return Optuna's distribution of each setting that has several values.

    Two numbers are the ends of an interval, searched by its logarithm where they are a factor of
    ten or more apart; anything else is a choice.

    Raises
    ------
    ValueError
        There is no such setting, or no trial.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    of, found = _optuna().distributions, dict[str, Any]()
    for name, values in choices.items():
        _check_values(name, values)
        if len(values) == 1:
            continue
        are_whole = all(type(value) is int for value in values)
        if len(values) == 2 and all(type(value) in (int, float) for value in values):
            low, high = sorted(values)
            log = 0 < 10 * low <= high
            kinds = of.IntDistribution if are_whole else of.FloatDistribution
            found[name] = kinds(low, high, log=log)
        else:
            found[name] = of.CategoricalDistribution(values)
    if not found:
        raise ValueError("a search needs a setting with several values, such as --rate 1e-4 1e-1")
    return found


def search(
    kind: type[Task],
    choices: Mapping[str, Sequence[Any]],
    out: Path,
    trials: int,
    workers: Workers,
) -> list[Status]:
    """Look for the settings with the least validation loss, in so many runs.

    Several machines may call this with one folder: they share the search.

    Raises
    ------
    WorkerDied, OSError
        As :func:`make_all`.
    """
    tried = _Patience(out)
    while (left := trials - _finished(out, trials)) > 0:
        if tried.once:
            time.sleep(PAUSE)
        arguments = (kind, dict(choices), out, trials, workers.threads)
        tried.call(workers, trial, [arguments] * left)
    return [status(run) for run in runs_of(out)]


def trial(
    kind: type[Task],
    choices: Mapping[str, Sequence[Any]],
    out: Path,
    trials: int,
    threads: int,
) -> None:
    """Make one run of a search: one whose process died, or the next that Optuna asks for."""
    study, failed = _study(out), _optuna().trial.TrialState.FAIL
    asked = _orphan(study, out)
    if asked is None:
        if len(study.get_trials(deepcopy=False)) >= trials:
            return
        asked = study.ask(space(kind, choices, trials))
        shown = {n: f"{v:.3g}" if isinstance(v, float) else v for n, v in asked.params.items()}
        asked.set_user_attr("folder", f"{asked.number:04},{name_of(shown)}")
    fixed = {name: values[0] for name, values in choices.items() if len(values) == 1}
    try:
        if asked.number >= trials:  # another process asked at the same time
            raise ValueError
        task = kind(**fixed, **asked.params)
    except (ValueError, TypeError):  # settings that do not go together
        _tell(study, asked.number, state=failed)
        return
    run = Run(out / asked.user_attrs["folder"], task, asked.params)
    make(run, threads)
    if (of := status(run)).state == "ended":
        _tell(study, asked.number, of.last["validation_loss"])
    elif of.state in ("diverged", "failed"):
        _tell(study, asked.number, state=failed)


def _tell(study: Any, number: int, value: float | None = None, **state: Any) -> None:
    """Tell how a trial ended, which another process may tell at the same time."""
    with contextlib.suppress(require("optuna.exceptions", "sweep").UpdateFinishedTrialError):
        study.tell(number, value, skip_if_finished=True, **state)


def _orphan(study: Any, out: Path) -> Any:
    """Return a trial that was asked for and nobody makes, if there is one."""
    going = (_optuna().trial.TrialState.RUNNING,)
    for asked in study.get_trials(deepcopy=False, states=going):
        folder = asked.user_attrs.get("folder")
        if folder is not None and os.path.lexists(out / folder / CONFIG):
            if not is_locked(out / folder):
                return asked
        elif (dt.datetime.now() - asked.datetime_start).total_seconds() > LEASE:
            if folder is not None:
                return asked
            _tell(study, asked.number, state=_optuna().trial.TrialState.FAIL)
    return None


def _finished(out: Path, trials: int) -> int:
    found = _study(out).get_trials(deepcopy=False)
    return sum(trial.state.is_finished() for trial in found if trial.number < trials)


def _study(out: Path) -> Any:
    optuna = _optuna()
    journal = optuna.storages.journal
    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(out / JOURNAL)))
    return optuna.create_study(
        study_name="sweep",
        storage=storage,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(constant_liar=True),
    )


def _optuna() -> Any:
    optuna = require("optuna", "sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
