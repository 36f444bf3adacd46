"""Sequences in files: CSV in long form, NPZ, and the time-series archives' .ts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..extras import require
from ..files import read_npz
from .sequences import Sequences, as_sequences

KINDS = {".csv": ",", ".tsv": "\t", ".npz": "", ".ts": ""}
# Distinct whole numbers up to which a target is taken for classes.
MOST_CLASSES = 20
# What a CSV says where a value is missing.
MISSING = ("", "na", "nan", "null", "none", "?")
DECIMAL_COMMA = r"\s*[+-]?\d*,\d+\s*"


class Table(NamedTuple):
    """Sequences that were read, and what is known of them."""

    X: Sequences
    y: NDArray[Any] | None
    ids: list[str]
    channels: list[str]

    @property
    def n_missing(self) -> int:
        """Values that are NaN."""
        return sum(int(np.isnan(x).sum()) for x in self.X if x.dtype.kind == "f")

    @property
    def holds_symbols(self) -> bool:
        """Whether sequences are of symbols, not of numbers."""
        return self.X[0].ndim == 1


def read_table(
    path: Any,
    *,
    target: str | None = None,
    id: str = "id",  # noqa: A002
    time: str = "time",
    channels: Sequence[str] | None = None,
) -> Table:
    """Read sequences from a file.

    Parameters
    ----------
    path : path-like or DataFrame
        .csv or .tsv in long form, a row for each time step of each sequence: an identifier, a time,
        numbers or single characters, and the target, the same in all rows of a sequence. Or .npz
        with "X" (n_cases, n_channels, n_timepoints) and, under the target's name, y. Or .ts. Or a
        frame of pandas in long form.
    target, id, time : str
        Columns; without a target there is no y. Of .ts files the class label or target is y.
    channels : sequence of str, optional
        The columns to read, such as those that a model was fitted on; by default all others.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        The file is of another kind, a column is not there, or a row is bad: the error names the
        file and the line.
    OSError
        It cannot be read.
    ImportError
        The extra "sklearn" is not installed; of a .ts file, aeon.

    Examples
    --------
    >>> import pandas as pd
    >>> from kru_ref.estimators import read_table
    >>> rows = [("a", 0, 1.5, "up"), ("a", 1, 2.5, "up"), ("b", 0, 7.0, "down")]
    >>> table = read_table(pd.DataFrame(rows, columns=["id", "time", "x", "kind"]), target="kind")
    >>> [x.shape for x in table.X], table.y
    ([(1, 2), (1, 1)], array(['up', 'down'], dtype='<U4'))
    """
    if hasattr(path, "columns"):
        return Rows(path, target, id, time, channels).table()
    path = Path(path)
    if path.suffix not in KINDS:
        raise ValueError(f"{path} must end in one of {', '.join(KINDS)}, got {path.suffix!r}")
    if path.suffix == ".npz":
        return _of_npz(path, target)
    if path.suffix == ".ts":
        return _of_ts(path, target)
    return Rows(path, target, id, time, channels).table()


def _of_npz(path: Path, target: str | None) -> Table:
    arrays = read_npz(path, largest=2**40, with_text=True)
    for name in ("X", *([target] if target else [])):
        if name not in arrays:
            raise ValueError(f"{path} has no array {name!r}, but {', '.join(sorted(arrays))}")
    X = as_sequences(arrays["X"], allow_nan=True)
    y = arrays[target] if target else None
    y = y[:, 0] if y is not None and y.ndim == 2 and y.shape[1] == 1 else y
    if y is not None and len(y) != len(X):
        raise ValueError(f"{path}: {target} has {len(y)} entries, X has {len(X)} sequences")
    return Table(X, y, [str(i) for i in range(len(X))], _numbered(X))


def _of_ts(path: Path, target: str | None) -> Table:
    reader = require("aeon.datasets", "ts").load_from_ts_file
    with open(path):
        pass
    try:
        X, y = reader(str(path))
    except Exception as error:  # the reader raises whatever a bad line leads to
        raise ValueError(f"{path} is no .ts file that aeon can read: {error}") from error
    X = as_sequences(X if isinstance(X, np.ndarray) else list(X), allow_nan=True)
    return Table(X, y if target else None, [str(i) for i in range(len(X))], _numbered(X))


def _numbered(X: Sequences) -> list[str]:
    return [f"channel {i}" for i in range(1 if X[0].ndim == 1 else len(X[0]))]


class Rows:
    """The rows of a CSV file in long form; each knows its line."""

    def __init__(
        self,
        path: Any,
        target: str | None,
        id: str,  # noqa: A002
        time: str,
        channels: Sequence[str] | None,
    ) -> None:
        self.target, self.id, self.time = target, id, time
        self.is_frame = hasattr(path, "columns")
        self.path: Any = "the frame" if self.is_frame else path
        self.rows = self._texts(path) if self.is_frame else self._read()
        self._check_columns(channels)
        own = {target, id, time} if target else {id, time}
        self.channels = list(channels or [c for c in self.rows if c not in own])
        if not self.channels:
            raise ValueError(f"{path} has no column of values beside {', '.join(sorted(own))}")

    def _texts(self, frame: Any) -> Any:
        frame = frame.reset_index(drop=True)
        if not frame.columns.is_unique:
            raise ValueError(f"the frame has columns of one name: {', '.join(frame.columns)}")
        return frame.astype(object).where(frame.notna(), "").astype(str)

    def _read(self) -> Any:
        pandas = require("pandas", "sklearn")
        refused = pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeError
        try:
            # a warning is all that pandas has for rows with more fields than the header
            with warnings.catch_warnings(action="error"):
                rows = pandas.read_csv(
                    self.path,
                    sep=KINDS[self.path.suffix],
                    dtype=str,
                    keep_default_na=False,
                    index_col=False,
                    skip_blank_lines=False,
                    encoding="utf-8-sig",
                )
        except (*refused, pandas.errors.ParserWarning) as error:
            raise ValueError(f"{self.path} is no table: {str(error).strip()}") from error
        unnamed = [name for name in rows if str(name).startswith("Unnamed: ")]
        if unnamed:
            raise ValueError(
                f"{self.path} has a column without a name, such as the index that pandas writes: "
                "name it, or write the file with index=False"
            )
        # a field in quotes may go over several lines
        breaks = sum(rows[name].str.count("\n") for name in rows)
        self.lines = 2 + np.arange(len(rows)) + np.cumsum(breaks) - breaks
        is_blank = (rows == "").all(axis=1)
        self.lines = self.lines[~is_blank].to_numpy()
        return rows[~is_blank].reset_index(drop=True)

    def _check_columns(self, channels: Sequence[str] | None) -> None:
        for name in (
            self.id,
            self.time,
            *([self.target] if self.target else []),
            *(channels or []),
        ):
            if name not in self.rows:
                raise ValueError(
                    f"{self.path} has no column {name!r}; it has {', '.join(self.rows.columns)}"
                )
        if not len(self.rows):
            raise ValueError(f"{self.path} has no rows")

    def table(self) -> Table:
        """Return the sequences, in the order of their first rows."""
        ids, which = self._ids()
        order = np.lexsort((self._times(), which))
        ends = np.cumsum(np.bincount(which))
        self._check_times(order, which)
        values = self._values()
        X = [np.ascontiguousarray(x.T) for x in np.split(values[order], ends[:-1])]
        y = None if self.target is None else self._targets(which, ids)
        return Table([x[0] for x in X] if values.dtype.kind == "i" else X, y, ids, self.channels)

    def _ids(self) -> tuple[list[str], NDArray[np.intp]]:
        column = self.rows[self.id]
        self._refuse(column == "", self.id, "an identifier is missing")
        which, ids = require("pandas", "sklearn").factorize(column)
        return list(ids), which

    def _times(self) -> NDArray[Any]:
        """Return numbers to sort by: times are numbers, or dates."""
        pandas = require("pandas", "sklearn")
        column = self.rows[self.time]
        times = pandas.to_numeric(column, errors="coerce")
        if times.isna().all():
            dates = pandas.to_datetime(column, errors="coerce", format="ISO8601", utc=True)
            if dates.isna().any():  # in the form of the first: each by itself would be a guess
                with warnings.catch_warnings(action="ignore"):
                    dates = pandas.to_datetime(column, errors="coerce", utc=True)
            self._refuse(dates.isna(), self.time, "a time must be a number or a date, as the first")
            return dates.astype("int64").to_numpy()
        if times.dtype.kind == "i":  # of more digits than a double has, too
            return times.to_numpy()
        self._refuse(times.isna(), self.time, "a time must be a number, as the others are")
        return times.to_numpy(dtype=np.float64)

    def _check_times(self, order: NDArray[np.intp], which: NDArray[np.intp]) -> None:
        times = self._times()[order]
        again = (np.diff(times) == 0) & (np.diff(which[order]) == 0)
        if again.any():
            row = int(order[1:][again].min())
            raise ValueError(
                f"{self._line(row)}: sequence {self.rows[self.id][row]} has the time "
                f"{self.rows[self.time][row]} twice"
            )

    def _values(self) -> NDArray[Any]:
        """Return (rows, channels): numbers, NaN where missing; or symbols' code points."""
        pandas = require("pandas", "sklearn")
        columns = []
        for name in self.channels:
            column = self.rows[name]
            numbers = pandas.to_numeric(column, errors="coerce")
            is_missing = column.str.strip().str.lower().isin(MISSING)
            has_comma = numbers.isna() & column.str.fullmatch(DECIMAL_COMMA)
            self._refuse(has_comma, name, "decimals must follow a point, not a comma")
            if len(self.channels) == 1 and numbers.isna().all() and not is_missing.any():
                long = column.str.len() != 1
                self._refuse(long, name, "a symbol must be a single character")
                return column.map(ord).to_numpy(dtype=np.int64)[:, None]
            self._refuse(numbers.isna() & ~is_missing, name, "a value must be a number")
            self._refuse(np.isinf(numbers), name, "a value must be finite")
            columns.append(numbers.to_numpy(dtype=np.float64))
        return np.stack(columns, axis=1)

    def _targets(self, which: NDArray[np.intp], ids: list[str]) -> NDArray[Any]:
        column = self.rows[self.target]
        self._refuse(column.str.strip() == "", str(self.target), "a target is missing")
        first = np.unique(which, return_index=True)[1]
        targets = column.to_numpy()[first]
        others = column.to_numpy() != targets[which]
        if others.any():
            row = int(np.flatnonzero(others)[0])
            raise ValueError(
                f"{self._line(row)}: sequence {ids[which[row]]} has the {self.target} "
                f"{column[row]!r}, but {targets[which[row]]!r} in "
                f"{self._line(int(first[which[row]])).rpartition(', ')[2]}"
            )
        return targets.astype(str)

    def _refuse(self, is_bad: Any, column: str, what: str) -> None:
        """Raise for the first bad row."""
        bad = np.flatnonzero(np.asarray(is_bad))
        if len(bad):
            value = self.rows[column][int(bad[0])]
            more = f"; and {len(bad) - 1:,} more rows" if len(bad) > 1 else ""
            raise ValueError(f"{self._line(int(bad[0]))}: {what}, got {value!r} in {column}{more}")

    def _line(self, row: int) -> str:
        return (
            f"{self.path}, row {row}" if self.is_frame else f"{self.path}, line {self.lines[row]}"
        )


def as_targets(y: NDArray[Any], task: str) -> tuple[NDArray[Any], str]:
    """Return targets as classes or numbers, and which: "classification" or "regression".

    With the task "auto" numbers that are not whole, or are many different ones, are a regression's.

    Raises
    ------
    ValueError
        A regression's target that is no number.
    """
    try:
        numbers = y.astype(np.float64)
    except ValueError:
        if task == "regression":
            raise ValueError(f"a regression's targets must be numbers, got {str(y[0])!r}") from None
        return y, "classification"
    if not np.isfinite(numbers).all():
        raise ValueError("targets must be finite, got infinity or NaN")
    is_many = len(np.unique(numbers)) > MOST_CLASSES or (numbers != np.round(numbers)).any()
    if task == "regression" or (task == "auto" and is_many):
        return numbers, "regression"
    return y, "classification"
