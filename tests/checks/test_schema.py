"""The JSON Schema of the vectors' index, against the index and against what reads it."""

import copy
import json
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator
from vector_results import PUBLISHED

from kru_ref.checks import vectors

SCHEMA = json.loads((PUBLISHED / vectors.SCHEMA).read_text())
INDEX = json.loads((PUBLISHED / vectors.INDEX).read_text())
VALIDATOR = Draft202012Validator(SCHEMA)


def test_the_index_is_valid_and_names_its_schema():
    Draft202012Validator.check_schema(SCHEMA)
    VALIDATOR.validate(INDEX)
    assert (PUBLISHED / INDEX["$schema"]).is_file()


def test_the_schema_is_written_with_the_vectors(written):
    assert (written / vectors.SCHEMA).read_bytes() == (PUBLISHED / vectors.SCHEMA).read_bytes()
    VALIDATOR.validate(json.loads((written / vectors.INDEX).read_text()))


def parts(node):
    """Yield what a schema is made of, but for conditions, which repeat what stands elsewhere."""
    for key, part in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(part, dict | list) and key != "if":
            yield key, part
            yield from parts(part)


def test_every_field_is_described():
    described = set()
    for keyword, part in parts(SCHEMA):
        if keyword == "properties":
            for name, of in part.items():
                assert of.get("description", "").endswith("."), name
                described.add(name)
    fields = set()

    def gather(node):
        for key, of in node.items():
            fields.add(key)
            for inner in of if isinstance(of, list) else [of]:
                if isinstance(inner, dict) and key not in ("notes", "arrays"):
                    gather(inner)

    gather({"index": INDEX})
    for case in INDEX["cases"]:
        gather({"case": case})
    fields -= {"index", "case"}
    assert {*fields, "dtype", "shape", "bug", "effect"} == described


FEW = (
    "product-7x7-float64-1", "kru-all", "two-gated-layers", "restricted-rnn-float64",
    "training-kru-sgd", "training-full-rmsprop", "training-lstm-adam",
)  # fmt: skip


def small(name):
    """Return an index of one case, with two of its flags."""
    index = copy.deepcopy(INDEX)
    index["cases"] = [case for case in index["cases"] if case["name"] == name]
    (case,) = index["cases"]
    case["flags"] = case["flags"][:2]
    index["notes"] = {flag: index["notes"][flag] for flag in case["flags"]}
    return index


def places(node, path=()):
    """Yield the way to everything in a small index but the whole; one array stands for all."""
    if path:
        yield path
    pairs = (
        node.items() if isinstance(node, dict) else enumerate(node) if type(node) is list else ()
    )
    for key, part in list(pairs)[: 1 if path[-1:] == ("arrays",) else None]:
        yield from places(part, (*path, key))


def at(index, place):
    """Return what holds a place."""
    for key in place[:-1]:
        index = index[key]
    return index


OTHERS = [
    None, True, -1, 0, 10**30, 1.5, "", "x" * 5_000, "../a.npz", "a\0",
    [], [1], [None], [[1, -1]], {}, {"a": 1}, {"settings": None}, [[[[[[[[]]]]]]]],
]  # fmt: skip


def is_read(folder, index):
    """Tell whether the package's reader, which needs no jsonschema, accepts an index."""
    (folder / vectors.INDEX).write_text(json.dumps(index))
    try:
        vectors.read_index(folder)
    except ValueError:
        return False
    return True


def is_looser(place):
    """Tell whether the reader lets pass there what the schema refuses.

    It takes an index of before, without flags, and verify makes no use of an optimizer.
    """
    return bool({"optimizer", "$schema", "flags", "notes"} & {*place})


@pytest.mark.parametrize("other", OTHERS, ids=[repr(other)[:20] for other in OTHERS])
def test_the_reader_refuses_what_the_schema_refuses_and_the_reverse(tmp_path, other):
    """Any value put in place of any other."""
    tried = 0
    for name in FEW:
        index = small(name)
        assert VALIDATOR.is_valid(index)
        for place in places(index):
            node = at(index, place)
            before, node[place[-1]] = node[place[-1]], other
            valid, read = VALIDATOR.is_valid(index), is_read(tmp_path, index)
            node[place[-1]] = before
            tried += 1
            if is_looser(place):
                assert read or not valid or place[-1] == "notes" or "flags" in place, place
            elif "permutation" in place:
                assert valid or not read  # no schema says that no number is left out
            else:
                assert valid == read, place
        assert is_read(tmp_path, index)
    assert tried > 300


@pytest.mark.parametrize("name", FEW)
def test_what_may_be_left_out(tmp_path, name):
    index = small(name)
    for place in [place for place in places(index) if isinstance(place[-1], str)]:
        node = at(index, place)
        before = dict(node)
        del node[place[-1]]
        valid, read = VALIDATOR.is_valid(index), is_read(tmp_path, index)
        node.clear()
        node.update(before)
        if place[-1] == "$schema":
            assert valid
            assert read
        elif place[-1] in ("notes", "flags") or "optimizer" in place[:-1]:
            assert not valid
        elif place[-2:-1] in (("notes",), ("arrays",)):
            assert valid  # no schema says that a case's flags are notes, or its arrays a solution
        else:
            assert not valid, place
            assert not read, place


def test_a_reader_of_before_reads_it_still(tmp_path):
    """Of format 2 nothing was taken away: what ignores unknown fields finds all that it knows."""
    assert INDEX["format"] == vectors.FORMAT == 2
    old = copy.deepcopy(INDEX)
    for key in ("$schema", "notes"):
        del old[key]
    for case in old["cases"]:
        del case["flags"]
        assert set(case) == {"name", "file", "sha256", "settings", "arrays"}
    assert set(old) == {"format", "kru_ref", "cases"}
    assert is_read(tmp_path, old)  # and this reader reads an index of before
    later = copy.deepcopy(INDEX)
    later["comment"] = later["cases"][0]["comment"] = "of a later version"
    assert is_read(tmp_path, later)
    assert VALIDATOR.is_valid(later)
    # but a setting that is not known may change what is to be computed
    later["cases"][0]["settings"]["comment"] = "of a later version"
    assert not is_read(tmp_path, later)
    assert not VALIDATOR.is_valid(later)


def test_a_flag_without_a_note_is_refused(tmp_path):
    index = small("kru-all")
    index["cases"][0]["flags"].append("Unheard")
    assert not is_read(tmp_path, index)


def test_reading_needs_no_jsonschema():
    code = (
        "import sys; sys.modules['jsonschema'] = None\n"
        "from pathlib import Path\n"
        "from kru_ref.checks import vectors, verify\n"
        "print(len(vectors.read_index(Path(sys.argv[1]))['cases']))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, str(PUBLISHED)], capture_output=True, text=True, check=True
    )
    assert int(made.stdout) == len(INDEX["cases"])
