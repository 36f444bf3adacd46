"""Sequences as users have them: what X may be, scaled by what was learned, side by side."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from ..files import StoredArray
from ..training.tasks.sequences import LARGEST
from ..training.tasks.task import pad

# (n_channels, n_timepoints), or (n_timepoints,) symbols
Sequences = Sequence[NDArray[Any]]

# Numbers of sequences that are put one after the other.
AT_ONCE = 2**18

FORMS = (
    "X must be an array (n_cases, n_channels, n_timepoints), or (n_cases, n_timepoints) for one "
    "channel; or a list of arrays (n_channels, n_timepoints), or of symbols (n_timepoints,)"
)


class Lazy(Sequence[NDArray[Any]]):
    """Sequences each of which is in memory when it is asked for, and no longer.

    Attributes
    ----------
    lengths : ndarray
        T_i of each.
    get : callable
        Takes an index, and returns that sequence.
    """

    def __init__(self, lengths: NDArray[np.intp], get: Callable[[int], NDArray[Any]]) -> None:
        self.lengths, self.get = lengths, get

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: Any) -> Any:
        if not hasattr(i, "__index__") or isinstance(i, np.ndarray | bool | np.bool_):
            return self.at(np.arange(len(self))[i])
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} sequences, not number {i}")
        return self.get(int(i) % len(self))

    def at(self, chosen: NDArray[np.intp]) -> Lazy:
        """Return some of them."""
        return Lazy(self.lengths[chosen], functools.partial(_chosen, self.get, chosen))

    def each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Lazy:
        """Return what a function makes of them."""
        return Lazy(self.lengths, functools.partial(_changed, self.get, change))


# functions of the module, so that sequences can be pickled
def _chosen(get: Callable[[int], NDArray[Any]], chosen: NDArray[np.intp], i: int) -> NDArray[Any]:
    return get(int(chosen[i]))


def _changed(
    get: Callable[[int], NDArray[Any]], change: Callable[[NDArray[Any]], NDArray[Any]], i: int
) -> NDArray[Any]:
    return change(get(i))


def _channels_of(stored: StoredArray, i: int) -> NDArray[Any]:
    return stored[i].reshape(-1, stored.shape[-1])


class OnDisk(Lazy):
    """An array of sequences in a file of NumPy's, which need not fit into memory.

    Parameters
    ----------
    path : path
        An ``.npy`` of numbers, (n_cases, n_channels, n_timepoints) or (n_cases, n_timepoints).

    Raises
    ------
    ValueError
        It is no such file, is cut off, or lies column by column (Fortran's order).
    OSError
        It cannot be read.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from kru_ref.estimators import OnDisk, ReservoirClassifier
    >>> X, y = np.random.default_rng(0).standard_normal((20, 3, 50)), np.arange(20) % 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/X.npy", X)
    ...     model = ReservoirClassifier(hidden_size=16).fit(OnDisk(f"{folder}/X.npy"), y)
    >>> model.predict(X[:4]).shape
    (4,)
    """

    def __init__(self, path: str | Path) -> None:
        stored = StoredArray(path)
        if len(stored.shape) not in (2, 3) or 0 in stored.shape:
            raise ValueError(f"{FORMS}; {path} holds {stored.dtype} {stored.shape}")
        self.shape, self.ndim = stored.shape, len(stored.shape)
        lengths = np.full(len(stored), stored.shape[-1])
        super().__init__(lengths, functools.partial(_channels_of, stored))


def lengths_of(sequences: Sequences) -> NDArray[np.intp]:
    """Return T_i of sequences (T_i, D) or (T_i,)."""
    if isinstance(sequences, Lazy):
        return sequences.lengths
    return np.array([len(s) for s in sequences])


def as_sequences(X: Any, allow_nan: bool) -> Sequences:
    """Return X as double-precision arrays (D, T_i), or as symbols (T_i,).

    What lies on a disk stays there: such sequences are read, and checked, one by one.

    Raises
    ------
    ValueError, TypeError
        X has no such form, or holds NaN where that is not allowed, or infinity.
    """
    if isinstance(X, np.memmap) and X.ndim in (2, 3):
        X = _mapped(X)
    if isinstance(X, Lazy):
        for i, x in enumerate(X):
            _check_finite(i, x, allow_nan)
        return X.each(lambda x: x.astype(np.float64))
    if is_list_of_arrays(X):
        return _listed([_unmasked(x) for x in X], allow_nan)
    X = _unmasked(X)
    finite: Any = "allow-nan" if allow_nan else True
    options = {"allow_nd": True, "ensure_all_finite": finite, "input_name": "X"}
    try:
        X = check_array(X, dtype=np.float64, **options)
    except ValueError as error:
        if "setting an array element with a sequence" not in str(error):
            raise
        raise ValueError(
            f"{FORMS}; got parts of different shapes, or an array of arrays: give a list of arrays"
        ) from error
    if X.ndim > 3:
        raise ValueError(f"{FORMS}; got an array of shape {X.shape}")
    if 0 in X.shape:
        raise ValueError(f"every sequence must have a channel and a time point, got X {X.shape}")
    return list(X if X.ndim == 3 else X[:, None])


def _unmasked(x: Any) -> Any:
    """Return a masked array with NaN for what is masked; anything else as it is."""
    if not isinstance(x, np.ma.MaskedArray):
        return x
    return np.ma.filled(x.astype(np.float64), np.nan)


def is_list_of_arrays(X: Any) -> bool:
    """Whether each sequence is an array of its own."""
    if isinstance(X, Lazy):
        return not isinstance(X, OnDisk)
    is_list = isinstance(X, list | tuple) and len(X) > 0
    return is_list and all(isinstance(x, np.ndarray) for x in X)


def _listed(X: list[NDArray[Any]], allow_nan: bool) -> Sequences:
    """Return a list of arrays; each has its own length."""
    are_symbols = all(x.ndim == 1 and x.dtype.kind in "iu" for x in X)
    found = []
    for i, x in enumerate(X):
        if x.dtype.kind not in "fiub":
            raise TypeError(f"X[{i}] must hold real numbers, got {x.dtype}: {FORMS}")
        if x.ndim not in (1, 2) or (are_symbols and x.ndim != 1):
            raise ValueError(f"{FORMS}; got X[{i}] of shape {x.shape}")
        if 0 in x.shape:
            raise ValueError(f"a sequence must have a time point, got X[{i}] of shape {x.shape}")
        found.append(x if are_symbols else np.atleast_2d(x).astype(np.float64))
        if len(found[-1]) != len(found[0]) and not are_symbols:
            raise ValueError(
                f"all sequences must have the channels of the first, {len(found[0])}; X[{i}] is "
                f"{x.shape}, of {len(found[-1])}: is it (n_timepoints, n_channels)? Then give x.T"
            )
        _check_finite(i, found[-1], allow_nan)
    return found


def _mapped(X: np.memmap) -> Lazy:
    if 0 in X.shape or X.dtype.kind not in "fiub":
        raise ValueError(f"{FORMS}; got a mapped {X.dtype} array of shape {X.shape}")
    lengths = np.full(len(X), X.shape[-1])
    return Lazy(lengths, lambda i: np.asarray(X[i]).reshape(-1, X.shape[-1]))


def _check_finite(i: int, x: NDArray[Any], allow_nan: bool) -> None:
    bad = np.isinf(x) if allow_nan else ~np.isfinite(x)
    if bad.any():
        advice = "" if allow_nan else "; with missing='mask' NaN stands for what is missing"
        raise ValueError(f"X[{i}] contains NaN or infinity{advice}")


@contextlib.contextmanager
def unchanged_on_error(estimator: Any) -> Iterator[None]:
    """Leave an estimator as it was where fitting it again cannot begin."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def checked_labels(y: Any, n: int, least: int = 2) -> NDArray[Any]:
    """Return labels, one for each of n sequences, of so many classes at least."""
    _check_there(y)
    y = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
    _check_count(y, n)
    check_classification_targets(y)
    if len(np.unique(y)) < least:
        raise ValueError(f"y must hold at least two classes, got one class, {y[0]}, alone")
    return y


def checked_targets(y: Any, n: int) -> NDArray[np.float64]:
    """Return targets, one row of numbers for each of n sequences."""
    _check_there(y)
    y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    _check_count(y, n)
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def checked_weights(weights: Any, n: int) -> NDArray[np.float64] | None:
    """Return weights of n sequences, at least one of them above 0; or None."""
    if weights is None:
        return None
    found = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if found.shape != (n,) or found.min() < 0:
        raise ValueError(
            f"sample_weight must be {n} numbers of at least 0, one for each sequence, got shape "
            f"{found.shape}"
        )
    if not found.any():
        raise ValueError("sample_weight must be above zero for some sequence: all weights are zero")
    return found


def _check_there(y: Any) -> None:
    if y is None:
        raise ValueError("fit requires y to be passed, but the target y is None")


def _check_count(y: NDArray[Any], n: int) -> None:
    if len(y) != n:
        raise ValueError(f"y must hold one target for each of {n} sequences in X, got {len(y)}")


def check_channels(estimator: Any, X: Any, sequences: Sequences, *, reset: bool) -> None:
    """Learn, or compare, the columns of a table or the channels of sequences."""
    channels = 1 if sequences[0].ndim == 1 else len(sequences[0])
    is_list = is_list_of_arrays(X)
    if not is_list and not hasattr(X, "shape"):
        X = np.asarray(X)
    if not reset and channels == 1 == len(estimator.scaling_.mean):
        # a list, (n, 1, T) and (n, T) are the same sequences, but columns of tables are compared
        was_table, is_table = estimator.n_features_in_ != 1, not is_list and X.ndim == 2
        if was_table != is_table:
            X, is_list = np.empty((1, estimator.n_features_in_)), False
    if is_list:
        X = np.empty((1, channels))
    validate_data(estimator, X, reset=reset, skip_check_array=True)


class OfSequences(TransformerMixin, BaseEstimator):
    """What all estimators of sequences share: how they read X, and what they say of that."""

    missing: str

    def _sequences(self, X: Any, *, reset: bool) -> Sequences:
        """Return X as sequences, of the channels that are learned or were."""
        sequences = as_sequences(X, allow_nan=self.missing == "mask")
        check_channels(self, X, sequences, reset=reset)
        return sequences

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags


class Scaling(NamedTuple):
    """What a training set says of its channels; or which symbols there are.

    Attributes
    ----------
    mean, scale : ndarray, shape (D,)
        Of all values that are not missing; 0 and 1 without normalization. Empty for symbols.
    symbols : ndarray, shape (n_symbols,)
        Sorted; empty for numbers.
    marks_missing : bool
        Whether each channel has another one behind it that is 1 where a value is missing.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    symbols: NDArray[np.int64]
    marks_missing: bool

    @property
    def input_size(self) -> int:
        """D of the cell: channels, with those that mark missing values; or symbols and one more."""
        if len(self.symbols):
            return len(self.symbols) + 1
        return len(self.mean) * (1 + self.marks_missing)

    def transform(self, sequences: Sequences) -> Sequences:
        """Return sequences (T_i, D) as cells read them, or labels (T_i,).

        A symbol that was not there in training has a label of its own.
        """
        change = self._labels if len(self.symbols) else lambda x: self._scaled(x).T
        if sequences[0].ndim == 1 and not len(self.symbols):
            raise ValueError("the estimator was fitted on numbers, X holds symbols")
        if isinstance(sequences, Lazy):
            return sequences.each(change)
        return [change(x) for x in sequences]

    def _labels(self, x: NDArray[Any]) -> NDArray[np.int64]:
        if x.ndim != 1:
            raise ValueError("the estimator was fitted on symbols, X holds numbers")
        place = np.searchsorted(self.symbols, x).clip(max=len(self.symbols) - 1)
        return np.where(self.symbols[place] == x, place, len(self.symbols))

    def _scaled(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        if len(x) != len(self.mean):
            raise ValueError(
                f"the estimator was fitted on sequences of {len(self.mean)} channels, X has "
                f"sequences of {len(x)}; a table is (n_cases, n_timepoints) of one channel"
            )
        scaled = (x - self.mean[:, None]) / self.scale[:, None]
        if not self.marks_missing:
            return scaled
        is_missing = np.isnan(scaled)
        last = np.maximum.accumulate(np.where(is_missing, -1, np.arange(x.shape[1])), axis=1)
        carried = np.take_along_axis(scaled, np.maximum(last, 0), axis=1)
        return np.concatenate([np.where(last < 0, 0, carried), is_missing])


def scaling_of(arrays: Mapping[str, NDArray[Any]]) -> Scaling:
    """Return the scaling that a file holds, under "scaling." and a name each."""
    mean, scale, symbols = (arrays[f"scaling.{name}"] for name in ("mean", "scale", "symbols"))
    marks = bool(arrays["scaling.marks_missing"])
    if mean.ndim != 1 or mean.shape != scale.shape or symbols.ndim != 1:
        raise ValueError(f"its scaling is {mean.shape}, {scale.shape}, {symbols.shape}")
    if not len(mean) + len(symbols) or not (scale > 0).all() or symbols.dtype.kind != "i":
        raise ValueError("its scaling must have channels, or symbols, and a size above 0 for each")
    if (np.diff(symbols) <= 0).any() or not np.isfinite([mean, scale]).all():
        raise ValueError("its symbols must be sorted, its scaling finite")
    return Scaling(mean.astype(np.float64), scale.astype(np.float64), symbols, marks)


def arrays_of(scaling: Scaling) -> dict[str, NDArray[Any]]:
    """Return the arrays of which :func:`scaling_of` makes a scaling."""
    return {f"scaling.{name}": np.asarray(a) for name, a in scaling._asdict().items()}


def learn_scaling(sequences: Sequences, normalize: bool, missing: str) -> Scaling:
    """Return the scaling of a training set.

    A channel that never changes is left at its size, only moved to 0.
    """
    none = np.zeros(0)
    if sequences[0].ndim == 1:
        return Scaling(none, none, np.unique(np.concatenate(sequences)).astype(np.int64), False)
    D, marks = len(sequences[0]), missing == "mask"
    if not normalize:
        return Scaling(np.zeros(D), np.ones(D), none.astype(np.int64), marks)
    n, total, squares = np.zeros(D), np.zeros(D), np.zeros(D)
    for values in one_after_the_other(sequences):
        if np.abs(values[np.isfinite(values)]).max(initial=0) > LARGEST:
            raise ValueError(f"X must hold numbers below {LARGEST:g} in size: scale it")
        known = [row[np.isfinite(row)] for row in values]
        n += [row.size for row in known]
        total += [row.sum() for row in known]
    n = np.maximum(n, 1)
    mean = total / n
    for values in one_after_the_other(sequences):
        known = [row[np.isfinite(row)] for row in values]
        squares += [np.square(row - m).sum() for row, m in zip(known, mean, strict=True)]
    scale = np.sqrt(squares / n)
    is_constant = scale <= 1e-12 * np.abs(mean)
    return Scaling(mean, np.where(is_constant, 1, scale), none.astype(np.int64), marks)


def one_after_the_other(sequences: Sequences) -> Iterator[NDArray[np.float64]]:
    """Yield all time points (D, n), but no more at once than a few megabytes."""
    here, size = list[NDArray[Any]](), 0
    for x in sequences:
        here.append(x)
        size += x.size
        if size >= AT_ONCE:
            yield np.concatenate(here, axis=1)
            here, size = [], 0
    if here:
        yield np.concatenate(here, axis=1)


def side_by_side(sequences: Sequences, dtype: np.dtype) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return x (T, D, B), or labels (T, B), with zeros behind the shorter ones; and lengths."""
    here = list(sequences)
    x, _ = pad(here)
    return x if x.ndim == 2 else x.astype(dtype), lengths_of(here)


def batches_by_length(lengths: ArrayLike, size: int) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of sequences of about the same length, so many at once."""
    order = np.argsort(np.asarray(lengths), kind="stable")[::-1]
    for first in range(0, len(order), size):
        yield order[first : first + size]
