"""The README's example prints what it says, and the docstrings' examples too."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import kru_ref

README = Path(__file__).parents[1] / "README.md"
MODULES = [
    info.name
    for info in pkgutil.walk_packages(kru_ref.__path__, "kru_ref.")
    if info.name.rpartition(".")[2] not in ("_kernels", "cli", "__main__")
]


def test_the_example_prints_what_it_says(capsys):
    text = README.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    printed = capsys.readouterr().out
    # Which entry differs most, and by how much, is rounding: the rest must agree.
    head = [line.split()[:2] for line in shown.splitlines()]
    assert [line.split()[:2] for line in printed.splitlines()] == [*head[:-1], head[-1]]
    assert shown.splitlines()[-1].startswith("passed: largest relative error")


def test_it_maps_every_module():
    text = README.read_text()
    for name in MODULES:
        path = name.replace(".", "/")
        assert (
            f"`{path}.py`" in text
            or f"`{path.rpartition('/')[0]}/`" in text
            or name.endswith(("tasks", "extras"))
        ), name


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_names_are_documented_and_typed():
    for name in kru_ref.__all__:
        thing = getattr(kru_ref, name)
        assert thing.__doc__, name
        assert "Parameters" in thing.__doc__ or name == "show_config", name
