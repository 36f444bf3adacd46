"""The commands of ``kru-ref``. Their options are the fields of the classes below and of the tasks.

Needs tyro, which turns a dataclass and its comments into options and their help.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from . import datasets, show_config, training
from .backend import Backend
from .cells import KRU, RNN
from .extras import require
from .gradients import GradientReport, check_gradient
from .kronecker import Array, factor_sizes
from .losses import softmax_cross_entropy
from .matrices import Dense
from .model import SequenceModel
from .tasks import Adding, Copying, Pixels, Task
from .training import Metrics

tyro = require("tyro", "train")


@dataclass(frozen=True)
class Train:
    """Train a model on a task."""

    task: Copying | Adding | Pixels
    # Folder of the run: config.json, metrics.jsonl and checkpoint.npz.
    out: Path
    # Continue the run in that folder, with its own settings.
    resume: bool = False
    # Show no progress bar.
    quiet: bool = False

    def run(self) -> int:
        """Train, and print what was reached."""
        progress = Progress(self.task.updates, disable=self.quiet)
        try:
            metrics = training.train(
                self.task, self.out, resume=self.resume, on_update=progress.show
            )
        except KeyboardInterrupt:
            progress.close()
            print(f"stopped; continue with: {self.resume_command()}", file=sys.stderr)
            return 130
        finally:
            progress.close()
        print(summary(self.task, metrics))
        return 0

    def resume_command(self) -> str:
        """Return the command that continues this run."""
        return f"kru-ref train {self.task.name} --out {self.out} --resume"


class Progress:
    """A bar with the loss, the task's metric and the unitarity defect."""

    def __init__(self, updates: int, disable: bool) -> None:
        self.updates, self.disable = updates, disable
        self.bar: Any = None

    def show(self, line: Metrics) -> None:
        """Move the bar to the update of a line of metrics."""
        if self.bar is None:
            # made at the first update, so that a resumed run's rate starts there
            self.bar = require("tqdm", "train").tqdm(
                total=self.updates,
                initial=int(line["step"]) - 1,
                unit="update",
                disable=self.disable,
                dynamic_ncols=True,
            )
        hidden = ("step", "seconds", "gradient_norm")
        self.bar.set_postfix(
            {name: f"{value:.3g}" for name, value in line.items() if name not in hidden},
            refresh=False,
        )
        self.bar.update()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()


@dataclass(frozen=True)
class Params:
    """Print what a recurrent matrix costs: real numbers to learn, by kind and size."""

    # Hidden sizes N.
    hidden: tuple[int, ...] = (128, 512)

    def run(self) -> int:
        """Print a row for each kind of matrix and a column for each size."""
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden sizes must be at least 1, got {self.hidden}")
        rows = {
            "dense, real (RNN)": [N * N for N in self.hidden],
            "dense, complex (FC-uRNN)": [2 * N * N for N in self.hidden],
            "RC-uRNN": [7 * N for N in self.hidden],
            "KRU, real, prime factors": [
                KRU(1, N, dtype="float32").n_recurrent_parameters for N in self.hidden
            ],
            "KRU, complex, prime factors": [KRU(1, N).n_recurrent_parameters for N in self.hidden],
        }
        print(_row("recurrent parameters", [f"N = {N:,}" for N in self.hidden]))
        for name, counts in rows.items():
            print(_row(name, [f"{count:,}" for count in counts]))
        for N in self.hidden:
            print(f"factors for N = {N:,}: {' ⊗ '.join(f'{p}×{p}' for p in factor_sizes(N))}")
        return 0


@dataclass(frozen=True)
class Gradcheck:
    """Check every gradient of a small model against finite differences."""

    # The cell: kru has a Kronecker matrix, rnn a dense one.
    cell: Literal["kru", "rnn"] = "kru"
    # Size N of the hidden state.
    hidden_size: int = 12
    # Shapes of the Kronecker factors, P Q P Q …; rectangular and of different sizes by default.
    factors: tuple[tuple[int, int], ...] | None = ((2, 3), (3, 2), (2, 2))
    # Nonlinearity.
    activation: Literal["modrelu", "tanh", "relu", "identity"] = "modrelu"
    # Numbers of the hidden state and of W.
    dtype: Literal["float32", "float64", "complex64", "complex128"] = "complex128"
    # Engine of the Kronecker product.
    backend: Backend = "auto"
    # Time steps T.
    steps: int = 5
    # Sequences B in the batch.
    batch_size: int = 3
    # Integer input that stands for one-hot columns.
    one_hot: bool = False
    # Seed of the parameters and the data.
    seed: int = 0

    def run(self) -> int:
        """Print the report; 1 if a gradient is wrong."""
        report = self.report()
        print(f"{self.cell}, N = {self.hidden_size}, {self.activation}, {self.dtype}")
        print(report)
        return 0 if report else 1

    def report(self) -> GradientReport:
        """Check softmax cross-entropy with the unitary penalty."""
        D, M, N, T, B = 3, 4, self.hidden_size, self.steps, self.batch_size
        if self.cell == "kru":
            cell = KRU(D, N, self.factors, self.activation, self.dtype, backend=self.backend)
        else:
            cell = RNN(D, N, Dense(), self.activation, self.dtype)
        model = SequenceModel(cell, M)
        rng = np.random.default_rng(self.seed)
        # Away from where a model starts: there b = 0 and the unitary penalty has no gradient.
        params = {name: _moved(p, rng) for name, p in model.init(rng).items()}
        x = rng.integers(D, size=(T, B)) if self.one_hot else rng.standard_normal((T, D, B))
        targets = rng.integers(M, size=(T, B))
        strength = 0.1

        def loss(p: dict[str, np.ndarray]) -> float:
            logits, _ = model.forward(p, x)
            return softmax_cross_entropy(logits, targets)[0] + strength * model.penalty(p)[0]

        logits, saved = model.forward(params, x)
        grads = model.backward(params, saved, softmax_cross_entropy(logits, targets)[1])
        for name, dW in model.penalty(params)[1].items():
            grads[name] = grads[name] + strength * dW
        return check_gradient(loss, params, grads)


@dataclass(frozen=True)
class Data:
    """Get data sets."""

    # fetch: download a data set into the user's cache and verify it.
    action: Annotated[Literal["fetch"], tyro.conf.Positional]
    # Data set.
    name: Annotated[Literal["mnist"], tyro.conf.Positional]
    # Folder of a mirror, instead of the data set's own.
    url: str | None = None

    def run(self) -> int:
        """Download, and print where the files are."""
        for path in datasets.fetch(self.name, self.url):
            print(path)
        return 0


@dataclass(frozen=True)
class Config:
    """Print versions, the backend in use and why."""

    def run(self) -> int:
        """Print them."""
        show_config()
        return 0


Command = Train | Params | Gradcheck | Data | Config


def parse(arguments: Sequence[str] | None, default: Command | None = None) -> Command:
    """Turn arguments into a command; ``default`` has the values of options left out."""
    command: Command = tyro.cli(
        Command,
        prog="kru-ref",
        description="Kronecker Recurrent Units in NumPy and Cython.",
        args=arguments,
        default=tyro.MISSING if default is None else default,
        config=(
            tyro.conf.CascadeSubcommandArgs,
            tyro.conf.OmitArgPrefixes,
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.FlagCreatePairsOff,
        ),
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    Errors that a user can mend are one sentence on standard error and exit status 1.
    """
    try:
        command = parse(arguments)
        if isinstance(command, Train) and command.resume:
            saved: Any = training.read_config(command.out)
            command = parse(arguments, Train(saved, command.out))
        return command.run()
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        print(f"kru-ref: {error}", file=sys.stderr)
        return 1


def summary(task: Task, metrics: Metrics) -> str:
    """Say what a run reached, beside its baseline and a dense matrix of the same size."""
    who, baseline = task.baseline
    test = {k.removeprefix("test_"): v for k, v in metrics.items() if k.startswith("test_")}
    model, N = task.model(), task.hidden_size
    dense = RNN(task.input_size, N, Dense(), "identity", task.dtype)
    rows = {
        "test": ", ".join(f"{name} {value:.4g}" for name, value in test.items()),
        f"loss of {who}": f"{baseline:.4g}; {100 * test['loss'] / baseline:.2g} % of it reached",
        "recurrent parameters": (
            f"{model.cell.n_recurrent_parameters:,}; "
            f"a dense {N}×{N} matrix has {dense.n_recurrent_parameters:,}"
        ),
        "all parameters": f"{model.n_parameters:,}",
        "unitarity defect": f"{metrics['defect']:.3g}",
        "updates": f"{metrics['step']:,} in {metrics['seconds']:,.0f} s",
    }
    return "\n".join(_row(name, [value]) for name, value in rows.items())


def _moved(p: Array, rng: np.random.Generator) -> Array:
    noise = rng.uniform(-0.2, 0.2, (2, *p.shape))
    return (p + (noise[0] + 1j * noise[1] if np.iscomplexobj(p) else noise[0])).astype(p.dtype)


def _row(name: str, values: Sequence[str]) -> str:
    if len(values) == 1:
        return f"{name:28}  {values[0]}"
    return f"{name:28}" + "".join(f"{value:>16}" for value in values)
