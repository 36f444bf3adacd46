"""The commands of ``kru-ref``. Their options are the fields of the classes below and of the tasks.

Needs tyro, which turns a dataclass and its comments into options and their help.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import math
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_type_hints

import numpy as np

from .. import show_config
from ..cells import KRU, Cell
from ..checks import gradcheck, vectors, verify
from ..checks.gradients import GradientReport, check_gradient
from ..checks.oracles import Problem
from ..engine.backend import Backend, kernels, reason, resolve
from ..extras import require
from ..files import write_atomically
from ..kronecker import factor_sizes
from ..model import SequenceModel
from . import interrupts, loop, paper, records, sweep, sweep_report
from .config import read_config
from .data import datasets, download
from .folder import CHECKPOINT, RunWarning
from .metrics import Metrics
from .ranks import Ranks, launched
from .recipes import RECIPES
from .tasks import (
    TASKS,
    Adding,
    Characters,
    Copying,
    Music,
    Phonemes,
    Pixels,
    Sequences,
    Task,
    Tone,
)
from .tasks.task import check_backend, make_cell, make_matrix

tyro = require("tyro", "train")

LARGEST_CHECK = 10_000_000  # numbers moved × steps × sequences of `gradcheck`: minutes


@dataclass(frozen=True)
class Train:
    """Train a model on a task."""

    task: Copying | Adding | Tone | Pixels | Characters | Music | Phonemes | Sequences
    # Folder of the run: config.json, metrics.jsonl and checkpoint.npz.
    out: Path
    # Continue the run in that folder, with its own settings.
    resume: bool = False
    # Show no progress bar.
    quiet: bool = False

    def run(self) -> int:
        """Train, and print what was reached; of processes that MPI started only the first does."""
        ranks = launched()
        if ranks is None:
            return self._run(None)
        try:
            if ranks.is_first:
                return self._run(ranks)
            loop.train(self.task, self.out, resume=self.resume, communicator=ranks.communicator)
        except (KeyboardInterrupt, SystemExit):
            ranks.leave(130)
        except Exception as error:
            if getattr(error, "all_know", False) or isinstance(error, loop.Diverged):
                if ranks.is_first:
                    raise
                return 1
            say(f"process {ranks.rank} of {ranks.size}: {error}")
            ranks.leave(1)
        return 0

    def _run(self, ranks: Ranks | None) -> int:
        progress = Progress(self.task.updates, disable=self.quiet)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", RunWarning)
                warnings.showwarning = progress.warn  # type: ignore[assignment]
                metrics = loop.train(
                    self.task,
                    self.out,
                    resume=self.resume,
                    on_update=progress.show,
                    communicator=None if ranks is None else ranks.communicator,
                )
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            progress.close()
            # which update is saved
            for note in getattr(error, "__notes__", ()):
                progress.say(note)
            if isinstance(error, Exception) or not (self.out / CHECKPOINT).exists():
                raise
            command = f"kru-ref train {self.task.name} --out {shlex.quote(str(self.out))} --resume"
            how = "" if ranks is None else f"mpiexec -n {ranks.size} "
            progress.say(f"stopped; continue with: {how}{command}")
            if isinstance(error, SystemExit) or ranks is not None:
                raise
            return 130
        progress.close()
        print(summary(self.task, metrics))
        if why := loop.why_diverged(self.task, metrics):
            say(why)
        return 1 if why else 0


@dataclass(frozen=True)
class Reproduce:
    """Repeat a run of RESULTS.md, or show the paper's tables with the runs that repeat them."""

    # Name of the run, such as copying-1000-kru, or of several.
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    # Show the names, and how each differs from its task's defaults.
    list: bool = False
    # Print one of the paper's tables, in Markdown: its figures beside those of recorded runs; of
    # recipes and seeds that were not recorded, beside your own in runs/. With --seeds, first make
    # those that are missing, which may take days: stopped, they go on where they were.
    table: Literal[2, 3, 4] | None = None
    # Print what can be read off one of its figures.
    figure: Literal[1, 2] | None = None
    # Folder of the run; runs/NAME-SEED if not given.
    out: Path | None = None
    # Seed of everything random.
    seed: int = 0
    # Several seeds, each a run.
    seeds: tuple[int, ...] = ()
    # Runs to make side by side.
    jobs: int = 1
    # Updates, instead of the recipe's: a shorter run is another result.
    updates: int | None = None
    # Folder with the data; see `kru-ref data list`.
    data_dir: Path | None = None
    # Continue the run in that folder.
    resume: bool = False
    # Show no progress bar.
    quiet: bool = False

    def run(self) -> int:
        """Train, or print the names or a table."""
        if self.table is not None or self.figure is not None:
            return self._show()
        if self.list:
            if self != Reproduce(list=True):
                raise ValueError("--list shows all names and runs nothing: leave the rest out")
            for name, task in RECIPES.items():
                print(f"{name:28}  {shlex.join(options(task))}")
            return 0
        if len(self.names) == 1 and not self.seeds:
            task = self._task(self.names[0], self.seed)
            out = self.out or Path("runs") / f"{self.names[0]}-{self.seed}"
            return Train(task, out, self.resume, self.quiet).run()  # type: ignore[arg-type]
        if self.out is not None or self.resume:
            raise ValueError("several runs go on where they were, in runs/: no --out, no --resume")
        seeds, names = self.seeds or (self.seed,), self.names or (None,)
        return self._make([(name, seed) for name in names for seed in seeds])

    def _show(self) -> int:
        """Print a table, of what was recorded and of runs that are made first if they are to be."""
        of_runs = ("seeds", "jobs", "data_dir", "quiet") if self.seeds else ()
        kept = {name: getattr(self, name) for name in ("table", "figure", *of_runs)}
        if self != Reproduce(**kept) or None not in (self.table, self.figure):
            raise ValueError(
                "--table and --figure print one table: give one alone, or with --seeds, --jobs and "
                "--data-dir for runs to be made first"
            )
        table, status = paper.numbered(self.table, self.figure), 0
        if self.seeds:
            known = {(r["recipe"], r["seed"]) for r in records.recorded() if records.is_whole(r)}
            wanted = [(name, seed) for name in paper.recipes_of(table) for seed in self.seeds]
            status = self._make([run for run in wanted if run not in known])
        with warnings.catch_warnings():
            warnings.showwarning = Progress(0, disable=True).warn  # type: ignore[assignment]
            found = records.recorded_and_in(Path("runs"))
        print("\n".join(paper.lines(table, found)))
        return status

    def _make(self, wanted: Sequence[tuple[str | None, int]]) -> int:
        """Make runs of recipes with seeds, each in runs/NAME-SEED."""
        runs = [
            sweep.Run(Path("runs") / f"{name}-{seed}", self._task(name, seed), {"run": name})
            for name, seed in dict.fromkeys(wanted)
        ]
        workers = sweep.Workers(sweep.checked_jobs(self.jobs))
        with sweep_report.watched(lambda: list(map(sweep.status, runs)), self.quiet):
            statuses = sweep.make_all(runs, workers)
        return told(statuses)

    def _task(self, name: str | None, seed: int) -> Task:
        if name not in RECIPES:
            got = "none" if name is None else repr(name)
            raise ValueError(
                f"name must be one of those that `kru-ref reproduce --list` shows, got {got}"
            )
        changed: dict[str, Any] = {"seed": seed}
        if self.updates is not None:
            changed["updates"] = self.updates
        if self.data_dir is not None:
            if not hasattr(RECIPES[name], "data_dir"):
                raise ValueError(f"{name} draws its own data: leave --data-dir out")
            changed["data_dir"] = self.data_dir
        return dataclasses.replace(RECIPES[name], **changed)


def _descriptions(kind: type[Task]) -> dict[str, str]:
    """Return what the docstrings of a task and of those it derives from say of each setting."""
    found: dict[str, str] = {}
    for of in reversed(kind.__mro__):
        found |= _said_by(of)
    return found


@functools.cache
def _said_by(of: type) -> dict[str, str]:
    fields = require("docstring_parser", "train").parse(of.__doc__ or "").params
    said = {field.arg_name: " ".join((field.description or "").split()) for field in fields}
    return {name.strip(): text for names, text in said.items() for name in names.split(",")}


def _choices(kind: type[Task]) -> Any:
    """Return the class of a task's options where each takes several values."""
    said, hints, fields = _descriptions(kind), get_type_hints(kind), []
    for f in dataclasses.fields(kind):
        # of factors the numbers of one value are many already
        is_one = f.name == "factors"
        hint: Any = hints[f.name]
        hint = hint if is_one else tuple[hint, ...]
        if f.default is dataclasses.MISSING:
            default: Any = dataclasses.field()
        else:
            default = dataclasses.field(default=f.default if is_one else (f.default,))
        option = Annotated[hint, tyro.conf.arg(help=said.get(f.name, ""))]
        fields.append((f.name, option, default))
    return dataclasses.make_dataclass(kind.__name__, fields, frozen=True, kw_only=True)


# A union of classes made here, which no type checker can know.
Choices: Any = Union[tuple(_choices(kind) for kind in TASKS.values())]  # noqa: UP007


@dataclass(frozen=True)
class Sweep:
    """Train with every combination of settings, or search for the best; each run can be resumed."""

    # Settings of a task, each with one or more values.
    task: Choices | None = None
    # Folder of the sweep, with one for each run. A sweep that is there is gone on with.
    out: Path | None = None
    # Show what has become of the runs of the sweep in a folder, and run nothing.
    status: Path | None = None
    # Search instead, in so many runs, for the least validation loss: two numbers are the ends of an
    # interval, other values a choice. Machines that share the folder share the search.
    trials: int | None = None
    # Runs to make side by side; the cores are shared out among them.
    jobs: int = 1
    # Address of a Dask scheduler, such as tcp://host:8786, whose workers make the runs instead.
    scheduler: str | None = None
    # Show no view of the runs.
    quiet: bool = False

    def run(self) -> int:
        """Make the runs, or show them."""
        if self.status is not None:
            if self != Sweep(status=self.status):
                raise ValueError("--status shows a sweep and runs nothing: give it alone")
            statuses = [sweep.status(run) for run in sweep.runs_of(self.status)]
            require("rich", "sweep").print(sweep_report.view(statuses))
            return 0
        if self.task is None or self.out is None:
            raise ValueError("a sweep needs a task and the folder of its runs, --out DIR")
        kind, choices = TASKS[type(self.task).__name__.lower()], self._values()
        workers, trials = sweep.Workers(sweep.checked_jobs(self.jobs), self.scheduler), self.trials
        out, runs = self.out, sweep.grid(kind, choices, self.out) if trials is None else None
        if trials is not None:
            sweep.space(kind, choices, trials)
        sweep.begin(out, kind, choices, trials)
        restore = interrupts.catch()
        try:
            # a search finds its runs as they are begun
            def statuses_now() -> Sequence[sweep.Status]:
                return list(map(sweep.status, sweep.runs_of(out) if runs is None else runs))

            with sweep_report.watched(statuses_now, self.quiet):
                if runs is not None:
                    statuses = sweep.make_all(runs, workers)
                elif trials is not None:
                    statuses = sweep.search(kind, choices, out, trials, workers)
        except KeyboardInterrupt:
            say("stopped; the same command goes on where the runs are")
            return 130
        finally:
            restore()
        print("\n".join(sweep_report.summary(statuses)))
        for path in sweep_report.write(statuses, out):
            print(path)
        return told(statuses)

    def _values(self) -> dict[str, Any]:
        """Return the values of each setting that is not left at its default."""
        found, task = {}, self.task
        for f in dataclasses.fields(task):  # type: ignore[arg-type]
            values = getattr(task, f.name)
            if values != f.default:
                found[f.name] = (values,) if f.name == "factors" else values
        return found


def told(statuses: Sequence[sweep.Status]) -> int:
    """Say on standard error which runs did not end; return 1 if any."""
    for of in statuses:
        if of.state != "ended":
            say(f"{of.run.folder} is {of.state}{': ' if of.why else ''}{of.why}")
    return 0 if all(of.state == "ended" for of in statuses) else 1


def options(task: Task) -> list[str]:
    """Return the arguments of `kru-ref` for a task, but for what it does by itself."""
    words = ["train", task.name]
    for f in dataclasses.fields(task):
        value = getattr(task, f.name)
        if value == f.default:
            continue
        option = f"--{f.name.replace('_', '-')}"
        if f.name == "factors":
            words += [option, *(str(size) for shape in value for size in shape)]
        elif value is True:
            words.append(option)
        else:
            words += [option, f"{value}"]
    return words


class Progress:
    """A bar with the loss, the task's metric and the unitarity defect.

    Nothing that keeps it from being shown, such as a closed pipe, ends a run.
    """

    def __init__(self, updates: int, disable: bool) -> None:
        self.updates, self.disable = updates, disable
        self.bar: Any = None

    def show(self, line: Metrics) -> None:
        """Move the bar to the update of a line of metrics."""
        try:
            self._show(line)
        except Exception:
            self.disable, self.bar = True, None

    def say(self, text: str) -> None:
        """Print a line where the bar is."""
        with contextlib.suppress(Exception):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def warn(self, message: Any, *_: Any) -> None:
        """Print a warning as a sentence."""
        self.say(f"kru-ref: warning: {message}")

    def _show(self, line: Metrics) -> None:
        if self.disable:
            return
        if self.bar is None:
            # in a file each state of the bar is one more line
            seconds = 0.1 if sys.stderr.isatty() else 60
            # made at the first update, so that a resumed run's rate starts there
            self.bar = require("tqdm", "train").tqdm(
                total=self.updates,
                initial=int(line["step"]) - 1,
                unit="update",
                mininterval=seconds,
                maxinterval=max(seconds, 10),
                dynamic_ncols=True,
            )
        hidden = ("step", "seconds", "gradient_norm")
        self.bar.set_postfix(
            {name: f"{value:.3g}" for name, value in line.items() if name not in hidden},
            refresh=False,
        )
        self.bar.update()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            with contextlib.suppress(Exception):
                self.bar.close()


@dataclass(frozen=True)
class Params:
    """Print what a recurrent matrix costs: real numbers to learn, by kind and size."""

    # Hidden sizes N.
    hidden: tuple[int, ...] = (128, 512)

    def run(self) -> int:
        """Print a row for each kind of matrix and a column for each size."""
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden sizes must be at least 1, got {self.hidden}")
        costs: dict[str, Callable[[int], int]] = {
            "dense, real (RNN)": lambda N: N * N,
            "dense, complex (FC-uRNN)": lambda N: 2 * N * N,
            "RC-uRNN": lambda N: 7 * N,
            "KRU, real, prime factors": lambda N: KRU(1, N, dtype="float32").n_recurrent_parameters,
            "KRU, complex, prime factors": lambda N: KRU(1, N).n_recurrent_parameters,
        }
        print(_row("recurrent parameters", [f"N = {N:,}" for N in self.hidden]))
        for name, cost in costs.items():
            print(_row(name, [f"{cost(N):,}" for N in self.hidden]))
        for N in self.hidden:
            print(f"factors for N = {N:,}: {' ⊗ '.join(f'{p}×{p}' for p in factor_sizes(N))}")
        return 0


@dataclass(frozen=True)
class Gradcheck:
    """Check every gradient of a small model against finite differences, or all of all models."""

    # Check every cell over every matrix on every backend, against the complex step, finite
    # differences, real-time recurrent learning, and PyTorch and JAX where they are installed.
    all: bool = False
    # Recurrent cell; rnn over kronecker is the KRU.
    cell: Literal["rnn", "lstm", "gru", "lru"] = "rnn"
    # Recurrent matrix; that of the cell lru is diagonal.
    matrix: Literal["kronecker", "dense", "restricted", "full", "diagonal"] = "kronecker"
    # Shapes of the Kronecker factors, P Q P Q …; their product is the hidden size with any matrix.
    factors: tuple[tuple[int, int], ...] = ((2, 3), (3, 2), (2, 2))
    # Nonlinearity of the simple cell, modrelu if not given.
    activation: Literal["modrelu", "tanh", "relu", "identity"] | None = None
    # Numbers of the hidden state and of W; if not given, complex128 for the simple cell and the
    # LRU, float64 for the others, which are real.
    dtype: Literal["float32", "float64", "complex64", "complex128"] | None = None
    # Engine of the recurrence; matrix restricted has no compiled one.
    backend: Backend = "auto"
    # Time steps T.
    steps: int = 5
    # Sequences B in the batch.
    batch_size: int = 3
    # Integer input that stands for one-hot columns.
    one_hot: bool = False
    # Seed of the parameters and the data.
    seed: int = 0

    def run(self) -> int:
        """Print the report or the table; 1 if a gradient is wrong."""
        if self.all:
            if self != Gradcheck(all=True, seed=self.seed):
                raise ValueError("--all checks every network: but for --seed, leave the rest out")
            return self.table()
        report = self.report()
        what = f"{self.cell} over {self.matrix}"
        if self.cell == "rnn":
            what += f", {self.activation or 'modrelu'}"
        print(f"{what}, {self._dtype}, backend {resolve(self.backend)}")
        print(report)
        return 0 if report else 1

    def table(self) -> int:
        """Print a row for each cell, matrix and backend; return 1 if one is wrong."""
        print(gradcheck.header(), flush=True)
        rows = []
        for subject in gradcheck.subjects():
            rows.append(gradcheck.check(subject, np.random.default_rng(self.seed)))
            print(gradcheck.line(rows[-1]), flush=True)
        passed = bool(rows) and all(row.passed for row in rows)
        missing = [name for name in ("torch", "jax") if not importlib.util.find_spec(name)]
        for name in missing:
            print(f"not checked against {name}: it is not installed")
        if kernels is None:
            print(f"the compiled kernels were not checked: {reason}")
        print("passed" if passed else "FAILED")
        return 0 if passed else 1

    def report(self) -> GradientReport:
        """Check softmax cross-entropy with the unitary penalty.

        Finite differences are taken in double precision; a single-precision gradient is held
        against them.
        """
        self._check_options()
        M, T, B = 4, self.steps, self.batch_size
        double = {"float32": "float64", "complex64": "complex128"}.get(self._dtype, self._dtype)
        model, exact = (SequenceModel(self.make(of), M) for of in (self._dtype, double))
        work = model.n_parameters * T * B
        if work > LARGEST_CHECK:
            raise ValueError(
                f"each of {model.n_parameters:,} parameters would be moved, over {T:,} steps of "
                f"{B:,} sequences: their product must be at most {LARGEST_CHECK:,}. Choose smaller "
                "factors, steps or batch_size"
            )
        D = model.cells[0].input_size
        rng = np.random.default_rng(self.seed)
        # Away from where a model starts: there b = 0 and the unitary penalty has no gradient.
        params = {name: gradcheck.moved(p, rng) for name, p in model.init(rng).items()}
        x = rng.integers(D, size=(T, B)) if self.one_hot else rng.standard_normal((T, D, B))
        targets = rng.integers(M, size=(T, B))
        grads = Problem(model, x, targets, "softmax", strength=0.1).gradient(params)
        dtypes = exact.dtypes()
        return check_gradient(
            Problem(exact, x, targets, "softmax", strength=0.1).value,
            {name: p.astype(dtypes[name]) for name, p in params.items()},
            {name: g.astype(dtypes[name]) for name, g in grads.items()},
            tolerance=1e-6 if double == self._dtype else 1e-3,
        )

    def _check_options(self) -> None:
        if min(self.steps, self.batch_size) < 1:
            raise ValueError(
                f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.activation is not None and self.cell != "rnn":
            raise ValueError(f"activation acts only in the cell rnn, got {self.cell}: leave it out")
        check_backend(self.backend, self.matrix)

    @property
    def _dtype(self) -> str:
        return self.dtype or ("complex128" if self.cell in ("rnn", "lru") else "float64")

    def make(self, dtype: str) -> Cell:
        """Return the cell in a dtype."""
        N = math.prod(P for P, _ in self.factors)
        matrix = make_matrix(self.matrix, self.factors, self.backend)
        return make_cell(self.cell, 3, N, matrix, self.activation or "modrelu", dtype)


@dataclass(frozen=True)
class List:
    """Say what each data set is, and whether it is here."""

    # Folder to look in, instead of the one that KRU_REF_DATA names and the user's cache.
    data_dir: Path | None = None

    def run(self) -> int:
        """Print each data set with its licence, its origin and the state of its files."""
        for name, dataset in datasets.DATASETS.items():
            print(f"{name}: {dataset.title}")
            print(f"  licence    {dataset.licence}")
            print(f"  origin     {dataset.origin}")
            for file, (state, place) in datasets.state(name, self.data_dir).items():
                where = "" if place is None else f" {place}"
                print(f"  {state:10} {file}{where}")
            get = f"kru-ref data fetch {name}"
            if not dataset.urls:
                get = datasets.remedy(name).splitlines()[0]
            print(f"  get it     {get}\n")
        return 0


@dataclass(frozen=True)
class Fetch:
    """Download a data set into the user's cache and verify it."""

    # Data set.
    name: Annotated[Literal["mnist", "jsb", "piano-midi", "ptb", "timit"], tyro.conf.Positional]
    # Folder of a mirror, instead of the data set's own.
    url: str | None = None

    def run(self) -> int:
        """Download, and print where the files are."""
        for path in download.fetch(self.name, self.url):
            print(path)
        return 0


@dataclass(frozen=True)
class Data:
    """List the data sets, or get one."""

    action: List | Fetch

    def run(self) -> int:
        """Do either."""
        return self.action.run()


@dataclass(frozen=True)
class Write:
    """Write the conformance vectors, with their page and the schema of their index."""

    # Folder for index.json, its schema, README.md and a file for each case.
    folder: Annotated[Path, tyro.conf.Positional]

    def run(self) -> int:
        """Write, and print the index's place."""
        print(vectors.write(self.folder))
        return 0


@dataclass(frozen=True)
class Verify:
    """Compare another implementation's outputs and gradients with the vectors'."""

    # Folder of the vectors.
    folder: Annotated[Path, tyro.conf.Positional]
    # Folder of the results, with files of the same names.
    results: Annotated[Path, tyro.conf.Positional]
    # Largest relative difference that passes; about 1e-4 for single precision.
    tolerance: float = verify.TOLERANCE

    def run(self) -> int:
        """Print what differs; return 1 if anything does."""
        verdicts = verify.verify(self.folder, self.results, self.tolerance)
        print(verify.report(verdicts))
        tried = [verdict for verdict in verdicts if verdict.attempted]
        return 0 if tried and not any(verdict.differences for verdict in tried) else 1


@dataclass(frozen=True)
class Vectors:
    """Test another implementation: write the conformance vectors, or verify its results."""

    action: Write | Verify

    def run(self) -> int:
        """Do either."""
        return self.action.run()


@dataclass(frozen=True)
class Fit:
    """Fit a classifier or a regressor to sequences in a file, and say how well it does."""

    # .csv or .tsv in long form (a row for each time step), .npz with X, or an archive's .ts.
    data: Annotated[Path, tyro.conf.Positional]
    # Column, or array, of what is to be predicted.
    target: str
    # File of the model, such as model.safetensors.
    out: Path
    # Column that says which sequence a row belongs to.
    id: str = "id"
    # Column to sort a sequence's rows by: numbers or dates.
    time: str = "time"
    # What the target is; found out if not given.
    task: Literal["auto", "classification", "regression"] = "auto"
    # A reservoir with a ridge, or a network that is trained.
    model: Literal["reservoir", "kru", "lstm", "gru"] = "reservoir"
    # Parts, each held out once, for the score.
    folds: int = 5
    # Seed of everything random.
    seed: int = 0
    # Folder for the pictures; beside the model, with .report for its ending, if not given.
    pictures: Path | None = None
    # Write over a model that is there.
    replace: bool = False

    def run(self) -> int:
        """Fit, report and save."""
        from ..estimators.report import fit_file

        if self.out.exists() and self.out.samefile(self.data):
            raise ValueError(f"out must be another file than the data, got {self.out} for both")
        if self.out.exists() and not self.replace:
            raise FileExistsError(f"{self.out} is there already: give --replace to write over it")
        if not self.out.parent.is_dir():
            raise FileNotFoundError(f"no folder {self.out.parent} to write the model to: make it")
        return fit_file(self)


@dataclass(frozen=True)
class Predict:
    """Predict the target of each sequence in a file; a CSV with their identifiers."""

    # File that `kru-ref fit` wrote.
    model: Annotated[Path, tyro.conf.Positional]
    # Sequences, in the form of those it was fitted to.
    data: Annotated[Path, tyro.conf.Positional]
    # File for the predictions; standard output if not given.
    out: Path | None = None

    def run(self) -> int:
        """Predict, and write."""
        from ..estimators.report import predict_file

        if self.out is not None and self.out.exists():
            raise FileExistsError(f"{self.out} is there already: give another file")
        text = predict_file(self.model, self.data)
        if self.out is None:
            print(text, end="")
        else:
            write_atomically(self.out, lambda file: file.write(text.encode()))
        return 0


@dataclass(frozen=True)
class Config:
    """Print versions, the backend in use and why."""

    def run(self) -> int:
        """Print them."""
        show_config()
        return 0


Command = Fit | Predict | Train | Sweep | Reproduce | Params | Gradcheck | Vectors | Data | Config


def parse(arguments: Sequence[str] | None, default: Command | None = None) -> Command:
    """Turn arguments into a command; ``default`` has the values of options left out."""
    command: Command = tyro.cli(
        Command,
        prog="kru-ref",
        description="Kronecker Recurrent Units in NumPy and Cython.",
        args=arguments,
        default=tyro.MISSING if default is None else default,
        config=(
            tyro.conf.CascadeSubcommandArgs,
            tyro.conf.OmitArgPrefixes,
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.FlagCreatePairsOff,
        ),
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Errors that a user can mend are one sentence on standard error and exit status 1. Where nobody
    reads the output any longer, as behind `head`, the status is a shell's for such a process, 141.
    """
    try:
        try:
            arguments = sys.argv[1:] if arguments is None else arguments
            refuse_empty(arguments)
            command = parse(arguments, resumed(arguments))
            refuse_many_times(command)
            return command.run()
        finally:
            sys.stdout.flush()  # at Python's end a full disk would go untold
    except BrokenPipeError:
        return 141
    except MemoryError as error:
        say_once(f"not enough memory ({error}); try smaller sizes")
        return 1
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        say_once(str(error))
        return 1


def say(text: str) -> None:
    """Print a sentence on standard error, if anybody can read it."""
    with contextlib.suppress(OSError):
        print(f"kru-ref: {text}", file=sys.stderr, flush=True)


def say_once(text: str) -> None:
    """Print a sentence on standard error; of processes that MPI started only the first does."""
    ranks = launched_if_known()
    if ranks is None or ranks.is_first:
        say(text)


def launched_if_known() -> Ranks | None:
    """Return the processes of MPI; None also without the extra "mpi", which `train` alone needs."""
    try:
        return launched()
    except ImportError:
        return None


def refuse_many_times(command: Command) -> None:
    """Raise ValueError where each process that MPI started would do the whole of a command."""
    ranks = None if isinstance(command, Train) else launched_if_known()
    if ranks is not None and ranks.size > 1:
        raise ValueError(
            f"mpiexec shares out `train` alone: each of {ranks.size} processes would do all of "
            "this. Leave mpiexec out; a sweep has --jobs and --scheduler"
        )


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raise ValueError for an argument of no characters: as a path it would be this folder."""
    for i, word in enumerate(arguments):
        if word == "" or (word.startswith("--") and word.endswith("=") and word.count("=") == 1):
            option = word or (arguments[i - 1] if i else "the first argument")
            raise ValueError(f"{option.rstrip('=')} is followed by nothing: give a value")


def resumed(arguments: Sequence[str]) -> Train | None:
    """Return the run that `train … --resume` continues: options left out are its own."""
    if not arguments or arguments[0] != "train":
        return None
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--resume", action="store_true")
    options.add_argument("--out", type=Path)
    options.add_argument("--data-dir", type=Path)
    known, _ = options.parse_known_args(arguments)
    if not known.resume or known.out is None:
        return None
    saved: Any = read_config(known.out, known.data_dir)
    return Train(saved, known.out)


def summary(task: Task, metrics: Metrics) -> str:
    """Say what a run reached, beside its baseline and a dense matrix of the same size."""
    who, baseline = task.baseline
    test = {k.removeprefix("test_"): v for k, v in metrics.items() if k.startswith("test_")}
    model, N = task.model(), task.hidden_size
    dense = sum(len(c.gate_names) * N**2 * (1 + c.is_complex) for c in model.cells)
    rows = {
        "test": ", ".join(f"{name} {value:.4g}" for name, value in test.items()),
        "baseline loss": f"{baseline:.4g} {who}; reached {test['loss'] / baseline:.2g} of it",
        "recurrent parameters": (
            f"{model.n_recurrent_parameters:,}; with dense {N}×{N} matrices {dense:,}"
        ),
        "all parameters": f"{model.n_parameters:,}",
        "unitarity defect": f"{metrics['defect']:.3g}",
        "updates": f"{metrics['step']:,} in {metrics['seconds']:,.0f} s",
    }
    return "\n".join(_row(name, [value]) for name, value in rows.items())


def _row(name: str, values: Sequence[str]) -> str:
    if len(values) == 1:
        return f"{name:28}  {values[0]}"
    return f"{name:28}" + "".join(f"  {value:>14}" for value in values)
