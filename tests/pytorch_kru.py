"""A Kronecker recurrent unit in PyTorch, written from the vectors' README.md alone.

    python pytorch_kru.py VECTORS RESULTS [--mistake NAME]

computes the Kronecker products, all networks of `rnn` cells over `kronecker` matrices and their
training by PyTorch's own optimizers, and writes what `kru-ref vectors verify VECTORS RESULTS`
compares. With a mistake planted, verify must say so. It knows nothing of kru_ref.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

MISTAKES = {
    "conjugate": "gradients as JAX has them, ∂L/∂Re z - i ∂L/∂Im z",
    "transpose": "gradients of the factors transposed",
    "sum": "the loss summed over the batch, averaged over time alone",
    "penalty": "‖W^H W - I‖ instead of its square",
    "order": "the first factor's index running fastest",
    "mask": "the mask ignored",
    "late": "the first step starts from 0 instead of h0",
    "modulus": "modReLU without max: |z| + b may be negative",
}


def product(factors, x, mistake):
    """Multiply by W_0 ⊗ W_1 ⊗ …, one factor at a time."""
    if mistake == "order":
        factors = factors[::-1]
    B = x.shape[1]
    x = x.reshape(*(W.shape[1] for W in factors), B)
    for f, W in enumerate(factors):
        x = torch.movedim(torch.tensordot(W, x, dims=([1], [f])), 0, f)
    return x.reshape(-1, B)


def activate(name, z, b, mistake):
    b = b[:, None]
    if name == "modrelu":
        r = z.abs()
        length = r + b if mistake == "modulus" else torch.relu(r + b)
        return length * z / r
    return {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}[name](z + b)


def states(cell, p, xs, mistake):
    """Return h_1 … h_T (T, N, B)."""
    factors = [p[f"W.{f}"] for f in range(len(cell["factors"]))]
    h0 = 0 * p["h0"] if mistake == "late" else p["h0"]
    h = h0[:, None].expand(-1, xs.shape[-1])
    hs = []
    for x in xs:
        z = product(factors, h, mistake) + p["U"] @ x.to(p["U"].dtype)
        h = activate(cell["activation"], z, p["b"], mistake)
        hs.append(h)
    return torch.stack(hs)


def network(settings, arrays, mistake):
    """Return outputs and gradients of a network."""
    params = {
        key.removeprefix("params/"): torch.tensor(a, requires_grad=True)
        for key, a in arrays.items()
        if key.startswith("params/")
    }
    cells, x = settings["cells"], torch.tensor(arrays["inputs/x"])
    if settings["one_hot"]:
        x = torch.nn.functional.one_hot(x, cells[0]["input_size"]).mT.double()
    outputs, penalty = {}, 0.0
    for i, cell in enumerate(cells):
        prefix = "cell." if len(cells) == 1 else f"cell.{i}."
        own = {k.removeprefix(prefix): p for k, p in params.items() if k.startswith(prefix)}
        h = states(cell, own, x, mistake)
        outputs[f"{prefix}h"] = h
        x = torch.cat([h.real, h.imag], dim=1) if h.is_complex() else h
        for f in range(len(cell["factors"])):
            W = own[f"W.{f}"]
            norm = torch.linalg.matrix_norm(W.mH @ W - torch.eye(W.shape[1]))
            penalty = penalty + (norm if mistake == "penalty" else norm**2)
    x = x[-1:] if settings["last_only"] else x
    logits = params["readout.V"] @ x + params["readout.c"][:, None]
    outputs["logits"] = logits
    loss = average(settings, arrays, logits, mistake) + settings["penalty"] * penalty
    outputs["loss"] = loss
    loss.backward()
    return outputs, {
        k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in params.items()
    }


def training(settings, arrays, mistake):
    """Return losses, parameters and gradients of some updates."""
    rule = dict(settings["optimizer"])
    params = {
        key.removeprefix("params/"): torch.nn.Parameter(torch.tensor(a))
        for key, a in arrays.items()
        if key.startswith("params/")
    }
    recurrent = [p for name, p in params.items() if ".W." in name]
    others = [p for name, p in params.items() if ".W." not in name]
    groups = [{"params": others}, {"params": recurrent, "lr": rule["recurrent_rate"]}]
    make = {
        "sgd": lambda: torch.optim.SGD(groups, rule["rate"], rule["momentum"]),
        "rmsprop": lambda: torch.optim.RMSprop(
            groups, rule["rate"], rule["decay"], rule["epsilon"]
        ),
        "adam": lambda: torch.optim.Adam(
            groups, rule["rate"], (rule["beta1"], rule["beta2"]), rule["epsilon"]
        ),
    }
    optimizer, losses = make[rule["rule"]](), []
    after, all_grads = ({name: [] for name in params} for _ in range(2))
    for x, targets in zip(arrays["inputs/x"], arrays["inputs/targets"], strict=True):
        now = {f"params/{name}": p.detach().numpy() for name, p in params.items()}
        batch = now | {"inputs/x": x, "inputs/targets": targets}
        outputs, grads = network(settings, batch, mistake)
        losses.append(outputs["loss"])
        # clip_grad_norm_ would add 1e-6 to the norm
        norm = sum(g.abs().square().sum() for g in grads.values()).sqrt()
        for name, p in params.items():
            all_grads[name].append(grads[name])
            p.grad = grads[name] * min(1.0, rule["max_norm"] / norm)
        optimizer.step()
        for name, p in params.items():
            after[name].append(p.detach().clone())
    outputs = {"loss": torch.stack(losses)}
    outputs |= {f"after/{name}": torch.stack(made) for name, made in after.items()}
    return outputs, {name: torch.stack(made) for name, made in all_grads.items()}


def average(settings, arrays, logits, mistake):
    """Return the loss without the penalty."""
    targets = torch.tensor(arrays["inputs/targets"])
    if settings["last_only"]:
        targets = targets[None]
    if settings["loss"] == "softmax":
        values = torch.nn.functional.cross_entropy(logits, targets, reduction="none")  # (T, B)
    elif settings["loss"] == "squared":
        values = ((logits - targets) ** 2).mean(dim=1)
    else:
        values = (torch.nn.functional.softplus(logits) - targets * logits).sum(dim=1)
    if settings["mask"] and mistake != "mask":
        mask = torch.tensor(arrays["inputs/mask"])
        return (mask * values).sum() / mask.sum()
    if mistake == "sum":
        return values.sum() / len(values)
    return values.mean()


def kronecker_product(settings, arrays, mistake):
    """Return y, and gradients of Re Σ conj(dy) y."""
    p = {
        key.split("/")[1]: torch.tensor(a, requires_grad=True)
        for key, a in arrays.items()
        if key in ("inputs/x",) or key.startswith("params/")
    }
    factors = [p[f"W.{f}"] for f in range(len(settings["factors"]))]
    y = product(factors, p["x"], mistake)
    (torch.tensor(arrays["inputs/dy"]).conj() * y).real.sum().backward()
    return {"y": y}, {name: value.grad for name, value in p.items()}


def main():
    """Compute every case that this program knows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--mistake", choices=MISTAKES)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    torch.set_default_dtype(torch.float64)
    for case in json.loads((arguments.vectors / "index.json").read_text())["cases"]:
        settings = case["settings"]
        cells = settings.get("cells", [])
        if any(c["cell"] != "rnn" or c["matrix"] != "kronecker" for c in cells):
            continue
        arrays = np.load(arguments.vectors / case["file"])
        kinds = {"product": kronecker_product, "network": network, "training": training}
        outputs, grads = kinds[settings["kind"]](settings, arrays, arguments.mistake)
        if arguments.mistake == "conjugate":
            grads = {name: g.conj().resolve_conj() for name, g in grads.items()}
        if arguments.mistake == "transpose":
            grads = {
                name: g.mT.reshape(g.shape) if "W." in name else g for name, g in grads.items()
            }
        results = {f"outputs/{name}": a.detach().numpy() for name, a in outputs.items()}
        results |= {f"grads/{name}": g.numpy() for name, g in grads.items()}
        np.savez(arguments.results / case["file"], **results)


if __name__ == "__main__":
    main()
