"""Classification and regression of whole sequences by trained recurrent networks."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.validation import check_is_fitted

from ..arguments import (
    check_params,
    checked_choice,
    checked_flag,
    checked_number,
    checked_size,
)
from ..arrays import Array, Params
from ..extras import require
from ..losses import mean_squared_error, softmax_cross_entropy
from ..model import SequenceModel
from ..optimizers import Adam, clip_by_global_norm
from ..readout import POOLINGS
from ..training.ranks import Block, Ranks
from ..training.tasks.task import make_cell, make_matrix
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

CELLS = ("rnn", "lstm", "gru", "lru")
MATRICES = ("kronecker", "dense", "restricted", "full", "diagonal")
# From so many sequences on, early_stopping="auto" holds some out.
MANY = 500
# Numbers of states in memory at once where nothing is kept of them.
AT_ONCE = 2**22


class Part(NamedTuple):
    """Sequences as cells read them, their targets and weights."""

    x: Sequences  # (T_i, D) or (T_i,)
    y: NDArray[Any]  # classes (n,), or scaled targets (n, M)
    weights: NDArray[np.float64]

    def at(self, chosen: NDArray[np.intp]) -> Part:
        """Return some of them."""
        x = self.x.at(chosen) if isinstance(self.x, Lazy) else [self.x[i] for i in chosen]
        return Part(x, self.y[chosen], self.weights[chosen])


class Recurrent(OfSequences, ABC):
    """What classifier and regressor share: settings, model, training.

    The parameters are those of :class:`RecurrentClassifier`.
    """

    def __init__(
        self,
        hidden_size: int = 256,
        *,
        cell: Literal["rnn", "lstm", "gru", "lru"] = "rnn",
        matrix: Literal["kronecker", "dense", "restricted", "full", "diagonal"] = "kronecker",
        factors: Sequence[tuple[int, int]] | None = None,
        n_layers: int = 1,
        dropout: float = 0.0,
        activation: str = "identity",
        dtype: str | None = None,
        pooling: Literal["last", "mean", "last-and-mean", "moments"] = "moments",
        learning_rate: float = 0.003,
        factor_learning_rate: float | None = None,
        penalty: float = 0.001,
        max_norm: float = 1.0,
        batch_size: int = 16,
        max_epochs: int = 100,
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.1,
        n_epochs_no_change: int = 20,
        class_weight: Any = None,
        normalize: bool = True,
        missing: Literal["error", "mask"] = "error",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_size = hidden_size
        self.cell = cell
        self.matrix = matrix
        self.factors = factors
        self.n_layers = n_layers
        self.dropout = dropout
        self.activation = activation
        self.dtype = dtype
        self.pooling = pooling
        self.learning_rate = learning_rate
        self.factor_learning_rate = factor_learning_rate
        self.penalty = penalty
        self.max_norm = max_norm
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_epochs_no_change = n_epochs_no_change
        self.class_weight = class_weight
        self.normalize = normalize
        self.missing = missing
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @abstractmethod
    def _checked_y(self, y: Any, n: int, *, is_known: bool) -> NDArray[Any]:
        """Return targets as a loss takes them: classes (n,), or numbers (n, M).

        is_known says that classes or columns are not to be learned, but to be kept to.
        """

    @abstractmethod
    def _n_outputs(self) -> int:
        """Return how many outputs the targets that were learned from need."""

    @abstractmethod
    def _loss(self, logits: Array, part: Part) -> tuple[float, Array]:
        """Return the loss of a batch, and its gradient."""

    @abstractmethod
    def _validation_score(self, params: Params, part: Part) -> float:
        """Return what early stopping watches: the more the better."""

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        *,
        communicator: Any = None,
    ) -> Any:
        """Train on sequences.

        Parameters
        ----------
        X : array_like or list
            An array (n_cases, n_channels, n_timepoints), or (n_cases, n_timepoints) for one
            channel; or a list of arrays (n_channels, n_timepoints) of different lengths, or of
            integers (n_timepoints,) that stand for symbols.
        y : array_like
            Labels (n_cases,); of a regressor numbers, (n_cases,) or (n_cases, n_targets).
        sample_weight : array_like, shape (n_cases,), optional
        communicator : mpi4py.MPI.Comm, optional
            Its processes, all of which call this with the same arguments and a fixed
            ``random_state``, share out each batch. What comes out is the same to the bit for any
            number of them, but for rounding not what comes out without a communicator.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Settings, sequences or targets that are not what they must be.

        Warns
        -----
        ConvergenceWarning
            The loss stopped being finite; the best parameters before that are kept.
        """
        with unchanged_on_error(self):
            self._check_settings()
            goes_on = self.warm_start and hasattr(self, "params_")
            part = self._read(X, y, sample_weight, reset=not goes_on, is_known=goes_on)
            training, validation = self._split(part)
            if not goes_on:
                self._begin(training)
            elif self._model(self.scaling_.input_size, self._n_outputs()) != self.model_:
                raise ValueError(
                    "warm_start goes on with the network there is, but its settings were changed: "
                    "give warm_start=False"
                )
        held_out = None if validation is None else self._scaled(validation)
        ranks = None if communicator is None else Ranks(communicator)
        self._epochs(self._scaled(training), held_out, ranks)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Go through sequences once more, at a rate that does not fall.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`. The first call learns channels, scaling and classes: it must have
            them all.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As :meth:`fit`; a class that the first call did not have.
        """
        with unchanged_on_error(self):
            self._check_settings()
            is_first = not hasattr(self, "params_")
            is_known = not is_first or hasattr(self, "classes_")
            part = self._read(X, y, sample_weight, reset=is_first, is_known=is_known)
            if is_first:
                self._begin(part)
        if not math.isfinite(self._epoch(self._scaled(part), 1.0, None)):
            self._diverged(self.params_)
        return self

    def _read(self, X: Any, y: Any, sample_weight: Any, *, reset: bool, is_known: bool) -> Part:
        """Return sequences as they came, with checked targets and weights."""
        sequences = self._sequences(X, reset=reset)
        targets = self._checked_y(y, len(sequences), is_known=is_known)
        weights = checked_weights(sample_weight, len(sequences))
        weights = np.ones(len(sequences)) if weights is None else weights
        weights = weights * self._class_weights(targets)
        if not weights.any():
            raise ValueError("all weights are zero: of the classes that are there, too")
        return Part(sequences, targets, weights)

    def _class_weights(self, y: NDArray[Any]) -> NDArray[np.float64] | float:
        return 1.0

    def _split(self, part: Part) -> tuple[Part, Part | None]:
        """Hold out a share of the sequences for early stopping, if it is to be."""
        n, classes = len(part.x), part.y if part.y.ndim == 1 else None
        rarest = n if classes is None else np.unique(classes, return_counts=True)[1].min()
        n_classes = 1 if classes is None else len(np.unique(classes))
        is_enough = int(n * self.validation_fraction) >= n_classes
        if self.early_stopping == "auto":
            stops_early = n >= MANY and rarest > 1 and is_enough
        else:
            stops_early = self.early_stopping
        if not stops_early:
            return part, None
        if rarest < 2:
            raise ValueError(
                "early_stopping holds out sequences of every class, but one class has a single "
                "sequence: add more, or give early_stopping=False"
            )
        if not is_enough:
            raise ValueError(
                f"early_stopping holds out {int(n * self.validation_fraction)} of {n} sequences, "
                f"fewer than there are classes, {n_classes}: raise validation_fraction"
            )
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        training, validation = train_test_split(
            np.arange(n),
            test_size=self.validation_fraction,
            stratify=classes,
            random_state=seed,
        )
        if not (part.weights[training].any() and part.weights[validation].any()):
            raise ValueError("early_stopping holds out sequences, and all others have weight zero")
        return part.at(training), part.at(validation)

    def _scaled(self, part: Part) -> Part:
        return part._replace(x=self.scaling_.transform(part.x))

    def _begin(self, part: Part) -> None:
        """Learn the scaling, and draw parameters."""
        self.scaling_ = learn_scaling(part.x, self.normalize, self.missing)
        self.model_ = self._model(self.scaling_.input_size, self._n_outputs())
        self._rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self.params_ = self.model_.init(self._rng)
        self._optimizer = self._adam(1.0).init(self.params_)
        self.loss_curve_, self.validation_scores_ = list[float](), list[float]()
        self.n_iter_ = 0
        lazy = part.x if isinstance(part.x, Lazy) else None
        lengths = [x.shape[-1] for x in part.x] if lazy is None else lazy.lengths
        self.longest_ = int(max(lengths))

    def _model(self, input_size: int, output_size: int) -> SequenceModel:
        numbers = self.dtype or ("complex64" if self.cell in ("rnn", "lru") else "float32")
        factors = None if self.factors is None else tuple((P, Q) for P, Q in self.factors)
        matrix = make_matrix(self.matrix, factors, "auto")
        cells, size = [], input_size
        for _ in range(self.n_layers):
            args = size, self.hidden_size, matrix, self.activation, numbers
            cells.append(make_cell(self.cell, *args))
            size = cells[-1].n_features
        stack = cells[0] if self.n_layers == 1 else cells
        return SequenceModel(stack, output_size, False, self.dropout, self.pooling)

    def _adam(self, scale: float) -> Adam:
        """Return the rule of an update, all rates scaled."""
        model, rate = self.model_, self.factor_learning_rate
        if rate is None:
            rate = self.learning_rate / (10 if self.cell in ("rnn", "lru") else 1)
        rates = {f"{prefix}.W": scale * rate for prefix in model.prefixes}
        return Adam(rate=scale * self.learning_rate, rates=rates, unitary=model.unitary_names)

    def _epochs(self, training: Part, validation: Part | None, ranks: Ranks | None) -> None:
        """Train until the rate has fallen to 0, or nothing gets better any more."""
        best, best_score, self.best_epoch_ = self.params_, -math.inf, 0
        bar = self._bar(ranks is None or ranks.is_first)
        for epoch in range(self.max_epochs):
            scale = 0.5 * (1 + math.cos(math.pi * epoch / self.max_epochs))
            loss = self._epoch(training, scale, ranks)
            if not math.isfinite(loss):
                self._diverged(best)
                break
            score = (
                -loss if validation is None else self._validation_score(self.params_, validation)
            )
            if validation is None or score > best_score:
                best, best_score, self.best_epoch_ = self.params_, score, epoch + 1
            if validation is not None:
                self.validation_scores_.append(score)
            bar.set_postfix(loss=f"{loss:.4g}", score=f"{score:.4g}", refresh=False)
            bar.update()
            if validation is not None and epoch + 1 - self.best_epoch_ >= self.n_epochs_no_change:
                break
        bar.close()
        self.params_ = best

    def _epoch(self, part: Part, scale: float, ranks: Ranks | None) -> float:
        """Go through the sequences once, in a new order; return the mean loss."""
        total, weight = 0.0, 0.0
        optimizer, strength = self._adam(scale), self.penalty
        for chosen in self._shuffled(len(part.x)):
            batch = part.at(chosen)
            if not batch.weights.any():
                continue
            if ranks is None:
                loss, grads = self._gradients(batch, self._rng)
            else:
                loss, grads = self._in_blocks(batch, ranks)
            if strength:
                _, grads = self.model_.add_penalty(self.params_, grads, strength)
            grads, norm = clip_by_global_norm(grads, self.max_norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                return math.nan
            self.params_, self._optimizer = optimizer.update(self.params_, grads, self._optimizer)
            total += loss * batch.weights.sum()
            weight += batch.weights.sum()
        self.n_iter_ += 1
        self.loss_curve_.append(total / weight)
        return total / weight

    def _gradients(
        self, batch: Part, rng: np.random.Generator, share: float = 1.0
    ) -> tuple[float, Params]:
        """Return a share of a batch's mean loss, and its gradients."""
        x, lengths = side_by_side(batch.x, self.model_.cells[0].real_dtype)
        logits, saved = self.model_.forward(self.params_, x, lengths=lengths, rng=rng)
        loss, dlogits = self._loss(logits, batch)
        if share != 1.0:
            loss, dlogits = share * loss, (share * dlogits).astype(dlogits.dtype)
        return loss, self.model_.backward(self.params_, saved, dlogits)

    def _in_blocks(self, batch: Part, ranks: Ranks) -> tuple[float, Params]:
        """Return the same, added up over blocks that several processes share out."""
        everything = np.arange(len(batch.x))
        cuts = [everything[block] for block in ranks.blocks(len(everything))]
        blocks = [chosen for chosen in cuts if batch.weights[chosen].any()]
        rngs = self._rng.spawn(len(blocks))

        def block(i: int) -> Block:
            part = batch.at(blocks[i])
            share = float(part.weights.sum() / batch.weights.sum())
            loss, grads = self._gradients(part, rngs[i], share)
            return Block(grads, [loss])

        grads, figures, _ = ranks.add_up(len(blocks), block, self.params_)
        return float(figures[0]), grads

    def _shuffled(self, n: int) -> Iterator[NDArray[np.intp]]:
        order = self._rng.permutation(n)
        for first in range(0, n, self.batch_size):
            yield order[first : first + self.batch_size]

    def _diverged(self, best: Params) -> None:
        self.params_ = best
        warnings.warn(
            f"the loss was no longer finite in epoch {self.n_iter_ + 1}: the parameters before are "
            "kept; a lower learning_rate or factor_learning_rate helps",
            ConvergenceWarning,
            stacklevel=4,
        )

    def _bar(self, is_first: bool) -> Any:
        tqdm = require("tqdm", "sklearn").tqdm
        shown = self.verbose and is_first
        return tqdm(total=self.max_epochs, disable=not shown, unit="epoch")

    def _logits(self, X: Any) -> NDArray[np.floating]:
        """Return the outputs for sequences, (n, M)."""
        check_is_fitted(self)
        scaled = self.scaling_.transform(self._sequences(X, reset=False))
        longest = int(lengths_of(scaled).max())
        if longest > 2 * self.longest_ and self.activation != "tanh":
            warnings.warn(
                f"sequences of up to {longest:,} steps are more than twice as long as any in the "
                f"fit, {self.longest_:,}: states may have grown to where nothing was learned",
                UserWarning,
                stacklevel=3,
            )
        return self._outputs(self.params_, scaled)

    @np.errstate(over="ignore", invalid="ignore")
    def _outputs(self, params: Params, scaled: Sequences) -> NDArray[np.floating]:
        outputs = in_order(
            [
                (chosen, self.model_.predict(params, x, lengths)[0].T)
                for chosen, x, lengths in self._batches(scaled)
            ]
        )
        if not np.isfinite(outputs).all():
            longest = int(lengths_of(scaled).max())
            raise ValueError(
                f"the states overflow: the longest sequence has {longest:,} steps, those of the "
                f"fit had {self.longest_:,} at most; cut it, or fit to longer ones"
            )
        return outputs

    def transform(self, X: Any) -> NDArray[np.floating]:
        """Return what the readout reads of each sequence: pooled states, as features.

        Parameters
        ----------
        X : array_like or list
            As for :meth:`fit`.

        Returns
        -------
        features : ndarray, shape (n_cases, n_features_out)
        """
        check_is_fitted(self)
        sequences = self._sequences(X, reset=False)
        return in_order(
            [
                (chosen, self.model_.pooled_states(self.params_, x, lengths).T)
                for chosen, x, lengths in self._batches(self.scaling_.transform(sequences))
            ]
        )

    def _batches(
        self, scaled: Sequences
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[Any], NDArray[np.intp]]]:
        """Yield which sequences, x and lengths, those of about the same length together."""
        size = max(1, min(128, AT_ONCE // (16 * self.model_.cells[-1].n_features)))
        for chosen in batches_by_length(lengths_of(scaled), size):
            yield (
                chosen,
                *side_by_side([scaled[i] for i in chosen], self.model_.cells[0].real_dtype),
            )

    def fitted_state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return what was learned, for a file: arrays, and what JSON holds."""
        arrays = arrays_of(self.scaling_) | {f"params.{k}": p for k, p in self.params_.items()}
        return arrays, {
            "loss_curve_": self.loss_curve_,
            "validation_scores_": self.validation_scores_,
            "best_epoch_": getattr(self, "best_epoch_", 0),
            "n_iter_": self.n_iter_,
            "longest_": self.longest_,
        }

    def restore_state(self, arrays: dict[str, Array], facts: dict[str, Any]) -> None:
        """Take back what :meth:`fitted_state` returned; raise where its parts do not fit."""
        self._check_settings()
        if self.n_layers > len(arrays):
            raise ValueError(f"it has {len(arrays)} arrays for {self.n_layers} layers")
        self.scaling_ = scaling_of(arrays)
        self.model_ = self._model(self.scaling_.input_size, self._n_outputs())
        given = {k.removeprefix("params."): a for k, a in arrays.items() if k.startswith("params.")}
        self.params_ = check_params(given, self.model_.layout)
        for name in ("loss_curve_", "validation_scores_"):
            setattr(self, name, [float(value) for value in facts[name]])
        for name in ("best_epoch_", "n_iter_", "longest_"):
            setattr(self, name, int(facts[name]))
        self._rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self._optimizer = self._adam(1.0).init(self.params_)

    def _check_settings(self) -> None:
        for name in ("hidden_size", "n_layers", "batch_size", "max_epochs", "n_epochs_no_change"):
            checked_size(name, getattr(self, name))
        for name in ("learning_rate", "penalty", "max_norm"):
            if checked_number(name, getattr(self, name)) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < checked_number("validation_fraction", self.validation_fraction) < 1:
            raise ValueError(
                f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}"
            )
        choices = {"cell": CELLS, "matrix": MATRICES, "pooling": POOLINGS}
        choices["missing"] = ("error", "mask")
        for name, of_name in choices.items():
            checked_choice(name, getattr(self, name), of_name)
        if self.early_stopping != "auto":
            checked_flag("early_stopping", self.early_stopping)


class RecurrentClassifier(ClassifierMixin, Recurrent):
    """Classify sequences by a Kronecker recurrent unit, or another cell, trained on them.

    The defaults were chosen on one half of some public sets, and tested on the other; see
    benchmarks/classification.py.

    Parameters
    ----------
    hidden_size : int
        N of each layer. The recurrent matrix has factors of N's prime factors' sizes.
    cell : {"rnn", "lstm", "gru", "lru"}
        The simple cell (with a Kronecker matrix a KRU), LSTM, GRU, or LRU over matrix "diagonal".
    matrix : {"kronecker", "dense", "restricted", "full", "diagonal"}
        The recurrent matrices.
    factors : sequence of (P, Q), optional
        Shapes of the Kronecker factors.
    n_layers : int
    dropout : float
        As for :class:`~kru_ref.SequenceModel`.
    activation : {"identity", "modrelu", "tanh", "relu"}
        Of the simple cell. By default it is linear in time, and what is read of it is not.
    dtype : {"float32", "float64", "complex64", "complex128"}, optional
        By default complex64 for the simple cell and the LRU, float32 for the others.
    pooling : {"last", "mean", "last-and-mean", "moments"}
        What is read of the states of a sequence; as for :class:`~kru_ref.SequenceModel`.
    learning_rate, factor_learning_rate : float
        Adam's rate at the beginning, which falls to 0 along a cosine; and that of the recurrent
        matrices, by default a tenth of it in the simple cell and the LRU, the same in the others.
    penalty : float
        Strength of the soft unitary penalty.
    max_norm : float
        Longer gradients are shortened to it.
    batch_size, max_epochs : int
    early_stopping : bool or "auto"
        Whether to hold sequences out, stop where they get no better and keep the best parameters;
        "auto" does from 500 sequences on.
    validation_fraction : float
        Share held out, stratified by class.
    n_epochs_no_change : int
        Epochs without a better score before it stops.
    class_weight : dict or "balanced", optional
        As in scikit-learn.
    normalize : bool
        Scale each channel to mean 0 and deviation 1 in training.
    missing : {"error", "mask"}
        With "mask" NaN is missing: the last value is carried on, and an indicator given.
    warm_start : bool
        Whether ``fit`` goes on from the parameters there are.
    random_state : int, RandomState or None
    verbose : bool
        Show a bar with the loss and, with early stopping, the score.

    Attributes
    ----------
    classes_ : ndarray
    n_features_in_ : int
        Channels; of a 2-D X its columns.
    loss_curve_, validation_scores_ : list of float
        Of each epoch. The score is the accuracy, less a thousandth of the loss, which decides
        between epochs of the same accuracy.
    best_epoch_, n_iter_ : int
        The epoch whose parameters were kept, and how many there were.
    model_ : SequenceModel
    params_ : dict of str to ndarray

    Examples
    --------
    >>> import numpy as np
    >>> from kru_ref.estimators import RecurrentClassifier
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((40, 1, 60)), np.repeat(["noise", "wave"], 20)
    >>> X[20:] += 3 * np.sin(np.arange(60))
    >>> classifier = RecurrentClassifier(random_state=0).fit(X[::2], y[::2])
    >>> classifier.score(X[1::2], y[1::2]) > 0.9
    True
    """

    def partial_fit(  # type: ignore[override]
        self, X: Any, y: Any, classes: ArrayLike | None = None, sample_weight: Any = None
    ) -> RecurrentClassifier:
        """Go through sequences once more, at a rate that does not fall.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`. The first call learns channels and scaling.
        classes : array_like, optional
            All labels that there will be, in the first call; by default those in y.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As :meth:`fit`; a label that is none of the classes.
        """
        if classes is not None and not hasattr(self, "params_"):
            self.classes_ = np.unique(classes)
        return super().partial_fit(X, y, sample_weight)

    def decision_function(self, X: Any) -> NDArray[np.floating]:
        """Return the logits of each class, or of two the second's above the first's."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> NDArray[np.floating]:
        """Return the probability of each class."""
        return scipy.special.softmax(self._logits(X).astype(np.float64), axis=1)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the label of each sequence."""
        logits = self._logits(X)
        return self.classes_[logits.argmax(axis=1)]

    def _checked_y(self, y: Any, n: int, *, is_known: bool) -> NDArray[np.intp]:
        y = checked_labels(y, n, least=1 if is_known else 2)
        classes = np.unique(y)
        if not is_known:
            self.classes_ = classes
        unknown = np.setdiff1d(classes, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y must hold the classes of the first fit, {list(self.classes_)}; got "
                f"{list(unknown)}"
            )
        return np.searchsorted(self.classes_, y)

    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _class_weights(self, y: NDArray[Any]) -> NDArray[np.float64] | float:
        if self.class_weight is None:
            return 1.0
        present = np.unique(y)
        weights = np.ones(len(self.classes_))
        weights[present] = compute_class_weight(
            self.class_weight, classes=self.classes_[present], y=self.classes_[y]
        )
        return weights[y]

    def _loss(self, logits: Array, part: Part) -> tuple[float, Array]:
        return softmax_cross_entropy(logits, part.y, part.weights, last_only=True)

    def _validation_score(self, params: Params, part: Part) -> float:
        """Return the accuracy, and by how much the loss differs where that stays the same."""
        logits = self._outputs(params, part.x)
        loss, _ = self._loss(logits.T[None], part)
        accuracy = np.average(logits.argmax(axis=1) == part.y, weights=part.weights)
        return float(accuracy - 1e-3 * min(loss, 1.0))


class RecurrentRegressor(MultiOutputMixin, RegressorMixin, Recurrent):
    """Predict numbers from sequences by a Kronecker recurrent unit, or another cell.

    Parameters
    ----------
    hidden_size, …
        As for :class:`RecurrentClassifier`, but for class_weight, which acts on classes only.

    Attributes
    ----------
    loss_curve_, validation_scores_, best_epoch_, n_iter_, model_, params_, n_features_in_
        As for :class:`RecurrentClassifier`; the loss is the mean squared error of targets of
        deviation 1, the score R².

    Examples
    --------
    >>> import numpy as np
    >>> from kru_ref.estimators import RecurrentRegressor
    >>> X = np.random.default_rng(0).standard_normal((40, 30))
    >>> model = RecurrentRegressor(8, max_epochs=2, random_state=0).fit(X, X.mean(axis=1))
    >>> model.predict(X[:3]).shape, len(model.loss_curve_)
    ((3,), 2)
    """

    def predict(self, X: Any) -> NDArray[np.floating]:
        """Return the targets of each sequence, as many columns as y had."""
        scaled = self._logits(X).astype(np.float64)
        found = scaled * self.target_scale_ + self.target_mean_
        return found[:, 0] if self.is_one_column_ else found

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.class_weight is not None:
            raise ValueError(
                "class_weight acts on classes only, and this is a regressor: leave it out"
            )

    def _checked_y(self, y: Any, n: int, *, is_known: bool) -> NDArray[np.float64]:
        y = checked_targets(y, n)
        if not is_known:
            self.is_one_column_ = y.ndim == 1
            self.target_mean_ = y.mean(axis=0)
            self.target_scale_ = np.where(y.std(axis=0) > 0, y.std(axis=0), 1.0)
        if y.ndim != 2 - self.is_one_column_ or np.shape(y[0]) != np.shape(self.target_mean_):
            raise ValueError(f"y must have the columns of the first fit, got shape {y.shape}")
        return ((y - self.target_mean_) / self.target_scale_).reshape(n, -1)

    def _n_outputs(self) -> int:
        return self.target_mean_.size

    def fitted_state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return what was learned, with the scaling of the targets."""
        arrays, facts = super().fitted_state()
        scaling = {"target.mean": self.target_mean_, "target.scale": self.target_scale_}
        return arrays | {name: np.asarray(a, np.float64) for name, a in scaling.items()}, facts

    def restore_state(self, arrays: dict[str, Array], facts: dict[str, Any]) -> None:
        """Take back what :meth:`fitted_state` returned."""
        mean, scale = arrays["target.mean"], arrays["target.scale"]
        if mean.shape != scale.shape or mean.ndim > 1:
            raise ValueError(f"its targets are scaled by {mean.shape} and {scale.shape}")
        self.target_mean_, self.target_scale_ = mean, scale
        self.is_one_column_ = mean.ndim == 0
        super().restore_state(arrays, facts)

    def _loss(self, logits: Array, part: Part) -> tuple[float, Array]:
        return mean_squared_error(logits, part.y.T, part.weights, last_only=True)

    def _validation_score(self, params: Params, part: Part) -> float:
        return float(r2_score(part.y, self._outputs(params, part.x), sample_weight=part.weights))


def in_order(found: Sequence[tuple[NDArray[np.intp], NDArray[Any]]]) -> NDArray[Any]:
    """Return the rows that were found batch by batch, as their sequences came."""
    chosen, rows = zip(*found, strict=True)
    ordered = np.empty((sum(map(len, chosen)), rows[0].shape[1]), rows[0].dtype)
    ordered[np.concatenate(chosen)] = np.concatenate(rows)
    return ordered
