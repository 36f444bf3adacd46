"""Error of single-precision gradients against the length of the sequence, beside PyTorch's.

    python benchmarks/accuracy.py --json accuracy.json

A gradient is a sum over time and batch. Each parameter's is compared with that of the same network
in double precision, by the largest difference relative to the largest entry. W is scaled to forget
within some steps, so that single and double precision pass through the same states, and what is
seen is the rounding of the sums; the loss's own gradients have one sign, so that the sums grow.
"""

import dataclasses
import sys
import warnings

import measure
import numpy as np
import torch

import kru_ref as kru

N, M, D, LABELS = 4, 2, 3, (10, 20)
FACTORS = ((2, 2), (2, 2))
DOUBLE = {"float32": "float64", "complex64": "complex128"}
LENGTHS = {100: 20, 1000: 20, 10_000: 20, 100_000: 20, 1_000_000: 1}  # T: B

CELLS = {
    "KRU": lambda D: kru.KRU(D, N, FACTORS),
    "KRU, numpy": lambda D: kru.KRU(D, N, FACTORS, backend="numpy"),
    "real KRU, tanh": lambda D: kru.KRU(D, N, FACTORS, "tanh", "float32"),
    "KRU-LSTM": lambda D: kru.LSTM(D, N, kru.Kronecker(FACTORS)),
    "KRU-GRU": lambda D: kru.GRU(D, N, kru.Kronecker(FACTORS)),
    "RNN": lambda D: kru.RNN(D, N),
    "LSTM": lambda D: kru.LSTM(D, N),
    "GRU": lambda D: kru.GRU(D, N),
}
MODULES = {"RNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}


def drawn(model, rng):
    """Draw parameters of a network that forgets."""
    params = model.init(rng)
    for name in params:
        if name.startswith("cell.W"):
            params[name] *= np.float32(0.7)
        if name == "cell.b":
            params[name] += np.float32(0.1)
    return params


def in_double(model):
    """Return the same network in double precision."""
    cell = dataclasses.replace(model.cell, dtype=DOUBLE[model.cell.dtype])
    return dataclasses.replace(model, cell=cell)


def gradients(model, params, x, dlogits):
    """Return the gradients of a network, in its precision."""
    dtypes = model.dtypes()
    params = {name: p.astype(dtypes[name]) for name, p in params.items()}
    _, saved = model.forward(params, x)
    return model.backward(params, saved, dlogits)


def of_pytorch(model, params, x, dlogits):
    """Return what PyTorch's own module finds, by our names; the readout is ours."""
    own = model.cell_params(params)[0]
    module = MODULES[type(model.cell).__name__](D, N)
    weights = {name: torch.tensor(w) for name, w in kru.to_pytorch(model.cell, own).items()}
    module.load_state_dict(weights)
    V = torch.tensor(params["readout.V"], requires_grad=True)
    c = torch.tensor(params["readout.c"], requires_grad=True)
    states = [torch.tensor(own[s])[:, None].repeat(1, x.shape[-1]) for s in model.cell.state_names]
    start = tuple(s.T[None].contiguous() for s in states)
    h, _ = module(torch.tensor(x).permute(0, 2, 1), start if len(start) > 1 else start[0])
    logits = h @ V.T + c  # (T, B, M)
    logits.backward(torch.tensor(dlogits).permute(0, 2, 1))
    found = {"readout.V": V.grad, "readout.c": c.grad, "cell.U": module.weight_ih_l0.grad}
    found["cell.b"] = module.bias_ih_l0.grad
    for name, W in zip(model.cell.matrix_names, module.weight_hh_l0.grad.chunk(
        len(model.cell.gate_names)), strict=True):  # fmt: skip
        found[f"cell.{name}"] = W
    return {name: g.numpy() for name, g in found.items()}


def errors(found, exact):
    """Return each parameter's error, all of a recurrent matrix's factors and gates as one."""
    worst = {}
    for name, g in found.items():
        group = "cell.W" if name.startswith("cell.W") else name
        error = float(np.abs(g - exact[name]).max() / np.abs(exact[name]).max())
        worst[group] = max(worst.get(group, 0.0), error)
    return worst


def run(kind, inputs, T, B):
    """Return the errors of kru_ref and, where it has the cell, of PyTorch."""
    rng = np.random.default_rng(0)
    n = D if inputs == "x" else int(inputs)
    model = kru.SequenceModel(CELLS[kind](n), M)
    params = drawn(model, rng)
    x = rng.integers(n, size=(T, B)) if inputs != "x" else rng.uniform(size=(T, D, B))
    x = x if inputs != "x" else x.astype("float32")
    dlogits = (rng.uniform(0.5, 1.5, (T, M, B)) / (T * B)).astype("float32")
    exact = gradients(in_double(model), params, x, dlogits)
    found = {"kru_ref": errors(gradients(model, params, x, dlogits), exact)}
    if kind in MODULES and inputs == "x":
        found["torch"] = errors(of_pytorch(model, params, x, dlogits), exact)
    return found


def main():
    """Print a row for each network, input and parameter, a column for each length."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--longest", type=int, default=max(LENGTHS), help="largest T")
    arguments = parser.parse_args()
    measure.set_threads(arguments.threads)
    warnings.filterwarnings("ignore", message="RNN module weights")
    lengths = {T: B for T, B in LENGTHS.items() if arguments.longest >= T}
    table = {}
    for kind in CELLS:
        for inputs in ("x", *map(str, LABELS)):
            for T, B in lengths.items():
                for who, found in run(kind, inputs, T, B).items():
                    for name, error in found.items():
                        row = f"{kind:15} {inputs:>2}  {name:10} {who}"
                        table.setdefault(row, {})[T] = error
    print(f"{'network, input, parameter':40}" + "".join(f"T = {T:<9,}" for T in lengths))
    for row, found in table.items():
        print(f"{row:40}" + "".join(f"{error:<13.1e}" for error in found.values()))
    if arguments.json:
        report = measure.report(arguments.threads, arguments.rounds, table)
        measure.write_json(arguments.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
