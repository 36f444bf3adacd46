"""PyTorch's autograd and optimisers as oracles, in double precision."""

from functools import reduce

import numpy as np
import pytest

import kru_ref as kru

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

N, D, M = 12, 3, 4


def dense_kron(factors):
    return reduce(torch.kron, factors)


def activation(name, z, b):
    b = b[:, None]
    if name == "modrelu":
        r = z.abs()
        return torch.relu(r + b) * z / r
    return {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda v: v}[name](z + b)


def torch_logits(model, p, x):
    """Run the whole model, written with a dense W and autograd."""
    cell = model.cell
    W = dense_kron([p[f"cell.{name}"] for name in cell.matrix_names])
    h = p["cell.h0"][:, None].expand(-1, x.shape[-1])
    logits = []
    for x_t in x:
        h = activation(cell.activation, W @ h + p["cell.U"] @ x_t.to(W.dtype), p["cell.b"])
        features = torch.cat([h.real, h.imag]) if cell.is_complex else h
        logits.append(p["readout.V"] @ features + p["readout.c"][:, None])
    return torch.stack(logits)


def torch_loss(name, logits, targets):
    if name == "softmax":
        return torch.nn.functional.cross_entropy(logits, targets)
    if name == "squared":
        return torch.nn.functional.mse_loss(logits, targets)
    steps = logits.shape[0] * logits.shape[2]
    function = torch.nn.functional.binary_cross_entropy_with_logits
    return function(logits, targets, reduction="sum") / steps


LOSSES = {
    "softmax": kru.softmax_cross_entropy,
    "squared": kru.mean_squared_error,
    "bernoulli": kru.bernoulli_cross_entropy,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("modrelu", "float64"),
        ("tanh", "float64"),
        ("relu", "float64"),
        ("identity", "float64"),
        ("modrelu", "complex128"),
        ("identity", "complex128"),
    ],
)
@pytest.mark.parametrize("factors", [((2, 3), (3, 2), (2, 2)), ((1, 4), (12, 3)), None, "dense"])
@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 5), (17, 3)])
def test_gradients_of_the_model(rng, backend, factors, name, dtype, loss, T, B, record_error):
    if factors == "dense":
        cell = kru.RNN(D, N, kru.Dense(), name, dtype)
    else:
        cell = kru.KRU(D, N, factors, name, dtype, backend=backend)
    model = kru.SequenceModel(cell, M)
    params = model.init(rng)
    params["cell.b"] = rng.uniform(-0.2, 0.2, N)
    for key in cell.matrix_names:  # away from unitary, where the penalty has no gradient
        params[f"cell.{key}"] = params[f"cell.{key}"] * rng.uniform(0.7, 1.3)
    x = rng.standard_normal((T, D, B))
    targets = {
        "softmax": rng.integers(M, size=(T, B)),
        "squared": rng.standard_normal((T, M, B)),
        "bernoulli": rng.integers(2, size=(T, M, B)).astype(float),
    }[loss]

    logits, saved = model.forward(params, x)
    value, dlogits = LOSSES[loss](logits, targets)
    grads = model.backward(params, saved, dlogits)
    penalty, dW = model.penalty(params)
    for key, g in dW.items():
        grads[key] = grads[key] + 0.7 * g

    p = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    expected = torch_logits(model, p, torch.tensor(x))
    np.testing.assert_allclose(logits, expected.detach(), rtol=1e-11, atol=1e-12)
    expected_loss = torch_loss(loss, expected, torch.tensor(targets))
    assert value == pytest.approx(expected_loss.item(), rel=1e-12)
    unitary = sum(
        torch.linalg.matrix_norm(W.mH @ W - torch.eye(W.shape[1])) ** 2
        for W in (p[f"cell.{key}"] for key in cell.matrix_names)
    )
    assert penalty == pytest.approx(unitary.item(), rel=1e-12)
    (expected_loss + 0.7 * unitary).backward()
    for key, g in grads.items():
        wanted = p[key].grad.numpy()
        error = np.abs(g - wanted).max() / max(np.abs(wanted).max(), 1e-3)
        record_error(f"PyTorch autograd, {backend}", error)
        assert error < 1e-11, key


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradients_of_the_product(draw, backend, dtype, record_error):
    shapes = [(2, 3), (5, 4), (1, 2)]
    factors, x, dy = [draw(s, dtype) for s in shapes], draw((24, 3), dtype), draw((10, 3), dtype)
    dfactors, dx = kru.kron_matvec_backward(factors, x, dy, backend)
    Ws = [torch.tensor(W, requires_grad=True) for W in factors]
    X = torch.tensor(x, requires_grad=True)
    (dense_kron(Ws) @ X).backward(torch.tensor(dy))
    for ours, theirs in [*zip(dfactors, Ws, strict=True), (dx, X)]:
        wanted = theirs.grad.numpy()
        error = np.abs(ours - wanted).max() / np.abs(wanted).max()
        record_error(f"PyTorch autograd, {backend}", error)
        assert error < 1e-13


OPTIMIZERS = [
    (kru.SGD(rate=0.1), torch.optim.SGD, {"lr": 0.1}),
    (kru.SGD(rate=0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (kru.RMSprop(rate=0.1), torch.optim.RMSprop, {"lr": 0.1, "alpha": 0.9}),
    (kru.Adam(rate=0.1), torch.optim.Adam, {"lr": 0.1}),
    (
        kru.Adam(rate=0.1, beta1=0.7, beta2=0.9, epsilon=1e-3),
        torch.optim.Adam,
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3},
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "settings"), OPTIMIZERS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_updates(draw, ours, theirs, settings, dtype):
    params = {"p": draw((4, 3), dtype), "q": draw((2,), dtype)}
    copies = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    optimizer, state = theirs(copies.values(), **settings), ours.init(params)
    for _ in range(20):
        grads = {k: draw(p.shape, dtype) for k, p in params.items()}
        for k, g in grads.items():
            copies[k].grad = torch.tensor(g)
        optimizer.step()
        params, state = ours.update(params, grads, state)
    for k, p in params.items():
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(p, copies[k].detach().numpy(), rtol=0, atol=200 * eps)


def test_clipping(draw):
    grads = {"p": draw((4, 3)), "q": draw(2, "float64")}
    copies = [torch.zeros(g.shape, dtype=torch.tensor(g).dtype) for g in grads.values()]
    for copy, g in zip(copies, grads.values(), strict=True):
        copy.grad = torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(copies, 0.5)
    clipped, measured = kru.clip_by_global_norm(grads, 0.5)
    assert measured == pytest.approx(norm.item())
    for copy, g in zip(copies, clipped.values(), strict=True):
        # PyTorch adds 1e-6 to the norm it divides by
        np.testing.assert_allclose(g, copy.grad.numpy(), rtol=1e-5)
