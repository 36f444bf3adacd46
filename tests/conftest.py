"""What the tests share: awkward shapes, both backends, real data, and the largest errors seen."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from kru_ref.engine import backend as kru_backend

# How long an example takes tells of the machine and what else runs there, never of the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

LARGEST_ERRORS = pytest.StashKey[defaultdict]()


def pytest_configure(config):
    config.stash[LARGEST_ERRORS] = defaultdict(lambda: (0.0, 0))


def pytest_sessionfinish(session):
    """Hand the errors seen by one of several processes (pytest-xdist) to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        errors = session.config.stash[LARGEST_ERRORS].items()
        session.config.workeroutput["errors"] = {k: (float(e), n) for k, (e, n) in errors}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    largest = node.config.stash[LARGEST_ERRORS]
    for oracle, (error, checks) in getattr(node, "workeroutput", {}).get("errors", {}).items():
        seen, before = largest[oracle]
        largest[oracle] = (max(seen, error), before + checks)


def pytest_terminal_summary(terminalreporter, config):
    errors = config.stash[LARGEST_ERRORS]
    if errors:
        terminalreporter.section("largest relative gradient error")
        for oracle, (error, checks) in sorted(errors.items()):
            terminalreporter.line(f"{oracle:40} {error:.1e} in {checks} checks")


@pytest.fixture
def record_error(pytestconfig):
    """Note a relative error under the name of its oracle; the largest is printed at the end."""

    def record(oracle, error):
        largest, checks = pytestconfig.stash[LARGEST_ERRORS][oracle]
        pytestconfig.stash[LARGEST_ERRORS][oracle] = (max(largest, error), checks + 1)

    return record


@pytest.fixture
def rng():
    return np.random.default_rng(20180710)


@pytest.fixture(params=["numpy", "cython"])
def backend(request):
    if request.param == "cython" and kru_backend.kernels is None:
        pytest.skip(f"the compiled kernels are not built: {kru_backend.reason}")
    return request.param


@pytest.fixture(params=kru_backend.INSTRUCTION_SETS)
def instruction_set(request, monkeypatch):
    """Compute with each instruction set that this processor has."""
    if kru_backend.kernels is None:
        pytest.skip(f"the compiled kernels are not built: {kru_backend.reason}")
    if kru_backend.INSTRUCTION_SETS.index(request.param) > kru_backend.kernels.supported_level():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("KRU_REF_SIMD", request.param)
    return request.param


@pytest.fixture(scope="session")
def real():
    """Return the folder of the real data, or skip the test if it lacks one of its folders."""

    def real(folder):
        root = os.environ.get("KRU_REF_DATA")
        if not root or not (Path(root) / folder).is_dir():
            pytest.skip(f"needs real files: set KRU_REF_DATA to a folder that holds {folder}/")
        return Path(root)

    return real


@pytest.fixture
def draw(rng):
    """Draw Gaussian arrays of any of the four dtypes, genuinely complex where complex."""

    def draw(shape, dtype="complex128"):
        array = rng.standard_normal(shape)
        if np.dtype(dtype).kind == "c":
            array = array + 1j * rng.standard_normal(shape)
        return np.asarray(array, dtype=dtype)

    return draw
