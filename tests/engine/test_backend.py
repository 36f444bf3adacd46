"""Which engine computes, and what is said where it is missing."""

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.engine import backend

if backend.kernels is None:
    pytest.skip(f"{backend.reason}", allow_module_level=True)


LEVELS = backend.INSTRUCTION_SETS[: int(backend.kernels.supported_level()) + 1]


def test_an_instruction_set_can_be_forced(monkeypatch, capsys):
    for level in LEVELS:
        monkeypatch.setenv("KRU_REF_SIMD", level)
        kru.show_config()
        assert level in capsys.readouterr().out
    monkeypatch.setenv("KRU_REF_SIMD", "mmx")
    with pytest.raises(ValueError, match=r"KRU_REF_SIMD must be one of baseline.*got 'mmx'"):
        kru.show_config()


FORK = """
import os, numpy as np, kru_ref as kru
model = kru.SequenceModel(kru.KRU(3, 32, backend="cython"), 2)
params, x = model.init(np.random.default_rng(0)), np.ones((5, 3, 80))
expected, _ = model.forward(params, x)
child = os.fork()
logits, _ = model.forward(params, x)
if child == 0:
    os._exit(0 if (logits == expected).all() else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_computes_too():
    """It did not: OpenMP waited for ever for the parent's threads."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-P", "-W", "ignore", "-c", FORK]  # -P: not the source tree
    subprocess.run(command, env=environment, check=True, timeout=600)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kru.kron_matvec([np.eye(2)], np.ones(2), backend="cython"),
        lambda: kru.KroneckerProduct([np.eye(2)], backend="cython"),
        lambda: kru.KRU(2, 4, backend="cython"),
    ],
)
def test_a_backend_that_is_missing(monkeypatch, call):
    monkeypatch.setattr(backend, "kernels", None)
    with pytest.raises(ImportError, match=r"backend 'cython' is not available.* C compiler"):
        call()


LOOK = """
import kru_ref
kru_ref.show_config()
try:
    kru_ref.KRU(3, 4, backend="cython")
except ImportError as error:
    print("error:", error)
"""


@pytest.mark.parametrize("is_built", [True, False])
def test_a_source_tree_without_kernels_says_what_was_imported(tmp_path, is_built):
    """Started in the checkout, Python imports that, whatever was installed beside it."""
    checkout, site = tmp_path / "checkout", tmp_path / "site"
    package = Path(kru.__file__).parent
    for folder in (checkout, site):
        shutil.copytree(
            package, folder / "kru_ref", ignore=shutil.ignore_patterns("_kernels*", "__pycache__")
        )
    (checkout / "setup.py").touch()
    built = site / "kru_ref" / "engine" / f"_kernels{EXTENSION_SUFFIXES[0]}"
    if is_built:
        built.touch()
    # no site-packages of its own, in which another build may lie
    libraries = [str(Path(np.__file__).parents[1])]
    hide = f"import sys; sys.path[1:] = {[str(site)]!r} + sys.path[1:]; "
    code = hide + "sys.path = [p for p in sys.path if 'site-packages' not in p or p in "
    code += f"{libraries!r}]\n" + LOOK
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True
    )
    config, _, error = ran.stdout.partition("error: ")
    for said in (config, error):
        assert "what was imported is the source tree, " in said
        assert str(checkout / "kru_ref") in said
        if is_built:
            assert f"a build lies in {site / 'kru_ref'}" in said
        assert "C compiler and reinstall" not in said
