"""Another implementation's results beside the vectors."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vector_results import PUBLISHED, results_of

from kru_ref.checks import vectors, verify
from kru_ref.training import cli

OUTSIDE = Path(__file__).parents[1] / "pytorch_kru.py"


def test_verify_passes_what_is_right(written, tmp_path, capsys):
    results = results_of(written, tmp_path / "results")
    assert cli.main(["vectors", "verify", str(written), str(results)]) == 0
    assert "102 of 102 cases passed, 0 not attempted" in capsys.readouterr().out
    for path in sorted(results.iterdir())[5:]:
        path.unlink()
    assert cli.main(["vectors", "verify", str(written), str(results)]) == 0
    assert "5 of 5 cases passed, 97 not attempted" in capsys.readouterr().out


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
    "must have shape (24, 7), got (7, 24)": lambda a: a.T,
    "must be float64, got complex128": lambda a: a + 0j,
    "is not finite": lambda a: a * np.where(a == a.max(), np.nan, 1),
    "relative error 1.0e-07, at [1, 0] expected": lambda a: (
        a + 1e-7 * np.abs(a).max() * (np.arange(168).reshape(24, 7) == 7)
    ),
    "2 times it is right": lambda a: a / 2,
    "it has the wrong sign": lambda a: -a,
    "it is 0: never computed": lambda a: 0 * a,
}


@pytest.mark.parametrize("message", CHANGES)
def test_verify_says_what_is_wrong(written, tmp_path, capsys, message):
    def change(case, name, a):
        wrong = case["name"] == "kronecker-lstm-17x3" and name == "grads/cell.U"
        return CHANGES[message](a) if wrong else a

    results = results_of(written, tmp_path / "results", change)
    assert cli.main(["vectors", "verify", str(written), str(results)]) == 1
    out = capsys.readouterr().out
    wrong = [line for line in out.splitlines() if line.startswith("  ")]
    assert len(wrong) == 1
    assert wrong[0].startswith("  grads/cell.U")
    assert message in wrong[0]
    assert "kronecker-lstm-17x3: wrong" in out
    assert "101 of 102 cases passed" in out


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
    assert lines[-1] == "62 of 62 cases passed, 40 not attempted"


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_another_language_passes(tmp_path):
    """JavaScript written from the page alone, which reads ZIP and NPY by itself: every case."""
    program = OUTSIDE.with_name("kru.mjs")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if tuple(map(int, version.stdout[1:].split(".")))[:2] < (20, 15):
        pytest.skip(f"kru.mjs needs Node 20.15, this is {version.stdout.strip()}")
    command = ["node", str(program), str(PUBLISHED), str(tmp_path)]
    subprocess.run(command, check=True, timeout=600)
    lines = verify.report(verify.verify(PUBLISHED, tmp_path)).splitlines()
    assert lines[-1] == "102 of 102 cases passed, 0 not attempted"


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
    "late": ["the forward pass is wrong from time step 0 on"],
    "modulus": ["there only where 0 is expected: is a threshold, max(…, 0), missing?"],
}


@pytest.mark.parametrize("mistake", NAMED)
def test_planted_mistakes_are_named(tmp_path, mistake):
    lines = outside(tmp_path, "--mistake", mistake)
    for words in NAMED[mistake]:
        assert any(words in line for line in lines), words
    assert not lines[-1].startswith("62 of 62")


def faulty():
    spec = importlib.util.spec_from_file_location("faulty_kru", OUTSIDE.with_name("faulty_kru.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mean(over):
    return f"{over} times what it should be: a sum for a mean, or the reverse?"


ZERO = "it is 0: never computed, or overwritten?"


FORWARD = "the forward pass is wrong from time step 0 on"


THRESHOLD = f"{FORWARD}, there only where 0 is expected: is a threshold, max(…, 0), missing?"


CONJUGATE = "its conjugate is right: ∂L/∂Re + i ∂L/∂Im is the convention"


# Of each mistake, where it is said to be and what it looks like most often; both are true of it.
SAID = {
    "1 - z forgotten in dn": ("cell = gru", ""),
    "2 for 4 in the penalty": ("penalty > 0", ""),
    "average over masked steps too": ("mask = True", mean("the mask's mean")),
    "b_h's gradient without r": ("cell = gru", ""),
    "c for tanh c in do": ("cell = lstm", ""),
    "c0 ignored": ("cell = lstm", FORWARD),
    "c_0 forgotten in df": ("cell = lstm", ""),
    "c_t for c_{t-1}": ("cell = lstm", ""),
    "conj forgotten in dW_f": ("dtype = complex128", ""),
    "conj forgotten in dx": ("", ""),
    "conj forgotten in modrelu": ("activation = modrelu and dtype = complex128", ""),
    "conj forgotten in the adjoint": ("dtype = complex128", ""),
    "conj forgotten in the other factors": ("dtype = complex128 and factors > 1", ""),
    "conj in the penalty's gradient": ("dtype = complex128 and penalty > 0", ""),
    "dU of the last step": ("T > 1", ""),
    "dU over T": ("T > 1", mean("1/T")),
    "dV over B": ("B > 1", mean("1/B")),
    "dW over B": ("B > 1 and kind = network", mean("1/B")),
    "dW over T": ("T > 1", mean("1/T")),
    "db of the first sequence": ("B > 1", ""),
    "db of the imaginary part": ("", ZERO),
    "db over B": ("B > 1", mean("1/B")),
    "db over T B": ("", mean("1/(T B)")),
    "dc not multiplied by f": ("cell = lstm", ""),
    "dc of the last step": ("T > 1 and last_only = False", ""),
    "dc of this step only": ("T > 1 and cell = lstm", ""),
    "dh0 never computed": ("kind = network", ZERO),
    "dh0 of the first sequence": ("B > 1", ""),
    "dh0 over B": ("B > 1", mean("1/B")),
    "factors conjugated": ("dtype = complex128", FORWARD),
    "factors in reversed order": ("", FORWARD),
    "factors' gradients conjugated": ("dtype = complex128", CONJUGATE),
    "factors' gradients over the number of factors": ("factors > 1", "2 times it is right"),
    "first step lost in dW": ("kind = network", ""),
    "first step read for the last": ("last_only = True", ""),
    "gates o and g change places": ("cell = lstm", FORWARD),
    "gradients conjugated, but of factors": ("dtype = complex128", CONJUGATE),
    "gradients over T": ("T > 1", mean("1/T")),
    "h0 ignored": ("kind = network", FORWARD),
    "h_t for h_{t-1} in dW": ("kind = network", ""),
    "half the squares": ("loss = squared", "2 times it is right"),
    "imaginary parts before real ones": ("dtype = complex128", ""),
    "imaginary parts missing": (
        "dtype = complex128 and kind = network", "its imaginary part is missing"
    ),
    "labels averaged": ("loss = bernoulli", mean("1/M")),
    "last step lost in dW": ("", ""),
    "leaky relu": ("activation = relu", THRESHOLD),
    "mask ignored": ("mask = True", ""),
    "mask ignored in the gradient": ("mask = True", ""),
    "modrelu's phase held fixed": ("activation = modrelu and dtype = complex128", ""),
    "modrelu's threshold passes gradients": ("", ""),
    "no tanh of c": ("cell = lstm", FORWARD),
    "no threshold in modrelu": ("", THRESHOLD),
    "nothing passed to the layer below": ("layers = 2", ZERO),
    "one-hot dU overwritten, not added": ("one_hot = True", ""),
    "only the first sequence in dW": ("B > 1 and kind = network", ""),
    "only this step's loss": ("T > 1", ""),
    "other factors left out": ("factors > 1", ""),
    "penalty in the average": ("penalty > 0", ""),
    "penalty missing in the loss": ("penalty > 0", ""),
    "penalty not squared": ("penalty > 0", ""),
    "penalty of W W^H": ("", ""),
    "penalty's gradient missing": ("penalty > 0", ""),
    "r forgotten behind W_n": ("cell = gru", ""),
    "readout's gradient conjugated": ("dtype = complex128 and kind = network", ""),
    "relu' = 1": ("activation = relu", ""),
    "reset before the product": ("cell = gru", FORWARD),
    "sigmoid' = s in di": ("cell = lstm", ""),
    "sign of dz": ("cell = gru", ""),
    "square factors not transposed in the adjoint": ("", ""),
    "square factors' gradients transposed": ("", "its transpose is right"),
    "square's 2 forgotten": ("loss = squared", "2 times it is right"),
    "squares summed over outputs": ("loss = squared", mean("M")),
    "summed over the batch": ("B > 1 and mask = False", mean("B")),
    "summed over time": ("", mean("T")),
    "summed over time and batch": ("", mean("T B")),
    "tanh' = 1 - h": ("activation = tanh", ""),
    "tanh' of z for h": ("activation = tanh", ""),
    "tanh'(c) forgotten": ("cell = lstm", ""),
    "tanh'(g) = 1 - g": ("cell = lstm", ""),
    "target left out of softmax's gradient": ("loss = softmax", ""),
    "targets one step late": ("T > 1 and last_only = False", ""),
    "weights taken for yes and no": ("", ""),
    "z and 1 - z change places": ("cell = gru", FORWARD),
    "z h_{t-1} forgotten": ("cell = gru", ""),
}  # fmt: skip


def said_of(implementation, solved):
    """Return the verdicts on what an implementation computes."""
    verdicts = []
    for case in solved:
        got = implementation.compute(case.settings, case.arrays)
        wrong, largest = verify.compare(case.arrays, got or {}, 1e-9, case.settings)
        found = (tuple(wrong), largest) if got else ((), 0.0)
        verdicts.append(verify.Verdict(case.name, case.settings, got is not None, *found))
    return verdicts


@pytest.fixture(scope="module")
def solved():
    return list(vectors.cases())


def test_an_implementation_with_gradients_of_its_own_passes(solved):
    module = faulty()
    verdicts = said_of(module.Faulty(), solved)
    assert verify.report(verdicts).endswith("82 of 82 cases passed, 20 not attempted")
    assert set(SAID) == module.MISTAKES


@pytest.mark.parametrize("mistake", SAID)
def test_each_of_many_mistakes_is_caught_and_none_misnamed(solved, mistake):
    """What is printed is the right thing or nothing; no mean is named after another size."""
    module = faulty()
    module.MISTAKES.add(mistake)
    verdicts = said_of(module.Faulty(mistake), solved)
    report = verify.report(verdicts).splitlines()
    assert any(verdict.differences for verdict in verdicts)
    where = [line for line in report if line.startswith("wrong where, and only where, ")]
    looks = [line for line in report if line.startswith("most often, ")]
    said = SAID[mistake]
    assert where == [f"wrong where, and only where, {said[0]}"] * bool(said[0])
    assert [line.partition(" times: ")[2] for line in looks] == [said[1]] * bool(said[1])
    over = {
        line.partition("; ")[2].partition(" times what")[0] for line in report if "a mean" in line
    }
    if not said[1].endswith("the reverse?"):
        assert not over - {""}
    assert "points about where" not in "".join(report)


def test_sizes_can_be_told_apart(solved):
    """In each case 2, T, B, M, D, N, their products and the number of factors all differ."""
    batches = set()
    for case in solved:
        s = case.settings
        if s["kind"] == "product":
            assert s["B"] in (1, 4)
            assert s["B"] == 1 or s["B"] != len(s["factors"])
            continue
        if s["kind"] == "training":
            continue
        batches.add((s["T"] > 1, s["B"] > 1))
        sizes = verify._sizes(s, {})
        values = [2, *sizes.values()]
        assert len(set(values)) == len(values), (case.name, sizes)
        assert abs(case.arrays["outputs/logits"]).max() < 30  # exp of it is no problem
    assert len(batches) == 4
    for cell in ("rnn", "lstm", "gru", "lru"):
        networks = [c.settings for c in solved if c.settings["kind"] == "network"]
        those = [s for s in networks if s["cells"][0]["cell"] == cell]
        assert {(s["T"] > 1, s["B"] > 1) for s in those} >= {
            (True, False),
            (False, True),
            (True, True),
        }


def test_a_wrong_forward_pass_is_the_cause_of_all_else(written, tmp_path):
    def late(case, name, a):
        return a + 0.1 if case["name"] == "kru-tanh-real-17x3" else a

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


def of_training(written, tmp_path, name, change):
    """Return the verdict on a training in which one thing is wrong from some update on."""
    tmp_path.mkdir(exist_ok=True)
    results = results_of(written, tmp_path / name, change, [f"training-{name}"])
    (verdict,) = (v for v in verify.verify(written, results) if v.attempted)
    return verdict


def from_update(k, array, change):
    """Let an array be wrong from update k on."""

    def changed(case, name, a):
        if name == array:
            a = a.copy()
            a[k:] = change(a[k:])
        return a

    return changed


LOSS = (
    r"first differs at update 3, loss: relative error \d\.\de-0[67], "
    r"expected (\d\.\d+), got (\d\.\d+), tolerance 1e-09; "
    r"the parameters are right: does it take its own batch\?"
)


def test_the_first_update_that_differs_is_named(written, tmp_path):
    change = from_update(3, "outputs/loss", lambda a: a * (1 + 1e-6))
    verdict = of_training(written, tmp_path, "kru-adam", change)
    assert verdict.first.array == "outputs/loss"
    found = re.fullmatch(LOSS, verdict.first.what)
    right, wrong = (float(number) for number in found.groups())
    with np.load(written / "training-kru-adam.npz") as file:
        assert right == pytest.approx(file["outputs/loss"][3], abs=1e-11)
    assert wrong == pytest.approx(right * (1 + 1e-6), abs=1e-11)
    lines = verify.report([verdict]).splitlines()
    assert lines[:2] == ["training-kru-adam: wrong", f"  {verdict.first.what}"]
    # nothing is said of a training that passes, nor of a case that is none
    passed = of_training(written, tmp_path / "right", "kru-adam", lambda case, name, a: a)
    assert passed.first is None
    results = results_of(written, tmp_path / "all", lambda case, name, a: a + 1, ["kru-all"])
    assert not any(v.first for v in verify.verify(written, results))


IN_TURN = {
    "grads/cell.U": "update 2, gradient of cell.U: ",
    "outputs/after/readout.c": "update 2, readout.c after it: ",
    "outputs/loss": "update 2, loss: ",
}


@pytest.mark.parametrize("array", IN_TURN)
def test_what_an_update_computes_first_is_the_first_that_differs(written, tmp_path, array):
    """The loss before the gradients before the parameters, and an update before the next one."""

    def change(case, name, a):
        order = ("outputs/loss", "grads/cell.U", "outputs/after/readout.c")
        k = 2 if name in order[order.index(array) :] else 3
        return np.concatenate([a[:k], a[k:] + 0.5])

    first = of_training(written, tmp_path, "kru-sgd", change).first
    assert first.array == array
    assert first.what.startswith(f"first differs at {IN_TURN[array]}relative error ")


def test_what_the_first_update_that_differs_looks_like(written, tmp_path):
    """Of the gradients of that update alone: those of later ones are of other parameters."""
    rate = from_update(0, "outputs/after/cell.W.1", lambda a: a + 0.01)
    first = of_training(written, tmp_path, "kru-rmsprop", rate).first
    assert first.what.startswith("first differs at update 0, cell.W.1 after it: ")
    assert first.what.endswith("; its gradients are right: is it the clipping, the rule or a rate?")

    def conjugated(case, name, a):
        if name == "grads/cell.h0":
            a = np.concatenate([a[:1].conj(), a[1:] + 1])
        return np.concatenate([a[:1], a[1:] + 1]) if "after" in name else a

    first = of_training(written, tmp_path / "conjugated", "kru-sgd", conjugated).first
    assert first.what.startswith("first differs at update 0, gradient of cell.h0: ")
    assert "its conjugate is right" in first.what


def test_an_update_that_is_not_finite_or_not_there(written, tmp_path):
    change = from_update(4, "grads/cell.b", lambda a: a * np.nan)
    first = of_training(written, tmp_path, "lstm-adam", change).first
    assert first.what.startswith("first differs at update 4, gradient of cell.b: ")
    assert "got nan" in first.what

    def one_missing(case, name, a):
        if name == "outputs/loss":
            return None
        return np.concatenate([a[:5], a[5:] + 1]) if name == "outputs/after/cell.U" else a

    verdict = of_training(written, tmp_path, "full-rmsprop", one_missing)
    assert verdict.differences[0].what == "is missing"
    assert verdict.first.what.startswith("first differs at update 5, cell.U after it: ")
    assert "are right" not in verdict.first.what  # the loss may be wrong
    verdict = of_training(written, tmp_path, "full-complex-sgd", lambda case, name, a: a[:, None])
    assert verdict.first is None
    assert all("must have shape" in d.what for d in verdict.differences)


STRIPPED = {
    "everything": lambda name: name.startswith("params/"),
    "outputs": lambda name: not name.startswith("outputs/"),
    "gradients": lambda name: not name.startswith("grads/"),
    "one gradient": lambda name: name != "grads/cell.U",
    "one output": lambda name: name != "outputs/loss",
    "states": lambda name: name != "outputs/cell.h",
    "parameters": lambda name: not name.startswith("params/"),
}


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("kept", STRIPPED)
def test_a_comparison_that_compares_nothing_does_not_pass(written, tmp_path, kept, hashed, listed):
    """Vectors without their solution, with an index that agrees or not, with hashes or not."""
    index = vectors.read_index(written)
    (case,) = (case for case in index["cases"] if case["name"] == "kru-all")
    arrays = vectors.read_arrays(written / case["file"])
    arrays = {name: a for name, a in arrays.items() if STRIPPED[kept](name)}
    np.savez(tmp_path / case["file"], **arrays)
    case["sha256"] = hashlib.sha256((tmp_path / case["file"]).read_bytes()).hexdigest()
    if not hashed:
        del case["sha256"]
    if listed:
        case["arrays"] = {name: case["arrays"][name] for name in arrays}
    index["cases"] = [case]
    (tmp_path / "index.json").write_text(json.dumps(index))
    results = results_of(written, tmp_path / "results", cases=["kru-all"])
    with pytest.raises(ValueError, match=r"has no|do not agree"):
        verify.verify(tmp_path, results)


def test_compare_needs_something_to_compare():
    one = {"outputs/y": np.ones(2), "grads/x": np.ones(2)}
    assert verify.compare(one, one, 1e-9) == ([], 0.0)
    for gone in one:
        rest = {name: a for name, a in one.items() if name != gone}
        with pytest.raises(ValueError, match="there is nothing to compare"):
            verify.compare(rest, one, 1e-9)
    for bad in (np.ones(0), np.array([1, np.nan]), np.array([np.inf, 1]), np.ones(2, int)):
        with pytest.raises(ValueError, match=r"nothing to compare|must hold finite"):
            verify.compare(one | {"grads/x": bad}, one, 1e-9)
    for bad in (np.ones(0), np.array([1, np.nan]), np.array([np.inf, 1]), np.ones((2, 1))):
        wrong, largest = verify.compare(one, one | {"grads/x": bad}, 1e-9)
        assert (len(wrong), largest) == (1, np.inf)
    for tolerance in (np.nan, np.inf, 1, 2.5, -1e-9):
        with pytest.raises(ValueError, match=r"tolerance must lie in \[0, 1\)"):
            verify.compare(one, one, tolerance)
    for tolerance in (None, True, "1e-9"):
        with pytest.raises(TypeError, match="tolerance must be a number"):
            verify.compare(one, one, tolerance)
    wrong, largest = verify.compare(one, one | {"grads/x": np.array([1.5e308, -1.5e308])}, 1e-9)
    assert len(wrong) == 1


@pytest.mark.parametrize("tolerance", ["nan", "inf", "1", "-1"])
def test_a_tolerance_that_passes_anything(written, tmp_path, capsys, tolerance):
    results = results_of(written, tmp_path / "results", lambda case, name, a: 0 * a)
    command = ["vectors", "verify", str(written), str(results), "--tolerance", tolerance]
    assert cli.main(command) == 1
    assert "tolerance must lie in [0, 1)" in capsys.readouterr().err


def test_the_vectors_themselves_are_no_results(written, tmp_path):
    for name in (written, written / ".." / written.name):
        with pytest.raises(ValueError, match="holds the vectors themselves"):
            verify.verify(written, name)


def test_a_folder_in_place_of_a_result(written, tmp_path):
    results = results_of(written, tmp_path / "results")
    (results / "kru-all.npz").unlink()
    (results / "kru-all.npz").mkdir()
    (results / "kru-weights.npz").unlink()
    (results / "kru-weights.npz").symlink_to("nowhere")
    wrong = [v for v in verify.verify(written, results) if v.differences]
    assert [v.name for v in wrong] == ["kru-weights", "kru-all"]
    assert all("is no file" in v.differences[0].what for v in wrong)


def test_what_may_not_be_read_is_not_called_damaged(written, tmp_path, monkeypatch, capsys):
    """Each file in turn, by what the system says where permission is missing."""
    results = results_of(written, tmp_path / "results")

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    reading = Path.read_bytes
    for name in ("index.json", "kru-all.npz"):
        with monkeypatch.context() as patch:
            patch.setattr(
                Path,
                "read_bytes",
                lambda path, name=name: (refused if path == written / name else reading)(path),
            )
            assert cli.main(["vectors", "verify", str(written), str(results)]) == 1
        err = capsys.readouterr().err
        assert f"{written / name} cannot be read: Permission denied; see to its perm" in err
        assert "damaged" not in err
        assert "Traceback" not in err
    with monkeypatch.context() as patch:
        patch.setattr(
            Path,
            "read_bytes",
            lambda path: (refused if path == results / "kru-all.npz" else reading)(path),
        )
        assert cli.main(["vectors", "verify", str(written), str(results)]) == 1
    out = capsys.readouterr().out
    assert "kru-all.npz cannot be read: Permission denied" in out
    assert "101 of 102" in out
    with monkeypatch.context() as patch:
        patch.setattr("os.listdir", refused)
        assert cli.main(["vectors", "verify", str(written), str(results)]) == 1
    assert f"{results} cannot be read: Permission denied" in capsys.readouterr().err
