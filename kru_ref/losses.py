"""Losses of logits (T, M, B), each returned with its gradient dlogits (T, M, B).

All average over the T·B steps of a batch. A mask (T, B) gives each step a weight ≥ 0, 0 for
one that does not count, whatever it holds; the average is then over the sum of the weights. With
``last_only`` targets and mask belong to the last step alone and have no time axis. Logits are real;
with the imaginary parts of a complex step, below 1e-12, the loss is continued analytically.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import arguments
from .activations import logistic

Real = NDArray[np.floating]
Loss = Callable[..., tuple[float, Real]]


@np.errstate(under="ignore")
def softmax_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None, last_only: bool = False
) -> tuple[float, Real]:
    """Return the mean of -log softmax(logits)[target], in nats, and its gradient.

    Parameters
    ----------
    logits : array_like, shape (T, M, B)
    targets : array_like of int, shape (T, B), or (B,) with ``last_only``
        Classes 0 … M-1.
    mask : array_like, shape (T, B), or (B,) with ``last_only``, optional
        Non-negative weights or booleans.
    last_only : bool

    Returns
    -------
    loss : float
    dlogits : ndarray, shape (T, M, B)

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, targets that are no classes, a mask without a step.

    Notes
    -----
    ℓ = log Σ_m exp(y_m) - y_target, so dℓ/dy_m = softmax(y)_m - [m = target]. Where a network is
    sure, both are differences of nearly equal numbers; so from the logits as they lie below the
    largest, y_m - y_max,

    - ℓ = log(1 + Σ_{m ≠ max} exp(y_m - y_max)) - (y_target - y_max),
    - dℓ/dy_target = -Σ_{m ≠ target} softmax(y)_m.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> logits, targets = np.zeros((5, 4, 2)), np.ones((5, 2), dtype=int)  # T = 5, M = 4, B = 2
    >>> loss, dlogits = kru.softmax_cross_entropy(logits, targets)
    >>> round(loss, 4), dlogits[0, :, 0] * 10  # ln 4
    (1.3863, array([ 0.25, -0.75,  0.25,  0.25]))
    """
    of_steps = arguments.checked_steps(logits, targets, mask, last_only, are_classes=True)
    steps, targets, weights = of_steps
    arguments.check_classes(targets, steps)
    T, M, B = steps.shape
    y = np.moveaxis(steps, 1, 0).reshape(M, T * B)
    at_target = targets.reshape(-1), np.arange(T * B)
    largest = y.real.max(axis=0)
    is_below = y.real < largest
    with np.errstate(invalid="ignore"):
        y = y - largest
    if (is_infinite := largest == np.inf).any():
        y[~is_below & is_infinite] = 0
    exp = np.exp(y)
    total = exp.sum(axis=0)
    # all but one of the largest; of a complex step they lie an imaginary part from 0
    rest = (exp * is_below).sum(axis=0) + (M - 1 - is_below.sum(axis=0))
    rest = rest + np.where(is_below, 0, y).sum(axis=0) if np.iscomplexobj(y) else rest
    exp[at_target] = 0
    exp[at_target] = -exp.sum(axis=0)
    exp /= total
    values = np.log1p(rest) - y[at_target]
    gradient = np.moveaxis(exp.reshape(M, T, B), 0, 1)
    return _average(values.reshape(T, B), gradient, weights, logits)


@np.errstate(under="ignore")
def mean_squared_error(
    logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None, last_only: bool = False
) -> tuple[float, Real]:
    """Return the mean of (output - target)² over outputs and steps, and its gradient.

    Parameters
    ----------
    logits : array_like, shape (T, M, B)
    targets : array_like, shape (T, M, B), or (M, B) with ``last_only``
    mask, last_only
        As for :func:`softmax_cross_entropy`.

    Returns
    -------
    loss : float
    dlogits : ndarray, shape (T, M, B)

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, targets that are not finite, a mask without a step.

    Notes
    -----
    ℓ = (1/M) Σ_m (y_m - target_m)², so dℓ/dy_m = (2/M) (y_m - target_m).

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> kru.mean_squared_error(np.zeros((5, 1, 2)), np.array([[1.0, 3.0]]), last_only=True)[0]
    5.0
    """
    steps, targets, weights = arguments.checked_steps(logits, targets, mask, last_only)
    error = steps - arguments.checked_outputs(targets, steps)
    squares = error.astype(np.result_type(error, np.float64)) ** 2
    return _average(np.mean(squares, axis=1), 2 / steps.shape[1] * error, weights, logits)


@np.errstate(under="ignore")
def bernoulli_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None, last_only: bool = False
) -> tuple[float, Real]:
    """Return the negative log-likelihood of independent binary labels, and its gradient.

    Summed over the M labels of a step, averaged over steps, in nats.

    Parameters
    ----------
    logits : array_like, shape (T, M, B)
        Log-odds of each label.
    targets : array_like, shape (T, M, B), or (M, B) with ``last_only``
        0 or 1, or a probability between.
    mask, last_only
        As for :func:`softmax_cross_entropy`.

    Returns
    -------
    loss : float
    dlogits : ndarray, shape (T, M, B)

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, targets outside [0, 1], a mask without a step.

    Notes
    -----
    With p = 1/(1 + e^-y) and q = 1 - p = 1/(1 + e^y), ℓ = -Σ_m [t log p + (1 - t) log q], where
    -log p = log(1 + e^-y) and -log q = log(1 + e^y), so dℓ/dy = p - t = p (1 - t) - q t. Written
    with ``e^-|y|``, none overflows or loses a small p or q.

    Examples
    --------
    >>> import numpy as np, kru_ref as kru
    >>> loss, dlogits = kru.bernoulli_cross_entropy(np.zeros((1, 2, 1)), np.array([[[0], [1]]]))
    >>> round(float(loss / np.log(2)), 6), dlogits.ravel()
    (2.0, array([ 0.5, -0.5]))
    """
    steps, targets, weights = arguments.checked_steps(logits, targets, mask, last_only)
    t = arguments.checked_outputs(targets, steps, are_probabilities=True)
    p, q = logistic(steps), logistic(-steps)
    likely, unlikely = _softplus(-steps), _softplus(steps)  # -log p, -log q
    # 0 log 0 is 0
    values = np.multiply(t, likely, where=t > 0, out=np.zeros_like(likely))
    values += np.multiply(1 - t, unlikely, where=t < 1, out=np.zeros_like(unlikely))
    return _average(np.sum(values, axis=1), p * (1 - t) - q * t, weights, logits)


def _softplus(y: Real) -> Real:
    """Return log(1 + e^y)."""
    positive = y.real > 0
    return np.where(positive, y, 0) + np.log1p(np.exp(np.where(positive, -y, y)))


def _average(values: Real, gradient: Real, weights: Real, logits: ArrayLike) -> tuple[float, Real]:
    """Weight the losses of steps (T, B) and their gradients (T, M, B).

    A step that does not count stays out even where it is not finite.
    """
    counts = weights > 0
    if not counts.all():
        values, gradient = np.where(counts, values, 0), np.where(counts[:, None], gradient, 0)
    dlogits = np.zeros_like(arguments.as_array("logits", logits))
    steps = dlogits[len(dlogits) - len(gradient) :]
    steps[...] = gradient * weights[:, None].astype(gradient.dtype)
    return np.sum(values * weights).item(), dlogits
