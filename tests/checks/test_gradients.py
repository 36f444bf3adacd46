"""The checks themselves: they pass what is right and catch what is wrong."""

import numpy as np
import pytest

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


def test_what_cannot_be_resolved_does_not_pass():
    params = {"big": np.ones(2), "small": np.ones(2)}
    f = lambda p: float(np.sum(p["big"] ** 2) + 1e-10 * np.sum(p["small"]))  # noqa: E731
    for claim in (0.0, 1e-10, -1e-10):
        grads = {"big": 2 * np.ones(2), "small": np.full(2, claim)}
        assert not kru.check_gradient(f, params, grads)
        with pytest.raises(AssertionError, match="too small to check"):
            kru.assert_gradient(f, params, grads)


def test_a_wider_step_resolves_a_small_gradient():
    params = {"big": np.ones(2), "small": np.ones(2)}
    f = lambda p: float(np.sum(p["big"] ** 2) + 1e-4 * np.sum(p["small"]))  # noqa: E731
    right = {"big": 2 * np.ones(2), "small": np.full(2, 1e-4)}
    assert kru.check_gradient(f, params, right)
    for wrong in (0.0, -1e-4, 2e-4, 1.001e-4):
        assert not kru.check_gradient(f, params, {**right, "small": np.full(2, wrong)})


EXPONENTS = [-300, -160, -100, -30, -12, -5, -1, 0, 1, 5, 12, 30, 100, 150, 300]


WRONG = {
    "sign": lambda g: -g,
    "twice": lambda g: 2 * g,
    "half": lambda g: g / 2,
    "zero": lambda g: 0 * g,
    "one entry": lambda g: g * np.array([1, 1.1]).astype(g.real.dtype),
    "nan": lambda g: g * np.array([1, np.nan]).astype(g.real.dtype),
}


def square(scale):
    return lambda p: float(
        (np.abs(p["a"].astype(np.result_type(p["a"], float)) / scale) ** 2).sum()
    )


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("central", "float64"),
        ("central", "complex128"),
        ("richardson", "float64"),
        ("richardson", "complex128"),
        ("complex-step", "float64"),
    ],
)
def test_scales_of_parameters(exponent, method, dtype):
    scale = float(f"1e{exponent}")
    p = {"a": np.array([1, 2 + 0.5j] if dtype == "complex128" else [1, 2]).astype(dtype) * scale}
    g = 2 * (p["a"] / scale) / scale
    f = square(scale)
    if method == "complex-step":
        f = lambda p: ((p["a"] / scale) ** 2).sum()  # noqa: E731
    assert (report := kru.check_gradient(f, p, {"a": g}, method=method)), report
    for name, mistake in WRONG.items():
        report = kru.check_gradient(f, p, {"a": mistake(g)}, method=method)
        assert not report, (name, str(report))


@pytest.mark.parametrize("exponent", [-30, -12, -5, -1, 0, 1, 5, 12, 30])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_scales_of_parameters_in_single_precision(exponent, dtype):
    scale = float(f"1e{exponent}")
    p = {"a": (np.array([1, 2 + 0.5j] if dtype == "complex64" else [1, 2]) * scale).astype(dtype)}
    g = (2 * (p["a"] / scale) / scale).astype(dtype)
    assert (report := kru.check_gradient(square(scale), p, {"a": g})), report
    for name, mistake in WRONG.items():
        report = kru.check_gradient(square(scale), p, {"a": mistake(g)})
        assert not report, (name, str(report))


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_scales_of_losses(exponent):
    scale = float(f"1e{exponent}")
    p = {"a": np.array([1.0, 2.0])}
    f = lambda p: float((p["a"] ** 2).sum() * scale)  # noqa: E731
    g = 2 * p["a"] * scale
    assert (report := kru.check_gradient(f, p, {"a": g})), report
    for name, mistake in WRONG.items():
        report = kru.check_gradient(f, p, {"a": mistake(g)})
        assert not report, (name, str(report))


def test_a_parameter_of_another_scale_is_checked_too():
    p = {"a": np.array([1e5, 2e5], np.float32), "b": np.ones(2, np.float32)}
    f = lambda p: float(((p["a"].astype(float) / 1e5) ** 2).sum() + (p["b"] ** 2).sum())  # noqa: E731
    right = {"a": np.array([2e-5, 4e-5], np.float32), "b": 2 * np.ones(2, np.float32)}
    assert (report := kru.check_gradient(f, p, right)), report
    for wrong in (-right["a"], 2 * right["a"], 0 * right["a"]):
        with pytest.raises(AssertionError):
            kru.assert_gradient(f, p, {**right, "a": wrong})


def test_a_kink_is_named():
    f = lambda p: float(np.sum(np.maximum(p["x"], 0)))  # noqa: E731
    for claim in (0.0, 1.0, 0.5):
        report = kru.check_gradient(f, {"x": np.array([0.0, 1.0])}, {"x": np.array([claim, 1.0])})
        if not report:
            assert "f has a kink or a jump here: its slope is 0 on one side and 1" in str(report)
            assert "part of a sum" not in str(report)
    assert claim == 0.5
    assert report, "the middle of both slopes is what central differences find"


def test_noise_is_named(rng):
    f = lambda p: float(np.sum(p["x"] ** 2) + 1e-3 * rng.standard_normal())  # noqa: E731
    report = kru.check_gradient(f, {"x": np.ones(3)}, {"x": 2 * np.ones(3)})
    assert not report
    assert "f is not deterministic" in str(report)
    assert "part of a sum" not in str(report)


@pytest.mark.parametrize("tolerance", [0, -1e-3, np.nan, np.inf])
def test_a_tolerance_that_decides_nothing_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance must be finite and above 0"):
        kru.check_gradient(
            lambda p: 1.0, {"x": np.ones(2)}, {"x": np.zeros(2)}, tolerance=tolerance
        )


def test_nothing_to_compare_does_not_pass():
    with pytest.raises(ValueError, match="at least one array with an entry"):
        kru.check_gradient(lambda p: 1.0, {"x": np.ones((0, 2))}, {"x": np.ones((0, 2))})


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


def test_richardson_is_the_sharper(draw):
    f, params, grads = quadratic(draw)
    central = kru.check_gradient(f, params, grads)
    richardson = kru.check_gradient(f, params, grads, method="richardson")
    assert richardson
    assert richardson.max_error < 1e-11
    assert central.max_error > richardson.max_error
    # an error that central differences do not see
    wrong = {**grads, "x": grads["x"] * (1 + 3e-8 * (np.arange(5) == 3))}
    assert kru.check_gradient(f, params, wrong)
    assert not kru.check_gradient(f, params, wrong, method="richardson")


def analytic(p):
    return np.sum(np.sin(p["x"]) * np.exp(p["y"])) ** 2


def test_complex_step_is_exact(rng):
    params = {"x": rng.standard_normal(4), "y": rng.standard_normal((3, 1))}
    total = np.sum(np.sin(params["x"]) * np.exp(params["y"]))
    grads = {
        "x": 2 * total * np.cos(params["x"]) * np.sum(np.exp(params["y"])),
        "y": 2 * total * np.exp(params["y"]) * np.sum(np.sin(params["x"])),
    }
    report = kru.check_gradient(analytic, params, grads, method="complex-step")
    assert report, report
    assert report.max_error < 1e-14
    grads["y"][1, 0] *= 1 + 1e-11
    assert not kru.check_gradient(analytic, params, grads, method="complex-step")
    single = {k: v.astype("float32") for k, v in params.items()}
    assert kru.check_gradient(analytic, single, grads, method="complex-step")


def test_complex_step_needs_an_analytic_function_of_real_numbers():
    params = {"x": np.array([0.5, -0.5])}
    with pytest.raises(TypeError, match=r"x is complex: .* use method='richardson'"):
        kru.check_gradient(
            abs, {"x": np.ones(1, complex)}, {"x": np.ones(1)}, method="complex-step"
        )
    modulus = lambda p: np.sum(np.abs(p["x"]))  # noqa: E731
    with pytest.raises(TypeError, match=r"f must return a complex number .* not analytic"):
        kru.check_gradient(modulus, params, {"x": np.sign(params["x"])}, method="complex-step")
    with pytest.raises(ValueError, match="method must be one of central, richardson, complex-step"):
        kru.check_gradient(modulus, params, params, method="forward")


@pytest.mark.parametrize("method", ["central", "richardson"])
@pytest.mark.parametrize("bug", ["one small entry", "conjugate", "nan"])
def test_random_directions(draw, rng, method, bug):
    f, params, grads = quadratic(draw)
    report = kru.check_gradient(f, params, grads, directions=3, rng=rng, method=method)
    assert report, report
    assert [c.entries for c in report.checks] == [3, 3]
    assert "along v" in str(report)
    wrong = PLANTED[bug](grads)
    assert not kru.check_gradient(f, params, wrong, directions=3, rng=rng, method=method)
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        kru.check_gradient(f, params, grads, directions=0, rng=rng)
    with pytest.raises(ValueError, match="entries or directions, not both"):
        kru.check_gradient(f, params, grads, directions=1, entries=1, rng=rng)


HINTS = {
    "its conjugate is right": lambda g: g.conj(),
    "its transpose is right": lambda g: g.T,
    "its conjugate transpose is right": lambda g: g.conj().T,
    "it has the wrong sign": lambda g: -g,
    "its imaginary part is missing": lambda g: g.real + 0j,
    "i times it is right": lambda g: -1j * g,
    "2 times it is right: a square's 2 missing, or a mean for a sum": lambda g: g / 2,
    "0.5 times it is right: a 2 too many, or a sum for a mean": lambda g: 2 * g,
    "7 times it is right: a mean for a sum, over the batch": lambda g: g / 7,
    "it is 0: never computed": lambda g: 0 * g,
    "it is not finite": lambda g: g * np.nan,
}


@pytest.mark.parametrize(
    ("hint", "options"),
    [
        (hint, options)
        for hint in HINTS
        for options in ({}, {"entries": 5}, {"directions": 6})
        # a direction mixes real and imaginary parts
        if "imaginary part" not in hint or "directions" not in options
    ],
)
def test_hints_at_the_cause(draw, rng, hint, options):
    A = draw((3, 3))
    f = lambda p: float(np.sum((A.conj() * p["W"]).real) + np.sum(np.abs(p["W"]) ** 4))  # noqa: E731
    W = draw((3, 3))
    grads = {"W": HINTS[hint](A + 4 * W * np.abs(W) ** 2)}
    options = options | ({"rng": rng} if options else {})
    report = kru.check_gradient(f, {"W": W}, grads, **options)
    assert not report
    assert hint in str(report)
    with pytest.raises(AssertionError, match="wrong gradient\nparameter"):
        kru.assert_gradient(f, {"W": W}, grads, **options)


def test_no_hint_of_a_factor_where_it_is_rounding(draw):
    W = draw((3, 3))
    f = lambda p: float(np.sum(np.abs(p["W"]) ** 2))  # noqa: E731
    report = kru.check_gradient(f, {"W": W}, {"W": 2 * W * (1 + 1e-5)})
    assert not report
    assert [c.hint for c in report.checks] == [""]


def test_no_hint_where_nothing_fits(draw):
    W = draw((3, 3))
    f = lambda p: float(np.sum(np.abs(p["W"]) ** 2))  # noqa: E731
    report = kru.check_gradient(f, {"W": W}, {"W": draw((3, 3))})
    assert not report
    assert [c.hint for c in report.checks] == [""]
    # that it points about where it should says nothing of the cause
    most = {"W": 2 * W * (1 - 0.4 * (np.arange(9).reshape(3, 3) % 2))}
    assert [c.hint for c in kru.check_gradient(f, {"W": W}, most).checks] == [""]
    unused = kru.check_gradient(lambda p: 1.0, {"W": W}, {"W": W})
    assert unused.checks[0].hint.startswith("the loss does not depend on it")


def test_a_test_in_one_line(draw):
    f, params, grads = quadratic(draw)
    kru.assert_gradient(f, params, grads)
