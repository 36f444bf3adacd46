"""A reservoir: Kronecker recurrences that are drawn, not trained, and a ridge that reads them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..arguments import (
    check_params,
    checked_array,
    checked_choice,
    checked_number,
    checked_size,
)
from ..arrays import Array, Params
from ..cells import KRU, RNN
from ..cells.cell import States
from ..readout import features, real_numbers
from .ridge import Batch, Ridge, fit_ridge
from .sequences import (
    Lazy,
    OfSequences,
    Sequences,
    arrays_of,
    batches_by_length,
    checked_labels,
    checked_targets,
    checked_weights,
    learn_scaling,
    lengths_of,
    scaling_of,
    side_by_side,
    unchanged_on_error,
)

STATISTICS = ("proportion", "mean", "deviation", "maximum", "last")
# Numbers of states in memory at once, some megabytes; and steps, whose counts fit into bytes.
AT_ONCE, STEPS_AT_ONCE = 2**20, 255
# Features that a ridge may have in memory, 16 MiB in double precision; of more it makes sums.
FEATURES_AT_ONCE = 2**21
# Strengths of the ridge to choose from, for features of variance 1.
ALPHAS = np.logspace(-3, 3, 10)
# So many sequences, and steps of each, say by their states where thresholds lie.
SAMPLED = 32


class Part(NamedTuple):
    """One recurrence of a reservoir: a cell, its parameters, a threshold for each number."""

    cell: RNN
    params: Params
    thresholds: NDArray[np.floating]  # (n_thresholds, n_features)


class KroneckerReservoir(OfSequences):
    """Turn sequences into features: statistics of the states of recurrences that are not trained.

    By default the recurrence is linear: h_t = ρ W h_{t-1} + U x_t with W unitary, a filter bank
    whose frequencies are W's eigenvalues and that forgets within some 1/(1 - ρ) steps. Of each real
    and imaginary part of h the feature is the proportion of time that it lies above a threshold,
    as for the kernels of ROCKET (Dempster, Petitjean and Webb, 2020).

    Parameters
    ----------
    hidden_size : int
        N, units of all recurrences together; they are shared out among the spectral radii.
    spectral_radius : float or sequence of float
        ρ, one for each recurrence.
    factors : sequence of (P, Q), optional
        Shapes of the Kronecker factors of one recurrence; by default the prime factors of its size.
    leak : float
        α in (0, 1]: h_t = (1 - α) h_{t-1} + α σ(ρ W h_{t-1} + U x_t + b).
    activation : {"identity", "modrelu", "tanh", "relu"}
        σ; tanh and relu are for a real dtype.
    input_scaling, bias_scaling : float
        Size of the entries of U and b: normal with a variance of input_scaling²/D, and uniform.
    statistics : sequence of {"proportion", "mean", "deviation", "maximum", "last"}
        Over time, of each number in h.
    n_thresholds : int
        Thresholds of each number for "proportion": quantiles of its values in training.
    washout : int
        Steps at the beginning that take no part; of shorter sequences all but the last.
    normalize : bool
        Scale each channel to mean 0 and deviation 1 in training.
    missing : {"error", "mask"}
        With "mask" NaN is missing: the last value is carried on, and an indicator given.
    dtype : {"complex64", "complex128", "float32", "float64"}
    random_state : int, RandomState or None

    Attributes
    ----------
    n_features_in_ : int
        Channels; of a 2-D X its columns.
    n_features_out_ : int

    Notes
    -----
    Memory does not depend on the length of sequences or on how many there are, beside X and what is
    returned. An update of N states costs O(N log N).

    Examples
    --------
    >>> import numpy as np
    >>> from kru_ref.estimators import KroneckerReservoir
    >>> X = np.random.default_rng(0).standard_normal((6, 2, 30))
    >>> features = KroneckerReservoir(hidden_size=16, random_state=0).fit_transform(X)
    >>> len(features)
    6
    """

    def __init__(
        self,
        hidden_size: int = 1280,
        spectral_radius: float | Sequence[float] = (0.5, 0.8, 0.95, 0.99, 0.999),
        *,
        factors: Sequence[tuple[int, int]] | None = None,
        leak: float = 1.0,
        activation: str = "identity",
        input_scaling: float = 1.0,
        bias_scaling: float = 0.0,
        statistics: Sequence[str] = ("proportion", "maximum"),
        n_thresholds: int = 3,
        washout: int = 0,
        normalize: bool = True,
        missing: Literal["error", "mask"] = "error",
        dtype: str = "complex64",
        random_state: Any = None,
    ) -> None:
        self.hidden_size = hidden_size
        self.spectral_radius = spectral_radius
        self.factors = factors
        self.leak = leak
        self.activation = activation
        self.input_scaling = input_scaling
        self.bias_scaling = bias_scaling
        self.statistics = statistics
        self.n_thresholds = n_thresholds
        self.washout = washout
        self.normalize = normalize
        self.missing = missing
        self.dtype = dtype
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> KroneckerReservoir:
        """Draw the recurrences; learn the scaling and the thresholds.

        Parameters
        ----------
        X : array_like or list
            As for :class:`RecurrentClassifier`.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Settings or sequences that are not what they must be.
        """
        with unchanged_on_error(self):
            self._check_settings()
            self._fit(self._sequences(X, reset=True))
        return self

    @np.errstate(over="ignore", invalid="ignore")
    def _fit(self, sequences: Sequences) -> Sequences:
        """Learn and draw; return the sequences scaled."""
        self.scaling_ = learn_scaling(sequences, self.normalize, self.missing)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        rng = np.random.default_rng(seed)
        scaled = self.scaling_.transform(sequences)
        self.parts_ = [self._draw(*of_part, scaled, rng) for of_part in self._sizes()]
        return scaled

    def transform(self, X: Any) -> NDArray[np.floating]:
        """Return the features of each sequence.

        Returns
        -------
        features : ndarray, shape ``(n_cases, n_features_out_)``
        """
        check_is_fitted(self)
        return self._transform(self.scaling_.transform(self._sequences(X, reset=False)))

    @np.errstate(over="ignore", invalid="ignore")
    def _transform(self, scaled: Sequences) -> NDArray[np.floating]:
        return np.concatenate([self._features(part, scaled) for part in self.parts_], axis=1)

    def _batches(self, scaled: Sequences, chosen: NDArray[np.intp]) -> Iterator[Batch]:
        """Yield the features of some sequences, those of about the same length together."""
        size = 64 * max(1, AT_ONCE // (64 * self.n_features_out_))
        for places in batches_by_length(lengths_of(scaled)[chosen], size):
            here = chosen[places]
            some = scaled.at(here) if isinstance(scaled, Lazy) else [scaled[i] for i in here]
            yield here, self._transform(some)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return a name for each feature: the recurrence's number, the statistic's, the state's."""
        check_is_fitted(self)
        names = []
        for i, part in enumerate(self.parts_):
            for statistic in self.statistics:
                n = self.n_thresholds if statistic == "proportion" else 1
                for k in range(n):
                    label = f"{statistic}{k}" if n > 1 else statistic
                    names += [f"reservoir{i}_{label}_{j}" for j in range(part.cell.n_features)]
        return np.array(names, object)

    def fitted_state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return what was drawn and learned, for a file: arrays, and what JSON holds."""
        arrays = arrays_of(self.scaling_)
        for i, part in enumerate(self.parts_):
            arrays |= {f"part.{i}.{name}": p for name, p in part.params.items()}
            arrays[f"part.{i}.thresholds"] = part.thresholds
        for name in ("coef_", "intercept_"):
            if hasattr(self, name):
                arrays[name] = getattr(self, name)
        names = ("alpha_", "is_one_column_")
        return arrays, {name: getattr(self, name) for name in names if hasattr(self, name)}

    def restore_state(self, arrays: dict[str, Array], facts: dict[str, Any]) -> None:
        """Take back what :meth:`fitted_state` returned; raise where its parts do not fit."""
        self._check_settings()
        self.scaling_, self.parts_ = scaling_of(arrays), []
        sizes = self._sizes()
        if len(sizes) > len(arrays):
            raise ValueError(f"it has {len(arrays)} arrays for {len(sizes)} recurrences")
        for i, (size, _) in enumerate(sizes):
            cell = self._cell(size)
            params = check_params(
                {name: arrays[f"part.{i}.{name}"] for name in cell.layout}, cell.layout
            )
            shape = (self.n_thresholds, cell.n_features)
            thresholds = arrays[f"part.{i}.thresholds"]
            thresholds = checked_array("thresholds", thresholds, shape, cell.real_dtype)
            self.parts_.append(Part(cell, params, thresholds))
        if isinstance(self, ReservoirClassifier) and not hasattr(self, "classes_"):
            raise ValueError("it has no classes")
        if "coef_" in arrays or type(self) is not KroneckerReservoir:
            self._restore_readout(arrays, facts)

    def _restore_readout(self, arrays: dict[str, Array], facts: dict[str, Any]) -> None:
        coef, intercept = arrays["coef_"], arrays["intercept_"]
        if coef.shape != (intercept.size, self.n_features_out_) or intercept.ndim != 1:
            raise ValueError(f"its readout is {coef.shape} and {intercept.shape}")
        classes = getattr(self, "classes_", None)
        n_outputs = intercept.size if classes is None else len(classes) - (len(classes) == 2)
        if n_outputs != intercept.size:
            raise ValueError(f"it has {intercept.size} outputs for other {n_outputs}")
        self.coef_, self.intercept_, self.alpha_ = coef, intercept, float(facts["alpha_"])
        self.is_one_column_ = bool(facts.get("is_one_column_", True))

    @property
    def n_features_out_(self) -> int:
        """Features of a sequence."""
        n = len(self.statistics) + ("proportion" in self.statistics) * (self.n_thresholds - 1)
        return n * sum(part.cell.n_features for part in self.parts_)

    def _sizes(self) -> list[tuple[int, float]]:
        """Return how many units each recurrence has, and its spectral radius."""
        radii = np.atleast_1d(np.asarray(self.spectral_radius, float))
        return list(zip(shares(self.hidden_size, len(radii)), radii, strict=True))

    def _cell(self, size: int) -> RNN:
        D = self.scaling_.input_size
        return KRU(D, size, self.factors, self.activation, self.dtype, False, leak=self.leak)

    def _check_settings(self) -> None:
        checked_size("hidden_size", self.hidden_size)
        checked_size("n_thresholds", self.n_thresholds)
        checked_size("washout", self.washout, least=0)
        checked_choice("missing", self.missing, ("error", "mask"))
        for name in ("input_scaling", "bias_scaling"):
            if checked_number(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        is_list = isinstance(self.statistics, list | tuple)
        if not is_list or not len(self.statistics):
            raise ValueError(f"statistics must be a list of names, got {self.statistics!r}")
        for statistic in self.statistics:
            checked_choice("statistics", statistic, STATISTICS)
        if len(set(self.statistics)) < len(self.statistics):
            raise ValueError(f"statistics must be different ones, got {list(self.statistics)}")
        radii = np.atleast_1d(np.asarray(self.spectral_radius, float))
        if radii.ndim != 1 or not len(radii) or not ((radii >= 0) & np.isfinite(radii)).all():
            raise ValueError(
                f"spectral_radius must be at least 0, one or several, got {self.spectral_radius!r}"
            )
        if len(radii) > self.hidden_size:
            raise ValueError(
                f"hidden_size must be at least 1 for each spectral radius, got {self.hidden_size} "
                f"for {len(radii)}"
            )

    def _draw(self, size: int, radius: float, scaled: Sequences, rng: np.random.Generator) -> Part:
        """Draw a recurrence, and find its thresholds in the states of some sequences."""
        cell = self._cell(size)
        D, params = cell.input_size, cell.init(rng)
        first = cell.matrix_names[0]
        params[first] = (radius * params[first]).astype(cell.dtype)
        U = rng.standard_normal((1 + cell.is_complex, size, D)) / np.sqrt(1 + cell.is_complex)
        # of one-hot columns one entry of a row acts, of channels all
        spread = self.input_scaling / (1 if len(self.scaling_.symbols) else np.sqrt(D))
        params["U"] = ((U[0] + 1j * U[-1] if cell.is_complex else U[0]) * spread).astype(cell.dtype)
        b = rng.uniform(-self.bias_scaling, self.bias_scaling, size)
        params["b"] = b.astype(cell.real_dtype)
        part = Part(cell, params, np.zeros((self.n_thresholds, cell.n_features), cell.real_dtype))
        if "proportion" in self.statistics:
            part = part._replace(thresholds=self._thresholds(part, scaled, rng))
        return part

    def _thresholds(
        self, part: Part, scaled: Sequences, rng: np.random.Generator
    ) -> NDArray[np.floating]:
        """Return random quantiles of each number's values, one in each of equal shares."""
        some = [scaled[i] for i in rng.permutation(len(scaled))[:SAMPLED]]
        some.sort(key=len, reverse=True)
        lengths = np.array([len(s) for s in some])
        begins = np.minimum(self.washout, lengths - 1)
        steps = rng.integers(begins, lengths, size=(SAMPLED, len(some)))
        rows = []
        for h, first, _ in self._states(part, some):
            sample, b = np.nonzero((steps >= first) & (steps < first + len(h)))
            rows.append(h[steps[sample, b] - first, :, b])
        values = np.sort(features(np.concatenate(rows).T), axis=1)
        check_no_overflow(values)
        n, (n_features, n_values) = self.n_thresholds, values.shape
        quantiles = (np.arange(n)[:, None] + rng.uniform(size=(n, n_features))) / n
        chosen = (quantiles * (n_values - 1)).astype(int)
        return np.stack([beside(values, values[np.arange(n_features), at]) for at in chosen])

    def _features(self, part: Part, sequences: Sequences) -> NDArray[np.floating]:
        """Return the statistics of one recurrence, batch by batch."""
        lengths = lengths_of(sequences)
        found: list[Any] = [None] * len(sequences)
        size = max(1, min(64, AT_ONCE // (16 * part.cell.n_features)))
        for chosen in batches_by_length(lengths, size):
            collected = Collected(part, lengths[chosen].tolist(), self.washout)
            for h, first, ends in self._states(part, [sequences[i] for i in chosen]):
                collected.add(h, first, ends, self.statistics)
            for i, row in zip(chosen, collected.rows(self.statistics), strict=True):
                found[i] = row
        return np.stack(found)

    def _states(
        self, part: Part, sequences: Sequences
    ) -> Iterator[tuple[Array, int, NDArray[np.intp]]]:
        """Yield the states of sequences, the longest first, over one piece of time after the other.

        Each with its first step, and where the sequences that take part end within it.
        """
        cell, params = part.cell, part.params
        x, lengths = side_by_side(sequences, cell.real_dtype)
        state: States = cell.initial_states(params, len(lengths), None)
        at_once = min(max(16, AT_ONCE // (cell.n_features * len(lengths))), STEPS_AT_ONCE)
        for first in range(0, len(x), at_once):
            width = int(np.count_nonzero(lengths > first))
            ends = np.minimum(lengths[:width] - first, at_once)
            piece = np.ascontiguousarray(x[first : first + int(ends[0]), ..., :width])
            before = tuple(np.ascontiguousarray(s[:, :width]) for s in state)
            h, saved = cell.run(params, piece, before, False, ends)
            state = (saved.last,)  # type: ignore[assignment]
            yield h, first, ends


def check_no_overflow(states: NDArray[np.floating]) -> None:
    """Raise unless states, or statistics of them, are finite."""
    if not np.isfinite(states).all():
        raise ValueError(
            "the states overflow: X holds numbers much larger than those of the fit, or a "
            "spectral radius is above 1"
        )


def beside(values: NDArray[np.floating], low: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a number between each row's value `low` and the next one of the row.

    On a value that comes again a state would be above it or not by a rounding; values that differ
    by no more than that are the same one.
    """
    column = low[:, None]
    rounding = 64 * np.finfo(values.dtype).eps * np.abs(values).max(axis=1, keepdims=True)
    above = np.where(values > column + rounding, values, np.inf).min(axis=1)
    below = np.where(values < column - rounding, values, -np.inf).max(axis=1)
    other = np.where(np.isfinite(above), above, below)
    return np.where(np.isfinite(other), (low + other) / 2, low + abs(low) + 1)


class Collected:
    """Statistics over time of the states of a batch, as its pieces come.

    Of each real number in h: of a complex state real and imaginary parts lie side by side, (N, 2B).
    """

    def __init__(self, part: Part, lengths: Sequence[int], washout: int) -> None:
        cell = part.cell
        N, real = cell.hidden_size, cell.real_dtype
        self.n_parts = cell.n_features // N
        shape = N, self.n_parts * len(lengths)
        self.lengths = np.asarray(lengths)
        self.begins = np.minimum(washout, self.lengths - 1)
        of_parts = part.thresholds.reshape(-1, self.n_parts, N).swapaxes(1, 2)
        self.thresholds = np.tile(of_parts, (1, 1, len(lengths)))  # as fast as it can be compared
        self.above = np.zeros(self.thresholds.shape)
        self.sum, self.squares = np.zeros(shape), np.zeros(shape)
        self.maximum = np.full(shape, -np.inf, real)
        self.last = np.zeros(shape, real)

    def add(self, h: Array, first: int, ends: NDArray[np.intp], statistics: Sequence[str]) -> None:
        """Take states h (T, N, B') of the first B' sequences from step `first` on."""
        T, n_parts = len(h), self.n_parts
        h = real_numbers(h)
        width = h.shape[-1]
        steps = np.arange(T)[:, None]
        counts = (steps < ends) & (steps + first >= self.begins[: len(ends)])
        counts = np.repeat(counts, n_parts, axis=1)[:, None]  # (T, 1, width)
        all_count = bool(counts.all())
        if "proportion" in statistics:
            for k, threshold in enumerate(self.thresholds):
                is_above = h > threshold[:, :width]
                if not all_count:
                    is_above &= counts
                self.above[k, :, :width] += np.add.reduce(is_above.view(np.uint8), dtype=np.uint8)
        if "mean" in statistics or "deviation" in statistics:
            counted = h if all_count else h * counts
            self.sum[:, :width] += counted.sum(axis=0, dtype=np.float64)
            self.squares[:, :width] += np.einsum("tnb,tnb->nb", counted, counted, dtype=np.float64)
        if "maximum" in statistics:
            counted = h if all_count else np.where(counts, h, -np.inf)
            np.maximum(self.maximum[:, :width], counted.max(axis=0), out=self.maximum[:, :width])
        at_end = np.repeat(ends - 1, n_parts)
        self.last[:, :width] = h[at_end, :, np.arange(width)].T

    def rows(self, statistics: Sequence[str]) -> NDArray[np.floating]:
        """Return the statistics, a row for each sequence; real parts before imaginary ones."""
        n_steps = np.repeat(self.lengths - self.begins, self.n_parts)
        mean = self.sum / n_steps
        of_name = {
            "proportion": self.above / n_steps,
            "mean": mean[None],
            "deviation": np.sqrt(np.maximum(self.squares / n_steps - mean**2, 0))[None],
            "maximum": self.maximum[None],
            "last": self.last[None],
        }
        check_no_overflow(self.last)  # a proportion is finite even then
        chosen = np.concatenate([of_name[name] for name in statistics])
        check_no_overflow(chosen)
        apart = chosen.reshape(*chosen.shape[:2], len(self.lengths), self.n_parts)
        rows = apart.transpose(2, 0, 3, 1).reshape(len(self.lengths), -1)
        return rows.astype(self.last.dtype)


class ReservoirClassifier(ClassifierMixin, KroneckerReservoir):
    """A :class:`KroneckerReservoir`, its features scaled, and scikit-learn's RidgeClassifierCV.

    Fitted in closed form, the strength of the ridge chosen by leaving one out. For another readout
    put a :class:`KroneckerReservoir` in a pipeline.

    Parameters
    ----------
    hidden_size, spectral_radius, …
        As for :class:`KroneckerReservoir`.

    Attributes
    ----------
    classes_ : ndarray
    coef_, intercept_ : ndarray, shapes ``(n_outputs, n_features_out_)`` and ``(n_outputs,)``
        Of the features as ``transform`` returns them; one output for two classes.
    alpha_ : float
        The ridge that was chosen.

    Examples
    --------
    >>> import numpy as np
    >>> from kru_ref.estimators import ReservoirClassifier
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((40, 1, 60)), np.repeat(["noise", "wave"], 20)
    >>> X[20:] += 3 * np.sin(np.arange(60))
    >>> classifier = ReservoirClassifier(64, random_state=0).fit(X[::2], y[::2])
    >>> classifier.score(X[1::2], y[1::2]) >= 0.9
    True
    """

    def fit(  # type: ignore[override]
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None
    ) -> ReservoirClassifier:
        """Draw the recurrences and fit the readout.

        Parameters
        ----------
        X : array_like or list
            As for :class:`RecurrentClassifier`.
        y : array_like, shape (n_cases,)
            Labels.
        sample_weight : array_like, shape (n_cases,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As :class:`KroneckerReservoir`; labels of one class only, or not one for each sequence.
        """
        with unchanged_on_error(self):
            self._check_settings()
            sequences = self._sequences(X, reset=True)
            y = checked_labels(y, len(sequences))
            _fit_readout(self, sequences, RidgeClassifierCV(ALPHAS), y, sample_weight)
            self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Any) -> NDArray[np.floating]:
        """Return how sure the classifier is of each class, or of the second of two."""
        outputs = _outputs(self, X)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the label of each sequence."""
        outputs = _outputs(self, X)
        chosen = outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        return self.classes_[chosen.astype(int)]


class ReservoirRegressor(MultiOutputMixin, RegressorMixin, KroneckerReservoir):
    """A :class:`KroneckerReservoir`, its features scaled, and scikit-learn's RidgeCV.

    Parameters
    ----------
    hidden_size, spectral_radius, …
        As for :class:`KroneckerReservoir`.

    Attributes
    ----------
    coef_, intercept_, alpha_
        As for :class:`ReservoirClassifier`, an output for each target.

    Examples
    --------
    >>> import numpy as np
    >>> from kru_ref.estimators import ReservoirRegressor
    >>> rng = np.random.default_rng(0)
    >>> loud = rng.uniform(0.5, 2, 60)
    >>> X = loud[:, None] * rng.standard_normal((60, 100))
    >>> model = ReservoirRegressor(hidden_size=64, random_state=0).fit(X[:40], loud[:40])
    >>> model.score(X[40:], loud[40:]) > 0.8
    True
    """

    def fit(  # type: ignore[override]
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None
    ) -> ReservoirRegressor:
        """Draw the recurrences and fit the readout.

        Parameters
        ----------
        X : array_like or list
            As for :class:`RecurrentClassifier`.
        y : array_like, shape (n_cases,) or (n_cases, n_targets)
        sample_weight : array_like, shape (n_cases,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As :class:`KroneckerReservoir`; targets that are not finite, or not one for each
            sequence.
        """
        with unchanged_on_error(self):
            self._check_settings()
            sequences = self._sequences(X, reset=True)
            y = checked_targets(y, len(sequences))
            self.is_one_column_ = y.ndim == 1
            _fit_readout(self, sequences, RidgeCV(ALPHAS), y, sample_weight)
        return self

    def predict(self, X: Any) -> NDArray[np.floating]:
        """Return the targets of each sequence, as many columns as y had."""
        outputs = _outputs(self, X)
        return outputs[:, 0] if self.is_one_column_ else outputs


def _fit_readout(
    reservoir: Any, sequences: Sequences, readout: Any, y: Any, sample_weight: Any
) -> None:
    """Draw a reservoir, and fit a readout to the features of sequences."""
    n = len(sequences)
    weights = checked_weights(sample_weight, n)
    scaled = reservoir._fit(sequences)
    if n * reservoir.n_features_out_ > FEATURES_AT_ONCE and n > reservoir.n_features_out_:
        found = _ridge_of_batches(reservoir, scaled, y, np.ones(n) if weights is None else weights)
        reservoir.coef_, reservoir.intercept_, reservoir.alpha_, _ = found
        return
    states = reservoir._transform(scaled).astype(np.float64)
    scaler = StandardScaler().fit(states, sample_weight=weights)
    readout.fit(scaler.transform(states), y, sample_weight=weights)
    coef = np.atleast_2d(readout.coef_) / scaler.scale_
    reservoir.coef_, reservoir.alpha_ = coef, float(readout.alpha_)
    reservoir.intercept_ = np.atleast_1d(readout.intercept_) - coef @ scaler.mean_


def _ridge_of_batches(
    reservoir: Any, scaled: Sequences, y: Any, weights: NDArray[np.float64]
) -> Ridge:
    """Return the readout of which RidgeClassifierCV or RidgeCV would need all features at once."""
    if isinstance(reservoir, ReservoirClassifier):
        y = LabelBinarizer(neg_label=-1).fit_transform(y)
    batches = functools.partial(reservoir._batches, scaled, np.flatnonzero(weights))
    return fit_ridge(batches, np.asarray(y, float).reshape(len(y), -1), weights, ALPHAS)


def _outputs(reservoir: Any, X: Any) -> NDArray[np.floating]:
    """Return what the readout says of each sequence, (n, n_outputs)."""
    check_is_fitted(reservoir)
    scaled = reservoir.scaling_.transform(reservoir._sequences(X, reset=False))
    outputs = np.empty((len(scaled), len(reservoir.intercept_)))
    for of_batch, states in reservoir._batches(scaled, np.arange(len(scaled))):
        outputs[of_batch] = states.astype(np.float64) @ reservoir.coef_.T + reservoir.intercept_
    return outputs


def shares(N: int, n: int) -> list[int]:
    """Share N units out among n recurrences, as equally as can be."""
    return [N // n + (i < N % n) for i in range(n)]
