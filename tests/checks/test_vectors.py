"""Conformance vectors: published is what is computed; verify passes right, and names wrong."""

import hashlib
import json
import zipfile

import numpy as np
import pytest
from vector_results import PUBLISHED, results_of

from kru_ref.checks import vectors, verify
from kru_ref.training import cli


def test_the_published_set_is_what_this_version_computes(written):
    theirs, ours = vectors.read_index(PUBLISHED), vectors.read_index(written)
    assert [c["name"] for c in theirs["cases"]] == [c["name"] for c in ours["cases"]]
    assert theirs["notes"] == ours["notes"]
    for page in (vectors.PAGE, vectors.SCHEMA):
        assert (PUBLISHED / page).read_text() == (written / page).read_text()
    for old, new in zip(theirs["cases"], ours["cases"], strict=True):
        for key in ("file", "flags", "settings", "arrays"):
            assert old[key] == new[key], old["name"]
        expected = vectors.read_arrays(PUBLISHED / old["file"], old["sha256"])
        for name, a in vectors.read_arrays(written / new["file"]).items():
            if name.startswith(("params/", "inputs/")):
                np.testing.assert_array_equal(a, expected[name], err_msg=old["name"])
        # another processor's rounding
        wrong, _ = verify.compare(expected, vectors.read_arrays(written / new["file"]), 1e-12)
        assert not wrong, (old["name"], wrong)


def test_the_published_set_is_small():
    assert sum(path.stat().st_size for path in PUBLISHED.iterdir()) < 1_750_000
    names = {case["file"] for case in vectors.read_index(PUBLISHED)["cases"]}
    assert {p.name for p in PUBLISHED.iterdir()} == names | {
        vectors.INDEX,
        vectors.PAGE,
        vectors.SCHEMA,
    }


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
        ("lru", "diagonal"), ("rnn", "diagonal"),
    }  # fmt: skip
    kru = [(c["activation"], c["dtype"]) for c in cells if c["cell"] == "rnn"]
    assert len(set(kru)) == 6
    assert {s["T"] for s in networks} >= {1, 3, 17}
    for fact in ("one_hot", "mask", "last_only", "penalty"):
        assert {bool(s[fact]) for s in networks} == {True, False}
    assert {s["loss"] for s in networks} == {"softmax", "squared", "bernoulli"}
    assert {len(s["cells"]) for s in networks} == {1, 2}
    assert [c["matrix"] for s in networks if s["penalty"] for c in s["cells"]].count("full") == 4
    # no gradient of a parameter is 0 throughout: a case would not see it missing
    for case in vectors.cases():
        for name, a in case.arrays.items():
            if name.startswith("grads/"):
                assert np.abs(a).max() > 0, (case.name, name)


NAME_ONLY = '{"format": 2, "kru_ref": "0", "cases": [{"name": "a"}]}'


OUTSIDE_OF_IT = '{"format": 2, "kru_ref": "0", "cases": [{"name": "a", "file": "../a.npz"}]}'


DAMAGE = {
    "": "is damaged",
    "{": "is damaged",
    '{"format": 3, "cases": []}': "format must be 2, got 3; use the kru_ref that wrote it",
    '{"format": true, "cases": []}': "format of the index must be a whole number",
    '{"format": 2, "cases": []}': "no cases",
    '{"format": 2, "cases": {"a": 1}}': "cases of the index must be a list",
    NAME_ONLY: "case 'a' has no 'file'",
    OUTSIDE_OF_IT: "outside the folder",
    "[]": "expected an object",
    "[" * 100_000: "is damaged",
    "1" * 5_000: "is damaged",
    "\udcff": "is not UTF-8",
}


@pytest.mark.parametrize("text", DAMAGE, ids=[text[:60] for text in DAMAGE])
def test_a_damaged_index(tmp_path, text):
    (tmp_path / "index.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"index\.json.*" + DAMAGE[text]) as error:
        vectors.read_index(tmp_path)
    assert len(str(error.value)) - len(str(tmp_path)) < 300


def refusal(call, *arguments):
    """Return what a function says when it refuses its arguments, or nothing."""
    try:
        call(*arguments)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def places(node, path=()):
    """Yield the way to everything in a JSON document."""
    yield path
    parts = (
        node.items() if isinstance(node, dict) else enumerate(node) if type(node) is list else ()
    )
    for key, part in parts:
        yield from places(part, (*path, key))


OTHERS = [
    None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x" * 5_000, "../a.npz", "a\0",
    [], [1], [None], [[1, -1]], {}, {"a": 1}, {"settings": None}, [[[[[[[[]]]]]]]],
]  # fmt: skip


FREE = (
    "kru_ref", "name", "penalty", "T", "B", "output_size", "input_size", "hidden_size", "mask",
    "one_hot", "last_only", "bug", "effect", "flags", "$schema",
)  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=[repr(other)[:20] for other in OTHERS])
def test_wrong_types_anywhere_in_an_index(written, tmp_path, other):
    """What is put in place of any value is refused in a sentence, or makes no difference."""
    index = vectors.read_index(written)
    few = ("kru-all", "two-gated-layers", "restricted-rnn-float64", "product-7x7-float64-1")
    index["cases"] = [case for case in index["cases"] if case["name"] in few]
    for case in index["cases"]:  # as few as will do: each is tried with everything
        case["flags"] = case["flags"][:1]
    told = {flag for case in index["cases"] for flag in case["flags"]}
    index["notes"] = {flag: index["notes"][flag] for flag in sorted(told)}
    results = results_of(written, tmp_path / "results", cases=few)
    for case in index["cases"]:
        (tmp_path / case["file"]).write_bytes((written / case["file"]).read_bytes())
    path = tmp_path / "index.json"
    for place in places(index):
        whole = [json.loads(json.dumps(index))]
        node = whole
        for key in (0, *place)[:-1]:
            node = node[key]
        node[(0, *place)[-1]] = other
        path.write_text(json.dumps(whole[0]))
        text = refusal(lambda: verify.report(verify.verify(tmp_path, results)))
        if text:
            assert str(tmp_path) in text
            assert len(text.replace(str(tmp_path), "")) < 300
        else:
            # what another case might well have
            assert whole[0] == index or place[-1] in FREE, place


@pytest.mark.parametrize("key", ["name", "file", "sha256", "settings", "arrays"])
def test_what_an_index_may_not_leave_out(written, tmp_path, key):
    index = vectors.read_index(written)
    del index["cases"][1][key]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"case .* has no '{key}'.*vectors write"):
        vectors.read_index(tmp_path)
    index = vectors.read_index(written)
    index["cases"][1] = index["cases"][0]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="two cases have the same name"):
        vectors.read_index(tmp_path)


def npy(header, data=b"", version=1):
    text = header.encode("latin-1").ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text + data


MEMBERS = {
    "no NPY": b"hello",
    "empty": b"",
    "magic alone": b"\x93NUMPY",
    "of version 9": npy("{}", version=9),
    "no dict": npy("[]"),
    "keys missing": npy("{'descr': '<f8'}"),
    "syntax": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,"),
    "unended text": npy("{'descr': '<f8"),
    "deep": npy("(" * 116),
    "deeper": b"\x93NUMPY\x01\x00" + (9_000).to_bytes(2, "little") + b"[" * 8_999 + b"\n",
    "long": b"\x93NUMPY\x01\x00" + (60_000).to_bytes(2, "little") + b" " * 60_000,
    "not a type": npy("{'descr': '<q9', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    "type None": npy("{'descr': None, 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    "text": npy("{'descr': '<U2', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    "records": npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}", bytes(8)),
    "too few": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", bytes(8)),
    "too many": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", bytes(16)),
    "huge": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}", bytes(8)),
    "negative": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}", bytes(8)),
    "shape of text": npy("{'descr': '<f8', 'fortran_order': False, 'shape': ('a',)}", bytes(8)),
    "axes": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,) * 99}", bytes(8)),
}


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_that_is_no_array_of_numbers(written, tmp_path, member):
    results = results_of(written, tmp_path / "results", cases=["kru-all"])
    path = results / "kru-all.npz"
    for name in ("outputs/loss.npy", "x" * 3_000 + ".npy"):
        zipped(path, {name: MEMBERS[member]})
        with pytest.raises(
            ValueError, match=r"kru-all\.npz is no \.npz of plain arrays: "
        ) as error:
            vectors.read_arrays(path)
        text = str(error.value)
        assert "pickle" not in text
        assert text.endswith("Write it again")
        assert len(text.replace(str(path), "")) < 300
        (wrong,) = (v for v in verify.verify(written, results) if v.attempted)
        assert [d.what for d in wrong.differences] == [text]


def test_other_archives_that_are_damaged(tmp_path):
    path = tmp_path / "a.npz"
    good = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", bytes(8))
    zipped(path, {"a.npy": good})
    assert vectors.read_arrays(path)["a"].tolist() == [0.0]
    whole = path.read_bytes()
    for i in range(len(whole)):  # each byte in turn: read, or refused in a sentence
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x3C]) + whole[i + 1 :])
        text = refusal(vectors.read_arrays, path)
        assert not text or "a.npz is no .npz of plain arrays: " in text
        assert len(text.replace(str(path), "")) < 300
        assert "pickle" not in text
    zipped(path, {"a": good})
    with pytest.raises(ValueError, match=r"it holds 'a', which is no \.npy"):
        vectors.read_arrays(path)
    zipped(path, {"a.npy": good, "b.npy": good})
    path.write_bytes(path.read_bytes().replace(b"b.npy", b"a.npy"))
    with pytest.raises(ValueError, match="it holds 'a' twice"):
        vectors.read_arrays(path)
    zipped(path, {f"{i}.npy": bytes(2**20) for i in range(17)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="its arrays together are larger than 16,777,216 bytes"):
        vectors.read_arrays(path)


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
