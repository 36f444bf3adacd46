"""How large the house is: one column of figures for each source tree.

    python benchmarks/house.py /path/to/the/tree/before .

Needs the extra `bench`. Calls are counted in a process of its own for each tree, with its own
compiled kernels where they are built in place.
"""

import argparse
import ast
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from radon.complexity import cc_visit

# What a student comes for, in the layout of before and of after. The checks of what a caller passes
# stood in these files before; now they are a file of their own, counted apart.
MATHEMATICS = [
    "__init__",
    "activations",
    "arrays",
    "kronecker",
    "losses",
    "matrices",
    "model",
    "optimizers",
    "restricted",
    "sweeps",
    "unitary",
]
LARGEST_COMPLEXITY = 10
CALLS = """
import sys
import numpy as np
import kru_ref as kru

model = kru.SequenceModel(kru.KRU(10, 128), 9)
rng = np.random.default_rng(0)
params = model.init(rng)
x, targets = rng.integers(10, size=(20, 4)), rng.integers(9, size=(20, 4))

def step():
    logits, saved = model.forward(params, x)
    loss, dlogits = kru.softmax_cross_entropy(logits, targets)
    return model.backward(params, saved, dlogits)

step()
files = []
def count(frame, event, _):
    if event == "call" and "kru_ref" in frame.f_code.co_filename:
        files.append(frame.f_code.co_filename)
sys.setprofile(count)
step()
sys.setprofile(None)
print(len(files), len(set(files)))
"""


def lines_of(paths):
    """Return how many lines files have together."""
    return sum(len(path.read_text().splitlines()) for path in paths)


def functions_of(paths):
    """Yield the functions of Python files, methods and inner ones too."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.stem}.{node.name}", node


def body(node):
    """Return the lines of a function behind its signature and docstring."""
    first = node.body[0]
    is_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    rest = node.body[1:] if is_doc else node.body
    return rest[-1].end_lineno - rest[0].lineno + 1 if rest else 0


def parameters(node):
    """Return how many parameters a function has, without self."""
    of = node.args
    every = [a.arg for a in (*of.posonlyargs, *of.args, *of.kwonlyargs)]
    return len([name for name in every if name not in ("self", "cls")])


def compiled_functions(paths):
    """Yield name, number of parameters and lines of each function of Cython and C files."""
    for path in paths:
        text = path.read_text()
        if path.suffix == ".h":
            head = r"^(?:static |INLINE )+[\w *]+?(\w+|NAME\(\w+\))\(([^{;]*?)\)\s*\n\{(.*?)^\}"
        else:
            head = r"^(?:cp?def|def)[^\n(]*?(\w+)\((.*?)\)[^\n]*:\n(.*?)(?=^\S|\Z)"
        for name, arguments, inside in re.findall(head, text, re.DOTALL | re.MULTILINE):
            arguments = re.sub(r"\[[^\]]*\]|\([^)]*\)", "", arguments)
            listed = [a for a in arguments.split(",") if a.strip() not in ("", "void", "self")]
            yield f"{path.name}: {name}", len(listed), len(inside.strip("\n").splitlines())


def calls(tree):
    """Return the Python calls, and the files they are in, of one forward, loss and backward."""
    ran = subprocess.run(
        [sys.executable, "-c", CALLS],
        cwd=tree, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ran.stdout.split()


def duplicated(tree):
    """Return how many pairs of places share six lines or more, by a tool that may be missing."""
    tool = shutil.which("duplicates")
    if tool is None:
        return "-"
    ran = subprocess.run(
        [tool, "--repo", str(tree / "kru_ref")], capture_output=True, text=True, check=False
    )
    found = re.search(r"(\d+) pairs?", ran.stdout)
    return found.group(1) if found else "-"


def largest(pairs):
    """Return the name and number of the largest."""
    name, number = max(pairs, key=lambda pair: pair[1])
    return f"{number} ({name})"


def column(tree):
    """Measure one source tree."""
    package = tree / "kru_ref"
    files = sorted(package.rglob("*.py"))
    mathematics = [package / f"{name}.py" for name in MATHEMATICS]
    mathematics = [
        p for p in [*mathematics, *sorted((package / "cells").glob("*.py"))] if p.exists()
    ]
    door = [p for p in [package / "arguments.py"] if p.exists()]
    functions = list(functions_of(files))
    bodies = [(name, body(node)) for name, node in functions]
    complex_ones = [
        block.complexity
        for path in files
        for block in cc_visit(path.read_text())
        if block.letter in "FM"
    ]
    above = [c for c in complex_ones if c > LARGEST_COMPLEXITY]
    sources = [p for s in ("*.pyx", "*.pxi", "*.h") for p in sorted(package.rglob(s))]
    compiled = list(compiled_functions(sources))
    n_calls, n_files = calls(tree)
    return {
        "Python files": f"{len(files)}",
        "folders of the package": f"{len({p.parent for p in files})}",
        "lines of Python": f"{lines_of(files):,}",
        "lines of the mathematics": f"{lines_of(mathematics):,}",
        "lines of the checks of arguments beside it": f"{lines_of(door):,}",
        "functions": f"{len(functions):,}",
        "median function body": f"{statistics.median(n for _, n in bodies):.0f}",
        "longest function body": largest(bodies),
        "bodies above 40 lines": f"{sum(n > 40 for _, n in bodies)}",
        "parameters of the longest signature": largest((n, parameters(f)) for n, f in functions),
        f"functions above complexity {LARGEST_COMPLEXITY}": (
            f"{len(above)} ({len(above) / len(complex_ones):.1%})"
        ),
        "largest complexity": f"{max(complex_ones)}",
        "compiled: lines": f"{lines_of(sources):,}",
        "compiled: longest function": largest((name, n) for name, _, n in compiled),
        "compiled: most parameters": largest((name, n) for name, n, _ in compiled),
        "Python calls of one forward, loss and backward": n_calls,
        "files these are in": n_files,
        "duplicated runs of six lines": duplicated(tree),
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs="+", type=Path)
    columns = [column(tree.resolve()) for tree in parser.parse_args().trees]
    print("| |" + " |" * len(columns))
    print("|---|" + "---|" * len(columns))
    for row in columns[0]:
        print(f"| {row} | " + " | ".join(c[row] for c in columns) + " |")


if __name__ == "__main__":
    main()
