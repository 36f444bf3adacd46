"""The compiled kernels' own account of what they compute, and the arrays that they refuse."""

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.activations import ACTIVATIONS
from kru_ref.engine import backend
from kru_ref.engine import recurrence as compiled

if backend.kernels is None:
    pytest.skip(f"{backend.reason}", allow_module_level=True)


@pytest.mark.parametrize("name", [*ACTIVATIONS, "lstm", "gru"])
def test_cells_and_kernels_mean_the_same_step(name):
    """How many gates, states and kept arrays it has, and which gradient is behind which W."""
    classes = {"lstm": kru.LSTM, "gru": kru.GRU}
    cell = classes[name](2, 4) if name in classes else kru.RNN(2, 4, activation=name)
    step = backend.kernels.KINDS[cell.kind]
    assert (step.n_gates, step.n_states) == (len(cell.gate_names), len(cell.state_names))
    assert (step.n_kept, step.d_of_W) == (cell.n_kept, cell.d_of_W)
    assert step.n_d == 1 + max(cell.d_of_W)


@pytest.mark.parametrize("what", ["W", "U", "b", "x", "before", "states", "gates"])
def test_kernels_refuse_arrays_that_do_not_fit_one_another(rng, what):
    """They would read or write beyond them."""
    cell = kru.GRU(3, 4, kru.Kronecker())
    params, x = cell.init(rng), rng.standard_normal((5, 3, 2)).astype("float32")
    _, saved = cell.forward(params, x)
    given = {"W": cell.matrices(params), "U": params["U"], "b": params["b"], **saved._asdict()}
    wrong = given[what]
    if what == "W":
        given[what] = [[w[:1] for w in W_k] for W_k in wrong]
    elif isinstance(wrong, tuple):
        given[what] = tuple(part[:-1] for part in wrong)
    else:
        given[what] = np.concatenate([wrong, wrong], axis=min(1, wrong.ndim - 1))
    params = {"U": given["U"], "b": given["b"], "b_h": params["b_h"]}
    args = (params, given["x"], given["before"], given["states"], given["gates"], 2)
    with pytest.raises(ValueError, match=r"size|shape"):
        compiled.recurrence_forward(cell.engine_key, given["W"], *args)
