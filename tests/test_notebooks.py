"""Every notebook runs from top to bottom, and what was committed is what it still says."""

import os
import re
from pathlib import Path

import pytest

from kru_ref.training.data.datasets import locate

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: kru_ref[notebooks]")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: kru_ref[notebooks]")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: kru_ref[notebooks]")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
# what check_gradient and check_adjoint report where nothing is wrong: rounding chose the entry,
# or the pair of vectors, that is worst
RIGHT = re.compile(
    r"(Re |Im )?\[[\d, ]*\] +\S+ +\S+ +(0\.0e\+00|\S+e-(0[89]|[1-9]\d))$"
    r"|(?<=^passed: )⟨y, A x⟩ = \S+, ⟨A\^H y, x⟩ = \S+, relative error \S+(?=, tolerance)",
    re.MULTILINE,
)
LARGEST = 300_000  # bytes of a file
DATA = {"12_making_music": [("jsb", "JSB_Chorales.mat"), ("ptb", "ptb.char.train.txt")]}


def printed(notebook):
    """Return what each cell printed, but for those that print times."""
    return {
        k: "".join(o.get("text", "") for o in cell.outputs if o.output_type == "stream")
        for k, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and "timing" not in cell.metadata.get("tags", [])
    }


def assert_says_the_same(old, new, trained=False):
    """Words are equal; numbers agree to 2 %, but for those that are nothing but rounding.

    Another processor rounds differently, and training carries that on: of what a cell tagged
    "training" prints, the words alone are held to.
    """
    old, new = RIGHT.sub("right", old), RIGHT.sub("right", new)
    assert re.sub(r"\s+", " ", NUMBER.sub("#", new)) == re.sub(r"\s+", " ", NUMBER.sub("#", old))
    if trained:
        return
    for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
        a, b = float(a.replace(",", "")), float(b.replace(",", ""))
        if max(abs(a), abs(b)) > 1e-8:
            assert a == pytest.approx(b, rel=0.02), f"{a} was printed, and {b} now"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
@pytest.mark.filterwarnings("default")  # Jupyter's own
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    for name, file in DATA.get(path.stem, []):
        pytest.importorskip("mido", reason="mido is not installed: kru_ref[notebooks]")
        try:
            locate(name, file)
        except FileNotFoundError as error:
            pytest.skip(str(error))
    committed = nbformat.read(path, 4)
    notebook = nbformat.read(path, 4)
    # raises if a cell does
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=FOLDER)
    old, new = printed(committed), printed(notebook)
    for cell, text in old.items():
        trained = "training" in notebook.cells[cell].metadata.get("tags", [])
        assert_says_the_same(text, new[cell], trained)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_what_is_committed(path):
    assert os.path.getsize(path) < LARGEST
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = path.read_text()
    assert not re.search(r"/tmp/|/home/|/work/|/Users/", text), "a path of somebody's machine"
    # what a handout leaves out
    solutions = [cell for cell in notebook.cells if cell.source.startswith("## Solutions")]
    assert len(solutions) == 1
    assert "solution" in solutions[0].metadata.tags
    for cell in code:
        assert all(o.output_type != "error" for o in cell.outputs)
        assert not any(o.get("name") == "stderr" for o in cell.outputs)


def test_staleness_is_noticed():
    assert_says_the_same("error 3e-16, N = 1,024", "error 7e-16,  N = 1,024")
    for new in ("error 3e-16, N = 1,100", "error 1, N = 1,024", "no error 3e-16, N = 1,024"):
        with pytest.raises(AssertionError):
            assert_says_the_same("error 3e-16, N = 1,024", new)
    row = "z  24  {}  6.89511523e+00  {}  {}"
    for entry, error in (("Im [0, 2]", "3.1e-11"), ("Re [1, 0]", "0.0e+00")):
        new = row.format(entry, "6.89511523e+00", error)
        assert_says_the_same(row.format("Re [1, 1]", "6.89511523e+00", "1.2e-10"), new)
    wrong = row.format("Im [0, 2]", "5.89511523e+00", "1.2e-01")
    with pytest.raises(AssertionError):
        assert_says_the_same(row.format("Re [1, 1]", "6.89511523e+00", "1.2e-10"), wrong)
    pairs = "{}: ⟨y, A x⟩ = {}, ⟨A^H y, x⟩ = {}, relative error {}, tolerance 1e-12"
    old = pairs.format("passed", "6.5+6j", "6.5+6j", "8.6e-17")
    assert_says_the_same(old, pairs.format("passed", "-0.1-2.3j", "-0.1-2.3j", "1.1e-16"))
    with pytest.raises(AssertionError):
        assert_says_the_same(old, pairs.format("FAILED", "-0.1-2.3j", "6.5+6j", "3.2e-01"))
