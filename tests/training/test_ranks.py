"""One run on several processes: the same bits on any number of them, and no hang when one dies."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("filelock", reason="training needs the extra 'train'")
pytest.importorskip("mpi4py.MPI", reason="mpi4py, or an MPI for it, is not installed")
from mpi4py import MPI
from runs import SMALL, assert_same_run, metrics

from kru_ref.training import loop, ranks
from kru_ref.training.cli import main
from kru_ref.training.tasks import Adding, Characters, Copying, Sequences

MPIEXEC = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
if MPIEXEC is None:
    pytest.skip("there is no mpiexec", allow_module_level=True)

TASK = Copying(
    delay=6, hidden_size=8, layers=2, dropout=0.2, batch_size=21, updates=20, evaluate_every=10,
    checkpoint_every=5, log_every=5, held_out_sequences=6,
)  # fmt: skip
OPTIONS = [
    *("--delay", "6", "--hidden-size", "8", "--layers", "2", "--dropout", "0.2"),
    *("--batch-size", "21", "--updates", "20", "--evaluate-every", "10", "--log-every", "5"),
    *("--checkpoint-every", "5", "--held-out-sequences", "6", "--quiet"),
]


def start(n, *words, threads=1, **options):
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [MPIEXEC, "-n", str(n), sys.executable, "-P", *words]
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def run(n, *words, threads=1):
    """Run on n processes; return the exit status and what they printed."""
    process = start(n, *words, threads=threads)
    try:
        shown, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, shown


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    """Return the folder of the run on one process."""
    out = tmp_path_factory.mktemp("ranks") / "one"
    loop.train(TASK, out, communicator=MPI.COMM_SELF)
    return out


@pytest.mark.parametrize(("n", "threads"), [(1, 2), (2, 1), (2, 2), (5, 1)])
def test_the_bits_are_the_same_on_any_number(tmp_path, on_one, n, threads):
    """Of processes, some of which may have no block, and of threads."""
    out = tmp_path / "run"
    status, shown = run(
        n, "-m", "kru_ref", "train", "copying", *OPTIONS, "--out", str(out), threads=threads
    )
    assert status == 0, shown
    assert shown.count("baseline loss") == 1
    assert_same_run(out, on_one)


def own_text(tmp_path):
    """Return a task whose batches carry on the states of those before."""
    rng = np.random.default_rng(0)
    for part in ("train", "valid", "test"):
        symbols = " ".join(rng.choice(list("abcde_"), 1200))
        (tmp_path / f"ptb.char.{part}.txt").write_text(symbols)
    return Characters(
        data_dir=tmp_path, own_data=True, hidden_size=6, batch_size=11, length=7, updates=6,
        dtype="float64", evaluate_every=6, checkpoint_every=2,
    )  # fmt: skip


def own_sequences(tmp_path, **settings):
    """Return a task on files."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "X.npy", rng.standard_normal((40, 2, 7)))
    np.save(tmp_path / "y.npy", rng.integers(3, size=40))
    return Sequences(
        data_dir=tmp_path, hidden_size=6, batch_size=19, dtype="complex128", **settings
    )


def test_sequences_of_one_s_own_are_shared_out(tmp_path):
    settings = {"updates": 6, "evaluate_every": 3, "checkpoint_every": 3}
    loop.train(own_sequences(tmp_path, **settings), tmp_path / "one", communicator=MPI.COMM_SELF)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    options += ["--hidden-size=6", "--batch-size=19", "--dtype=complex128", "--quiet"]
    command = "-m", "kru_ref", "train", "sequences", "--data-dir", str(tmp_path), *options
    status, shown = run(2, *command, "--out", str(tmp_path / "two"))
    assert status == 0, shown
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("what", ["every step", "the last", "text", "own sequences"])
def test_blocks_add_up_to_the_batch(tmp_path, what):
    """Loss, gradients, metrics and what is carried on, but for rounding."""
    task = {
        "every step": lambda: dataclasses.replace(TASK, dropout=0.0, dtype="complex128"),
        "the last": lambda: Adding(length=9, hidden_size=6, batch_size=19, dtype="complex128"),
        "text": lambda: own_text(tmp_path),
        "own sequences": lambda: own_sequences(tmp_path),
    }[what]()
    model = task.model()
    params = model.init(task.rng("parameters"))
    state = loop.RunState(0, 0.0, params, task.optimizer_at(0).init(params), None)
    for update in range(2):
        batch = task.batch(update)
        whole = loop._gradients(task, model, state, batch)
        blocks = loop._in_blocks(ranks.Ranks(MPI.COMM_SELF), task, model, state, batch)
        assert blocks[0] == pytest.approx(whole[0], rel=1e-12)
        assert blocks[2] == pytest.approx(whole[2], rel=1e-12)
        for name, grad in whole[1].items():
            assert blocks[1][name].dtype == grad.dtype
            np.testing.assert_allclose(blocks[1][name], grad, rtol=1e-9, atol=1e-12)
        if task.carries:
            for of_block, of_whole in zip(blocks[3], whole[3], strict=True):
                np.testing.assert_allclose(of_block, of_whole, rtol=1e-10, atol=1e-12)
        state = state._replace(carried=whole[3])


def test_a_process_that_dies_ends_the_run_which_can_be_resumed(tmp_path, on_one):
    out = tmp_path / "run"
    code = f"""
import os, signal, sys
from mpi4py import MPI
from kru_ref.training import loop
update = loop._update
def dying(task, model, state, ranks):
    if ranks.rank == 1 and state.update == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(task, model, state, ranks)
loop._update = dying
from kru_ref.training.cli import main
sys.exit(main({["train", "copying", *OPTIONS, "--out", str(out)]!r}))
"""
    status, _ = run(2, "-c", code)
    assert status != 0
    assert metrics(out)[-1]["step"] == 10
    status, shown = run(
        2, "-m", "kru_ref", "train", "copying", "--out", str(out), "--resume", "--quiet"
    )
    assert status == 0, shown
    assert_same_run(out, on_one)


def test_one_that_fails_is_told_of_by_the_first(tmp_path, on_one):
    """The others do not wait for it, and the last complete update is kept."""
    out = tmp_path / "run"
    code = f"""
import sys
from kru_ref.training import loop
gradients = loop.SequenceModel.backward
from mpi4py import MPI
calls = []
def failing(self, *arguments):
    calls.append(0)
    if MPI.COMM_WORLD.rank == 1 and len(calls) == 13:
        raise MemoryError("no room")
    return gradients(self, *arguments)
loop.SequenceModel.backward = failing
from kru_ref.training.cli import main
sys.exit(main({["train", "copying", *OPTIONS, "--out", str(out)]!r}))
"""
    status, shown = run(2, "-c", code)
    assert status == 1
    assert "kru-ref: process 1 of 2 failed: no room" in shown
    assert "Traceback" not in shown
    assert "checkpoint.npz holds update 12" in shown
    status, shown = run(
        3, "-m", "kru_ref", "train", "copying", "--out", str(out), "--resume", "--quiet"
    )
    assert status == 0, shown
    assert_same_run(out, on_one)


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_told_to_end_ends_all(tmp_path, on_one, which):
    out = tmp_path / "run"
    code = f"""
import os, signal, sys
from mpi4py import MPI
from kru_ref.training import loop, ranks
ranks.GRACE = 0.5
update = loop._update
def told(task, model, state, of):
    if of.rank == {which} and state.update == 12:
        os.kill(os.getpid(), signal.SIGTERM)
    return update(task, model, state, of)
loop._update = told
from kru_ref.training.cli import main
sys.exit(main({["train", "copying", *OPTIONS, "--out", str(out)]!r}))
"""
    status, _ = run(2, "-c", code)
    assert status != 0
    status, shown = run(
        1, "-m", "kru_ref", "train", "copying", "--out", str(out), "--resume", "--quiet"
    )
    assert status == 0, shown
    assert_same_run(out, on_one)


@pytest.mark.parametrize(("words", "sentence"), [
    (["copying", *OPTIONS, "--rate", "1e30"], "must all be finite"),
    (["pixels", "--data-dir", "nowhere"], "is in none of"),
    (["copying", "--resume"], "no run to resume"),
])  # fmt: skip
def test_what_all_meet_is_told_once(tmp_path, words, sentence):
    out = tmp_path / "run"
    status, shown = run(2, "-m", "kru_ref", "train", *words, "--out", str(out))
    assert status == 1
    assert shown.count(sentence) == 1
    assert "Traceback" not in shown


def test_a_run_that_changes_to_blocks_is_told(tmp_path):
    """It may end at other bits than without; and so where it changes back."""
    with pytest.raises(KeyboardInterrupt):
        loop.train(SMALL, tmp_path, on_update=_stop)
    alone = {"resume": True, "on_update": _stop}
    of_mpi = alone | {"communicator": MPI.COMM_SELF}
    with (
        pytest.warns(loop.RunWarning, match="batches were whole, are cut for MPI"),
        pytest.raises(KeyboardInterrupt),
    ):
        loop.train(SMALL, tmp_path, **of_mpi)
    with pytest.warns(loop.RunWarning, match="batches were cut for MPI, are whole"):
        loop.train(SMALL, tmp_path, **alone)
    computed = json.loads((tmp_path / "config.json").read_text())["computed"]
    assert [part["blocks"] for part in computed] == [None, 8, None]


def _stop(line):
    if line["step"] in (20, 25):
        raise KeyboardInterrupt


def test_what_would_be_done_many_times_is_refused(tmp_path):
    for words in (["sweep", "copying", "--out", str(tmp_path)], ["config"]):
        status, shown = run(2, "-m", "kru_ref", *words)
        assert status == 1
        assert shown.count("mpiexec shares out `train` alone") == 1
        assert "Traceback" not in shown
    assert run(1, "-m", "kru_ref", "config")[0] == 0


def test_estimators_share_out_their_batches():
    """The same bits on one, two and three processes."""
    pytest.importorskip("sklearn", reason="estimators need the extra 'sklearn'")
    code = """
import numpy as np
from mpi4py import MPI
from kru_ref.estimators import RecurrentClassifier, RecurrentRegressor
rng = np.random.default_rng(0)
X, y = rng.standard_normal((40, 2, 12)), np.arange(40) % 3
weights = np.where(np.arange(40) < 9, 0.0, 1.0)
for kind in (RecurrentClassifier, RecurrentRegressor):
    model = kind(hidden_size=8, max_epochs=2, random_state=0, dropout=0.1)
    model.fit(X, y, weights, communicator=MPI.COMM_WORLD)
    if MPI.COMM_WORLD.rank == 0:
        print([p.sum().item() for p in model.params_.values()], model.loss_curve_)
"""
    found = [run(n, "-c", code) for n in (1, 2, 3)]
    assert [status for status, _ in found] == [0, 0, 0], found
    assert found[0][1].count("[") == 4
    assert found[0] == found[1] == found[2]


def test_a_signal_is_seen_while_others_are_waited_for(tmp_path):
    code = """
import signal, time
from mpi4py import MPI
from kru_ref.training.ranks import Ranks
def on_signal(number, frame):
    print("seen", flush=True)
    MPI.COMM_WORLD.Abort(3)
signal.signal(signal.SIGALRM, on_signal)
if MPI.COMM_WORLD.rank == 0:
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    Ranks(MPI.COMM_WORLD).tell("anything")
time.sleep(100)
"""
    began = time.monotonic()
    status, shown = run(2, "-c", code)
    assert "seen" in shown
    assert status != 0
    assert time.monotonic() - began < 60


def test_without_the_extra_train_alone_says_so(tmp_path, monkeypatch, capsys):
    """A batch system sets the same variables for what never needs MPI."""
    monkeypatch.setenv("PMI_SIZE", "2")
    for name in ("mpi4py", "mpi4py.MPI"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["params", "--hidden", "8"]) == 0
    capsys.readouterr()
    assert main(["train", "copying", "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.count("pip install 'kru_ref[mpi]'") == 1


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ranks.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert ranks.launched() is None
    monkeypatch.setenv(ranks.LAUNCHED[0], "1")
    assert ranks.launched().size == 1
