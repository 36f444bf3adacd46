"""The training loop: batches, penalty, update, metrics, checkpoints.

A run lives in one folder: ``config.json`` (the task and its settings), ``metrics.jsonl``
(one JSON object a line) and ``checkpoint.npz``. All that is random is a function of the
settings and of the number of the update, so a resumed run repeats, to the bit, what it
would have done.
"""

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .cells import Params
from .checkpoint import RunState, load_checkpoint, save_checkpoint, write_atomically, write_json
from .model import ModelSaved, SequenceModel
from .optimizers import clip_by_global_norm
from .tasks import TASKS, Task
from .tasks.task import Split

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.npz"

# Settings that may change when a run is resumed: none of them changes an update.
FREE = {"log_every", "evaluate_every", "checkpoint_every", "data_dir"}

REMEDY = (
    f"{CHECKPOINT} holds the last good state. Start again in another folder with a lower rate or "
    "factor_rate, or limit the gradient with max_norm"
)

Metrics = dict[str, float]


class Diverged(FloatingPointError):
    """The loss or its gradient stopped being finite."""


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
        No run to resume, or no data.
    ValueError
        Other settings than the run's, or a checkpoint of another model.
    Diverged
        The loss is not finite; the last good checkpoint is kept.
    OSError
        Something cannot be written; the last good checkpoint is kept.
    KeyboardInterrupt
        After saving a checkpoint of the last complete update.
    """
    out = Path(out)
    model = task.model()
    state = _resumed(task, model, out) if resume else _fresh(task, model, out)
    # All data is read and found good before anything is written.
    task.batch(0)
    next(task.held_out("validation"))
    next(task.held_out("test"))
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / CONFIG, config(task))
        _forget_metrics_after(out / METRICS, state.update)
        save_checkpoint(out / CHECKPOINT, state)

    defect = model.defect(state.params)
    line = {"step": state.update, "seconds": state.seconds, "defect": defect}
    line |= _last_line(out / METRICS)
    began = time.perf_counter() - state.seconds
    saved = None
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
            # From here on the update counts: before, an interruption would repeat it.
            state = after
            if last or state.update % task.checkpoint_every == 0:
                with _writing(out):
                    save_checkpoint(out / CHECKPOINT, state)
            if on_update is not None:
                on_update(line)
        line = line | evaluate(task, model, state.params, "test")
        _append(out, line)
    except KeyboardInterrupt:
        with _writing(out):
            save_checkpoint(out / CHECKPOINT, state)
        raise
    return line


def _update(
    task: Task, model: SequenceModel, state: RunState, saved: ModelSaved | None
) -> tuple[RunState, Metrics, ModelSaved]:
    """Make one update; its loss, metrics and gradient norm are those before it."""
    batch = task.batch(state.update)
    before = state.carried if batch.continues else None
    rng = task.rng("dropout", state.update)
    logits, saved = model.forward(state.params, batch.x, before, rng=rng, reuse=saved)
    loss, dlogits = task.loss(logits, batch.targets, batch.mask, last_only=task.last_only)
    grads = model.backward(state.params, saved, dlogits)
    penalty = 0.0
    if task.strength:
        penalty, dW = model.penalty(state.params)
        for name, gradient in dW.items():
            grads[name] = grads[name] + task.strength * gradient
    grads, norm = clip_by_global_norm(grads, task.max_norm or math.inf)
    if not (math.isfinite(loss) and math.isfinite(penalty) and math.isfinite(norm)):
        raise Diverged(
            f"update {state.update + 1}: loss {loss:g}, penalty {penalty:g}, gradient norm "
            f"{norm:g} must all be finite. {REMEDY}"
        )
    params, optimizer = task.optimizer_at(state.update).update(state.params, grads, state.optimizer)
    if not all(np.isfinite(p).all() for p in params.values()):
        raise Diverged(f"update {state.update + 1} makes parameters that are not finite. {REMEDY}")
    # copies: what was saved is written over by the next update
    carried = copy.deepcopy(saved.last) if task.carries else None
    after = RunState(state.update + 1, state.seconds, params, optimizer, carried)
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
        logits, saved = model.forward(params, batch.x, before, reuse=saved)
        carried = copy.deepcopy(saved.last) if task.carries else None
        loss, _ = task.loss(logits, batch.targets, batch.mask, last_only=task.last_only)
        for name, value in {"loss": loss, **task.metrics(loss, logits, batch)}.items():
            totals[f"{split}_{name}"] = totals.get(f"{split}_{name}", 0.0) + batch.n_steps * value
        n += batch.n_steps
    means = {name: total / n for name, total in totals.items()}
    if not math.isfinite(means[f"{split}_loss"]):
        raise Diverged(f"the loss on {split} data must be finite. {REMEDY}")
    return means


def config(task: Task) -> dict[str, Any]:
    """Return what config.json holds."""
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(task).items()
    }
    return {"task": task.name, "kru_ref": __version__, "settings": settings}


def read_config(out: Path) -> Task:
    """Return the task of the run in a folder.

    Raises
    ------
    FileNotFoundError
        The folder holds no run.
    ValueError
        Its config.json is damaged or of another version.
    """
    path = Path(out) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"no run to resume: {path} does not exist")
    try:
        content = json.loads(path.read_text())
        settings = content["settings"]
        if settings["factors"] is not None:
            settings["factors"] = tuple(tuple(shape) for shape in settings["factors"])
        if settings.get("data_dir") is not None:
            settings["data_dir"] = Path(settings["data_dir"])
        return TASKS[content["task"]](**settings)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another version: {error!r}") from error


def _fresh(task: Task, model: SequenceModel, out: Path) -> RunState:
    for name in (CONFIG, METRICS, CHECKPOINT):
        if (out / name).exists():
            raise FileExistsError(
                f"{out} already holds a run ({name}): continue it with --resume "
                "(in Python resume=True), or choose another folder"
            )
    return _beginning(task, model)


def _beginning(task: Task, model: SequenceModel) -> RunState:
    params = model.init(task.rng("parameters"))
    return RunState(0, 0.0, params, task.optimizer_at(0).init(params), None)


def _resumed(task: Task, model: SequenceModel, out: Path) -> RunState:
    run = read_config(out)
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
    if not (out / CHECKPOINT).exists():
        return _beginning(task, model)
    state = load_checkpoint(out / CHECKPOINT, model, task.optimizer_at(0))
    if state.update > task.updates:
        raise ValueError(
            f"{out} has made {state.update} updates already; updates must be at least that, "
            f"got {task.updates}"
        )
    return state


def _forget_metrics_after(path: Path, update: int) -> None:
    """Drop lines of updates that a resumed run will make again, and a half-written one."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if (
            isinstance(line, dict)
            and line.get("step", update + 1) <= update
            and ("test_loss" not in line)
        ):
            kept.append(text + "\n")
    write_atomically(path, lambda file: file.write("".join(kept).encode()))


def _last_line(path: Path) -> Metrics:
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1]) if lines else {}


def _append(out: Path, line: Metrics) -> None:
    with _writing(out), open(out / METRICS, "a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say of a failed write what it means for the run."""
    try:
        yield
    except OSError as error:
        kept = out / CHECKPOINT
        hint = f"; {kept} is intact, resume from it" if kept.is_file() else ""
        raise OSError(
            f"cannot write the run to {out}: {error.strerror or error}{hint}. "
            "Free some space or choose a folder that can be written"
        ) from error
