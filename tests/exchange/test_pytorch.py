"""PyTorch's autograd and optimisers as oracles, in double precision."""

import dataclasses
from functools import reduce

import numpy as np
import pytest

import kru_ref as kru

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

N, D, M = 12, 3, 4


def dense_kron(factors):
    return reduce(torch.kron, factors)


MODULES = {
    "rnn-tanh": (lambda *a: torch.nn.RNN(*a), lambda *a: kru.RNN(*a, activation="tanh")),
    "rnn-relu": (
        lambda *a: torch.nn.RNN(*a, nonlinearity="relu"),
        lambda *a: kru.RNN(*a, activation="relu"),
    ),
    "lstm": (torch.nn.LSTM, kru.LSTM),
    "gru": (torch.nn.GRU, kru.GRU),
}


def as_arrays(module):
    return {name: p.detach().numpy().copy() for name, p in module.named_parameters()}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize(("T", "B"), [(1, 1), (2, 5), (17, 3)])
@pytest.mark.parametrize("layers", [1, 2])
def test_modules_of_pytorch(rng, kind, T, B, layers, record_error):
    """Weights carry over, both ways; outputs, last states and all gradients agree."""
    theirs, ours = MODULES[kind]
    module = theirs(D, N, layers).double()
    weights = as_arrays(module)
    cells = [ours(D if i == 0 else N, N, kru.Dense()) for i in range(layers)]
    cells = [dataclasses.replace(cell, dtype="float64") for cell in cells]
    model = kru.SequenceModel(cells[0] if layers == 1 else cells, M)
    params = model.init(rng)
    for i, (prefix, cell) in enumerate(zip(model.prefixes, cells, strict=True)):
        carried = kru.from_pytorch(cell, weights, layer=i)
        back = kru.to_pytorch(cell, carried, layer=i)
        for name in ("weight_ih", "weight_hh"):
            np.testing.assert_array_equal(back[f"{name}_l{i}"], weights[f"{name}_l{i}"])
        params |= {f"{prefix}.{name}": p for name, p in carried.items()}
        for name in cell.state_names:
            params[f"{prefix}.{name}"] = rng.uniform(-1, 1, N)

    x = rng.standard_normal((T, D, B))
    logits, saved = model.forward(params, x)
    inputs = torch.tensor(x.transpose(0, 2, 1), requires_grad=True)
    first = [
        torch.tensor(np.stack([params[f"{p}.{name}"] for p in model.prefixes]), requires_grad=True)
        for name in cells[0].state_names
    ]
    wide = [s[:, None].expand(layers, B, N).contiguous() for s in first]
    h, last = module(inputs, tuple(wide) if kind == "lstm" else wide[0])
    V, c = (torch.tensor(params[f"readout.{k}"], requires_grad=True) for k in "Vc")
    expected = h @ V.T + c
    np.testing.assert_allclose(logits, expected.detach().transpose(1, 2), rtol=1e-11, atol=1e-12)
    for i, state in enumerate(saved.last):
        for part, s in zip(
            last if kind == "lstm" else [last], [*state] if kind == "lstm" else [state], strict=True
        ):
            np.testing.assert_allclose(s, part[i].detach().T, rtol=1e-11, atol=1e-12)

    dlogits = rng.standard_normal(logits.shape)
    grads = model.backward(params, saved, dlogits)
    expected.backward(torch.tensor(dlogits.transpose(0, 2, 1)))
    wanted = {"readout.V": V.grad, "readout.c": c.grad}
    found = {k: grads[k] for k in wanted}
    for i, (prefix, cell) in enumerate(zip(model.prefixes, cells, strict=True)):
        own = {n: grads[f"{prefix}.{n}"] for n in cell.shapes()}
        found |= {f"U {i}": own["U"], f"b {i}": own["b"]}
        found[f"W {i}"] = np.concatenate([own[name] for name in cell.matrix_names])
        wanted[f"U {i}"] = getattr(module, f"weight_ih_l{i}").grad
        wanted[f"W {i}"] = getattr(module, f"weight_hh_l{i}").grad
        wanted[f"b {i}"] = getattr(module, f"bias_ih_l{i}").grad
        if kind == "gru":
            found[f"b_h {i}"] = own["b_h"]
            wanted[f"b_h {i}"] = getattr(module, f"bias_hh_l{i}").grad[2 * N :]
        for name, s in zip(cell.state_names, first, strict=True):
            found[f"{name} {i}"], wanted[f"{name} {i}"] = own[name], s.grad[i]
    for name, g in found.items():
        error = np.abs(g - wanted[name].numpy()).max() / max(np.abs(g).max(), 1e-3)
        record_error("PyTorch modules", error)
        assert error < 1e-11, name


def restricted_unitary(phases, v, h):
    """Write D_3 R_2 F^-1 D_2 Π R_1 F D_1 h as its paper does; a real h is N/2 complex numbers."""
    half = len(h) // 2
    x = h if h.is_complex() else torch.complex(h[:half], h[half:])

    def reflected(v, x):
        return x - 2 * v[:, None] * (v.conj() @ x) / (v.abs() ** 2).sum()

    def turned(phase, x):
        return torch.polar(torch.ones_like(phase), phase)[:, None] * x

    x = reflected(v[0], torch.fft.fft(turned(phases[0], x), dim=0, norm="ortho"))
    x = x[np.random.default_rng(0).permutation(len(x))]
    x = reflected(v[1], torch.fft.ifft(turned(phases[1], x), dim=0, norm="ortho"))
    y = turned(phases[2], x)
    return y if h.is_complex() else torch.cat([y.real, y.imag])


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("B", [1, 3])
def test_restricted_unitary_matrix(rng, draw, dtype, B, record_error):
    matrix = kru.RestrictedUnitary()
    W, h, dy = matrix.init(N, rng, np.dtype(dtype)), draw((N, B), dtype), draw((N, B), dtype)
    dW, dh = matrix.gradient(W, h, dy), matrix.adjoint(W, dy)
    phases, v = (torch.tensor(w, requires_grad=True) for w in W)
    state = torch.tensor(h, requires_grad=True)
    y = restricted_unitary(phases, v, state)
    np.testing.assert_allclose(matrix.matvec(W, h), y.detach(), rtol=1e-12, atol=1e-13)
    y.backward(torch.tensor(dy))
    for ours, theirs in [(dW[0], phases), (dW[1], v), (dh, state)]:
        wanted = theirs.grad.numpy()
        error = np.abs(ours - wanted).max() / np.abs(wanted).max()
        record_error("PyTorch autograd, restricted unitary", error)
        assert error < 1e-12


def test_pytorch_weights_that_do_not_fit(rng):
    cell = kru.LSTM(D, N)
    weights = as_arrays(torch.nn.LSTM(D, N))
    assert kru.from_pytorch(cell, weights)["U"].dtype == "float32"
    without_bias = as_arrays(torch.nn.LSTM(D, N, bias=False))
    assert not kru.from_pytorch(cell, without_bias)["b"].any()
    with pytest.raises(ValueError, match="weight_ih_l1 is missing: the weights are"):
        kru.from_pytorch(cell, weights, layer=1)
    with pytest.raises(ValueError, match=r"weight_ih_l0 must have shape \(48, 4\), got \(48, 3\)"):
        kru.from_pytorch(kru.LSTM(4, N), weights)
    with pytest.raises(TypeError, match="dense, the cell's matrix is Kronecker"):
        kru.from_pytorch(kru.LSTM(D, N, kru.Kronecker()), weights)
    for wrong in (kru.KRU(D, N), kru.RNN(D, N, activation="modrelu")):
        with pytest.raises(TypeError, match="PyTorch has the real cells RNN"):
            kru.to_pytorch(wrong, wrong.init(rng))


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
    (
        kru.RMSprop(rate=0.1, decay=0.7, epsilon=1e-3),
        torch.optim.RMSprop,
        {"lr": 0.1, "alpha": 0.7, "eps": 1e-3},
    ),
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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight_ih_l0_reverse": np.zeros((4, 3))}, "with one direction"),
        ({"rnn.bias_ih_l0": np.zeros(4)}, "is no weight that this cell has"),
        ({"weight_hr_l0": np.zeros((2, 4))}, "without projections"),
        ({"bias_ih_l0": np.zeros(4)}, "bias_hh_l0 is missing"),
        ({"weight_ih_l0": np.full((4, 3), np.nan)}, "weight_ih_l0 must be finite"),
        (
            {"weight_ih_l0": np.zeros((4, 3), complex)},
            "weight_ih_l0 must fit dtype float32",
        ),
        (
            {"weight_ih_l0": np.full((4, 3), "1")},
            "weight_ih_l0: expected real or",
        ),
    ],
)
def test_weights_that_do_not_belong_are_refused(changed, message):
    weights = {"weight_ih_l0": np.zeros((4, 3)), "weight_hh_l0": np.zeros((4, 4))}
    kru.from_pytorch(kru.RNN(3, 4), weights)
    with pytest.raises((ValueError, TypeError), match=message):
        kru.from_pytorch(kru.RNN(3, 4), weights | changed)


@pytest.mark.parametrize("bias", [-15.0, -30.0, -60.0])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gates_that_are_nearly_closed(rng, kind, bias, backend):
    """A gate as good as closed has the gradient of one, and not 0 or noise."""
    cell = getattr(kru, kind)(3, 6, kru.Kronecker(None, backend), "float64", learned_h0=False)
    params = cell.init(rng)
    params["b"][:12] = bias
    module = getattr(torch.nn, kind)(3, 6).double()
    weights = kru.to_pytorch(cell, params)
    module.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    x, dh = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 6, 2))
    h, saved = cell.forward(params, x)
    grads, _, _ = cell.backward(params, saved, dh)
    theirs = module(torch.tensor(x).transpose(1, 2))[0].transpose(1, 2)
    theirs.backward(torch.tensor(dh))
    np.testing.assert_allclose(h, theirs.detach().numpy(), rtol=1e-12)
    for ours, wanted in ((grads["U"], module.weight_ih_l0), (grads["b"], module.bias_ih_l0)):
        for gate, reference in zip(
            np.split(ours, len(cell.gate_names)),
            np.split(wanted.grad.numpy(), len(cell.gate_names)),
            strict=True,
        ):
            # each gate relative to its own, which may be 1e-26
            assert np.abs(gate - reference).max() < 1e-12 * np.abs(reference).max()
