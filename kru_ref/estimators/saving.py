"""Fitted estimators in files: safetensors, with a JSON header; nothing in them is ever executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .. import __version__
from ..arrays import Array
from ..extras import require
from ..files import shortened, write_atomically
from .recurrent import RecurrentClassifier, RecurrentRegressor
from .reservoir import KroneckerReservoir, ReservoirClassifier, ReservoirRegressor

FORMAT = 1
# What a header or tensors that do not fit one another lead to.
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
KEY = "kru_ref"
ESTIMATORS = {
    kind.__name__: kind
    for kind in (
        RecurrentClassifier,
        RecurrentRegressor,
        KroneckerReservoir,
        ReservoirClassifier,
        ReservoirRegressor,
    )
}


def save(estimator: Any, path: str | Path) -> None:
    """Write a fitted estimator to a file, for :func:`load`.

    Parameters
    ----------
    estimator : RecurrentClassifier, RecurrentRegressor, or one of a reservoir
    path : path-like
        The file is replaced as a whole, or not at all.

    Raises
    ------
    NotFittedError
        The estimator was not fitted.
    TypeError
        It is of another class, or its labels are neither strings nor numbers.
    ValueError
        Settings were changed after the fit.
    OSError
        The file cannot be written.
    ImportError
        The extra "sklearn" is not installed.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from kru_ref.estimators import ReservoirClassifier, load, save
    >>> X, y = np.random.default_rng(0).standard_normal((20, 30)), np.arange(20) % 2
    >>> model = ReservoirClassifier(16, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, f"{folder}/model.safetensors")
    ...     again = load(f"{folder}/model.safetensors")
    >>> bool((again.predict(X) == model.predict(X)).all())
    True
    """
    if ESTIMATORS.get(type(estimator).__name__) is not type(estimator):
        raise TypeError(
            f"estimator must be one of {', '.join(ESTIMATORS)}, got {type(estimator).__name__}"
        )
    check_is_fitted(estimator)
    arrays, facts = estimator.fitted_state()
    header = {
        "format": FORMAT,
        "version": __version__,
        "estimator": type(estimator).__name__,
        "settings": {name: plain(v) for name, v in estimator.get_params(deep=False).items()},
        "facts": {**facts, "n_features_in_": estimator.n_features_in_},
        "complex": [name for name, a in arrays.items() if np.iscomplexobj(a)],
    }
    if hasattr(estimator, "classes_"):
        header["classes"] = _listed_classes(estimator.classes_)
    if hasattr(estimator, "table_"):
        header["table"] = estimator.table_
    if hasattr(estimator, "feature_names_in_"):
        header["feature_names"] = [str(name) for name in estimator.feature_names_in_]
    text, tensors = json.dumps(header), {name: as_pairs(a) for name, a in arrays.items()}
    try:
        _rebuilt(json.loads(text), tensors)
    except DAMAGE as error:
        raise ValueError(
            f"the settings are not those of the fit ({shortened(str(error))}): fit again"
        ) from error
    content = require("safetensors.numpy", "sklearn").save(tensors, {KEY: text})
    write_atomically(Path(path), lambda file: file.write(content))


def load(path: str | Path) -> Any:
    """Return the estimator that :func:`save` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    estimator : RecurrentClassifier, RecurrentRegressor, or one of a reservoir
        It predicts what the saved one does, to the bit; ``partial_fit`` begins a new optimizer.

    Raises
    ------
    ValueError
        The file is of another kind or a later version, damaged, or its parts do not fit.
    OSError
        It cannot be read.
    ImportError
        The extra "sklearn" is not installed.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from kru_ref.estimators import ReservoirRegressor, load, save
    >>> X = np.random.default_rng(0).standard_normal((20, 30))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(ReservoirRegressor(16).fit(X, X[:, 0]), f"{folder}/model.safetensors")
    ...     type(load(f"{folder}/model.safetensors")).__name__
    'ReservoirRegressor'
    """
    path = Path(path)
    header, arrays = _read(path)
    try:
        return _rebuilt(header, arrays)
    except DAMAGE as error:
        what = shortened(str(error)) or type(error).__name__
        raise ValueError(f"{path} is damaged, or was written by another version: {what}") from error


def _rebuilt(header: dict[str, Any], arrays: dict[str, Array]) -> Any:
    """Return the estimator of a header and its tensors; raise DAMAGE where they do not fit."""
    kind = ESTIMATORS[header["estimator"]]
    settings = dict(header["settings"])
    unknown = settings.keys() ^ kind().get_params(deep=False).keys()
    if unknown:
        raise ValueError(f"it has other settings: {', '.join(sorted(unknown)[:5])}")
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise ValueError("its numbers must be finite")
    estimator = kind(**{name: _setting(value) for name, value in settings.items()})
    estimator.n_features_in_ = int(header["facts"].pop("n_features_in_"))
    if "classes" in header:
        estimator.classes_ = _classes(header["classes"])
    if "table" in header:
        estimator.table_ = _table(header["table"])
    if "feature_names" in header:
        estimator.feature_names_in_ = np.array(header["feature_names"], object)
    complexes = set(header["complex"])
    estimator.restore_state(
        {name: from_pairs(a) if name in complexes else a for name, a in arrays.items()},
        header["facts"],
    )
    return estimator


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the header and the tensors of a file."""
    safetensors = require("safetensors", "sklearn")
    try:
        with open(path, "rb"):
            pass
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no safetensors file: {shortened(str(error))}") from error
    try:
        header = json.loads(metadata[KEY])
        version, of_format = str(header["version"]), header["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path} was not written by kru_ref.estimators.save") from None
    if of_format != FORMAT:
        raise ValueError(
            f"{path} has format {shortened(str(of_format))} of kru_ref {shortened(version)}; this "
            f"is {__version__}, which reads format {FORMAT}: install that version"
        )
    return header, arrays


def plain(value: Any) -> Any:
    """Return a setting as JSON has it; a random state that is no number is left out."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, type | np.dtype):
        return np.dtype(value).name
    if isinstance(value, Mapping):  # JSON's keys are strings
        return {"pairs": [[plain(k), plain(v)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | None) else None


def _setting(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(value["pairs"])
    if isinstance(value, list):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    return value


def _table(given: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of the file that an estimator was fitted to; see report.py."""
    names = {name: str(given[name]) for name in ("id", "time", "target")}
    return {**names, "channels": [str(name) for name in given["channels"]]}


def _listed_classes(classes: NDArray[Any]) -> dict[str, Any]:
    if classes.dtype == object and not all(isinstance(c, str) for c in classes):
        raise TypeError(f"labels must be strings or numbers to be saved, got {list(classes[:5])}")
    return {"dtype": classes.dtype.str, "labels": classes.tolist()}


def _classes(given: dict[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(given["dtype"])
    if dtype.kind not in "OUiufb" or not all(
        isinstance(c, str | int | float) for c in given["labels"]
    ):
        raise ValueError("its labels are neither strings nor numbers")
    return np.array(given["labels"], dtype)


def as_pairs(a: Array) -> Array:
    """Return a complex array as real ones with one more axis of 2: not all complex are known."""
    if not np.iscomplexobj(a):
        return np.asarray(a, order="C")
    a = np.ascontiguousarray(a)
    return a.view(a.real.dtype).reshape(*a.shape, 2)


def from_pairs(a: Array) -> Array:
    """Undo :func:`as_pairs`."""
    if a.shape[-1:] != (2,) or a.dtype.kind != "f":
        raise ValueError(f"a complex array must be pairs of numbers, got {a.dtype} {a.shape}")
    a = np.ascontiguousarray(a)
    return a.view(np.result_type(a, np.complex64))[..., 0]
