"""Conformance vectors: cases that another implementation computes; verify.py compares them.

Beside this file ``vectors.md`` describes them to a reader who has never seen Python,
``vectors.schema.json`` is the JSON Schema of their index, and ``vectors.flags.json`` holds the
mistakes that each case catches, found by running them: ``tests/checks/flagged.py`` writes it.
"""

import functools
import hashlib
import itertools
import json
import math
import operator
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..arrays import Array
from ..cells import GRU, LRU, LSTM, RNN, Cell
from ..engine.backend import Backend
from ..files import ArchiveError, read_npz, write_atomically
from ..kronecker import kron_matvec, kron_matvec_backward
from ..matrices import Dense, Diagonal, FullUnitary, Kronecker, Matrix
from ..model import SequenceModel
from ..optimizers import OPTIMIZERS, clip_by_global_norm
from ..restricted import RestrictedUnitary, permutation
from .oracles import LOSSES

FORMAT = 2
INDEX, PAGE, SCHEMA = "index.json", "README.md", "index.schema.json"
FACTORS = ((2, 3), (3, 2))
# No two of 2, T, B, M, D, N and their products are alike, nor the number of factors: the error
# tells what a mean is over.
D, N, M = 7, 6, 5
SHORT = ((1, 3), (4, 1), (3, 4))
LONG = ((1, 3), (4, 1), (17, 3))
STRENGTH = 0.5
N_UPDATES = 10
# A case may not take more of a reader's memory.
LARGEST_ARRAY = 2**24

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One problem with its solution: settings for the index, and arrays by their names."""

    name: str
    settings: dict[str, Any]
    arrays: Arrays


def cases(backend: Backend = "numpy") -> Iterator[Case]:
    """Compute all cases of this version; those that are published with the NumPy backend."""
    shapes_of = [(2, 2)] * 3, [(2, 3), (5, 4), (1, 2)], [(3, 1), (1, 4)], [(7, 7)]
    for shapes, dtype, B in itertools.product(shapes_of, ("float64", "complex128"), (1, 4)):
        yield _product(shapes, dtype, B, backend)
    yield from _activations(backend)
    yield from _losses_and_factors(backend)
    yield from _gated(backend)
    yield from _other_matrices(backend)
    yield from _diagonal(backend)
    yield from _trained(backend)


def _activations(backend: Backend) -> Iterator[Case]:
    """Compute a KRU with each nonlinearity, and what only modReLU makes a difference to."""
    for dtype, activation in [
        ("float64", "modrelu"),
        ("float64", "tanh"),
        ("float64", "relu"),
        ("float64", "identity"),
        ("complex128", "modrelu"),
        ("complex128", "identity"),
    ]:
        cell = RNN(D, N, Kronecker(FACTORS, backend), activation, dtype)
        what = f"kru-{activation}-{'complex' if cell.is_complex else 'real'}"
        for T, B in LONG if activation in ("modrelu", "tanh") else SHORT:
            yield _network(f"{what}-{T}x{B}", [cell], T, B)
        if activation == "modrelu":
            yield _network(f"{what}-1x1", [cell], 1, 1)
            yield _network(f"{what}-3x4", [cell], 3, 4)
            yield _network(f"{what}-penalty", [cell], 4, 3, strength=STRENGTH)
            yield _network(f"{what}-one-hot", [cell], 4, 3, one_hot=True)
            yield _network(f"{what}-mask", [cell], 4, 3, mask="steps")


def _losses_and_factors(backend: Backend) -> Iterator[Case]:
    """Compute a complex KRU with each loss, and over factors of other shapes and numbers."""
    kru = RNN(D, N, Kronecker(FACTORS, backend), "modrelu", "complex128")
    for loss in ("squared", "bernoulli"):
        yield _network(f"kru-{loss}", [kru], 4, 3, loss=loss)
        yield _network(f"kru-{loss}-mask", [kru], 4, 3, loss=loss, mask="steps")
        yield _network(f"kru-{loss}-last-step", [kru], 4, 3, loss=loss, last_only=True)
    yield _network("kru-last-step", [kru], 4, 3, last_only=True)
    yield _network("kru-last-step-mask", [kru], 3, 4, last_only=True, mask="weights")
    yield _network("kru-weights", [kru], 4, 3, mask="weights")
    tall = RNN(D, N, Kronecker(((1, 3), (6, 2)), backend), "modrelu", "complex128")
    yield _network("kru-tall-factors-penalty", [tall], 3, 4, strength=STRENGTH)
    three = RNN(D, N, Kronecker(((1, 2), (2, 3), (3, 1)), backend), "modrelu", "complex128")
    yield _network("kru-three-factors", [three], 4, 8)
    for dtype in ("float64", "complex128"):
        single = RNN(D, 4, Kronecker(((4, 4),), backend), "modrelu", dtype)
        yield _network(f"kru-one-factor-{dtype}", [single], 3, 8)
    yield _network("kru-all", [kru], 17, 3, strength=STRENGTH, mask="weights", one_hot=True)
    above = RNN(2 * N, 4, Kronecker(None, backend), "modrelu", "complex128")
    yield _network("kru-two-layers", [kru, above], 3, 8)


def _gated(backend: Backend) -> Iterator[Case]:
    """Compute LSTM and GRU over each kind of matrix."""
    kronecker, dense = Kronecker(FACTORS, backend), Dense(backend=backend)
    restricted = RestrictedUnitary()
    lengths: tuple[tuple[Matrix, Sequence[tuple[int, int]]], ...]
    lengths = (dense, SHORT), (kronecker, LONG), (restricted, SHORT[-1:])
    for (matrix, sizes), kind in itertools.product(lengths, (LSTM, GRU)):
        for T, B in sizes:
            name = f"{KINDS[type(matrix)]}-{kind.__name__.lower()}-{T}x{B}"
            yield _network(name, [kind(D, N, matrix, "float64")], T, B)
    lstm = LSTM(D, N, kronecker, "float64")
    yield _network("kronecker-lstm-mask", [lstm], 4, 3, mask="steps")
    below, above = LSTM(D, 4, Kronecker(None, backend), "float64"), GRU(4, N, dense, "float64")
    yield _network("two-gated-layers", [below, above], 3, 8)
    yield _network("kronecker-lstm-penalty", [lstm], 4, 3, strength=STRENGTH)


def _other_matrices(backend: Backend) -> Iterator[Case]:
    """Compute a simple cell over each other kind of matrix."""
    dense, full = Dense(backend=backend), FullUnitary(backend)
    matrices: tuple[Matrix, ...] = dense, RestrictedUnitary(), full
    for matrix, dtype in itertools.product(matrices, ("float64", "complex128")):
        what = f"{KINDS[type(matrix)]}-rnn-{dtype}"
        rnn = RNN(D, N, matrix, "modrelu", dtype)
        if not matrix.kept_unitary:  # without the penalty it is a dense one
            yield _network(what, [rnn], 4, 3)
        yield _network(f"{what}-penalty", [rnn], 3, 4, strength=STRENGTH)
        if matrix.kept_unitary:  # of a unitary W a penalty would be 0, and pass
            name = f"{what}-not-unitary-penalty"
            yield _network(name, [rnn], 3, 4, strength=STRENGTH, unitary=False)


def _diagonal(backend: Backend) -> Iterator[Case]:
    """Compute a linear recurrent unit, and a simple cell over its matrix."""
    W = Diagonal(backend=backend)
    lru = LRU(D, N, W, "complex128")
    for T, B in LONG:
        yield _network(f"lru-{T}x{B}", [lru], T, B)
    yield _network("lru-one-hot", [lru], 4, 3, one_hot=True)
    yield _network("lru-penalty", [lru], 3, 4, strength=STRENGTH)
    above = LRU(2 * N, 4, W, "complex128")
    yield _network("lru-two-layers", [lru, above], 3, 8)
    yield _network("diagonal-rnn", [RNN(D, N, W, "modrelu", "complex128")], 4, 3)


def _trained(backend: Backend) -> Iterator[Case]:
    """Compute updates of a few networks by each rule."""
    kronecker = Kronecker(FACTORS, backend)
    kru = RNN(D, N, kronecker, "modrelu", "complex128")
    for rule, constants in (
        ("sgd", {"momentum": 0.75}),
        ("rmsprop", {"decay": 0.875, "epsilon": 1e-8}),
        ("adam", {"beta1": 0.75, "beta2": 0.875, "epsilon": 1e-8}),
    ):
        yield _training(f"training-kru-{rule}", kru, {"rule": rule, **constants}, STRENGTH)
    adam = {"rule": "adam", "beta1": 0.75, "beta2": 0.875, "epsilon": 1e-8}
    yield _training("training-lstm-adam", LSTM(D, N, kronecker, "float64"), adam, 0.0)
    full = RNN(D, N, FullUnitary(backend), "tanh", "float64")
    rmsprop = {"rule": "rmsprop", "decay": 0.875, "epsilon": 1e-8}
    yield _training("training-full-rmsprop", full, rmsprop, 0.0)
    full = RNN(D, N, FullUnitary(backend), "modrelu", "complex128")
    yield _training("training-full-complex-adam", full, adam, 0.0)
    yield _training("training-full-complex-sgd", full, {"rule": "sgd", "momentum": 0.75}, 0.0)


KINDS: dict[type, str] = {
    Dense: "dense",
    Kronecker: "kronecker",
    RestrictedUnitary: "restricted",
    FullUnitary: "full",
    Diagonal: "diagonal",
}


def _product(shapes: list[tuple[int, int]], dtype: str, B: int, backend: Backend) -> Case:
    """Compute a Kronecker product and its gradients."""
    name = f"product-{'-'.join(f'{P}x{Q}' for P, Q in shapes)}-{dtype}-{B}"
    rows, columns = (math.prod(sizes) for sizes in zip(*shapes, strict=True))
    factors = [numbers(f"{name} W.{f}", shape, dtype) for f, shape in enumerate(shapes)]
    x, dy = numbers(f"{name} x", (columns, B), dtype), numbers(f"{name} dy", (rows, B), dtype)
    dfactors, dx = kron_matvec_backward(factors, x, dy, backend)
    arrays = {f"params/W.{f}": W for f, W in enumerate(factors)} | {"inputs/x": x, "inputs/dy": dy}
    arrays["outputs/y"] = kron_matvec(factors, x, backend)
    arrays |= {f"grads/W.{f}": dW for f, dW in enumerate(dfactors)} | {"grads/x": dx}
    settings = {"kind": "product", "factors": [list(s) for s in shapes], "dtype": dtype, "B": B}
    return Case(name, settings, arrays)


def _network(
    name: str,
    cells: list[RNN | LSTM | GRU | LRU],
    T: int,
    B: int,
    *,
    loss: str = "softmax",
    strength: float = 0.0,
    one_hot: bool = False,
    mask: Literal["none", "steps", "weights"] = "none",
    last_only: bool = False,
    unitary: bool = True,
) -> Case:
    """Compute a network's states, logits and loss, and every gradient."""
    model = SequenceModel(cells[0] if len(cells) == 1 else cells, M, last_only)
    params = _parameters(name, model, unitary)
    if one_hot:
        x: NDArray[Any] = whole_numbers(f"{name} x", (T, B), D)
    else:
        x = numbers(f"{name} x", (T, D, B), "float64")
    steps = (B,) if last_only else (T, B)
    targets = _targets(f"{name} targets", loss, steps)
    weights = None if mask == "none" else _mask(f"{name} mask", steps, mask == "steps")

    logits, saved = model.forward(params, x)
    value, dlogits = LOSSES[loss](logits, targets, weights, last_only)
    grads = model.backward(params, saved, dlogits)
    penalty, grads = model.add_penalty(params, grads, strength)
    arrays: Arrays = {f"params/{key}": p for key, p in params.items()}
    arrays |= {"inputs/x": x, "inputs/targets": targets}
    if weights is not None:
        arrays["inputs/mask"] = weights
    for prefix, of_cell in zip(model.prefixes, saved.cells, strict=True):
        arrays[f"outputs/{prefix}.h"] = np.array(of_cell.h)
    arrays |= {"outputs/logits": logits, "outputs/loss": np.array(value + strength * penalty)}
    arrays |= {f"grads/{key}": g for key, g in grads.items()}
    settings = {
        "kind": "network",
        "cells": [_describe(cell) for cell in cells],
        "output_size": M,
        "T": T,
        "B": B,
        "loss": loss,
        "penalty": strength,
        "one_hot": one_hot,
        "mask": weights is not None,
        "last_only": last_only,
    }
    return Case(name, settings, arrays)


def _training(name: str, cell: Cell, rule: dict[str, Any], strength: float) -> Case:
    """Compute the losses, gradients and parameters of some updates, each on a batch of its own."""
    T, B = 3, 4
    model = SequenceModel(cell, M)
    params = _parameters(name, model)
    x = numbers(f"{name} x", (N_UPDATES, T, D, B), "float64")
    targets = whole_numbers(f"{name} targets", (N_UPDATES, T, B), M)
    optimizer = {"rate": 0.0625, "recurrent_rate": 0.015625, "max_norm": 1.0, **rule}
    arrays: Arrays = {f"params/{key}": p for key, p in params.items()}
    arrays |= {"inputs/x": x, "inputs/targets": targets}
    arrays |= _updates(model, params, x, targets, optimizer, strength)
    settings = {
        "kind": "training",
        "cells": [_describe(cell)],
        "output_size": M,
        "T": T,
        "B": B,
        "updates": N_UPDATES,
        "loss": "softmax",
        "penalty": strength,
        "one_hot": False,
        "mask": False,
        "last_only": False,
        "optimizer": optimizer,
    }
    return Case(name, settings, arrays)


def _updates(
    model: SequenceModel,
    params: dict[str, Array],
    x: NDArray[Any],
    targets: NDArray[Any],
    optimizer: dict[str, Any],
    strength: float,
) -> Arrays:
    """Return the loss and gradients before each update, and the parameters after it."""
    constants = optimizer.keys() - {"rule", "rate", "recurrent_rate", "max_norm"}
    rule = OPTIMIZERS[optimizer["rule"]](
        rate=optimizer["rate"],
        rates={"cell.W": optimizer["recurrent_rate"]},
        unitary=model.unitary_names,
        **{key: optimizer[key] for key in constants},
    )
    state, losses = rule.init(params), []
    grads_of: dict[str, list[Array]] = {key: [] for key in params}
    after: dict[str, list[Array]] = {key: [] for key in params}
    for k in range(len(x)):
        logits, saved = model.forward(params, x[k])
        value, dlogits = LOSSES["softmax"](logits, targets[k], None, False)
        grads = model.backward(params, saved, dlogits)
        penalty, grads = model.add_penalty(params, grads, strength)
        losses.append(value + strength * penalty)
        clipped, _ = clip_by_global_norm(grads, optimizer["max_norm"])
        params, state = rule.update(params, clipped, state)
        for key in params:
            grads_of[key].append(grads[key])
            after[key].append(params[key])
    made: Arrays = {"outputs/loss": np.array(losses)}
    made |= {f"grads/{key}": np.stack(rows) for key, rows in grads_of.items()}
    return made | {f"outputs/after/{key}": np.stack(rows) for key, rows in after.items()}


def _mask(name: str, steps: tuple[int, ...], of_truth: bool) -> NDArray[Any]:
    """Return 0 or 1 for each step, or weights; the first counts, so that one does."""
    mask = whole_numbers(name, steps, 2) / 1 if of_truth else whole_numbers(name, steps, 9) / 4
    mask.flat[0] = 1
    return mask


def _targets(name: str, loss: str, steps: tuple[int, ...]) -> NDArray[Any]:
    """Return what the outputs of steps (…, B) should be, as a loss takes it."""
    outputs = (*steps[:-1], M, steps[-1])
    if loss == "softmax":
        return whole_numbers(name, steps, M)
    if loss == "squared":
        return numbers(name, outputs, "float64")
    return whole_numbers(name, outputs, 5) / 4


def _describe(cell: Cell) -> dict[str, Any]:
    matrix: Matrix = cell.matrix
    described: dict[str, Any] = {
        "cell": type(cell).__name__.lower(),
        "input_size": cell.input_size,
        "hidden_size": cell.hidden_size,
        "matrix": KINDS[type(matrix)],
        "dtype": cell.dtype,
    }
    if isinstance(matrix, Kronecker):
        described["factors"] = [list(s) for s in matrix.factor_shapes(cell.hidden_size)]
    if isinstance(matrix, RestrictedUnitary):
        n = cell.hidden_size if cell.is_complex else cell.hidden_size // 2
        described["permutation"] = permutation(matrix.permutation_seed, n).tolist()
    if isinstance(cell, RNN):
        described["activation"] = cell.activation
    return described


def _parameters(name: str, model: SequenceModel, unitary: bool = True) -> dict[str, Array]:
    """Return parameters of about the size of a network's, the same wherever they are made."""
    shapes, dtypes = model.shapes(), model.dtypes()
    params = {}
    for key, shape in shapes.items():
        drawn = numbers(f"{name} {key}", shape, dtypes[key].name)
        is_matrix = ".W" in key and len(shape) > 1 and not key.endswith(("phases", "reflections"))
        # so that products keep about their length
        size = 1.0 if np.iscomplexobj(drawn) else 1.25
        params[key] = drawn * (size / np.sqrt(shape[1])) if is_matrix else drawn
        if key.endswith(".gamma"):  # as that of eigenvalues near the unit circle
            params[key] = drawn / 2 - 1
    for prefix, cell in zip(model.prefixes, model.cells, strict=True):
        if unitary and isinstance(cell.matrix, FullUnitary):
            params[f"{prefix}.W"] = _householder(
                numbers(f"{name} v", (cell.hidden_size,), cell.dtype)
            )
    return params


def _householder(v: Array) -> Array:
    """Return a unitary matrix that any machine computes alike: a reflection."""
    return np.eye(len(v)) - 2 * np.outer(v, v.conj()) / np.vdot(v, v).real


def numbers(name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return multiples of 2^-20 in [-1, 1), the same on every machine: SHAKE-256 of a name."""
    size = math.prod(shape) * (2 if dtype.startswith("complex") else 1)
    drawn = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * size), "<u4")
    values = (drawn >> 11).astype(np.float64) / 2**20 - 1
    return values.view(dtype).reshape(shape)


def whole_numbers(name: str, shape: tuple[int, ...], n: int) -> NDArray[np.int64]:
    """Return integers in 0 … n-1, the same on every machine: SHAKE-256 of a name."""
    drawn = np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * math.prod(shape)), "<u4")
    return (drawn % n).astype(np.int64).reshape(shape)


def write(folder: Path) -> Path:
    """Write all cases into a folder, with the index and the page that describes them.

    Parameters
    ----------
    folder : Path
        Made if it is not there; files of the same names are written over.

    Returns
    -------
    index : Path

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flagged, listed = json.loads(_beside(".flags.json")), []
    for case in cases():
        path = folder / f"{case.name}.npz"
        # savez dates what it writes 1980: the same bytes for the same arrays
        arrays: Any = case.arrays
        write_atomically(path, functools.partial(np.savez, **arrays))
        listed.append(
            {
                "name": case.name,
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "flags": flagged["flags"][case.name],
                "settings": case.settings,
                "arrays": {
                    key: {"dtype": a.dtype.name, "shape": list(a.shape)}
                    for key, a in case.arrays.items()
                },
            }
        )
    index = index_text(flagged["notes"], listed).encode()
    pages = {INDEX: index, PAGE: _beside(".md"), SCHEMA: _beside(".schema.json")}
    for name, content in pages.items():
        write_atomically(folder / name, functools.partial(_put, content))
    return folder / INDEX


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def index_text(notes: dict[str, Any], listed: list[dict[str, Any]]) -> str:
    """Return the text of an index, with a line for each note and each case."""
    head = json.dumps({"$schema": SCHEMA, "format": FORMAT, "kru_ref": __version__})[:-1]
    told = ",\n".join(
        f"{json.dumps(flag)}: {json.dumps(note, ensure_ascii=False)}"
        for flag, note in notes.items()
    )
    one_a_line = ",\n".join(json.dumps(case) for case in listed)
    return f'{head}, "notes": {{\n{told}\n}}, "cases": [\n{one_a_line}\n]}}\n'


def _beside(ending: str) -> bytes:
    """Return what lies beside this file, under its name."""
    return Path(__file__).with_suffix(ending).read_bytes()


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a folder of vectors.

    Raises
    ------
    FileNotFoundError, ValueError
        None, or one that is damaged or of another format.
    OSError
        It may not be read.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: make it with `kru-ref vectors write`")
    content = _content(path)
    try:
        index = json.loads(content.decode())
        if type(index) is not dict:
            raise ValueError(f"expected an object, got {reprlib.repr(index)}")
        if type(index.get("format")) is int and index["format"] != FORMAT:
            raise ValueError(
                f"format must be {FORMAT}, got {reprlib.repr(index['format'])}; use the kru_ref "
                "that wrote it"
            )
        _check(index, _INDEX, "the index", _ADDED_TO_INDEX, others=True)
        notes = index.get("notes", {})
        for flag, note in notes.items():
            _check(note, _NOTE, f"the note on {reprlib.repr(flag)}", others=True)
        for case in index["cases"]:
            _check_case(case, notes)
        for key in ("name", "file"):
            if len({case[key] for case in index["cases"]}) < len(index["cases"]):
                raise ValueError(f"two cases have the same {key}")
    except UnicodeDecodeError:
        raise ValueError(_damaged(path, "it is not UTF-8")) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(_damaged(path, error)) from error
    return index


def read_arrays(path: Path, sha256: str | None = None) -> Arrays:
    """Read the arrays of an .npz file; nothing in it is ever unpickled.

    Raises
    ------
    ValueError
        It is damaged, holds anything but arrays of numbers, or is not the file of that hash.
    OSError
        There is none, or it may not be read.
    """
    content = _content(path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path}: it is not the file that the index describes. Write it again")
    try:
        return read_npz(path, LARGEST_ARRAY)
    except ArchiveError as error:
        raise ValueError(f"{error}. Write it again") from error


def _content(path: Path) -> bytes:
    """Read a file, of which there is no reason to be larger than a reader's memory."""
    try:
        if os.path.lexists(path) and not path.is_file():
            raise ValueError(f"{path} is no file: put one there, or take it away")
        if path.stat().st_size > 4 * LARGEST_ARRAY:
            raise ValueError(f"{path} is larger than {4 * LARGEST_ARRAY:,} bytes: write it again")
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: write it again") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        remedy = (
            "see to its permissions" if isinstance(error, PermissionError) else "see to its disk"
        )
        raise type(error)(f"{path} cannot be read: {reason}; {remedy}") from error


Condition = tuple[str, Callable[[Any], bool]]


def _one_of(*values: str) -> Condition:
    return f"one of {', '.join(values)}", lambda v: type(v) is str and v in values


def _each(condition: Condition) -> Condition:
    what, holds = condition
    return f"a list, each {what}", lambda v: type(v) is list and bool(v) and all(map(holds, v))


_whole: Condition = "a whole number from 1 on", lambda v: type(v) is int and 1 <= v <= LARGEST_ARRAY
_text: Condition = "a text", lambda v: type(v) is str
_truth: Condition = "true or false", lambda v: type(v) is bool
_object: Condition = "an object", lambda v: type(v) is dict
_filled: Condition = "an object that holds something", lambda v: type(v) is dict and bool(v)
_filled_list: Condition = (
    "a list of at least one case, not of no cases",
    lambda v: type(v) is list and bool(v),
)
_strength: Condition = (
    "a number from 0 on",
    lambda v: type(v) in (int, float) and 0 <= v < math.inf,
)
_indices: Condition = (
    "the numbers from 0 on in some order",
    lambda v: (
        type(v) is list
        and bool(v)
        and all(type(i) is int for i in v)
        and sorted(v) == list(range(len(v)))
    ),
)
_sentence: Condition = "a sentence", lambda v: type(v) is str and bool(v)
_number = _one_of("float64", "complex128")
_shapes = _each(("a pair of whole numbers", lambda v: _each(_whole)[1](v) and len(v) == 2))
_INDEX = {"format": _whole, "cases": _filled_list, "kru_ref": _text}
# What an index of format 2 may lack, and others may have beside it: it was added later.
_ADDED_TO_INDEX = {"$schema": _text, "notes": _object}
_NOTE = {"bug": _sentence, "effect": _sentence}
_ADDED_TO_CASE = {
    "flags": (
        "a list of names, each once",
        lambda v: type(v) is list and all(type(flag) is str for flag in v) and len({*v}) == len(v),
    )
}
_CASE = {
    "name": (
        "a name",
        lambda v: (
            type(v) is str and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", v) is not None
        ),
    ),
    "file": (
        "the name of an .npz file, not of one outside the folder",
        lambda v: (
            type(v) is str and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.npz", v) is not None
        ),
    ),
    "sha256": (
        "64 digits from 0 to f",
        lambda v: type(v) is str and re.fullmatch(r"[0-9a-f]{64}", v) is not None,
    ),
    "settings": _object,
    "arrays": _filled,
}
_KINDS: dict[str, dict[str, Condition]] = {
    "product": {
        "kind": _one_of("product"),
        "factors": _shapes,
        "dtype": _number,
        "B": _whole,
    },
    "network": {
        "kind": _one_of("network"),
        "cells": _each(_filled),
        "output_size": _whole,
        "T": _whole,
        "B": _whole,
        "loss": _one_of(*LOSSES),
        "penalty": _strength,
        "one_hot": _truth,
        "mask": _truth,
        "last_only": _truth,
    },
}
_KINDS["training"] = _KINDS["network"] | {
    "kind": _one_of("training"),
    "updates": _whole,
    "optimizer": _filled,
}
_CELL: dict[str, Condition] = {
    "cell": _one_of("rnn", "lstm", "gru", "lru"),
    "input_size": _whole,
    "hidden_size": _whole,
    "matrix": _one_of(*KINDS.values()),
    "dtype": _number,
}
# What only some cells have.
_CELL_OF: dict[tuple[str, str], dict[str, Condition]] = {
    ("matrix", "kronecker"): {"factors": _shapes},
    ("matrix", "restricted"): {"permutation": _indices},
    ("cell", "rnn"): {"activation": _one_of("modrelu", "tanh", "relu", "identity")},
}
_ARRAY: dict[str, Condition] = {
    "dtype": _one_of("float64", "complex128", "int64"),
    "shape": (
        "a list of whole numbers",
        lambda v: type(v) is list and (not v or _each(_whole)[1](v)),
    ),
}


def _check(
    found: Any,
    conditions: Mapping[str, Condition],
    what: str,
    added: Mapping[str, Condition] = MappingProxyType({}),
    others: bool = False,
) -> None:
    """Raise unless an object of the index has the keys it must have, and they hold what fits.

    It may have those that were added, and, where it does not say what is to be computed, others.
    """
    if type(found) is not dict:
        raise ValueError(f"{what} must be an object, got {reprlib.repr(found)}")
    for key in found:
        if not others and key not in conditions:
            raise ValueError(f"{what} has an unknown key {reprlib.repr(key)}")
    for key, (wanted, holds) in {**conditions, **added}.items():
        if key not in found and key not in added:
            raise ValueError(f"{what} has no {key!r}")
        if key in found and not holds(found[key]):
            raise ValueError(f"{key} of {what} must be {wanted}, got {reprlib.repr(found[key])}")


def _check_case(case: Any, notes: Mapping[str, Any]) -> None:
    """Raise unless the index describes a case with a solution that can be compared."""
    name = reprlib.repr(case.get("name")) if type(case) is dict else "?"
    what = f"case {name}"
    _check(case, _CASE, what, _ADDED_TO_CASE, others=True)
    for flag in case.get("flags", []):
        if flag not in notes:
            raise ValueError(f"{what} has a flag without a note, {reprlib.repr(flag)}")
    settings, arrays = case["settings"], case["arrays"]
    kind = settings.get("kind")
    if type(kind) is not str or kind not in _KINDS:
        raise ValueError(
            f"kind of {what} must be one of {', '.join(_KINDS)}, got {reprlib.repr(kind)}"
        )
    _check(settings, _KINDS[kind], what)
    for cell in settings.get("cells", []):
        more = [of for (key, value), of in _CELL_OF.items() if cell.get(key) == value]
        _check(cell, functools.reduce(operator.or_, more, _CELL), f"a cell of {what}")
    for array in arrays.values():
        _check(array, _ARRAY, f"an array of {what}")
    missing = sorted(_solution(settings, arrays) - set(arrays))
    if missing:
        raise ValueError(f"{what} has no array {missing[0]}")


def _solution(settings: Mapping[str, Any], arrays: Mapping[str, Any]) -> set[str]:
    """Return the names of all outputs and gradients that a case must have."""
    prefix = "params/"
    params = [key.removeprefix(prefix) for key in arrays if key.startswith(prefix)]
    solved = {f"grads/{name}" for name in params} or {"params/…"}
    if settings["kind"] == "product":
        return solved | {"outputs/y", "grads/x"}
    if settings["kind"] == "training":
        return solved | {"outputs/loss", *(f"outputs/after/{name}" for name in params)}
    n = len(settings["cells"])
    prefixes = ["cell"] if n == 1 else [f"cell.{i}" for i in range(n)]
    return solved | {"outputs/loss", "outputs/logits", *(f"outputs/{key}.h" for key in prefixes)}


def _damaged(path: Path, reason: object) -> str:
    return f"{path} is damaged: {_short(reason)}. Make it again with `kru-ref vectors write`"


def _short(reason: object) -> str:
    """Return a reason in one line that a terminal holds; an empty one by its kind."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= 160 else f"{text[:159]}…"
