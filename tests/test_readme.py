"""The README's example prints what it says, and the docstrings' examples too."""

import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import tomllib
import typing
from pathlib import Path

import numpy as np
import pytest

import kru_ref
from kru_ref.cells import Cell, Saved
from kru_ref.optimizers import Optimizer

README = Path(__file__).parents[1] / "README.md"
MODULES = [
    info.name
    for info in pkgutil.walk_packages(kru_ref.__path__, "kru_ref.")
    if info.name.rpartition(".")[2] not in ("_kernels", "cli", "__main__")
]


def test_the_example_prints_what_it_says(capsys):
    text = README.read_text()
    code, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    printed = capsys.readouterr().out
    # Which entry differs most, and by how much, is rounding: the rest must agree.
    head = [line.split()[:2] for line in shown.splitlines()]
    assert [line.split()[:2] for line in printed.splitlines()] == head
    assert shown.splitlines()[-1].startswith("passed: largest relative error")


def test_ten_lines_from_a_file_to_a_saved_model(tmp_path, monkeypatch, rng, capsys):
    pytest.importorskip("sklearn", reason="the estimators need the extra 'sklearn'")
    monkeypatch.chdir(tmp_path)
    rows = ["id,time,a,b,kind"]
    for i in range(30):
        for t in range(rng.integers(20, 30)):
            a, b = rng.standard_normal(2) + 2 * (i % 2) * np.sin(t)
            rows.append(f"s{i},{t},{a},{b},{'wave' if i % 2 else 'noise'}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    _, code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(code, {})
    score, predicted = capsys.readouterr().out.splitlines()
    assert float(score) > 0.8
    assert predicted == "['noise' 'wave' 'noise']"
    assert (tmp_path / "model.safetensors").is_file()


def test_it_maps_every_module():
    text = README.read_text()
    for name in MODULES:
        path = name.replace(".", "/")
        assert f"`{path}.py`" in text or any(
            f"`{folder}/`" in text for folder in Path(path, "x").parents
        ), name


def public_names():
    """Yield what the reference lists."""
    yield from ((f"kru_ref.{name}", getattr(kru_ref, name)) for name in kru_ref.__all__)
    yield "kru_ref.training.loop.train", kru_ref.training.loop.train
    for module in (kru_ref.training.tasks, kru_ref.estimators):
        yield from ((f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__)


def test_every_public_name_has_an_example():
    """Which is run below."""
    for module in ("estimators", "training.loop", "training.tasks"):
        pytest.importorskip(f"kru_ref.{module}", reason="the reference lists what extras add")
    lacking = [name for name, of in public_names() if ">>> " not in (inspect.getdoc(of) or "")]
    assert lacking == ["kru_ref.training.tasks.TASKS"]  # a dict


def test_the_reference_lists_every_public_name():
    listed = (README.parent / "docs" / "reference.md").read_text().split()
    lacking = [name for name, _ in public_names() if name.rpartition(".")[2] not in listed]
    assert lacking == ["kru_ref.training.loop.train", "kru_ref.training.tasks.TASKS"]
    assert "loop.train" in listed


def test_the_task_of_one_s_own_that_is_shown(tmp_path, monkeypatch):
    pytest.importorskip("filelock", reason="training needs the extra 'train'")
    page = (README.parent / "docs" / "tasks.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-1]
    assert "updates=2000" in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace("updates=2000", "updates=20"), {"__name__": "own"})
    assert Path("runs/parity/checkpoint.npz").is_file()


def test_the_quiz_has_answers_that_hold():
    page = (README.parent / "docs" / "quiz.md").read_text()
    questions, names = page.split("\n## ")[1:], {}
    assert len(questions) >= 12
    for question in questions:
        assert question.count(":::{dropdown} Answer") == 1, question
        for code in re.findall(r"```python\n(.*?)```", question, re.DOTALL):
            assert "assert " in code
            exec(code, names)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_names_are_documented_and_typed():
    for name in kru_ref.__all__:
        thing = getattr(kru_ref, name)
        assert thing.__doc__, name
        assert "Parameters" in thing.__doc__ or name == "show_config", name
        functions = [thing] if inspect.isfunction(thing) else []
        if inspect.isclass(thing):
            functions = [f for k, f in vars(thing).items() if inspect.isfunction(f) and k[0] != "_"]
        for function in functions:
            signature = inspect.signature(function)
            assert signature.return_annotation is not signature.empty, (name, function)
            for parameter in signature.parameters.values():
                typed = parameter.annotation is not parameter.empty
                assert typed or parameter.name in ("self", "cls"), (name, function, parameter)


def public_callables():
    """Every public function, class and method of every module, by its name."""
    for module in (importlib.import_module(name) for name in MODULES):
        for name, thing in vars(module).items():
            if name[0] == "_" or getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(thing) or (
                inspect.isclass(thing) and not issubclass(thing, Exception)
            ):
                yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing):
                for method, function in vars(thing).items():
                    if method[0] != "_" and inspect.isfunction(function):
                        yield f"{module.__name__}.{name}.{method}", function


# Classes whose arguments arguments.py checks, and which import it.
FOR_TYPES = {
    cls.__name__: cls for cls in (Cell, Saved, kru_ref.RNN, kru_ref.SequenceModel, Optimizer)
}


def test_signatures_can_be_read():
    """An alias that is written out, such as ArrayLike, is 300 characters of typing's internals."""
    seen = 0
    for name, thing in public_callables():
        signature = inspect.signature(thing)
        for parameter in signature.parameters.values():
            assert len(str(parameter)) < 150, (name, str(parameter))
        assert len(inspect.formatannotation(signature.return_annotation)) < 150, name
        if inspect.isfunction(thing):
            assert "return" in typing.get_type_hints(thing, localns=FOR_TYPES), name
        seen += 1
    assert seen > 250
    for name in kru_ref.__all__:
        assert len(str(inspect.signature(getattr(kru_ref, name)))) < 300, name
    assert len(str(inspect.signature(kru_ref.mean_squared_error))) < 150


def test_the_second_command_compiles_nothing():
    """What it installs is what the tests need beyond the first command, and nothing is built."""
    first, second = re.findall("^pip install (.*?) && ", README.read_text(), re.MULTILINE)
    assert first == '-e ".[train]"'
    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {
        extra: [re.split("[>=]", line)[0] for line in extras[extra]]
        for extra in ("train", "speech", "sklearn", "sweep", "dask", "mpi", "test")
    }
    needed = {name for of_extra in names.values() for name in of_extra} - {*names["train"]}
    assert second.split() == sorted(name for name in needed if "[" not in name)


def test_the_commands_that_are_shown_are_right(tmp_path, monkeypatch):
    """Each would run: its options are there, and can act."""
    pytest.importorskip("tyro", reason="the command line needs the extra 'train'")
    from kru_ref.training.cli import parse
    from kru_ref.training.recipes import RECIPES

    monkeypatch.chdir(tmp_path)
    Path("FOLDER").mkdir()
    np.save("FOLDER/X.npy", np.ones((9, 5)))
    np.save("FOLDER/y.npy", np.arange(9) % 2)
    shown = set()
    folders = README.parent, README.parent / "docs", README.parent / "notebooks"
    pages = [page for folder in folders for page in folder.glob("*.*")]
    for page in (page for page in pages if page.suffix in (".md", ".ipynb")):
        shown |= set(
            re.findall(r"`kru-ref ((?:train|reproduce|data|gradcheck) [^`]*)`", page.read_text())
        )
        shown |= set(re.findall(r"(?:&& |^)kru-ref (train .*)$", page.read_text(), re.MULTILINE))
        others = r"^kru-ref ((?:sweep|reproduce|fit|predict) .*)$"
        shown |= set(re.findall(others, page.read_text(), re.MULTILINE))
    assert len(shown) > 60
    for line in shown:
        words = shlex.split(line.replace("--seed S", "--seed 3").replace("TASK", "copying"))
        if words[0] == "train" and "--out" not in words:
            words += ["--out", "x"]
        command = parse(words)
        shows = words[0] == "reproduce" and (command.list or command.table or command.figure)
        assert words[0] != "reproduce" or shows or set(command.names) <= {*RECIPES}, line
