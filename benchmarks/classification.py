"""Classify public sets by ours and by others: accuracy and fit time, appended to a file of lines.

    python benchmarks/classification.py run --out runs.jsonl --half test --seeds 5
    python benchmarks/classification.py table runs.jsonl --picture ranks.png

The sets are those of archive.py or of an archive's --folder, as published, whose training part has
at most MOST_STEPS steps in all and whose test part MOST_CASES sequences: larger ones take DTW too
long on a CPU, and dense GRUs those of more than a third of that. A run that stopped goes on where
it was. Every method gets one thread. What needs sequences of one length gets them padded, what
needs numbers gets symbols as one-hot channels, and what needs all values gets the last one carried
on. Settings are the methods' own defaults; nothing is chosen by set. What draws nothing runs once.
"""

import argparse
import json
import time
from pathlib import Path

import archive
import numpy as np
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from kru_ref.estimators import RecurrentClassifier, ReservoirClassifier

MOST_STEPS, MOST_CASES = 120_000, 2000
MOST_STEPS_OF = {"GRU": 40_000, "PyTorch GRU": 40_000}
ALPHAS = np.logspace(-3, 3, 10)


def ours(make):
    """Return a method of ours: it takes sequences as they are."""

    def fit(X, y, seed):
        has_missing = any(x.dtype.kind == "f" and np.isnan(x).any() for x in X)
        return make(missing="mask" if has_missing else "error", random_state=seed).fit(X, y)

    return fit


def numbers(X):
    """Return sequences (D, T_i) of numbers: symbols one-hot, for a missing value the last one."""
    if X[0].ndim == 1:
        n = 1 + max(int(x.max()) for x in X)
        return [np.eye(max(n, 32))[x].T for x in X]
    return [carried(np.array(x, float)) for x in X]


def carried(x):
    """Return x with NaN as the value before, or 0."""
    for row in x:
        for t in np.flatnonzero(np.isnan(row)):
            row[t] = row[t - 1] if t else 0.0
    return x


def padded(X, T):
    """Return (n, D, T): zeros behind the shorter ones, what is longer cut."""
    found = np.zeros((len(X), X[0].shape[0], T))
    for i, x in enumerate(X):
        found[i, :, : min(T, x.shape[1])] = x[:, :T]
    return found


class OfOneLength:
    """A classifier of arrays (n, D, T)."""

    def __init__(self, classifier, flat=False):
        self.classifier, self.flat = classifier, flat

    def fit(self, X, y):
        """Fit, and return self."""
        X = numbers(X)
        self.T = max(x.shape[1] for x in X)
        self.classifier.fit(self._array(X), y)
        return self

    def predict(self, X):
        """Return labels."""
        return self.classifier.predict(self._array(numbers(X)))

    def _array(self, X):
        array = padded(X, max(self.T, 10))
        return array.reshape(len(X), -1) if self.flat else array


class Listed:
    """A classifier of lists of sequences."""

    def __init__(self, classifier):
        self.classifier = classifier

    def fit(self, X, y):
        """Fit, and return self."""
        self.classifier.fit(numbers(X), y)
        return self

    def predict(self, X):
        """Return labels."""
        return self.classifier.predict(numbers(X))


def ridge(X, y, seed):
    """Fit a ridge on the values as they are."""
    return OfOneLength(make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS)), True).fit(X, y)


def minirocket(X, y, seed):
    """Fit aeon's MiniRocket with its own ridge."""
    from aeon.classification.convolution_based import MiniRocketClassifier

    return OfOneLength(MiniRocketClassifier(random_state=seed, n_jobs=1)).fit(X, y)


def nearest(X, y, seed):
    """Fit the nearest neighbour by dynamic time warping."""
    from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier

    return Listed(KNeighborsTimeSeriesClassifier(distance="dtw", n_jobs=1)).fit(X, y)


class Torch:
    """torch.nn.GRU with the size, the optimizer and the epochs of ours, its last and mean state."""

    def __init__(self, seed):
        self.seed, self.ours = seed, RecurrentClassifier()

    def fit(self, X, y):
        """Fit, and return self."""
        import torch

        torch.manual_seed(self.seed)
        torch.set_num_threads(1)
        like = self.ours
        X = self._scaled(numbers(X), learn=True)
        self.classes, y = np.unique(y, return_inverse=True)
        self.net = torch.nn.GRU(X[0].shape[1], like.hidden_size)
        self.readout = torch.nn.Linear(2 * like.hidden_size, len(self.classes))
        params = [*self.net.parameters(), *self.readout.parameters()]
        rule = torch.optim.Adam(params, lr=like.learning_rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(rule, like.max_epochs)
        for _ in range(like.max_epochs):
            for chosen in torch.randperm(len(X)).split(like.batch_size):
                loss = torch.nn.functional.cross_entropy(
                    self._logits([X[i] for i in chosen]), torch.tensor(y)[chosen]
                )
                rule.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(params, like.max_norm)
                rule.step()
            falling.step()
        return self

    def predict(self, X):
        """Return labels."""
        import torch

        X = self._scaled(numbers(X))
        with torch.no_grad():
            found = [self._logits(X[i : i + 64]).argmax(1) for i in range(0, len(X), 64)]
        return self.classes[torch.cat(found).numpy()]

    def _scaled(self, X, learn=False):
        import torch

        if learn:
            values = np.concatenate(X, axis=1)
            self.mean, self.scale = values.mean(axis=1), values.std(axis=1)
            self.scale[self.scale == 0] = 1
        return [torch.tensor(((x.T - self.mean) / self.scale).astype("float32")) for x in X]

    def _logits(self, X):
        import torch

        lengths = torch.tensor([len(x) for x in X])
        # what is packed takes it several times as long as what is padded
        states, _ = self.net(torch.nn.utils.rnn.pad_sequence(X))
        is_step = torch.arange(len(states))[:, None] < lengths
        mean = (states * is_step[..., None]).sum(0) / lengths[:, None]
        last = states[lengths - 1, torch.arange(len(X))]
        return self.readout(torch.cat([last, mean], dim=1))


class ReservoirPy:
    """ReservoirPy's reservoir of the size of ours; last and mean state, the ridge of ours."""

    def __init__(self, seed):
        import reservoirpy

        size = ReservoirClassifier().hidden_size
        self.reservoir = reservoirpy.nodes.Reservoir(size, lr=0.3, sr=0.9, seed=seed)

    def fit(self, X, y):
        """Fit, and return self."""
        X = numbers(X)
        values = np.concatenate(X, axis=1)
        self.mean, self.scale = values.mean(axis=1), values.std(axis=1)
        self.scale[self.scale == 0] = 1
        self.readout = make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS))
        self.readout.fit(self._states(X), y)
        return self

    def predict(self, X):
        """Return labels."""
        return self.readout.predict(self._states(numbers(X)))

    def _states(self, X):
        rows = []
        for x in X:
            if self.reservoir.initialized:
                self.reservoir.reset()
            h = self.reservoir.run((x.T - self.mean) / self.scale)
            rows.append(np.concatenate([h[-1], h.mean(axis=0)]))
        return np.stack(rows)


METHODS = {
    "KRU": ours(RecurrentClassifier),
    "KRU-GRU": ours(lambda **settings: RecurrentClassifier(cell="gru", **settings)),
    "GRU": ours(lambda **settings: RecurrentClassifier(cell="gru", matrix="dense", **settings)),
    "reservoir": ours(ReservoirClassifier),
    "1-NN DTW": nearest,
    "MiniRocket": minirocket,
    "ridge": ridge,
    "PyTorch GRU": lambda X, y, seed: Torch(seed).fit(X, y),
    "ReservoirPy": lambda X, y, seed: ReservoirPy(seed).fit(X, y),
}
DRAWS_NOTHING = ("1-NN DTW", "ridge")
# Which are compared one by one.
PAIRS = [
    ("reservoir", "PyTorch GRU"),
    ("KRU", "PyTorch GRU"),
    ("reservoir", "ReservoirPy"),
    ("reservoir", "MiniRocket"),
]


def is_small(data, method):
    """Whether a set is small enough for a method."""
    steps = sum(x.shape[-1] for x in data.X_train)
    return steps <= MOST_STEPS_OF.get(method, MOST_STEPS) and len(data.y_test) <= MOST_CASES


def evaluate(name, data, seed):
    """Fit one method on one set; return its line."""
    began = time.process_time(), time.perf_counter()
    with threadpool_limits(1):
        fitted = METHODS[name](list(data.X_train), data.y_train, seed)
        fit = time.process_time() - began[0], time.perf_counter() - began[1]
        accuracy = float(np.mean(fitted.predict(list(data.X_test)) == data.y_test))
    return {"set": data.name, "method": name, "seed": seed, "accuracy": accuracy} | {
        "fit_cpu_seconds": fit[0],
        "fit_seconds": fit[1],
        "test_seconds": time.perf_counter() - began[1] - fit[1],
    }


def run(options):
    """Append a line for each set, method and seed that is not there yet."""
    folder = options.folder
    done = {(line["set"], line["method"], line["seed"]) for line in lines_of(options.out)}
    known = archive.names() if folder is None else list(archive.from_folder(folder))
    half = archive.halves(known)[("development", "test").index(options.half)]
    if "MiniRocket" in options.methods:  # numba compiles once
        minirocket([np.random.default_rng(0).standard_normal((1, 20))] * 4, np.array([0, 1] * 2), 0)
    for seed in range(options.seeds):
        for name in options.sets or half:
            todo = [m for m in options.methods if (name, m, seed) not in done]
            todo = [m for m in todo if seed == 0 or m not in DRAWS_NOTHING]
            data = archive.load(name, folder) if todo else None
            for method in [m for m in todo if is_small(data, m)]:
                line = evaluate(method, data, seed)
                print(json.dumps(line), flush=True)
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def lines_of(path):
    """Return the lines of a file of runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(options):
    """Print the accuracies by set, their means and the fit times; draw the ranks."""
    lines = lines_of(options.runs)
    methods = [m for m in METHODS if any(line["method"] == m for line in lines)]
    sets = list(dict.fromkeys(line["set"] for line in lines))
    # what else a machine does makes a fit longer, never shorter
    accuracy, seconds = (
        np.array([[over_seeds(lines, s, m, what, of) for m in methods] for s in sets])
        for what, of in (("accuracy", np.mean), ("fit_cpu_seconds", np.min))
    )
    ran = ~np.isnan(accuracy)
    whole = ran.all(axis=1)
    of_all = np.where(ran.all(axis=0), accuracy.mean(axis=0), np.nan)
    rows = {
        **dict(zip(sets, accuracy, strict=True)),
        f"**mean of {len(sets)}**": of_all,
        f"**mean of the {whole.sum()} that all ran on**": accuracy[whole].mean(axis=0),
    }
    print("| | " + " | ".join(methods) + " |")
    print("|---" * (1 + len(methods)) + "|")
    for label, row in rows.items():
        print(f"| {label} | " + " | ".join("" if np.isnan(a) else f"{a:.3f}" for a in row) + " |")
    fit = seconds[whole].sum(axis=0)
    print(
        f"| fit of the {whole.sum()}, least of the seeds, s | "
        + " | ".join(f"{s:.0f}" for s in fit)
        + " |"
    )
    for ours, theirs in PAIRS:
        if ours in methods and theirs in methods:
            pair = methods.index(ours), methods.index(theirs)
            both = ran[:, pair].all(axis=1)
            print(compared(ours, theirs, accuracy[both][:, pair], seconds[both][:, pair]))
    if options.picture:
        draw(methods, accuracy[whole], options.picture)


def over_seeds(lines, name, method, what, of):
    """Return a function of a method's values, the mean or the least."""
    values = [line[what] for line in lines if (line["set"], line["method"]) == (name, method)]
    return of(values) if values else np.nan


def compared(ours, theirs, accuracy, seconds):
    """Say on how many sets ours is above, and how much faster its fit."""
    above, equal = (np.sum(of(*accuracy.T)) for of in (np.greater, np.equal))
    faster = np.median(seconds[:, 1] / seconds[:, 0])
    return (
        f"\n{ours} is above {theirs} on {above} of {len(accuracy)} sets, equal on {equal}; its fit "
        f"is {faster:.1f} times as fast, median of the sets."
    )


def draw(methods, accuracies, path):
    """Draw the critical-difference picture: mean ranks, and cliques that do not differ."""
    import matplotlib as mpl

    mpl.use("Agg")
    from aeon.visualisation import plot_critical_difference

    figure, _ = plot_critical_difference(accuracies, methods, correction="holm", test="wilcoxon")
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main():
    """Run, or show what was run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    of_run = commands.add_parser("run")
    of_run.add_argument("--out", type=Path, required=True)
    of_run.add_argument("--half", choices=("development", "test"), default="test")
    of_run.add_argument("--seeds", type=int, default=5)
    of_run.add_argument("--folder", type=Path)
    of_run.add_argument("--sets", nargs="*")
    of_run.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    of_run.set_defaults(command=run)
    of_table = commands.add_parser("table")
    of_table.add_argument("runs", type=Path)
    of_table.add_argument("--picture", type=Path)
    of_table.set_defaults(command=table)
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
