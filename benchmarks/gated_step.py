"""Time one training step of an LSTM, GRU and RNN beside torch.nn's of the same size.

    python benchmarks/gated_step.py --threads 1 --rounds 5 --json gated.json

Over 2×2 factors, over two larger ones, and over dense matrices. First a PyTorch module with each
matrix multiplied out must give the same loss and the same gradients of all weights that both have.
Timed is forward, loss and backward, in float32.
"""

import sys
import time
from typing import NamedTuple

import measure
import numpy as np
import torch

import kru_ref as kru

TOLERANCE = 1e-3
OURS = "kru_ref, Kronecker"


class SetUp(NamedTuple):
    """Sizes of a benchmark; input_size is of one-hot columns where one_hot is true."""

    hidden_size: int
    T: int
    B: int
    input_size: int
    output_size: int
    one_hot: bool


SET_UPS = {
    "adding": SetUp(512, 400, 50, 2, 10, False),
    "characters": SetUp(512, 100, 50, 50, 50, True),
    "music": SetUp(512, 128, 20, 88, 88, False),
    "speech": SetUp(512, 300, 16, 39, 61, False),
}
CELLS = {"LSTM": kru.LSTM, "GRU": kru.GRU, "RNN": kru.RNN}


class Ours:
    """A model of kru_ref."""

    def __init__(self, kind, setup, matrix, x, targets):
        cell = CELLS[kind](setup.input_size, setup.hidden_size, matrix)
        self.model = kru.SequenceModel(cell, setup.output_size)
        self.params = self.model.init(np.random.default_rng(0))
        self.x, self.targets = x, targets

    def step(self):
        """Return the loss and its gradients."""
        logits, saved = self.model.forward(self.params, self.x)
        loss, dlogits = kru.softmax_cross_entropy(logits, self.targets)
        return loss, self.model.backward(self.params, saved, dlogits)


class Theirs:
    """The module of PyTorch of the same size, with the same readout and loss."""

    def __init__(self, kind, ours):
        cell, params = ours.model.cell, ours.params
        self.cell = getattr(torch.nn, kind)(cell.input_size, cell.hidden_size)
        own = {name: params[f"cell.{name}"] for name in cell.shapes()}
        weights = kru.to_pytorch(cell, own)
        self.cell.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
        self.readout = torch.nn.Linear(cell.hidden_size, ours.model.output_size)
        self.readout.weight.data = torch.tensor(params["readout.V"])
        self.readout.bias.data = torch.tensor(params["readout.c"])
        x, B = torch.tensor(ours.x), ours.x.shape[-1]
        one_hot = x.ndim == 2
        size = cell.input_size
        self.x = torch.nn.functional.one_hot(x, size).float() if one_hot else x.mT.contiguous()
        self.targets = torch.tensor(ours.targets)
        first = [torch.tensor(own[name])[None, None] for name in cell.state_names]
        first = [s.expand(1, B, -1).contiguous() for s in first]
        self.first = tuple(first) if kind == "LSTM" else first[0]
        self.names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]
        self.params = [getattr(self.cell, name) for name in self.names]
        self.params += list(self.readout.parameters())

    def step(self):
        """Return the loss, and the gradients by kru_ref's names."""
        h, _ = self.cell(self.x, self.first)
        logits = self.readout(h)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.targets.flatten())
        dU, _, db, dV, dc = torch.autograd.grad(loss, self.params)
        grads = {"cell.U": dU, "cell.b": db, "readout.V": dV, "readout.c": dc}
        return loss.item(), {name: g.numpy() for name, g in grads.items()}


def difference(ours, theirs):
    """Return the largest relative difference of the loss and of each shared gradient."""
    (loss, grads), (their_loss, their_grads) = ours, theirs
    errors = [abs(their_loss - loss) / abs(loss)]
    for name, g in their_grads.items():
        errors.append(np.linalg.norm(g - grads[name]) / np.linalg.norm(g))
    return float(max(errors))


def run(kind, setup, rounds, rng):
    """Check, then time."""
    _, T, B, D, M, one_hot = setup
    x = rng.integers(D, size=(T, B)) if one_hot else rng.random((T, D, B), dtype="float32")
    targets = rng.integers(M, size=(T, B))
    ours = Ours(kind, setup, kru.Kronecker(), x, targets)
    larger = Ours(kind, setup, kru.Kronecker([(16, 16), (32, 32)]), x, targets)
    theirs = Theirs(kind, ours)
    dense = Ours(kind, setup, kru.Dense(), x, targets)
    for model in (ours, larger, dense):
        error = difference(model.step(), Theirs(kind, model).step())
        if not error < TOLERANCE:
            raise SystemExit(f"WRONG: {kind} differs from PyTorch's by {error:.1e}")
    steps = {
        OURS: ours.step,
        "kru_ref, Kronecker of 16×16 and 32×32": larger.step,
        "kru_ref, dense": dense.step,
        f"torch.nn.{kind}": theirs.step,
    }
    found = {}
    for name, step in steps.items():
        began = time.perf_counter()
        step()
        found[name] = {"set_up_s": time.perf_counter() - began}
    for name, times in measure.alternate(steps, rounds, OURS).items():
        found[name] |= times
    return found


def main():
    """Run the set-ups asked for."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--set-up", choices=SET_UPS, nargs="+", default=list(SET_UPS))
    arguments = parser.parse_args()
    measure.set_threads(arguments.threads)
    report = {}
    for name in arguments.set_up:
        report[name] = SET_UPS[name]._asdict()
        for kind in CELLS:
            times = run(kind, SET_UPS[name], arguments.rounds, np.random.default_rng(0))
            report[name][kind] = times
            measure.print_table(f"{name}, {kind}, threads = {arguments.threads}", times)
    if arguments.json:
        found = measure.report(arguments.threads, arguments.rounds, report)
        measure.write_json(arguments.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
