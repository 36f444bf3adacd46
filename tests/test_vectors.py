"""Conformance vectors: published is what is computed; verify passes right, and names wrong."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kru_ref import cli, vectors, verify

PUBLISHED = Path(__file__).parent / "vectors"
OUTSIDE = Path(__file__).parent / "pytorch_kru.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    vectors.write(folder)
    return folder


def results_of(folder, results, change=lambda case, name, a: a):
    """Copy outputs and gradients, changed, to a folder of results."""
    results.mkdir(exist_ok=True)
    for case in vectors.read_index(folder)["cases"]:
        arrays = vectors.read_arrays(folder / case["file"])
        changed = {
            name: change(case, name, a)
            for name, a in arrays.items()
            if name.startswith(("outputs/", "grads/"))
        }
        np.savez(results / case["file"], **{k: a for k, a in changed.items() if a is not None})
    return results


def test_the_published_set_is_what_this_version_computes(written):
    theirs, ours = vectors.read_index(PUBLISHED), vectors.read_index(written)
    assert [c["name"] for c in theirs["cases"]] == [c["name"] for c in ours["cases"]]
    assert (PUBLISHED / vectors.PAGE).read_text() == (written / vectors.PAGE).read_text()
    for old, new in zip(theirs["cases"], ours["cases"], strict=True):
        for key in ("file", "settings", "arrays"):
            assert old[key] == new[key], old["name"]
        expected = vectors.read_arrays(PUBLISHED / old["file"], old["sha256"])
        for name, a in vectors.read_arrays(written / new["file"]).items():
            if name.startswith(("params/", "inputs/")):
                np.testing.assert_array_equal(a, expected[name], err_msg=old["name"])
        # another processor's rounding
        wrong, _ = verify.compare(expected, vectors.read_arrays(written / new["file"]), 1e-12)
        assert not wrong, (old["name"], wrong)


def test_the_published_set_is_small():
    assert sum(path.stat().st_size for path in PUBLISHED.iterdir()) < 1_000_000
    names = {case["file"] for case in vectors.read_index(PUBLISHED)["cases"]}
    assert {p.name for p in PUBLISHED.iterdir()} == names | {vectors.INDEX, vectors.PAGE}


def test_the_same_bytes_each_time(written, tmp_path):
    vectors.write(tmp_path)
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_the_compiled_kernels_conform(backend):
    """Both backends, against what is published."""
    published = {case["name"]: case for case in vectors.read_index(PUBLISHED)["cases"]}
    for case in vectors.cases(backend):
        expected = vectors.read_arrays(PUBLISHED / published[case.name]["file"])
        wrong, _ = verify.compare(expected, case.arrays, 1e-12)
        assert not wrong, (case.name, wrong)


def test_numbers_are_as_the_page_says():
    """SHAKE-256 in little-endian words, its upper 21 bits as a multiple of 2^-20 from -1 on."""
    words = np.frombuffer(hashlib.shake_256(b"a name").digest(16), "<u4")
    expected = [int(w >> 11) / 2**20 - 1 for w in words]
    assert vectors.numbers("a name", (2, 2), "float64").reshape(-1).tolist() == expected
    z = vectors.numbers("a name", (2,), "complex128")
    assert [z[0].real, z[0].imag, z[1].real, z[1].imag] == expected
    whole = vectors.whole_numbers("a name", (4,), 3)
    assert whole.tolist() == [int(w) % 3 for w in words]
    assert set(vectors.whole_numbers("another", (50,), 3).tolist()) == {0, 1, 2}


def test_what_the_cases_cover(written):
    settings = [case["settings"] for case in vectors.read_index(written)["cases"]]
    networks = [s for s in settings if s["kind"] == "network"]
    cells = [cell for s in networks for cell in s["cells"]]
    assert {(c["cell"], c["matrix"]) for c in cells} >= {
        ("rnn", "kronecker"), ("lstm", "dense"), ("gru", "dense"), ("lstm", "kronecker"),
        ("gru", "kronecker"), ("rnn", "restricted"), ("rnn", "full"), ("rnn", "dense"),
    }  # fmt: skip
    kru = [(c["activation"], c["dtype"]) for c in cells if c["cell"] == "rnn"]
    assert len(set(kru)) == 6
    assert {s["T"] for s in networks} >= {1, 2, 17}
    for fact in ("one_hot", "mask", "last_only", "penalty"):
        assert {bool(s[fact]) for s in networks} == {True, False}
    assert {s["loss"] for s in networks} == {"softmax", "squared", "bernoulli"}
    assert {len(s["cells"]) for s in networks} == {1, 2}
    # no gradient of a parameter is 0 throughout: a case would not see it missing
    for case in vectors.cases():
        for name, a in case.arrays.items():
            if name.startswith("grads/"):
                assert np.abs(a).max() > 0, (case.name, name)


def test_verify_passes_what_is_right(written, tmp_path, capsys):
    results = results_of(written, tmp_path / "results")
    assert cli.main(["vectors", "verify", str(written), str(results)]) == 0
    assert "91 of 91 cases passed, 0 not attempted" in capsys.readouterr().out
    for path in sorted(results.iterdir())[5:]:
        path.unlink()
    assert cli.main(["vectors", "verify", str(written), str(results)]) == 0
    assert "5 of 5 cases passed, 86 not attempted" in capsys.readouterr().out


def test_single_precision_results(written, tmp_path):
    def single(case, name, a):
        return a.astype("complex64" if np.iscomplexobj(a) else "float32")

    results = results_of(written, tmp_path / "results", single)
    verdicts = verify.verify(written, results)
    assert any(v.differences for v in verdicts)
    assert "if this is single precision, it passes with --tolerance 0.0001" in verify.report(
        verdicts
    )
    assert not any("times it is right" in d.what for v in verdicts for d in v.differences)
    assert not any(v.differences for v in verify.verify(written, results, 1e-6))


CHANGES = {
    "is missing": lambda a: None,
    "must have shape (24, 2), got (2, 24)": lambda a: a.T,
    "must be float64, got complex128": lambda a: a + 0j,
    "is not finite": lambda a: a * np.where(a == a.max(), np.nan, 1),
    "relative error 1.0e-07, at [3, 1] expected": lambda a: (
        a + 1e-7 * np.abs(a).max() * (np.arange(48).reshape(24, 2) == 7)
    ),
    "2 times it is right": lambda a: a / 2,
    "it has the wrong sign": lambda a: -a,
    "it is 0: never computed": lambda a: 0 * a,
}


@pytest.mark.parametrize("message", CHANGES)
def test_verify_says_what_is_wrong(written, tmp_path, capsys, message):
    def change(case, name, a):
        wrong = case["name"] == "kronecker-lstm-17" and name == "grads/cell.U"
        return CHANGES[message](a) if wrong else a

    results = results_of(written, tmp_path / "results", change)
    assert cli.main(["vectors", "verify", str(written), str(results)]) == 1
    out = capsys.readouterr().out
    wrong = [line for line in out.splitlines() if line.startswith("  ")]
    assert len(wrong) == 1
    assert wrong[0].startswith("  grads/cell.U")
    assert message in wrong[0]
    assert "kronecker-lstm-17: wrong" in out
    assert "90 of 91 cases passed" in out


def test_verify_finds_what_wrong_cases_have_in_common(written, tmp_path):
    def unmasked(case, name, a):
        return 1.1 * a if case["settings"].get("mask") else a

    results = results_of(written, tmp_path / "masked", unmasked)
    assert verify.pattern(verify.verify(written, results)) == ["mask = True"]

    def gru(case, name, a):
        return a + 1 if any(c["cell"] == "gru" for c in case["settings"].get("cells", [])) else a

    results = results_of(written, tmp_path / "gru", gru)
    assert verify.pattern(verify.verify(written, results)) == ["cell = gru"]
    results = results_of(written, tmp_path / "all", lambda case, name, a: a + 1)
    assert verify.pattern(verify.verify(written, results)) == []


def outside(results, *options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    assert torch
    command = [sys.executable, "-W", "error", str(OUTSIDE), str(PUBLISHED), str(results), *options]
    subprocess.run(command, check=True, timeout=600)
    return verify.report(verify.verify(PUBLISHED, results)).splitlines()


def test_a_program_from_outside_passes(tmp_path):
    """Written from the page alone, without kru_ref: products and all KRU networks."""
    assert "kru_ref" not in OUTSIDE.read_text().split('"""')[2]
    lines = outside(tmp_path)
    assert lines[-1] == "64 of 64 cases passed, 27 not attempted"


NAMED = {
    "conjugate": [
        "its conjugate is right",
        "wrong where, and only where, dtype = complex128",
        "most often",
    ],
    "transpose": ["its transpose is right"],
    "sum": ["outputs/loss", "B times what it should be: a sum for a mean, or the reverse?"],
    "penalty": ["wrong where, and only where, penalty > 0"],
    "order": ["outputs/y relative error", "the factors are taken in reversed order"],
    "mask": ["wrong where, and only where, mask = True"],
    "late": ["the forward pass is wrong from time step 0 on", "wrong where, and only where, kind"],
    "modulus": ["there only where 0 is expected: is a threshold, max(…, 0), missing?"],
}


@pytest.mark.parametrize("mistake", NAMED)
def test_planted_mistakes_are_named(tmp_path, mistake):
    lines = outside(tmp_path, "--mistake", mistake)
    for words in NAMED[mistake]:
        assert any(words in line for line in lines), words
    assert not lines[-1].startswith("64 of 64")


def test_a_wrong_forward_pass_is_the_cause_of_all_else(written, tmp_path):
    def late(case, name, a):
        return a + 0.1 if case["name"] == "kru-tanh-real-17" else a

    results = results_of(written, tmp_path / "results", late)
    lines = [d for v in verify.verify(written, results) for d in v.differences]
    assert "the forward pass is wrong from time step 0 on" in lines[0].what
    assert not any("; " in d.what for d in lines if d.array.startswith("grads/"))


def test_one_bad_file_is_one_wrong_case(written, tmp_path):
    results = results_of(written, tmp_path / "results")
    (results / "kru-all.npz").write_bytes(b"")
    np.savez(results / "kru-weights.npz", **{"outputs/loss": np.array([print])})
    wrong = [v for v in verify.verify(written, results) if v.differences]
    assert [v.name for v in wrong] == ["kru-weights", "kru-all"]
    assert "it holds Python objects" in wrong[0].differences[0].what
    assert "unsafe" not in wrong[0].differences[0].what


def test_names_that_nobody_knows(written, tmp_path):
    results = results_of(written, tmp_path / "results")
    (results / "kru-all.npz").rename(results / "kru_all.npz")
    with pytest.raises(ValueError, match=r"holds kru_all\.npz, but no case has such a file"):
        verify.verify(written, results)
    (results / "kru_all.npz").unlink()
    assert "not attempted: kru-all" in verify.report(verify.verify(written, results))
    arrays = vectors.read_arrays(results / "kru-weights.npz")
    arrays["grad/cell.U"] = arrays.pop("grads/cell.U")
    np.savez(results / "kru-weights.npz", **arrays)
    lines = verify.report(verify.verify(written, results))
    assert "grads/cell.U is missing" in lines
    assert "grad/cell.U is unknown" in lines
    assert "single precision" not in lines


def test_nothing_to_verify(written, tmp_path, capsys):
    assert cli.main(["vectors", "verify", str(written), str(tmp_path)]) == 1
    assert "holds no result: expected files such as product-2x2" in capsys.readouterr().err
    assert cli.main(["vectors", "verify", str(tmp_path), str(written)]) == 1
    assert "index.json does not exist: make it with" in capsys.readouterr().err


DAMAGE = {
    "{": "is damaged",
    '{"format": 2, "cases": []}': "format must be 1, got 2; use the kru_ref that wrote it",
    '{"format": 1, "cases": []}': "no cases",
    '{"format": 1, "cases": [{"name": "a"}]}': "is damaged: 'file'",
    '{"format": 1, "cases": [{"name": "a", "file": "../a", "settings": {}}]}': "outside the folder",
    "[]": "is damaged",
}


@pytest.mark.parametrize("text", DAMAGE)
def test_a_damaged_index(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json.*" + DAMAGE[text]):
        vectors.read_index(tmp_path)


def test_files_that_are_no_arrays(written, tmp_path):
    path = tmp_path / "a.npz"
    for content in (
        b"",
        b"PK\x03\x04",
        b"\x93NUMPY",
        next(written.glob("*.npz")).read_bytes()[:-30],
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz is no \.npz of plain arrays"):
            vectors.read_arrays(path)
    np.savez(path, a=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="it holds Python objects"):
        vectors.read_arrays(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(vectors.LARGEST_ARRAY + 1))
    with pytest.raises(ValueError, match=r"a\.npy is larger than 16,777,216 bytes"):
        vectors.read_arrays(path)


def test_vectors_that_were_changed(written, tmp_path):
    """The expected side is the index's, byte for byte."""
    results = results_of(written, tmp_path / "results")
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    case = json.loads((tmp_path / "index.json").read_text())["cases"][0]
    arrays = vectors.read_arrays(tmp_path / case["file"])
    np.savez(tmp_path / case["file"], **(arrays | {"outputs/y": arrays["outputs/y"] + 1}))
    with pytest.raises(ValueError, match="it is not the file that the index describes"):
        verify.verify(tmp_path, results)


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["vectors", "write", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err
