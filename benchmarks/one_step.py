"""Time one time step at a time: model.step beside torch.nn's cells and a ReservoirPy network.

    python benchmarks/one_step.py --threads 1 --rounds 5 --json one_step.json

One sequence, N = 128, ten inputs, nine outputs, single precision. Over a dense matrix torch.nn's
cell of the same weights, with a linear readout, must give the same outputs, without a gradient.
What ReservoirPy computes is another network of the same size: a sparse random matrix.
"""

import sys

import measure
import numpy as np
import torch
from competitors import installed

import kru_ref as kru

N, D, M = 128, 10, 9
TOLERANCE = 1e-4
CELLS = {"RNN": kru.RNN, "LSTM": kru.LSTM, "GRU": kru.GRU}
OURS = "kru_ref, KRU, 2×2 complex factors"


class Ours:
    """A model that goes from step to step over the same input."""

    def __init__(self, cell, x):
        self.model, self.x = kru.SequenceModel(cell, M), x[:, None]
        self.params = self.model.init(np.random.default_rng(0))
        _, self.state = self.model.step(self.params, self.x)

    def step(self):
        """Return the output, and move on."""
        y, self.state = self.model.step(self.params, self.x, self.state)
        return y[:, 0]


class Theirs:
    """torch.nn's cell with the weights of one of ours, and from its state."""

    def __init__(self, kind, ours):
        cell = ours.model.cell
        own = {name: ours.params[f"cell.{name}"] for name in cell.shapes()}
        self.cell, weights = getattr(torch.nn, f"{kind}Cell")(D, N), kru.to_pytorch(cell, own)
        state = {name.removesuffix("_l0"): torch.tensor(w) for name, w in weights.items()}
        self.cell.load_state_dict(state)
        self.readout = torch.nn.Linear(N, M)
        self.readout.weight.data = torch.tensor(ours.params["readout.V"])
        self.readout.bias.data = torch.tensor(ours.params["readout.c"])
        self.x = torch.tensor(ours.x.T, dtype=torch.float32)
        before = ours.state[0]
        parts = before if isinstance(before, tuple) else (before,)
        parts = tuple(torch.tensor(part.T.copy()) for part in parts)
        self.state = parts if kind == "LSTM" else parts[0]

    @torch.no_grad()
    def step(self):
        """Return the output, and move on."""
        self.state = self.cell(self.x, self.state)
        h = self.state[0] if isinstance(self.state, tuple) else self.state
        return self.readout(h)[0].numpy()


def reservoir(x):
    """Return the step of a ReservoirPy network."""
    nodes = installed("reservoirpy.nodes")
    network = nodes.Reservoir(N, seed=0) >> nodes.Ridge(ridge=1e-3)
    rng = np.random.default_rng(0)
    network.fit(rng.random((200, D)), rng.random((200, M)))
    return lambda: network.step(x)


def steps_of(x):
    """Return what is timed, by name; what is not installed is named and left out."""
    steps = {OURS: Ours(kru.KRU(D, N), x).step}
    for kind, of in CELLS.items():
        steps[f"kru_ref, {kind} over 2×2 factors"] = Ours(of(D, N, kru.Kronecker()), x).step
        dense = Ours(of(D, N, kru.Dense()), x)
        theirs = Theirs(kind, dense)
        for _ in range(3):
            error = np.abs(dense.step() - theirs.step()).max()
            if not error < TOLERANCE:
                raise SystemExit(f"WRONG: {kind} differs from PyTorch's by {error:.1e}")
        steps[f"kru_ref, {kind} over Dense"] = dense.step
        steps[f"torch.nn.{kind}Cell"] = theirs.step
    try:
        steps["ReservoirPy"] = reservoir(x)
    except ImportError as error:
        print(measure.first_line("ReservoirPy", error))
    return steps


def main():
    """Check, time, print."""
    arguments = measure.parser(__doc__.splitlines()[0]).parse_args()
    measure.set_threads(arguments.threads)
    x = np.random.default_rng(1).random(D)
    times = measure.alternate(steps_of(x), arguments.rounds, OURS)
    title = f"one step, N = {N}, B = 1, threads = {arguments.threads}"
    measure.print_table(title, times)
    if arguments.json:
        found = measure.report(arguments.threads, arguments.rounds, {"one step": times})
        measure.write_json(arguments.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
