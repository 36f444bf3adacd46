"""The checks themselves: they pass what is right and catch what is wrong."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

import kru_ref as kru


def quadratic(draw):
    A = draw((4, 3))
    params = {"z": draw((3, 2)), "x": draw(5, "float64")}

    def f(p):
        return float(np.sum(np.abs(A @ p["z"]) ** 2) + np.sum(p["x"] ** 3))

    return f, params, {"z": 2 * A.conj().T @ A @ params["z"], "x": 3 * params["x"] ** 2}


def test_it_passes_the_gradient(draw):
    f, params, grads = quadratic(draw)
    report = kru.check_gradient(f, params, grads)
    assert report
    assert report.max_error < 1e-8
    assert [c.entries for c in report.checks] == [12, 5]
    assert "passed: largest relative error" in str(report)


PLANTED = {
    "conjugate": lambda g: {**g, "z": g["z"].conj()},
    "factor of two": lambda g: {**g, "z": g["z"] / 2},
    "sign": lambda g: {**g, "x": -g["x"]},
    "real part only": lambda g: {**g, "z": g["z"].real + 0j},
    "one small entry": lambda g: {**g, "x": g["x"] * (1 + 1e-5 * (np.arange(5) == 3))},
    "nan": lambda g: {**g, "x": np.where(np.arange(5) == 2, np.nan, g["x"])},
    "infinite": lambda g: {**g, "x": np.where(np.arange(5) == 2, np.inf, g["x"])},
    "missing": lambda g: {**g, "z": np.zeros_like(g["z"])},
}


@pytest.mark.parametrize("bug", PLANTED)
def test_it_catches_what_is_wrong(draw, bug):
    f, params, grads = quadratic(draw)
    wrong = PLANTED[bug](grads)
    report = kru.check_gradient(f, params, wrong)
    assert not report
    guilty = {name for name in grads if not np.array_equal(wrong[name], grads[name])}
    assert {c.name for c in report.checks if not c.error <= report.tolerance} == guilty
    assert "FAILED" in str(report)
    assert "<- wrong" in str(report)


def test_it_names_the_entry(draw):
    f, params, grads = quadratic(draw)
    grads["z"][2, 1] += 1j
    worst = kru.check_gradient(f, params, grads).checks[0]
    assert (worst.name, worst.index, worst.part) == ("z", (2, 1), "Im")
    assert worst.analytic == grads["z"][2, 1].imag
    assert worst.numerical == pytest.approx(worst.analytic - 1)
    assert "Im [2, 1]" in str(kru.check_gradient(f, params, grads))


def test_a_sample_of_entries(draw, rng):
    f, params, grads = quadratic(draw)
    report = kru.check_gradient(f, params, grads, entries=4, rng=rng)
    assert report
    assert [c.entries for c in report.checks] == [8, 4]
    with pytest.raises(ValueError, match="needs rng"):
        kru.check_gradient(f, params, grads, entries=4)


def test_a_kink_within_the_step_is_no_error():
    x = np.array([1e-7, -2e-7, 3e-6, 0.5])
    f = lambda p: float(np.sum(np.maximum(p["x"], 0)))  # noqa: E731
    assert kru.check_gradient(f, {"x": x}, {"x": (x > 0).astype(float)})
    assert not kru.check_gradient(f, {"x": x}, {"x": (x > 1e-6).astype(float)})


def test_it_says_what_it_cannot_resolve():
    params = {"big": np.ones(2), "small": np.ones(2)}
    f = lambda p: float(np.sum(p["big"] ** 2) + 1e-10 * np.sum(p["small"]))  # noqa: E731
    report = kru.check_gradient(f, params, {"big": 2 * np.ones(2), "small": np.zeros(2)})
    assert [c.too_small for c in report.checks] == [False, True]
    assert "too small to check" in str(report).splitlines()[2]


def test_lists_and_scalars_are_arrays():
    assert kru.check_gradient(lambda p: float(p["x"] ** 2), {"x": 3.0}, {"x": 6.0})
    assert kru.check_gradient(lambda p: float(p["x"][1]), {"x": [1.0, 2.0]}, {"x": [0.0, 1.0]})
    with pytest.raises(TypeError, match=r"x must be one of float32, float64.*got float16"):
        kru.check_gradient(lambda p: 1.0, {"x": np.ones(1, "float16")}, {"x": np.ones(1)})


def test_single_precision(draw):
    params = {"z": draw((3, 2), "complex64")}
    grads = {"z": 2 * params["z"]}
    assert kru.check_gradient(lambda p: np.sum(np.abs(p["z"]) ** 2), params, grads)
    wrong = {"z": grads["z"].conj()}
    assert not kru.check_gradient(lambda p: np.sum(np.abs(p["z"]) ** 2), params, wrong)


def test_a_gradient_of_zero():
    params = {"x": np.ones(3), "unused": np.ones(2)}
    grads = {"x": 2 * np.ones(3), "unused": np.zeros(2)}
    assert kru.check_gradient(lambda p: float(np.sum(p["x"] ** 2)), params, grads)
    assert kru.check_gradient(lambda p: 1.0, params, {k: 0 * v for k, v in params.items()})


def test_params_are_left_alone(draw):
    f, params, grads = quadratic(draw)
    for array in params.values():
        array.setflags(write=False)
    assert kru.check_gradient(f, params, grads)


@pytest.mark.parametrize(
    ("f", "grads", "error", "message"),
    [
        (lambda p: 1j, {"x": np.zeros(2)}, TypeError, "must return a real number, got complex"),
        (lambda p: p["x"], {"x": np.zeros(2)}, TypeError, r"of shape \(2,\)"),
        (lambda p: np.nan, {"x": np.zeros(2)}, ValueError, "f must be finite"),
        (lambda p: 1.0, {"y": np.zeros(2)}, ValueError, r"missing \['x'\], unknown \['y'\]"),
        (lambda p: 1.0, {"x": np.zeros(3)}, ValueError, r"shape \(2,\), got \(3,\)"),
        (lambda p: 1.0, {"x": np.zeros(2, complex)}, TypeError, "its gradient must be real"),
    ],
)
def test_bad_arguments(f, grads, error, message):
    with pytest.raises(error, match=message):
        kru.check_gradient(f, {"x": np.ones(2)}, grads)


def test_bad_params():
    with pytest.raises(ValueError, match="at least one array"):
        kru.check_gradient(lambda p: 1.0, {}, {})
    with pytest.raises(TypeError, match=r"x must be one of float32, .*got int64"):
        kru.check_gradient(lambda p: 1.0, {"x": np.ones(2, int)}, {"x": np.ones(2)})


class Planted(LinearOperator):
    """A matrix whose adjoint may be wrong."""

    def __init__(self, A, adjoint):
        super().__init__(A.dtype, A.shape)
        self.A, self.adjoint_matrix = A, adjoint

    def _matvec(self, x):
        return self.A @ x

    def _rmatvec(self, y):
        return self.adjoint_matrix @ y


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_adjoint_passes_and_catches(draw, rng, dtype):
    A = draw((5, 5), dtype)
    report = kru.check_adjoint(Planted(A, A.conj().T), rng)
    assert report, report
    assert "passed" in str(report)
    for wrong in (A.T, A.conj(), A, 2 * A.conj().T, A.conj().T + 1e-3j, A.conj().T * np.nan):
        report = kru.check_adjoint(Planted(A, wrong), rng)
        assert not report
        assert "FAILED" in str(report)


def test_adjoint_of_a_real_operator_is_checked_on_complex_vectors(rng):
    A = rng.standard_normal((4, 6))
    assert kru.check_adjoint(Planted(A, A.T), rng)
    assert kru.check_adjoint(np.zeros((3, 2)), rng)
    with pytest.raises(ValueError, match="probes must be at least 1"):
        kru.check_adjoint(A, rng, probes=0)
