"""What fitting a file's sequences found: held-out scores, a plain baseline, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, r2_score
from sklearn.model_selection import KFold, LearningCurveDisplay, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..extras import require
from .recurrent import RecurrentClassifier, RecurrentRegressor
from .reservoir import ALPHAS, ReservoirClassifier, ReservoirRegressor
from .saving import load, save
from .sequences import Sequences, as_sequences
from .tables import Table, as_targets, read_table

SCORES: dict[str, tuple[str, Any]] = {
    "classification": ("accuracy", accuracy_score),
    "regression": ("R²", r2_score),
}


class Found(NamedTuple):
    """Scores of each fold, and the predictions for what was held out."""

    scores: NDArray[np.float64]
    baseline: NDArray[np.float64]
    predicted: NDArray[Any]


class PlainStatistics(TransformerMixin, BaseEstimator):
    """Mean, deviation, extremes, first, last and length: next to nothing of a sequence's order.

    Of symbols, how often each of the first 128 code points is there.
    """

    def fit(self, X: Any, y: Any = None) -> PlainStatistics:
        """Learn nothing."""
        return self

    def transform(self, X: Sequences) -> NDArray[np.float64]:
        """Return a row for each sequence."""
        rows = []
        for x in as_sequences(X, allow_nan=True):
            if x.ndim == 1:
                counts = np.bincount(np.clip(x, 0, 127), minlength=128) / len(x)
                rows.append(np.append(counts, len(x)))
                continue
            known = np.where(np.isnan(x), np.nanmean(x) if np.isfinite(x).any() else 0.0, x)
            parts = (
                known.mean(1),
                known.std(1),
                known.min(1),
                known.max(1),
                known[:, 0],
                known[:, -1],
            )
            rows.append(np.append(np.concatenate(parts), x.shape[1]))
        return np.array(rows)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def estimator_of(name: str, task: str, **settings: Any) -> Any:
    """Return the estimator of a name and a task.

    Parameters
    ----------
    name : {"reservoir", "kru", "lstm", "gru"}
    task : {"classification", "regression"}
    **settings
        Of the estimator: random_state, missing, verbose.
    """
    classifies = task == "classification"
    if name == "reservoir":
        settings.pop("verbose", None)
        return (ReservoirClassifier if classifies else ReservoirRegressor)(**settings)
    cell: Any = "rnn" if name == "kru" else name
    return (RecurrentClassifier if classifies else RecurrentRegressor)(cell=cell, **settings)


def description(table: Table, task: str, y: NDArray[Any]) -> dict[str, str]:
    """Return what was found in a file, line by line."""
    lengths = [x.shape[-1] for x in table.X]
    n = len(lengths)
    same = min(lengths) == max(lengths)
    what = "symbols" if table.holds_symbols else f"numbers ({', '.join(table.channels)})"
    missing = f"{table.n_missing:,} of {sum(x.size for x in table.X):,} values"
    if task == "classification":
        classes, counts = np.unique(y, return_counts=True)
        shown = ", ".join(f"{c} ({k:,})" for c, k in list(zip(classes, counts, strict=True))[:12])
        target = f"{len(classes)} classes: {shown}{', …' if len(classes) > 12 else ''}"
    else:
        target = f"numbers from {y.min():.4g} to {y.max():.4g}, mean {y.mean():.4g}"
    return {
        "sequences": f"{n:,} of {what}",
        "steps": f"{lengths[0]:,} each" if same else f"{min(lengths):,} to {max(lengths):,}",
        "missing": missing if table.n_missing else "none",
        "target": target,
    }


def held_out(
    estimator: Any, X: Sequences, y: NDArray[Any], task: str, n_folds: int, seed: int
) -> Found:
    """Score an estimator and the plain baseline on folds that they were not fitted on."""
    if task == "classification" and np.unique(y, return_counts=True)[1].min() < n_folds:
        rare = np.unique(y)[np.unique(y, return_counts=True)[1].argmin()]
        raise ValueError(
            f"each of {n_folds} folds needs a sequence of every class, but {rare} has fewer: give "
            "fewer folds or more data; or, if the target is a quantity, the task regression"
        )
    split, score = folds_of(task, n_folds, seed), SCORES[task][1]
    scores, plain, predicted = [], [], np.empty_like(y)
    bar = require("tqdm", "sklearn").tqdm(split.split(np.zeros(len(y)), y), total=n_folds)
    for chosen, left_out in bar:
        part, rest = [X[i] for i in chosen], [X[i] for i in left_out]
        predicted[left_out] = clone(estimator).fit(part, y[chosen]).predict(rest)
        scores.append(score(y[left_out], predicted[left_out]))
        baseline = plain_baseline(task).fit(part, y[chosen])
        plain.append(score(y[left_out], baseline.predict(rest)))
        bar.set_postfix(score=f"{np.mean(scores):.3f}", baseline=f"{np.mean(plain):.3f}")
    return Found(np.array(scores), np.array(plain), predicted)


def learning_curve(
    estimator: Any, X: Sequences, y: NDArray[Any], task: str, n_folds: int
) -> dict[str, NDArray[np.float64]]:
    """Return scores on what was fitted and on what was held out, for shares of the sequences.

    Of each class the same share is taken, which scikit-learn's function of that name does not see
    to: a quarter of few sequences may be of one class.
    """
    folds, score = folds_of(task, n_folds, 0), SCORES[task][1]
    sizes, fitted, left = [], [], []
    rng = np.random.default_rng(0)
    for share in (0.25, 0.5, 0.75, 1.0):
        of_folds = []
        for chosen, left_out in folds.split(np.zeros(len(y)), y):
            chosen = rng.permutation(chosen)  # files may be sorted
            kinds = y[chosen] if task == "classification" else np.zeros(len(chosen))
            some = np.concatenate([
                chosen[kinds == k][: int(np.ceil(share * (kinds == k).sum()))]
                for k in np.unique(kinds)
            ])  # fmt: skip
            learned = clone(estimator).fit([X[i] for i in some], y[some])
            of_folds.append(
                [score(y[part], learned.predict([X[i] for i in part])) for part in (some, left_out)]
            )
        sizes.append(len(some))
        fitted.append([of[0] for of in of_folds])
        left.append([of[1] for of in of_folds])
    scores = {"train_scores": np.array(fitted), "test_scores": np.array(left)}
    return {"train_sizes": np.array(sizes), **scores}


def folds_of(task: str, n_folds: int, seed: int) -> Any:
    """Return how folds are drawn: of classes with the same share of each."""
    kind = StratifiedKFold if task == "classification" else KFold
    return kind(n_folds, shuffle=True, random_state=seed)


def plain_baseline(task: str) -> Any:
    """Return a ridge on statistics that know nothing of order."""
    ridge = RidgeClassifierCV(ALPHAS) if task == "classification" else RidgeCV(ALPHAS)
    return make_pipeline(PlainStatistics(), StandardScaler(), ridge)


def pictures(
    folder: Path, estimator: Any, X: Sequences, y: NDArray[Any], task: str, found: Found
) -> Iterator[Path]:
    """Draw the confusion matrix, or predictions beside targets, and the learning curve."""
    require("matplotlib", "sklearn").use("Agg")
    plt = require("matplotlib.pyplot", "sklearn")
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    if task == "classification":
        name = "confusion.png"
        ConfusionMatrixDisplay.from_predictions(
            y, found.predicted, ax=axes, xticks_rotation="vertical", colorbar=False
        )
    else:
        name = "predictions.png"
        axes.plot(y, found.predicted, ".", [y.min(), y.max()], [y.min(), y.max()], "k:")
        axes.set(xlabel="target", ylabel="predicted, held out")
    figure.savefig(folder / name, dpi=120)
    yield folder / name
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    curve = learning_curve(estimator, X, y, task, min(len(found.scores), 3))
    LearningCurveDisplay(**curve, score_name=SCORES[task][0]).plot(ax=axes, score_type="both")
    figure.savefig(folder / "learning_curve.png", dpi=120)
    yield folder / "learning_curve.png"
    plt.close("all")


def fit_file(options: Any) -> int:
    """Fit an estimator to a file's sequences and print what was found; see ``kru-ref fit``."""
    columns = {"target": options.target, "id": options.id, "time": options.time}
    table = read_table(options.data, **columns)
    y, task = as_targets(np.asarray(table.y), options.task)
    print_rows({"file": str(options.data), **description(table, task, y)})
    missing: Any = "mask" if table.n_missing else "error"
    estimator = estimator_of(options.model, task, missing=missing, random_state=options.seed)
    found = held_out(estimator, table.X, y, task, options.folds, options.seed)
    print_rows(
        {
            f"held-out {SCORES[task][0]}": spread(found.scores),
            "the same of a baseline": f"{spread(found.baseline)}: a ridge on plain statistics",
        }
    )
    if found.scores.mean() <= found.baseline.mean():
        print("The baseline, which knows next to nothing of order, does as well or better.")
    folder = options.pictures or options.out.with_suffix(".report")
    drawn = [str(path) for path in pictures(folder, estimator, table.X, y, task, found)]
    if options.model != "reservoir":
        estimator.set_params(verbose=True)
    estimator.fit(table.X, y)
    estimator.table_ = {**columns, "channels": table.channels}
    save(estimator, options.out)
    print_rows(
        {
            "pictures": ", ".join(drawn),
            "model": f"{options.out}: {type(estimator).__name__} of all {len(y):,} sequences",
        }
    )
    return 0


def predict_file(model: Path, data: Path) -> str:
    """Return predictions for a file's sequences as the text of a CSV; see ``kru-ref predict``."""
    estimator = load(model)
    if not hasattr(estimator, "predict"):
        raise ValueError(f"{model} holds a {type(estimator).__name__}, which predicts nothing")
    columns = getattr(estimator, "table_", {"id": "id", "time": "time", "channels": None})
    names = columns["channels"] if data.suffix in (".csv", ".tsv") else None
    table = read_table(data, id=columns["id"], time=columns["time"], channels=names)
    if table.n_missing and estimator.missing != "mask":
        raise ValueError(
            f"{data} has {table.n_missing:,} missing values, and {model} was fitted to sequences "
            "without any: fit it to some that have"
        )
    found = np.asarray(estimator.predict(table.X))
    target = columns.get("target", "predicted")
    columns_of = {columns["id"]: table.ids}
    if found.ndim == 1:
        columns_of[target] = list(found)
    else:
        columns_of |= {f"{target} {i}": list(column) for i, column in enumerate(found.T)}
    if hasattr(estimator, "predict_proba"):
        proba = estimator.predict_proba(table.X)
        columns_of |= {
            f"P({c})": [f"{p:.6g}" for p in row]
            for c, row in zip(estimator.classes_, proba.T, strict=True)
        }
    return require("pandas", "sklearn").DataFrame(columns_of).to_csv(index=False)


def spread(scores: NDArray[np.float64]) -> str:
    """Return the mean of folds and how far they lie apart."""
    return f"{scores.mean():.3f} ± {scores.std():.3f} over {len(scores)} folds"


def print_rows(rows: dict[str, str]) -> None:
    """Print names and values, and at once: what follows may take long."""
    for name, value in rows.items():
        print(f"{name:24}  {value}", flush=True)
