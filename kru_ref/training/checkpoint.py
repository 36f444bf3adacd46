"""The state of a training run, on disk: written whole or not at all, never pickled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cells import Params, check_params
from ..cells import State as CellState
from ..files import ArchiveError, read_npz, shortened, write_atomically
from ..model import SequenceModel
from ..optimizers import Optimizer, State


class RunState(NamedTuple):
    """A run between two updates.

    Attributes
    ----------
    update : int
        Updates done.
    seconds : float
        Time they took.
    params : dict of str to ndarray
    optimizer : dict
        The optimizer's state.
    carried : tuple, optional
        Each cell's state after the last batch, for one that continues it.
    rows : tuple of int, optional
        The updates that metrics.jsonl has lines of; None where an earlier version wrote it.
    """

    update: int
    seconds: float
    params: Params
    optimizer: State
    carried: tuple[CellState, ...] | None
    rows: tuple[int, ...] | None = ()


def save_checkpoint(path: Path, state: RunState, previous: Path | None = None) -> None:
    """Write a state as an .npz archive; the file that was there stays until it is complete.

    Parameters
    ----------
    path : Path
    state : RunState
    previous : Path, optional
        Keeps what was at path.

    Raises
    ------
    OSError
        It cannot be written; the old file is intact.
    """
    arrays: dict[str, Any] = {
        "update": np.array(state.update),
        "seconds": np.array(state.seconds),
        "rows": np.array(state.rows or (), np.int64),
        "optimizer/steps": np.array(state.optimizer["steps"]),
    }
    arrays |= {f"params/{name}": value for name, value in state.params.items()}
    for slot, values in state.optimizer.items():
        if slot != "steps":
            arrays |= {f"optimizer/{slot}/{name}": value for name, value in values.items()}
    for k, carried in enumerate(state.carried or ()):
        for i, part in enumerate(carried if isinstance(carried, tuple) else (carried,)):
            arrays[f"carried/{k}/{i}"] = part

    def write(file: IO[bytes]) -> None:
        np.savez(file, **arrays)
        if previous is not None and path.exists():
            # copied, not renamed: there is a checkpoint at any moment
            with open(path, "rb") as old:
                write_atomically(previous, lambda kept: shutil.copyfileobj(old, kept))

    write_atomically(path, write)


def load_checkpoint(path: Path, model: SequenceModel, optimizer: Optimizer) -> RunState:
    """Read what :func:`save_checkpoint` wrote, for this model and this optimizer.

    Raises
    ------
    ValueError
        A damaged file, or the checkpoint of another model or optimizer.
    OSError
        It is not there or cannot be read.
    """
    try:
        arrays = read_npz(path)
    except ArchiveError as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {error.reason}") from error
    try:
        _check_names(arrays, model, optimizer)
        state: State = {"steps": _whole(arrays["optimizer/steps"], "optimizer/steps")}
        for slot in optimizer.slots:
            state[slot] = _under(arrays, f"optimizer/{slot}/")
            check_params(state[slot], model.layout)
        states = _carried(arrays, model)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is the checkpoint of another model: {shortened(str(error))}"
        ) from error
    try:
        update = _whole(arrays["update"], "update")
        if state["steps"] != update:
            raise ValueError(f"update is {update}, but optimizer/steps {state['steps']}")
        seconds = _checked_values(arrays)
        rows = _rows(arrays["rows"], update) if "rows" in arrays else None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from error
    return RunState(update, seconds, _under(arrays, "params/"), state, states, rows)


def _check_names(arrays: dict[str, Any], model: SequenceModel, optimizer: Optimizer) -> None:
    """Raise unless a checkpoint holds what belongs to a model and an optimizer, and no more."""
    check_params(_under(arrays, "params/"), model.layout)
    known = {"update", "seconds", "optimizer/steps"}
    for slot in ("params", *(f"optimizer/{slot}" for slot in optimizer.slots)):
        known |= {f"{slot}/{name}" for name in model.shapes()}
    carried = {
        f"carried/{k}/{i}"
        for k, cell in enumerate(model.cells)
        for i in range(len(cell.state_names))
    }
    if unknown := arrays.keys() - known - carried - {"rows"}:
        raise ValueError(f"it holds {min(unknown)!r}")
    if missing := known - arrays.keys():
        raise ValueError(f"it lacks {min(missing)!r}")


def _checked_values(arrays: dict[str, Any]) -> float:
    """Return the seconds of a run; raise unless they are such, and all numbers are finite."""
    seconds = arrays["seconds"]
    if seconds.shape != () or seconds.dtype.kind != "f":
        raise ValueError("seconds must be a real number")
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite")
    if seconds < 0:
        raise ValueError(f"seconds must be at least 0, got {float(seconds):g}")
    return float(seconds)


def _whole(value: NDArray[Any], name: str) -> int:
    if value.shape != () or value.dtype.kind not in "iu" or value < 0:
        raise ValueError(f"{name} must be a whole number from 0 on")
    return int(value)


def _rows(rows: NDArray[Any], update: int) -> tuple[int, ...]:
    if rows.ndim != 1 or rows.dtype.kind != "i":
        raise ValueError("rows must be whole numbers, one for each line of metrics")
    if not (np.diff(rows, prepend=0, append=update + 1) > 0).all():
        raise ValueError(f"rows must be updates in order, from 1 to {update}")
    return tuple(rows.tolist())


def _carried(arrays: dict[str, Any], model: SequenceModel) -> tuple[CellState, ...] | None:
    if not _under(arrays, "carried/"):
        return None
    states: list[CellState] = []
    for k, cell in enumerate(model.cells):
        parts = tuple(arrays[f"carried/{k}/{i}"] for i in range(len(cell.state_names)))
        shape = cell.hidden_size, *parts[0].shape[1:]
        if parts[0].ndim != 2 or any(p.shape != shape or p.dtype != cell.dtype for p in parts):
            raise ValueError(f"the state carried by cell {k} does not fit it")
        states.append(parts if len(parts) > 1 else parts[0])
    return tuple(states)


def _under(arrays: dict[str, Any], prefix: str) -> Params:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
