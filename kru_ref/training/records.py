"""What runs of recipes reached: recorded in files beside this one, and read from their folders."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

from ..files import read_at_most, shortened
from .config import read_recorded
from .folder import CONFIG, METRICS, RunWarning
from .loop import FREE
from .metrics import LARGEST_METRICS
from .recipes import RECIPES
from .tasks import Task

RECORDED = Path(__file__).with_name("recorded")
POINTS = 60  # of a learning curve that is kept, beside those with an evaluation
CURVE = {"loss", "defect"} | {
    f"validation_{name}" for name in ("loss", "accuracy", "bits", "frame_error")
}

# "recipe", "seed", "updates", "planned_updates", "seconds", "parameters",
# "recurrent_parameters", "baseline"; "settings", those that the result depends on; "computed", what
# computed the last of it; "last", the last line of metrics, and "curve"
Record = dict[str, Any]


def recorded() -> list[Record]:
    """Return what was recorded, in the order of the recipes and seeds."""
    found = [json.loads(path.read_text()) for path in RECORDED.glob("*.json")]
    order = list(RECIPES)
    known = [record for record in found if record["recipe"] in RECIPES]
    return sorted(known, key=lambda record: (order.index(record["recipe"]), record["seed"]))


def recorded_and_in(runs: Path) -> list[Record]:
    """Return what was recorded, and of other recipes and seeds what runs in a folder reached."""
    found = recorded()
    known = {(record["recipe"], record["seed"]) for record in found}
    for config in sorted(runs.glob(f"*/{CONFIG}")):
        try:
            record = record_of(config.parent)
        except (ValueError, OSError) as error:  # something else
            warnings.warn(f"left out: {error}", RunWarning, stacklevel=2)
            continue
        if (key := (record["recipe"], record["seed"])) not in known:
            known.add(key)
            found.append(record)
    return found


def record_of(folder: Path) -> Record:
    """Return what the run in a folder has reached.

    Raises
    ------
    ValueError
        It is no run of a recipe, has made no update, or its metrics are damaged.
    OSError
        It cannot be read.
    """
    task, computed = read_recorded(folder)
    names = [name for name, recipe in RECIPES.items() if same_run(recipe, task)]
    if not names:
        raise ValueError(f"{folder} is no run of a recipe: {folder / CONFIG}")
    content = read_at_most(LARGEST_METRICS, folder / METRICS)
    # the last line may be half-written
    lines = [_line(folder, line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
    if not lines:
        raise ValueError(f"{folder} has made no update")
    model, last = task.model(), lines[-1]
    curve = [line for line in lines if "test_loss" not in line]
    kept = {id(line) for line in curve[:: max(1, len(curve) // POINTS)]}
    return {
        "recipe": names[0],
        "seed": task.seed,
        "updates": last["step"],
        "planned_updates": RECIPES[names[0]].updates,
        "seconds": last["seconds"],
        "recurrent_parameters": model.n_recurrent_parameters,
        "parameters": model.n_parameters,
        "baseline": task.baseline[1],
        "settings": settings_of(task),
        "computed": computed[-1] if computed else None,
        "last": last,
        "curve": [
            {name: float(f"{value:.4g}") for name, value in line.items() if name in CURVE}
            | {"step": line["step"]}
            for line in curve
            if id(line) in kept or "validation_loss" in line
        ],
    }


def _line(folder: Path, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"step", "seconds", "loss"} <= found.keys():
        raise ValueError(f"{folder / METRICS} is damaged: it has the line {shortened(repr(line))}")
    return found


def is_whole(record: Record) -> bool:
    """Whether a run has ended, with its recipe's updates: rates depend on how many there are."""
    return record["updates"] == record["planned_updates"] and "test_loss" in record["last"]


def same_run(recipe: Task, task: Task) -> bool:
    """Whether a task is a recipe's, but for seed, place and number of updates."""
    return type(recipe) is type(task) and settings_of(recipe) == settings_of(task)


def settings_of(task: Task) -> dict[str, Any]:
    """Return the settings that a result depends on, but for the seed and the number of updates."""
    free = FREE | {"seed", "updates", "backend"}
    settings = dataclasses.asdict(task) | {
        "dtype": task.numbers,
        "penalty": task.strength,
        # given or not, these are the same
        "activation": task.activation or "modrelu",
        "init": task.init or "haar",
    }
    if "permutation_seed" in settings:
        settings["permutation_seed"] = settings["permutation_seed"] or 0
    return {name: value for name, value in settings.items() if name not in free}
