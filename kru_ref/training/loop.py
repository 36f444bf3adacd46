"""The training loop: batches, penalty, update, metrics, checkpoints.

A run lives in one folder: ``config.json`` (the task, its settings and what computed it),
``metrics.jsonl`` (one JSON object a line), ``checkpoint.npz`` and, as ``checkpoint.previous.npz``,
the one before. While a process writes there, ``run.lock`` names it. All that is random is a
function of the settings and of the number of the update, so a resumed run repeats, to the bit,
what it would have done.
"""

import dataclasses
import errno
import hashlib
import itertools
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import scipy

from .. import __version__
from ..cells import Params
from ..engine import backend
from ..extras import require
from ..files import leftovers, read_at_most, shortened, write_atomically, write_json
from ..model import ModelSaved, SequenceModel
from ..optimizers import clip_by_global_norm
from . import interrupts
from .checkpoint import (
    RunState,
    load_checkpoint,
    save_checkpoint,
)
from .tasks import TASKS, Task
from .tasks.task import Split

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.npz"
PREVIOUS, LOCK = "checkpoint.previous.npz", "run.lock"
LARGEST_CONFIG, LARGEST_METRICS = 2**20, 2**34

# Settings that may change when a run is resumed: none of them changes an update.
FREE = {"log_every", "evaluate_every", "checkpoint_every", "data_dir"}

REMEDY = (
    f"{CHECKPOINT} holds the last good state. Start again in another folder with a lower rate or "
    "factor_rate, or limit the gradient with max_norm"
)

Metrics = dict[str, float]


class Diverged(FloatingPointError):
    """The loss or its gradient stopped being finite."""


class Locked(OSError):
    """Another process writes to the folder of the run."""


class RunWarning(UserWarning):
    """A resumed run is not, or may not be, what it would have been without a stop."""


def train(
    task: Task,
    out: Path,
    *,
    resume: bool = False,
    on_update: Callable[[Metrics], None] | None = None,
) -> Metrics:
    """Train a task's model.

    Parameters
    ----------
    task : Task
    out : Path
        Folder of the run; made if it is not there.
    resume : bool
        Continue the run in ``out`` from its checkpoint. ``updates`` may then be another
        number (under a constant schedule); what it computes may not.
    on_update : callable, optional
        Called after each update with its metrics, such as by a progress bar.

    Returns
    -------
    metrics : dict of str to float
        The last line of ``metrics.jsonl``: "step", "loss", "seconds", "defect",
        "gradient_norm", the task's own metric, and these on held-out data as
        "validation_…" and "test_…".

    Raises
    ------
    FileExistsError
        ``out`` holds a run and ``resume`` is false.
    FileNotFoundError
        No run to resume, its checkpoint is gone, or no data.
    ValueError
        Other settings than the run's, a damaged file, or a checkpoint of another model.
    Locked
        Another process writes to ``out``.
    Diverged
        The loss is not finite; the last checkpoint is kept.
    OSError
        Something cannot be written; the last good checkpoint is kept.
    KeyboardInterrupt, SystemExit
        SIGINT; SIGTERM or SIGHUP, with the status a shell gives to these: 143 or 129.
    ImportError
        The extra "train" is not installed.

    Whatever ends a run once it has begun, but for Diverged, first saves a checkpoint of the last
    complete update. A note of the exception says which update that is.

    Warns
    -----
    RunWarning
        What computes is not what computed the run so far, so it may end at other bits; lines of
        metrics are missing; or there is no checkpoint yet.
    """
    if not str(out):
        raise ValueError("out must name the folder of the run, got an empty name")
    restore = interrupts.catch()
    try:
        return _train(task, Path(out), resume, on_update)
    finally:
        restore()


def _train(
    task: Task, out: Path, resume: bool, on_update: Callable[[Metrics], None] | None
) -> Metrics:
    if resume and not os.path.lexists(out / CONFIG):
        raise FileNotFoundError(f"no run to resume: {out / CONFIG} does not exist")
    if not resume:
        _refuse_a_run(out)
        # data is read, and found good, before anything is written
        _read_data(task)
        with _writing(out):
            out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        model = task.model()
        rows: list[str] = []
        computed = [{"update": 0, **what_computes(task)}]
        if resume:
            state, rows, computed = _resumed(task, model, out)
            _read_data(task)
        else:
            _refuse_a_run(out)
            state = _beginning(task, model)
        with _writing(out):
            for name in (CONFIG, METRICS, CHECKPOINT, PREVIOUS):
                for file in leftovers(out / name):
                    file.unlink()
            write_json(out / CONFIG, config(task) | {"computed": computed})
            save_checkpoint(out / CHECKPOINT, state)
            if os.path.lexists(out / METRICS):
                text = "".join(f"{row}\n" for row in rows)
                write_atomically(out / METRICS, lambda file: file.write(text.encode()))
        last = json.loads(rows[-1]) if rows else {}
        return _run(task, model, out, state, last, on_update)


def _run(
    task: Task,
    model: SequenceModel,
    out: Path,
    state: RunState,
    last_row: Metrics,
    on_update: Callable[[Metrics], None] | None,
) -> Metrics:
    defect = model.defect(state.params)
    line = {"step": state.update, "seconds": state.seconds, "defect": defect} | last_row
    began = time.perf_counter() - state.seconds
    saved, on_disk = None, state.update
    try:
        while state.update < task.updates:
            # a number too large is found, and told, by what it does to the loss
            with np.errstate(over="ignore", invalid="ignore"):
                after, line, saved = _update(task, model, state, saved)
            last = after.update == task.updates
            evaluate_now = last or after.update % task.evaluate_every == 0
            log_now = evaluate_now or after.update % task.log_every == 0
            # those of factors are cheap; singular values of a dense matrix would cost as
            # much as the update
            if log_now or task.matrix == "kronecker":
                defect = model.defect(after.params)
                if not math.isfinite(defect):
                    raise Diverged(f"update {after.update} makes W overflow. {REMEDY}")
            line["defect"] = defect
            if evaluate_now:
                line |= evaluate(task, model, after.params, "validation")
            after = after._replace(seconds=time.perf_counter() - began)
            line["seconds"] = round(after.seconds, 3)
            if log_now:
                _append(out, line)
                after = after._replace(rows=(*(after.rows or ()), after.update))
            # From here on the update counts: before, an interruption would repeat it.
            state = after
            if last or state.update % task.checkpoint_every == 0:
                _save(out, state)
                on_disk = state.update
            if on_update is not None:
                on_update(line)
        line = line | evaluate(task, model, state.params, "test")
        _append(out, line)
    except BaseException as error:
        with interrupts.ignored():
            # what led to a loss that is not finite is not worth going on from
            if on_disk < state.update and not isinstance(error, Diverged):
                try:
                    _save(out, state)
                    on_disk = state.update
                except Exception as failure:
                    if not isinstance(error, OSError):
                        error.add_note(f"update {state.update} could not be saved: {failure}")
            error.add_note(f"{out / CHECKPOINT} holds update {on_disk}")
        raise
    return line


def _update(
    task: Task, model: SequenceModel, state: RunState, saved: ModelSaved | None
) -> tuple[RunState, Metrics, ModelSaved]:
    """Make one update; its loss, metrics and gradient norm are those before it."""
    batch = task.batch(state.update)
    before = state.carried if batch.continues else None
    rng = task.rng("dropout", state.update)
    logits, saved = model.forward(state.params, batch.x, before, rng=rng)
    loss, dlogits = task.loss(logits, batch.targets, batch.mask, last_only=task.last_only)
    grads = model.backward(state.params, saved, dlogits)
    penalty = 0.0
    if task.strength:
        penalty, grads = model.add_penalty(state.params, grads, task.strength)
    grads, norm = clip_by_global_norm(grads, task.max_norm or math.inf)
    if not (math.isfinite(loss) and math.isfinite(penalty) and math.isfinite(norm)):
        raise Diverged(
            f"update {state.update + 1}: loss {loss:g}, penalty {penalty:g}, gradient norm "
            f"{norm:g} must all be finite. {REMEDY}"
        )
    params, optimizer = task.optimizer_at(state.update).update(state.params, grads, state.optimizer)
    if not all(np.isfinite(p).all() for p in params.values()):
        raise Diverged(f"update {state.update + 1} makes parameters that are not finite. {REMEDY}")
    carried = saved.last if task.carries else None
    after = RunState(state.update + 1, state.seconds, params, optimizer, carried, state.rows)
    metrics = task.metrics(loss, logits, batch)
    return after, {"step": after.update, "loss": loss, "gradient_norm": norm, **metrics}, saved


def evaluate(task: Task, model: SequenceModel, params: Params, split: Split) -> Metrics:
    """Return the loss and metrics on held-out data, averaged over all steps that count.

    Parameters
    ----------
    task, model, params
        A task, its model and the parameters to evaluate.
    split : {"validation", "test"}

    Returns
    -------
    metrics : dict of str to float
        "validation_loss", …
    """
    totals: Metrics = {}
    n, saved = 0.0, None
    carried: Any = None
    for batch in task.held_out(split):
        before = carried if batch.continues else None
        logits, saved = model.forward(params, batch.x, before)
        carried = saved.last if task.carries else None
        loss, _ = task.loss(logits, batch.targets, batch.mask, last_only=task.last_only)
        for name, value in {"loss": loss, **task.metrics(loss, logits, batch)}.items():
            totals[f"{split}_{name}"] = totals.get(f"{split}_{name}", 0.0) + batch.n_steps * value
        n += batch.n_steps
    means = {name: total / n for name, total in totals.items()}
    if not math.isfinite(means[f"{split}_loss"]):
        raise Diverged(f"the loss on {split} data must be finite. {REMEDY}")
    return means


def _read_data(task: Task) -> None:
    task.batch(0)
    next(task.held_out("validation"))
    next(task.held_out("test"))


def config(task: Task) -> dict[str, Any]:
    """Return what config.json holds, but for what computed the run."""
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(task).items()
    }
    return {"task": task.name, "kru_ref": __version__, "settings": settings}


def what_computes(task: Task) -> dict[str, Any]:
    """Return all that a run's bits depend on besides its settings.

    Returns
    -------
    what : dict
        Versions; "backend" and, of the kernels, "instruction_set" and "threads", None where they
        are not built; "blas", each library with its version, its kernels and its threads; "data",
        the SHA-256 of all files that have no published one, None where none is read.
    """
    libraries = require("threadpoolctl", "train").threadpool_info()
    blas = {
        f"{lib['internal_api']} {lib['version']} {lib.get('architecture', '')}, "
        f"{lib['num_threads']} threads"
        for lib in libraries
        if lib["user_api"] == "blas"
    }
    are_built = backend.kernels is not None
    return {
        "kru_ref": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "backend": backend.resolve(task.backend),
        "instruction_set": backend.instruction_set() if are_built else None,
        "threads": backend.n_threads() if are_built else None,
        "blas": sorted(blas),
        "data": _digest(task.unpublished_files()),
    }


def _digest(files: Sequence[Path]) -> str | None:
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    whole = "\n".join(sorted(digests)).encode()
    return hashlib.sha256(whole).hexdigest() if digests else None


def read_config(out: Path) -> Task:
    """Return the task of the run in a folder.

    Raises
    ------
    FileNotFoundError
        The folder holds no run.
    ValueError
        Its config.json is damaged or of another version.
    OSError
        It cannot be read.
    """
    return _read_config(Path(out))[0]


def _read_config(out: Path) -> tuple[Task, list[dict[str, Any]]]:
    """Return the task of a run and what computed it, the latest last."""
    path = out / CONFIG
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no run to resume: {path} does not exist")
    try:
        content = json.loads(read_at_most(LARGEST_CONFIG, path), parse_constant=_refuse_constant)
        if content.keys() - {"computed"} != {"task", "kru_ref", "settings"}:
            raise ValueError("it must have task, kru_ref, settings and computed, no more")
        version, settings = content["kru_ref"], content["settings"]
        computed = content.get("computed", [])  # earlier versions did not record it
        if not isinstance(computed, list) or not all(type(c["update"]) is int for c in computed):
            raise ValueError("computed must say from which update on")
        made_by = [int(number) for number in version.split(".")[:2]]
        kind = TASKS[content["task"]]
        hints = {f.name: get_type_hints(kind)[f.name] for f in dataclasses.fields(kind)}
        if missing := hints.keys() - settings.keys():
            raise ValueError(f"settings lack {min(missing)}")
        for name, value in settings.items():
            settings[name] = _setting(name, value, hints[name])
        task = kind(**settings)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes of the constructors
        reason = shortened(f"{type(error).__name__}: {error}")
        raise ValueError(
            f"{path} is damaged or of another version ({reason}). Put back what was changed, or "
            "start again in another folder"
        ) from error
    if made_by > [int(number) for number in __version__.split(".")[:2]]:
        raise ValueError(
            f"{path} was written by kru_ref {shortened(version)}, this is {__version__}: resume "
            "the run with the newer one"
        )
    return task, computed


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _setting(name: str, value: Any, hint: Any) -> Any:
    """Return a setting as the task takes it, if it is of the right one of JSON's kinds."""
    if name == "factors" and value is not None:
        value = tuple((P, Q) for P, Q in value)
        if not all(type(size) is int for shape in value for size in shape):
            raise TypeError("factors must be pairs of whole numbers")
        return value
    parts = get_args(hint) or (hint,)
    kinds = {str if get_origin(k) is Literal or isinstance(k, str) else k for k in parts}
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if type(value) not in kinds and not (float in kinds and type(value) is int):
        raise TypeError(f"{name} cannot be {shortened(repr(value))}")
    return value


def _refuse_a_run(out: Path) -> None:
    for name in (CONFIG, METRICS, CHECKPOINT, PREVIOUS):
        if os.path.lexists(out / name):
            raise FileExistsError(
                f"{out} already holds a run ({name}): continue it with --resume "
                "(in Python resume=True), or choose another folder"
            )


def _beginning(task: Task, model: SequenceModel) -> RunState:
    params = model.init(task.rng("parameters"))
    return RunState(0, 0.0, params, task.optimizer_at(0).init(params), None)


def _resumed(
    task: Task, model: SequenceModel, out: Path
) -> tuple[RunState, list[str], list[dict[str, Any]]]:
    """Return the state of a run, its metrics so far and what computed it."""
    run, computed = _read_config(out)
    if run.name != task.name:
        raise ValueError(f"{out} holds a run of {run.name}, not of {task.name}")
    saved, given = dataclasses.asdict(run), dataclasses.asdict(task)
    free = FREE | {"updates"} if task.schedule == "constant" else FREE
    changed = [
        f"{name} is {given[name]!r}, was {saved[name]!r}"
        for name in given
        if name not in free and given[name] != saved[name]
    ]
    if changed:
        raise ValueError(
            f"cannot resume {out} with other settings: {'; '.join(changed)}. "
            "Leave them out to keep the run's own"
        )
    state = _last_state(task, model, out)
    if state.update > task.updates:
        raise ValueError(
            f"{out} has made {state.update} updates already; updates must be at least that, "
            f"got {task.updates}"
        )
    now = what_computes(task)
    before = computed[-1] if computed else {}
    differing = [
        f"{name} was {before[name]}, is {value}" if name in before else f"{name} is {value}"
        for name, value in now.items()
        if name not in before or value != before[name]
    ]
    if differing:
        computed = [*computed, {"update": state.update, **now}]
        warnings.warn(
            f"{out} may end at other bits than without a stop: {shortened('; '.join(differing))}",
            RunWarning,
            stacklevel=4,
        )
    rows = _rows_so_far(out, state)
    return state._replace(rows=tuple(rows)), [*rows.values()], computed


def _last_state(task: Task, model: SequenceModel, out: Path) -> RunState:
    path, metrics = out / CHECKPOINT, out / METRICS
    if not os.path.lexists(path):
        made = [name for name in (METRICS, PREVIOUS) if os.path.lexists(out / name)]
        if made and not (made == [METRICS] and metrics.is_file() and not metrics.stat().st_size):
            raise FileNotFoundError(
                f"{path} is gone, but there are metrics or a checkpoint of updates that were made "
                f"({', '.join(str(out / name) for name in made)}): {_way_on(task, model, out)}"
            )
        warnings.warn(
            f"{out} has no {CHECKPOINT} and no metrics: the run begins at update 1",
            RunWarning,
            stacklevel=5,
        )
        return _beginning(task, model)
    try:
        return load_checkpoint(path, model, task.optimizer_at(0))
    except ValueError as error:
        raise ValueError(f"{error}; {_way_on(task, model, out)}") from error


def _way_on(task: Task, model: SequenceModel, out: Path) -> str:
    """Say what to do without a good checkpoint."""
    previous = out / PREVIOUS
    again = f"put {out / CHECKPOINT} back, or start again in another folder"
    if not os.path.lexists(previous):
        return again
    try:
        kept = load_checkpoint(previous, model, task.optimizer_at(0))
    except (ValueError, OSError) as error:
        return f"{again} ({error})"
    return (
        f"{previous} is whole and holds update {kept.update}: rename it to {CHECKPOINT} to "
        "continue from there"
    )


def _rows_so_far(out: Path, state: RunState) -> dict[int, str]:
    """Return the lines of metrics.jsonl that a checkpoint knows of, by their updates.

    Those of updates that will be made again are dropped, and so is a half-written last line. Of
    any other difference a warning tells; lines that nobody knows are kept in a file beside it.
    """
    path = out / METRICS
    content = read_at_most(LARGEST_METRICS, path) if os.path.lexists(path) else b""
    what = []
    rows = [(_row(text), text) for text in content.split(b"\n")[:-1]]
    expected, known = set(state.rows or ()), dict[int, str]()
    if state.rows is None:
        expected = {row["step"] for row, _ in rows if row}
        what.append("an earlier kru_ref wrote the checkpoint: it cannot tell of missing lines")
    is_changed, last = False, 0
    for row, text in rows:
        step = row.get("step", 0)
        if step > state.update or "test_loss" in row:
            continue
        is_changed = is_changed or step not in expected or step <= last
        if step in expected and step not in known:
            known[step] = text.decode()
            last = max(last, step)
    if missing := [str(step) for step in state.rows or () if step not in known]:
        what.append(f"lines of updates {', '.join(missing)} are missing")
    if is_changed:
        with _writing(out):
            aside = _put_aside(path, content)
        what.append(
            f"lines that the run did not write were taken out; as it was, it is now {aside}"
        )
    if what:
        warnings.warn(f"{path}: {shortened('; '.join(what))}", RunWarning, stacklevel=5)
    return {step: known[step] for step in sorted(known)}


def _row(text: bytes) -> dict[str, Any]:
    """Return a line of metrics, or nothing if it is none that a run writes."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    always = {"step", "loss", "gradient_norm", "seconds", "defect"}
    if not isinstance(row, dict) or not always <= row.keys() or type(row["step"]) is not int:
        return {}
    if not all(type(v) in (int, float) and math.isfinite(v) for v in row.values()):
        return {}
    return row if json.dumps(row).encode() == text else {}


def _put_aside(path: Path, content: bytes) -> Path:
    for n in itertools.count(1):
        aside = path.with_name(f"{path.stem}.damaged-{n}{path.suffix}")
        if not os.path.lexists(aside):
            write_atomically(aside, lambda file: file.write(content))
            return aside
    raise AssertionError


def _append(out: Path, line: Metrics) -> None:
    with _writing(out), open(out / METRICS, "ab") as file:
        file.write(json.dumps(line, allow_nan=False).encode() + b"\n")


def _save(out: Path, state: RunState) -> None:
    """Save a checkpoint once the metrics it knows of are on the disk."""
    with _writing(out):
        if (out / METRICS).exists():
            with open(out / METRICS, "ab") as file:
                os.fsync(file.fileno())
        save_checkpoint(out / CHECKPOINT, state, out / PREVIOUS)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Let no other process write to a run's folder."""
    filelock = require("filelock", "train")
    # a file that is there or not: that holds on network file systems too
    lock = filelock.SoftFileLock(out / LOCK)
    try:
        with _writing(out):
            # the second look comes after a dead process's lock was removed
            lock.acquire(timeout=1, poll_interval=0.1)
    except filelock.Timeout as error:
        raise Locked(
            f"{_owner(out / LOCK)} writes to {out}. Wait until it has ended, or choose another "
            f"folder; if it has ended, delete {out / LOCK}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _owner(path: Path) -> str:
    """Say which process a lock names."""
    try:
        pid, host = path.read_text().splitlines()[:2]
    except (OSError, ValueError):
        return "another process"
    return f"process {shortened(pid)} on {shortened(host)}"


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say of a failed write what it means for the run, and what to do about it."""
    try:
        yield
    except TimeoutError:  # of the lock
        raise
    except OSError as error:
        kept = out / CHECKPOINT
        hint = f"; {kept} is intact, resume from it" if kept.is_file() else ""
        raise OSError(
            f"cannot write the run to {out}: {error.strerror or error}{hint}. "
            f"{ADVICE.get(error.errno or 0, 'Choose a folder that can be written')}",
        ) from error


ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space, or ask for a larger quota",
    errno.EFBIG: "Allow larger files (ulimit -f)",
    errno.EROFS: "Its file system is read-only: choose another folder",
    errno.EACCES: "Make the folder writable, or choose another",
    errno.EPERM: "Make the folder writable, or choose another",
    errno.ENOTDIR: "A file is where a folder should be: choose another folder",
    errno.EEXIST: "A file is where a folder should be: choose another folder",
    errno.EISDIR: "A folder is where a file should be: move it away, or choose another folder",
    errno.ENAMETOOLONG: "Choose a folder with a shorter name",
    errno.EIO: "The disk or the network fails: choose a folder elsewhere",
    errno.EMFILE: "Close some files, or allow more (ulimit -n)",
}
