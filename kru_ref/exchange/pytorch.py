"""Weights by the names and in the layout of torch.nn.RNN, LSTM and GRU, as plain arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked_array, checked_size
from ..arrays import Array
from ..cells import GRU, LSTM, RNN, Cell, Params, check_params
from ..matrices import Dense

_NAME = re.compile(r"(weight|bias)_(ih|hh)_l\d+")


def from_pytorch(cell: Cell, weights: Mapping[str, ArrayLike], layer: int = 0) -> Params:
    """Return a cell's parameters for the weights of one layer of a PyTorch module.

    Parameters
    ----------
    cell : RNN, LSTM or GRU
        Real, over :class:`Dense`; an RNN with tanh or relu.
    weights : mapping of str to array_like
        The module's ``state_dict()``, its tensors as arrays: "weight_ih_l0" (G N, D),
        "weight_hh_l0" (G N, N), and "bias_ih_l0", "bias_hh_l0" (G N,) unless it has none.
    layer : int
        Which layer; names end with its number.

    Returns
    -------
    params : dict of str to ndarray
        In the cell's precision. PyTorch learns no first state: "h0" and "c0" are 0.

    Raises
    ------
    ValueError, TypeError
        A cell that no PyTorch module computes; weights that are missing, of another shape, complex
        or not finite; names that are none of these, as of a second direction or a projection.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> draw = np.random.default_rng(0).standard_normal  # for torch.nn.LSTM(3, 4).state_dict()
    >>> weights = {"weight_ih_l0": draw((16, 3)), "weight_hh_l0": draw((16, 4))}
    >>> params = kru.from_pytorch(kru.LSTM(3, 4, kru.Dense()), weights)
    >>> sorted(params)
    ['U', 'W.f', 'W.g', 'W.i', 'W.o', 'b', 'c0', 'h0']
    """
    _check_cell(cell)
    if not isinstance(cell.matrix, Dense):
        raise TypeError(f"PyTorch's weights are dense, the cell's matrix is {cell.matrix!r}")
    layer = checked_size("layer", layer, least=0)
    _check_names(weights)
    N, n_gates = cell.hidden_size, len(cell.gate_names)
    shapes = {
        "weight_ih": (n_gates * N, cell.input_size),
        "weight_hh": (n_gates * N, N),
        "bias_ih": (n_gates * N,),
        "bias_hh": (n_gates * N,),
    }
    has_bias = any(f"{name}_l{layer}" in weights for name in ("bias_ih", "bias_hh"))
    found = {name: np.zeros(shape, cell.dtype) for name, shape in shapes.items()}
    for name in shapes if has_bias else ("weight_ih", "weight_hh"):
        full, dtype = f"{name}_l{layer}", np.dtype(cell.dtype)
        found[name] = _weight(weights, full, shapes[name], dtype)
    params = dict(zip(cell.matrix_names, np.split(found["weight_hh"], n_gates), strict=True))
    params |= {"U": found["weight_ih"], "b": found["bias_ih"] + found["bias_hh"]}
    if isinstance(cell, GRU):
        params["b"][2 * N :] = found["bias_ih"][2 * N :]
        params["b_h"] = found["bias_hh"][2 * N :].copy()
    if cell.learned_h0:
        params |= {name: np.zeros(N, cell.dtype) for name in cell.state_names}
    return params


def _check_names(weights: Mapping[str, ArrayLike]) -> None:
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must be a dict of arrays by name, got {weights!r}")
    unknown = sorted(name for name in weights if not _NAME.fullmatch(str(name)))
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no weight that this cell has: take the state_dict() of the "
            "torch.nn.RNN, LSTM or GRU itself, with one direction and without projections"
        )


def _weight(
    weights: Mapping[str, ArrayLike], name: str, shape: tuple[int, ...], dtype: np.dtype
) -> Array:
    if name not in weights:
        raise ValueError(f"{name} is missing: the weights are {sorted(weights)}")
    weight = checked_array(name, weights[name], shape, dtype).copy()
    if not np.isfinite(weight).all():
        raise ValueError(f"{name} must be finite")
    return weight


def to_pytorch(cell: Cell, params: Mapping[str, Array], layer: int = 0) -> dict[str, Array]:
    """Return a cell's parameters as the weights of one layer of a PyTorch module.

    Parameters
    ----------
    cell : RNN, LSTM or GRU
        Real, over any matrix, which is multiplied out; an RNN with tanh or relu.
    params : mapping of str to ndarray
        The cell's.
    layer : int
        Which layer; names end with its number.

    Returns
    -------
    weights : dict of str to ndarray
        As :func:`from_pytorch` takes them. The learned first state is no weight of the
        module's: hand it "h0" and "c0" as its initial state.

    Raises
    ------
    ValueError, TypeError
        A cell that no PyTorch module computes, or parameters of another cell.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> cell = kru.GRU(3, 4, kru.Kronecker())
    >>> weights = kru.to_pytorch(cell, cell.init(np.random.default_rng(0)))
    >>> {name: weight.shape for name, weight in weights.items() if "weight" in name}
    {'weight_ih_l0': (12, 3), 'weight_hh_l0': (12, 4)}
    """
    _check_cell(cell)
    layer = checked_size("layer", layer, least=0)
    params = check_params(params, cell.layout)
    identity = np.eye(cell.hidden_size, dtype=cell.dtype)
    weight_hh = [cell.matrix.matvec(W, identity) for W in cell.matrices(params)]
    bias_hh = np.zeros_like(params["b"])
    if isinstance(cell, GRU):
        bias_hh[2 * cell.hidden_size :] = params["b_h"]
    return {
        f"weight_ih_l{layer}": params["U"].copy(),
        f"weight_hh_l{layer}": np.concatenate(weight_hh),
        f"bias_ih_l{layer}": params["b"].copy(),
        f"bias_hh_l{layer}": bias_hh,
    }


def _check_cell(cell: Cell) -> None:
    simple = isinstance(cell, RNN) and cell.activation in ("tanh", "relu") and cell.leak == 1
    if not (simple or isinstance(cell, LSTM | GRU)):
        raise TypeError(
            f"PyTorch has the real cells RNN (tanh or relu, no leak), LSTM and GRU, got {cell!r}"
        )
