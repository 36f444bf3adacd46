"""The flags of the vectors' cases: each is true, by the program that makes that mistake."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from faulty_kru import Faulty
from vector_results import PUBLISHED

from kru_ref.checks import mistakes, vectors, verify
from kru_ref.checks.slopes import probes_of

spec = importlib.util.spec_from_file_location("flagged", Path(__file__).with_name("flagged.py"))
flagged = importlib.util.module_from_spec(spec)
spec.loader.exec_module(flagged)


@pytest.fixture(scope="module")
def right():
    return flagged.Right(list(vectors.cases()))


@pytest.fixture(scope="module")
def index():
    return vectors.read_index(PUBLISHED)


def test_the_program_without_a_mistake_passes_every_case(right, index):
    assert [verdict.name for verdict in right.verdicts.values() if verdict.differences] == []
    assert list(right.verdicts) == [case["name"] for case in index["cases"]]


def test_each_mistake_that_a_program_can_make_has_a_flag(right, index):
    known = set.union(*right.may.values())
    assert set(flagged.FLAGS) == known
    names = [flag for flag, _ in flagged.FLAGS.values()]
    assert sorted(names) == sorted(set(names)) == list(index["notes"])


class Asking(Faulty):
    """The program that test_verify.py runs, which notes what it might do wrong."""

    def __init__(self):
        super().__init__()
        self.asked = set()

    def made(self, mistake):
        self.asked.add(mistake)
        return False


def test_the_mistakes_of_the_smaller_program_are_among_them():
    program = Asking()
    for case in vectors.cases():
        program.compute(case.settings, case.arrays)
    assert len(program.asked) > 80
    assert program.asked < set(flagged.FLAGS)


def test_the_pages_count_right(index):
    programs, cases = f"{len(flagged.FLAGS)}\\s+programs", f"{len(index['cases'])} small problems"
    docs = Path(__file__).parents[2] / "docs" / "verify.md"
    for page in (PUBLISHED / vectors.PAGE, docs):
        assert re.search(programs, page.read_text()), page
    assert cases in docs.read_text()


def test_each_flag_has_a_case_and_each_case_a_flag(index):
    assert {flag for case in index["cases"] for flag in case["flags"]} == set(index["notes"])
    assert all(case["flags"] for case in index["cases"])


@pytest.mark.parametrize("mistake", sorted(flagged.FLAGS, key=flagged.FLAGS.get))
def test_a_case_has_a_flag_if_and_only_if_that_mistake_fails_it(right, index, mistake):
    flag, bug = flagged.FLAGS[mistake]
    verdicts = right.but_for(mistake)
    failed = [verdict.name for verdict in verdicts if verdict.differences]
    assert failed == [case["name"] for case in index["cases"] if flag in case["flags"]]
    assert index["notes"][flag] == {"bug": bug, "effect": flagged.effect(verdicts)}
    # neither is a matter of rounding
    for verdict in verdicts:
        assert not 1e-11 < verdict.largest_error < 1e-8, verdict.name


def test_where_a_mistake_is_not_asked_for_it_is_not_made(right):
    """What ``but_for`` leaves out would pass."""
    left_out = 0
    for mistake in ("mask ignored", "no bias correction", "phases in reversed order"):
        program = flagged.Whole(mistake)
        for case in right.cases:
            if mistake not in right.may[case.name]:
                assert not flagged.verdict_on(program, case).differences
                left_out += 1
    assert left_out > 100


def test_a_penalty_of_full_matrices_is_caught_where_they_are_not_unitary(index):
    caught = [case["name"] for case in index["cases"] if "PenaltyOfFull" in case["flags"]]
    assert caught == [
        f"full-rnn-{dtype}-not-unitary-penalty" for dtype in ("float64", "complex128")
    ]
    for case in index["cases"]:
        if case["name"].startswith("full-"):
            W = vectors.read_arrays(PUBLISHED / case["file"])["params/cell.W"]
            distance = np.abs(W.conj().T @ W - np.eye(len(W))).max()
            assert distance > 0.1 if case["name"] in caught else distance < 1e-12


# What mistakes.py knows a gradient to look like, and the program whose gradients do.
LOOKS = {
    "it has the wrong sign": "gradients of the wrong sign",
    "its conjugate is right: ∂L/∂Re + i ∂L/∂Im is the convention": "gradients conjugated",
    "i times it is right: real and imaginary parts changed places?": "complex gradients times -i",
    "-i times it is right: real and imaginary parts changed places?": "complex gradients times i",
    "its transpose is right": "square gradients transposed",
    "its conjugate transpose is right": "square gradients conjugated and transposed",
    "its imaginary part is missing": "imaginary parts of gradients missing",
    "it is 0: never computed, or overwritten?": "gradients 0",
}


def test_whatever_a_wrong_gradient_may_look_like_some_case_shows_it(right):
    g = np.ones((2, 2), complex)
    probes = list(probes_of(g, None, None, None))
    known = mistakes._mistakes(g, probes, np.ones(len(probes)))
    assert {*known, mistakes.likely_cause(0 * g, g, 1e-6)} == set(LOOKS)
    for look, mistake in LOOKS.items():
        said = {
            difference.what.partition("; ")[2]
            for verdict in right.but_for(mistake)
            for difference in verify._first(verdict)
        }
        assert look in said


def test_what_the_package_holds_is_what_the_program_wrote(right, index):
    held = json.loads(Path(vectors.__file__).with_name("vectors.flags.json").read_text())
    assert held["notes"] == index["notes"]
    assert held["flags"] == {case["name"]: case["flags"] for case in index["cases"]}
