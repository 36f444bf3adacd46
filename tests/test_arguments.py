"""Every public function against values that its arguments are not: an answer or a sentence."""

import traceback

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.checks import forward_mode

rng = np.random.default_rng(0)
cell = kru.KRU(3, 4, dtype="complex128")
model = kru.SequenceModel(cell, 2)
gru = kru.GRU(3, 4)
params, own, of_gru = model.init(rng), cell.init(rng), gru.init(rng)
x = rng.standard_normal((2, 3, 2))
logits, saved = model.forward(params, x)
grads = model.backward(params, saved, logits)
h, cell_saved = cell.forward(own, x)
optimizer = kru.Adam()
factors, square = [np.eye(2), np.eye(2)], {"a": np.ones(2)}
targets, mask = np.zeros((2, 2), int), np.ones((2, 2))

# A call of each that works, by the names of its arguments.


def cell_jvp(**arguments):
    return forward_mode.cell_jvp(cell, **arguments)


def model_jvp(**arguments):
    return forward_mode.model_jvp(model, **arguments)


CALLS = {
    kru.KRU: {
        "input_size": 3, "hidden_size": 4, "factors": [(2, 2), (2, 2)], "activation": "modrelu",
        "dtype": "complex64", "learned_h0": True, "backend": "auto",
    },
    kru.RNN: {
        "input_size": 3, "hidden_size": 4, "matrix": kru.Dense(), "activation": "tanh",
        "dtype": "float32", "learned_h0": True,
    },
    kru.LSTM: {
        "input_size": 3, "hidden_size": 4, "matrix": kru.Dense(), "dtype": "float32",
        "learned_h0": True,
    },
    kru.GRU: {
        "input_size": 3, "hidden_size": 4, "matrix": kru.Dense(), "dtype": "float32",
        "learned_h0": True,
    },
    kru.Kronecker: {"factors": [(2, 2)], "backend": "auto", "init_scheme": "haar"},
    kru.Dense: {"init_scheme": "haar"},
    kru.RestrictedUnitary: {"permutation_seed": 0},
    kru.SequenceModel: {"cell": cell, "output_size": 2, "last_only": False, "dropout": 0.1},
    kru.Adam: {
        "rate": 1e-3, "rates": {}, "unitary": (), "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8,
    },
    kru.SGD: {"rate": 0.1, "momentum": 0.5},
    kru.RMSprop: {"rate": 0.1, "decay": 0.9, "epsilon": 1e-8},
    kru.kron_matvec: {"factors": factors, "x": np.ones(4), "backend": "auto"},
    kru.kron_matvec_backward: {
        "factors": factors, "x": np.ones(4), "dy": np.ones(4), "backend": "auto",
    },
    kru.kron_matvec_jvp: {
        "factors": factors, "x": np.ones(4), "factors_dot": factors, "x_dot": np.ones(4),
    },
    kru.KroneckerProduct: {"factors": factors, "backend": "auto"},
    kru.factor_sizes: {"N": 8, "n_factors": 2},
    kru.soft_unitary: {"factors": factors},
    kru.unitarity_defect: {"factors": factors},
    kru.random_unitary: {"shape": 3, "rng": rng, "dtype": "float64"},
    kru.spread_unitary: {"sizes": [2, 2], "rng": rng, "dtype": "complex128"},
    kru.softmax_cross_entropy: {
        "logits": logits, "targets": targets, "mask": mask, "last_only": False,
    },
    kru.mean_squared_error: {
        "logits": logits, "targets": logits, "mask": mask, "last_only": False,
    },
    kru.bernoulli_cross_entropy: {
        "logits": logits, "targets": np.ones(logits.shape), "mask": mask, "last_only": False,
    },
    kru.clip_by_global_norm: {"grads": grads, "max_norm": 1.0},
    kru.check_gradient: {
        "f": lambda p: float(np.sum(p["a"] ** 2)), "params": square, "grads": {"a": 2 * np.ones(2)},
        "method": "central", "entries": None, "directions": None, "rng": rng, "tolerance": 1e-5,
    },
    kru.check_adjoint: {"operator": np.eye(2), "rng": rng, "probes": 2, "tolerance": 1e-9},
    kru.rtrl: {"model": model, "params": params, "x": x, "dlogits": logits},
    kru.RealTimeLearning: {"model": model, "params": params, "B": 2, "h0": None},
    cell.init: {"rng": rng},
    cell.forward: {"params": own, "x": x, "h0": None},
    cell.backward: {"params": own, "saved": cell_saved, "dh": h, "input_gradient": True},
    cell_jvp: {"params": own, "x": x, "params_dot": own, "x_dot": x, "h0": None},
    model.init: {"rng": rng},
    model.forward: {"params": params, "x": x, "h0": None, "rng": None},
    model.backward: {"params": params, "saved": saved, "dlogits": logits},
    model_jvp: {"params": params, "x": x, "params_dot": params, "x_dot": x},
    model.penalty: {"params": params},
    model.defect: {"params": params},
    optimizer.init: {"params": params},
    optimizer.update: {"params": params, "grads": grads, "state": optimizer.init(params)},
    kru.from_pytorch: {"cell": gru, "weights": kru.to_pytorch(gru, of_gru), "layer": 0},
    kru.to_pytorch: {"cell": gru, "params": of_gru, "layer": 0},
}  # fmt: skip
VALUES = [
    None, np.float32(0.3), np.int64(2), np.nan, np.inf, -np.inf, 0, -1, 2.5, 1e300, 10**30, "a",
    "", b"a", True, [], (), {}, [None], object(), 1j, np.array(2.0), np.zeros((0, 2)),
    np.zeros((2, 0)), np.array(["a"]), Ellipsis, {"a": None}, {1: 2}, range(3), set(),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_an_answer_or_a_sentence(call):
    given = CALLS[call]
    call(**given)
    for name in given:
        if (call, name) == (kru.check_gradient, "f"):
            continue  # what it raises is its own
        for value in VALUES:
            error = refusal(call, {**given, name: value})
            if error is not None:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{name}={value!r}: {frame.filename}:{frame.lineno} {error}"
                assert "kru_ref" in frame.filename, what
                assert frame.line.lstrip().startswith("raise"), what
                assert 10 < len(str(error)) < 400, what


def refusal(call, arguments):
    try:
        call(**arguments)
    except (ValueError, TypeError, ImportError) as error:
        return error
    return None


@pytest.mark.parametrize(
    "value", [None, 0, 1, "False", np.int64(1), np.nan, [], np.array(True)], ids=repr
)
def test_flags_are_true_or_false(value):
    for make in (
        lambda: kru.KRU(3, 4, learned_h0=value),
        lambda: kru.SequenceModel(cell, 2, last_only=value),
        lambda: kru.mean_squared_error(logits, logits, last_only=value),
        lambda: cell.backward(own, cell_saved, h, input_gradient=value),
    ):
        with pytest.raises(TypeError, match="must be True or False, got"):
            make()
    assert kru.KRU(3, 4, learned_h0=np.True_).learned_h0 is True


def test_searches_end():
    """The most divisors below the bound, in every number of factors; the most probes."""
    for n_factors in range(1, 17):
        sizes = kru.factor_sizes(963_761_198_400, n_factors)
        assert np.prod(sizes) == 963_761_198_400
        assert len(sizes) == n_factors
    for N in (2**40, 3**25, 999_999_999_989):
        assert np.prod(kru.factor_sizes(N)) == N
    for options in ({"directions": 10**9}, {"entries": 10**9}):
        with pytest.raises(ValueError, match=r"must be at most 1,048,576, got 1,000,000,000"):
            kru.check_gradient(lambda p: 1.0, square, square, rng=rng, **options)
    with pytest.raises(ValueError, match="must be at most"):
        kru.check_adjoint(np.eye(2), rng, probes=10**9)
