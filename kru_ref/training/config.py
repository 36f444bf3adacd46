"""config.json: a run's task, its settings and what computed it."""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import scipy

from .. import __version__
from ..engine import backend
from ..extras import require
from ..files import read_at_most, shortened
from .folder import CONFIG
from .tasks import TASKS, Task

LARGEST_CONFIG = 2**20
# Settings that earlier versions did not have; their runs had the defaults.
LATER = {"permutation", "r_min", "r_max", "max_phase", "eigenbasis"}


def config(task: Task) -> dict[str, Any]:
    """Return what config.json holds, but for what computed the run."""
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(task).items()
    }
    return {"task": task.name, "kru_ref": __version__, "settings": settings}


def what_computes(task: Task, blocks: int | None = None) -> dict[str, Any]:
    """Return all that a run's bits depend on besides its settings.

    Parameters
    ----------
    task : Task
    blocks : int, optional
        Columns of the blocks that several processes share out, if they do.

    Returns
    -------
    what : dict
        Versions; "backend" and, of the kernels, "instruction_set" and "threads", None where they
        are not built; "blas", each library with its version, its kernels and its threads; "data",
        the SHA-256 of all files that have no published one, None where none is read; "blocks".
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
        "blocks": blocks,
    }


def _digest(files: Sequence[Path]) -> str | None:
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    whole = "\n".join(sorted(digests)).encode()
    return hashlib.sha256(whole).hexdigest() if digests else None


def read_config(out: Path, data_dir: Path | None = None) -> Task:
    """Return the task of the run in a folder; data_dir is where its data is now, if it moved.

    Raises
    ------
    FileNotFoundError
        The folder holds no run.
    ValueError
        Its config.json is damaged or of another version.
    OSError
        It cannot be read.
    """
    return read_recorded(Path(out), data_dir=data_dir)[0]


def read_recorded(
    out: Path, own: type[Task] | None = None, data_dir: Path | None = None
) -> tuple[Task, list[dict[str, Any]]]:
    """Return the task of a run and what computed it, the latest last.

    own is the class of a task that may be none of this library's, data_dir where its data is now.
    """
    tasks = TASKS if own is None else TASKS | {own.name: own}
    path = out / CONFIG
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no run to resume: {path} does not exist")
    try:
        content = json.loads(read_at_most(LARGEST_CONFIG, path), parse_constant=_refuse_constant)
        version, computed = _version_and_computed(content)
        made_by = [int(number) for number in version.split(".")[:2]]
        if isinstance(name := content["task"], str) and name.isidentifier() and name not in tasks:
            raise _NotOurs(name)
        if data_dir is not None and "data_dir" in content["settings"]:
            content["settings"]["data_dir"] = str(data_dir)
        task = _task(tasks[name], content["settings"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; give data_dir if the run's data was moved") from error
    except OSError:
        raise
    except _NotOurs as error:
        raise ValueError(
            f"{path} is of a task {shortened(str(error))!r} that is none of kru_ref's: resume it "
            "with train(task, out, resume=True)"
        ) from None
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


class _NotOurs(Exception):
    """The task of a run is somebody's own."""


def _version_and_computed(content: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    if content.keys() - {"computed"} != {"task", "kru_ref", "settings"}:
        raise ValueError("it must have task, kru_ref, settings and computed, no more")
    computed = content.get("computed", [])  # earlier versions did not record it
    if not isinstance(computed, list) or not all(type(c["update"]) is int for c in computed):
        raise ValueError("computed must say from which update on")
    return content["kru_ref"], computed


def _task(kind: type[Task], settings: dict[str, Any]) -> Task:
    hints = {f.name: get_type_hints(kind)[f.name] for f in dataclasses.fields(kind)}
    if missing := hints.keys() - settings.keys() - LATER:
        raise ValueError(f"settings lack {min(missing)}")
    return kind(**{name: _setting(name, value, hints[name]) for name, value in settings.items()})


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _setting(name: str, value: Any, hint: Any) -> Any:
    """Return a setting as the task takes it, if it is of the right one of JSON's kinds."""
    if name == "factors" and value is not None:
        return _shapes(value)
    kinds = {_kind(part) for part in get_args(hint) or (hint,)}
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if type(value) not in kinds and not (float in kinds and type(value) is int):
        raise TypeError(f"{name} cannot be {shortened(repr(value))}")
    return value


def _kind(part: Any) -> Any:
    return str if get_origin(part) is Literal or isinstance(part, str) else part


def _shapes(value: Any) -> tuple[tuple[int, int], ...]:
    shapes = tuple((P, Q) for P, Q in value)
    if not all(type(size) is int for shape in shapes for size in shape):
        raise TypeError("factors must be pairs of whole numbers")
    return shapes
