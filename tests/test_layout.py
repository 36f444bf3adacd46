"""The house: which wing may import which, which file tests which, how large a function may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kru_ref"
if not PACKAGE.is_dir():
    pytest.skip("the source tree is not beside the tests", allow_module_level=True)

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
# Each wing may import those before it; what lies in none is the mathematics.
WINGS = ("", "engine", "checks", "exchange", "training", "estimators")
# What every wing may use, for it knows of none.
FREE = {Path("files.py"), Path("extras.py")}
# Who gathers the names, or the commands, of all.
DOORS = {Path("__init__.py"), Path("__main__.py"), Path("training/cli.py")}

# Modules that another file tests, and which.
TESTED_BY = {
    "__init__.py": "test_readme.py",
    "__main__.py": "training/test_cli.py",
    "extras.py": "checks/test_oracles.py",
    "sweeps.py": "test_kronecker.py",
    "cells/__init__.py": "cells/test_cell.py",
    "cells/gru.py": "cells/test_gates.py",
    "cells/lru.py": "cells/test_cell.py",
    "cells/lstm.py": "cells/test_gates.py",
    "cells/rnn.py": "cells/test_cell.py",
    "checks/__init__.py": "test_readme.py",
    "checks/mistakes.py": "checks/test_gradients.py",
    "checks/slopes.py": "checks/test_gradients.py",
    "engine/__init__.py": "engine/test_recurrence.py",
    "estimators/__init__.py": "estimators/test_sequences.py",
    "exchange/__init__.py": "test_readme.py",
    "training/__init__.py": "test_readme.py",
    "training/config.py": "training/test_loop.py",
    "training/folder.py": "training/test_loop.py",
    "training/tasks/growing.py": "training/tasks/test_adding.py",
    "training/metrics.py": "training/test_checkpoint.py",
    "training/data/__init__.py": "test_readme.py",
    "training/data/digits.py": "training/tasks/test_pixels.py",
    "training/data/download.py": "training/data/test_datasets.py",
    "training/data/piano_rolls.py": "training/tasks/test_music.py",
    "training/data/speech.py": "training/tasks/test_phonemes.py",
    "training/data/symbols.py": "training/tasks/test_characters.py",
    "training/tasks/__init__.py": "training/tasks/test_task.py",
}


def wing(path):
    return path.parts[0] if len(path.parts) > 1 and path.parts[0] in WINGS else ""


def imported(path):
    """Yield the modules of the package that a module imports, as paths."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1]
            module = folder.joinpath(*(node.module or "").split("."))
            for name in node.names:
                for found in (module / f"{name.name}.py", Path(f"{module}.py")):
                    if (PACKAGE / found).is_file():
                        yield found
                        break
                else:
                    yield module / "__init__.py"


def test_arrows_point_from_the_lower_wing_to_the_upper():
    for path in FILES:
        if path in DOORS | FREE:
            continue
        for other in imported(path):
            if other in FREE | DOORS or path.parts[:1] == ("engine",) == other.parts[:1]:
                continue
            here, there = WINGS.index(wing(path)), WINGS.index(wing(other))
            if here == 0 and there == 1:
                assert path == Path("kronecker.py"), f"{path} imports {other}"
                assert other == Path("engine/__init__.py"), f"{path} imports {other}"
            else:
                assert there <= here, f"{path} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_each_module_has_its_tests(path):
    tests = ROOT / "tests"
    expected = tests / path.parent / f"test_{path.name}"
    if path.as_posix() in TESTED_BY:
        assert not expected.exists()
        expected = tests / TESTED_BY[path.as_posix()]
    assert expected.is_file()


def functions(path):
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_fit_a_screen(path):
    for function in functions(path):
        first, *rest = function.body
        is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        body = rest if is_doc else function.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= 40, f"{function.name} has {lines} lines"
        if function.name == "__init__" and path.parts[0] == "estimators":
            continue  # scikit-learn asks for a parameter for each setting
        of = function.args
        n = len([a for a in (*of.posonlyargs, *of.args, *of.kwonlyargs) if a.arg != "self"])
        assert n <= 10, f"{function.name} has {n} parameters"
