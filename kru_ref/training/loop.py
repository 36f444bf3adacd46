"""The training loop: batches, penalty, update, metrics, checkpoints.

A run lives in one folder: ``config.json`` (the task, its settings and what computed it),
``metrics.jsonl`` (one JSON object a line), ``checkpoint.npz`` and, as ``checkpoint.previous.npz``,
the one before. While a process writes there, ``run.lock`` names it. All that is random is a
function of the settings and of the number of the update, so a resumed run repeats, to the bit,
what it would have done.
"""

import dataclasses
import functools
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..cells import Params
from ..files import leftovers, shortened, write_atomically, write_json
from ..model import SequenceModel
from ..optimizers import clip_by_global_norm
from . import interrupts
from .checkpoint import RunState, load_checkpoint, save_checkpoint
from .config import config, read_recorded, what_computes
from .folder import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    PREVIOUS,
    RunWarning,
    locked,
    refuse_a_run,
    writing,
)
from .metrics import Metrics, append, rows_so_far
from .ranks import WIDTH, Block, Ranks, columns, side_by_side
from .tasks import Batch, Task
from .tasks.task import Split

# Settings that may change when a run is resumed: none of them changes an update.
FREE = {"log_every", "evaluate_every", "checkpoint_every", "data_dir"}

WORSE = 5  # times the loss of one who knows nothing is a run's that diverged

REMEDY = (
    f"{CHECKPOINT} holds the last good state. Start again in another folder with a lower rate or "
    "factor_rate, or limit the gradient with max_norm"
)


class Diverged(FloatingPointError):
    """The loss or its gradient stopped being finite."""


def train(
    task: Task,
    out: Path,
    *,
    resume: bool = False,
    on_update: Callable[[Metrics], None] | None = None,
    communicator: Any = None,
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
    communicator : mpi4py.MPI.Comm, optional
        Its processes, all of which call this, share out each batch; see ranks.py. Rank 0 alone
        writes. The run is the same to the bit for any number of processes, but for rounding not the
        one without a communicator.

    Returns
    -------
    metrics : dict of str to float
        The last line of ``metrics.jsonl``: "step", "loss", "seconds", "defect",
        "gradient_norm", the task's own metric, and these on held-out data as
        ``"validation_…"`` and ``"test_…"``.

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
    RankFailed
        Another process of the communicator has failed or is gone.
    ImportError
        The extra "train" is not installed.

    Whatever ends a run once it has begun, but for Diverged, first saves a checkpoint of the last
    complete update. A note of the exception says which update that is.

    Warns
    -----
    RunWarning
        What computes is not what computed the run so far, so it may end at other bits; lines of
        metrics are missing; or there is no checkpoint yet.

    Examples
    --------
    >>> import tempfile
    >>> from kru_ref.training.loop import train
    >>> from kru_ref.training.tasks import Copying
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     task = Copying(delay=5, hidden_size=8, updates=20, held_out_sequences=50)
    ...     metrics = train(task, f"{folder}/run")
    >>> metrics["step"], "test_loss" in metrics
    (20, True)
    """
    if not str(out):
        raise ValueError("out must name the folder of the run, got an empty name")
    ranks = None if communicator is None else Ranks(communicator)
    restore = interrupts.catch()
    try:
        if ranks is None:
            return _train(task, Path(out), resume, on_update, lambda run: None)
        return _train_together(task, Path(out), resume, on_update, ranks)
    finally:
        restore()


def _train_together(
    task: Task,
    out: Path,
    resume: bool,
    on_update: Callable[[Metrics], None] | None,
    ranks: Ranks,
) -> Metrics:
    """Train on all processes: the first has the folder, and the others what it begins with."""
    if not ranks.is_first:
        state = ranks.tell()
        return _to_the_end(_Run(task, task.model(), out, state, ranks), {}, on_update)
    has_begun = False

    def begin(run: _Run) -> None:
        nonlocal has_begun
        has_begun, run.ranks = True, ranks
        ranks.share(lambda: run.state)

    try:
        return _train(task, out, resume, on_update, begin, WIDTH)
    except Exception as error:
        if not has_begun:
            ranks.tell(None, error)
        raise


def _train(
    task: Task,
    out: Path,
    resume: bool,
    on_update: Callable[[Metrics], None] | None,
    begin: "Callable[[_Run], None]",
    blocks: int | None = None,
) -> Metrics:
    if resume and not os.path.lexists(out / CONFIG):
        raise FileNotFoundError(f"no run to resume: {out / CONFIG} does not exist")
    if not resume:
        refuse_a_run(out)
        # data is read, and found good, before anything is written
        _read_data(task)
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        model = task.model()
        rows: list[str] = []
        computed = [{"update": 0, **what_computes(task, blocks)}]
        if resume:
            state, rows, computed = _resumed(task, model, out, blocks)
            _read_data(task)
        else:
            refuse_a_run(out)
            state = _beginning(task, model)
        with writing(out):
            for name in (CONFIG, METRICS, CHECKPOINT, PREVIOUS):
                for file in leftovers(out / name):
                    file.unlink()
            write_json(out / CONFIG, config(task) | {"computed": computed})
            save_checkpoint(out / CHECKPOINT, state)
            if os.path.lexists(out / METRICS):
                text = "".join(f"{row}\n" for row in rows)
                write_atomically(out / METRICS, lambda file: file.write(text.encode()))
        last = json.loads(rows[-1]) if rows else {}
        run = _Run(task, model, out, state)
        begin(run)
        return _to_the_end(run, last, on_update)


class _Run:
    """A run as it goes: its last complete update, and which update is on the disk."""

    def __init__(
        self,
        task: Task,
        model: SequenceModel,
        out: Path,
        state: RunState,
        ranks: Ranks | None = None,
    ) -> None:
        self.task, self.model, self.out, self.ranks = task, model, out, ranks
        self.state, self.on_disk = state, state.update
        self.defect = model.defect(state.params)
        self.began = time.perf_counter() - state.seconds

    def update(self) -> Metrics:
        """Make an update, with all that is due behind it, and return its line of metrics."""
        task = self.task
        # a number too large is found, and told, by what it does to the loss
        with np.errstate(over="ignore", invalid="ignore"):
            after, line = _update(task, self.model, self.state, self.ranks)
        last = after.update == task.updates
        evaluate_now = last or after.update % task.evaluate_every == 0
        log_now = evaluate_now or after.update % task.log_every == 0
        # those of factors are cheap; singular values of a dense matrix would cost as
        # much as the update
        if log_now or task.matrix == "kronecker":
            self.measure_defect(after)
        line["defect"] = self.defect
        if evaluate_now:
            line |= self.evaluate(after.params, "validation")
        after = after._replace(seconds=time.perf_counter() - self.began)
        line["seconds"] = round(after.seconds, 3)
        if log_now:
            self.by_one(lambda: append(self.out, line))
            after = after._replace(rows=(*(after.rows or ()), after.update))
        # From here on the update counts: before, an interruption would repeat it.
        self.state = after
        if last or after.update % task.checkpoint_every == 0:
            self.by_one(self.save)
        return line

    def by_one(self, do: Callable[[], Any]) -> Any:
        """Do what one process does for all that train together, and return its result."""
        return do() if self.ranks is None else self.ranks.share(do)

    def evaluate(self, params: Params, split: Split) -> Metrics:
        """Return the loss and metrics on held-out data."""
        found: Metrics = self.by_one(lambda: evaluate(self.task, self.model, params, split))
        return found

    def measure_defect(self, after: RunState) -> None:
        """Find how far the matrices are from unitary; raise if they overflow."""
        self.defect = self.model.defect(after.params)
        if not math.isfinite(self.defect):
            raise Diverged(f"update {after.update} makes W overflow. {REMEDY}")

    def save(self) -> None:
        """Save a checkpoint once the metrics it knows of are on the disk."""
        with writing(self.out):
            if (self.out / METRICS).exists():
                with open(self.out / METRICS, "ab") as file:
                    os.fsync(file.fileno())
            save_checkpoint(self.out / CHECKPOINT, self.state, self.out / PREVIOUS)
        self.on_disk = self.state.update

    def save_before(self, error: BaseException) -> None:
        """Save what an error would lose; a note of it says which update is on the disk."""
        if self.ranks is not None and not self.ranks.is_first:
            return
        # what led to a loss that is not finite is not worth going on from
        if self.on_disk < self.state.update and not isinstance(error, Diverged):
            try:
                self.save()
            except Exception as failure:
                if not isinstance(error, OSError):
                    error.add_note(f"update {self.state.update} could not be saved: {failure}")
        error.add_note(f"{self.out / CHECKPOINT} holds update {self.on_disk}")


def _to_the_end(
    run: _Run, last_row: Metrics, on_update: Callable[[Metrics], None] | None
) -> Metrics:
    """Make all updates that are left, and test what has been learned."""
    state = run.state
    line = {"step": state.update, "seconds": state.seconds, "defect": run.defect} | last_row
    try:
        while run.state.update < run.task.updates:
            line = run.update()
            if on_update is not None:
                on_update(line)
        line = line | run.evaluate(run.state.params, "test")
        run.by_one(lambda: append(run.out, line))
    except BaseException as error:
        with interrupts.ignored():
            run.save_before(error)
        raise
    return line


def _update(
    task: Task, model: SequenceModel, state: RunState, ranks: Ranks | None
) -> tuple[RunState, Metrics]:
    """Make one update; its loss, metrics and gradient norm are those before it."""
    of_batch = _gradients if ranks is None else functools.partial(_in_blocks, ranks)
    loss, grads, metrics, carried = of_batch(task, model, state, task.batch(state.update))
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
    after = RunState(state.update + 1, state.seconds, params, optimizer, carried, state.rows)
    return after, {"step": after.update, "loss": loss, "gradient_norm": norm, **metrics}


def _gradients(
    task: Task,
    model: SequenceModel,
    state: RunState,
    batch: Batch,
    share: float = 1.0,
    rng: np.random.Generator | None = None,
) -> tuple[float, Params, Metrics, Any]:
    """Return the loss, its gradients, the metrics, and each cell's state for the next batch.

    Of a block of a batch, a share of the first three, and what draws its dropout.
    """
    before = state.carried if batch.continues else None
    rng = task.rng("dropout", state.update) if rng is None else rng
    logits, saved = model.forward(state.params, batch.x, before, rng=rng)
    loss, dlogits = task.loss(logits, batch.targets, batch.mask, last_only=task.last_only)
    if share != 1.0:
        dlogits = (share * dlogits).astype(dlogits.dtype)
    grads = model.backward(state.params, saved, dlogits)
    metrics = {name: share * value for name, value in task.metrics(loss, logits, batch).items()}
    return share * loss, grads, metrics, saved.last if task.carries else None


def _in_blocks(
    ranks: Ranks, task: Task, model: SequenceModel, state: RunState, batch: Batch
) -> tuple[float, Params, Metrics, Any]:
    """Return the same, added up over blocks of columns that several processes share out."""
    blocks = ranks.blocks(batch.x.shape[-1])
    rngs = task.rng("dropout", state.update).spawn(len(blocks))
    names: list[str] = []

    def block(i: int) -> Block:
        part, before = batch.columns(blocks[i]), columns(state.carried, blocks[i])
        loss, grads, metrics, carried = _gradients(
            task,
            model,
            state._replace(carried=before),
            part,
            part.n_steps / batch.n_steps,
            rngs[i],
        )
        names[:] = metrics
        return Block(grads, [loss, *metrics.values()], carried)

    grads, (loss, *metrics), carried = ranks.add_up(len(blocks), block, state.params)
    state_after = side_by_side(carried) if task.carries else None
    return float(loss), grads, dict(zip(names, map(float, metrics), strict=False)), state_after


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
    n = 0.0
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


def why_diverged(task: Task, metrics: Metrics) -> str:
    """Say that a run ended far above where training begins; nothing of one that did not.

    Outputs of 0 know nothing, and so does a model that nobody has trained; a loss of several times
    both is the end of a run that diverged without overflowing.
    """
    batch, model = next(task.held_out("test")), task.model()
    logits, _ = model.forward(model.init(task.rng("parameters")), batch.x)
    untrained, nothing = (
        task.loss(outputs, batch.targets, batch.mask, last_only=task.last_only)[0]
        for outputs in (logits, np.zeros_like(logits))
    )
    if metrics["test_loss"] <= WORSE * max(untrained, nothing):
        return ""
    return (
        f"the run diverged: its test loss is {metrics['test_loss']:.3g}, that of outputs of 0 is "
        f"{nothing:.3g}, and before training it was {untrained:.3g}. Start again in another folder "
        "with lower rates"
    )


def _read_data(task: Task) -> None:
    task.batch(0)
    next(task.held_out("validation"))
    next(task.held_out("test"))


def _beginning(task: Task, model: SequenceModel) -> RunState:
    params = model.init(task.rng("parameters"))
    return RunState(0, 0.0, params, task.optimizer_at(0).init(params), None)


def _resumed(
    task: Task, model: SequenceModel, out: Path, blocks: int | None
) -> tuple[RunState, list[str], list[dict[str, Any]]]:
    """Return the state of a run, its metrics so far and what computed it."""
    run, computed = read_recorded(out, type(task), getattr(task, "data_dir", None))
    if run.name != task.name:
        raise ValueError(f"{out} holds a run of {run.name}, not of {task.name}")
    _check_settings(run, task, out)
    state = _last_state(task, model, out)
    if state.update > task.updates:
        raise ValueError(
            f"{out} has made {state.update} updates already; updates must be at least that, "
            f"got {task.updates}"
        )
    now = what_computes(task, blocks)
    computed = _with_what_computes_now(now, state.update, computed, out)
    rows = rows_so_far(out, state)
    return state._replace(rows=tuple(rows)), [*rows.values()], computed


def _check_settings(run: Task, task: Task, out: Path) -> None:
    """Raise if a run would go on with other settings than it began with."""
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


def _with_what_computes_now(
    now: dict[str, Any], update: int, computed: list[dict[str, Any]], out: Path
) -> list[dict[str, Any]]:
    """Return the record of what computes a run; a warning tells where it changes."""
    # earlier versions knew no blocks
    before = {"blocks": None} | computed[-1] if computed else {}
    differing = [
        f"{name} was {before[name]}, is {value}" if name in before else f"{name} is {value}"
        for name, value in now.items()
        if name != "blocks" and (name not in before or value != before[name])
    ]
    if before.get("blocks", now["blocks"]) != now["blocks"]:
        was, is_now = (
            "whole" if b is None else "cut for MPI" for b in (before["blocks"], now["blocks"])
        )
        differing.append(f"batches were {was}, are {is_now}")
    if before.get("data", now["data"]) != now["data"]:
        differing.insert(0, "the files of data are others than the run has had")
    if not differing:
        return computed
    warnings.warn(
        f"{out} may end at other bits than without a stop: {shortened('; '.join(differing))}",
        RunWarning,
        stacklevel=5,
    )
    return [*computed, {"update": update, **now}]


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
