"""Networks on complex numbers: what a complex-step check of a gradient needs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import as_array, check_params, checked_input
from ..arrays import Array
from ..cells import Cell
from ..model import SequenceModel
from ..restricted import RestrictedUnitary


@np.errstate(under="ignore")
def forward_on_complex(
    network: Cell | SequenceModel, params: Mapping[str, Array], x: ArrayLike
) -> Array:
    """Run a real cell or model on complex numbers: the analytic continuation of its ``forward``.

    For the complex-step method, whose numbers leave the real line by 1e-20 i. The NumPy loop of
    forward itself, in double precision. With it and a loss, which takes complex logits too, a
    complex-step check of the gradient is

        f = lambda p: kru.softmax_cross_entropy(forward_on_complex(model, p, x), targets)[0]
        kru.check_gradient(f, params, grads, method="complex-step")

    Parameters
    ----------
    network : Cell or SequenceModel
    params : mapping of str to ndarray
        Those of its ``init`` by names and shapes; any of them complex.
    x : array_like, shape (T, D, B), real or complex, or integers (T, B)

    Returns
    -------
    h or logits : ndarray of complex128, shape (T, N, B) or (T, M, B); (1, M, B) with ``last_only``

    Raises
    ------
    TypeError
        A complex cell, modReLU or RestrictedUnitary: not analytic in their real numbers.
    ValueError
        Parameters of other names or shapes.
    """
    params = {name: as_array(name, p) for name, p in params.items()}
    in_any_dtype = {
        name: (shape, params[name].dtype if name in params else dtype)
        for name, (shape, dtype) in network.layout.items()
    }
    check_params(params, in_any_dtype)
    if isinstance(network, Cell):
        return _states(network, params, x)
    for cell, of_cell in zip(network.cells, network.cell_params(params), strict=True):
        x = _states(cell, of_cell, x)
    h = np.asarray(x)
    if network.pooling is not None:
        parts = {
            "last": [h[-1]],
            "mean": [h.mean(axis=0)],
            "last-and-mean": [h[-1], h.mean(axis=0)],
            "moments": [h[-1], h.mean(axis=0), (h * h).mean(axis=0)],
        }
        h = np.concatenate(parts[network.pooling])[None]
    return params["readout.V"] @ h + params["readout.c"][:, None]


def _states(cell: Cell, params: dict[str, Array], x: ArrayLike) -> Array:
    if cell.is_complex or cell.kind == "modrelu":
        raise TypeError(
            "a complex cell and modReLU have no analytic continuation: they take moduli"
        )
    if isinstance(cell.matrix, RestrictedUnitary):
        raise TypeError(
            "RestrictedUnitary has no analytic continuation: it reads a real state as the "
            "two parts of a complex one"
        )
    x = as_array("x", x)
    if np.iscomplexobj(x):
        checked_input(cell, x.real)
    else:
        x = checked_input(cell, x)
    before = cell.initial_states(params, x.shape[-1], None)
    shape = before[0].shape
    states = tuple(np.empty((len(x), *shape), np.complex128) for _ in before)
    gates = np.empty((len(x), cell.n_kept, *shape), np.complex128)
    cell.run_numpy(params, x, before, states, gates)
    return states[0]
