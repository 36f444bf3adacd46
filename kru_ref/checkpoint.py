"""The state of a training run, on disk: written whole or not at all, never pickled."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .cells import Params, check_params
from .cells import State as CellState
from .model import SequenceModel
from .optimizers import Optimizer, State


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
    """

    update: int
    seconds: float
    params: Params
    optimizer: State
    carried: tuple[CellState, ...] | None


def save_checkpoint(path: Path, state: RunState) -> None:
    """Write a state as an .npz archive; the file that was there stays until it is complete.

    Raises
    ------
    OSError
        It cannot be written; the old file is intact.
    """
    arrays: dict[str, Any] = {
        "update": np.array(state.update),
        "seconds": np.array(state.seconds),
        "optimizer/steps": np.array(state.optimizer["steps"]),
    }
    arrays |= {f"params/{name}": value for name, value in state.params.items()}
    for slot, values in state.optimizer.items():
        if slot != "steps":
            arrays |= {f"optimizer/{slot}/{name}": value for name, value in values.items()}
    for k, carried in enumerate(state.carried or ()):
        for i, part in enumerate(carried if isinstance(carried, tuple) else (carried,)):
            arrays[f"carried/{k}/{i}"] = part
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_checkpoint(path: Path, model: SequenceModel, optimizer: Optimizer) -> RunState:
    """Read what :func:`save_checkpoint` wrote, for this model and this optimizer.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A damaged file, or the checkpoint of another model or optimizer.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from error
    try:
        check_params(_under(arrays, "params/"), model.shapes(), model.dtypes())
        state: State = {"steps": int(arrays["optimizer/steps"])}
        for slot in optimizer.slots:
            state[slot] = _under(arrays, f"optimizer/{slot}/")
            check_params(state[slot], model.shapes(), model.dtypes())
        return RunState(
            int(arrays["update"]),
            float(arrays["seconds"]),
            _under(arrays, "params/"),
            state,
            _carried(arrays, model),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is the checkpoint of another model: {error}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a file beside path, then rename it to path.

    Raises
    ------
    OSError
        It cannot be written; what was at path is intact.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _carried(arrays: dict[str, Any], model: SequenceModel) -> tuple[CellState, ...] | None:
    if not _under(arrays, "carried/"):
        return None
    states: list[CellState] = []
    for k, cell in enumerate(model.cells):
        parts = tuple(arrays[f"carried/{k}/{i}"] for i in range(len(cell.states)))
        if any(p.shape[:1] != (cell.hidden_size,) or p.dtype != cell.dtype for p in parts):
            raise ValueError(f"the state carried by cell {k} does not fit it")
        states.append(parts if len(parts) > 1 else parts[0])
    return tuple(states)


def _under(arrays: dict[str, Any], prefix: str) -> Params:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
