"""The commands as a person types them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kru_ref

pytest.importorskip("tyro", reason="the command line needs the extra 'train'")
from kru_ref.training.cli import main
from kru_ref.training.tasks import TASKS

SMALL = "--hidden-size 8 --batch-size 4 --updates 20 --evaluate-every 10 --checkpoint-every 10"


def run(line):
    return main(line.split())


def test_train_and_its_summary(tmp_path, capsys):
    assert run(f"train copying --delay 3 {SMALL} --out {tmp_path}/run") == 0
    out, err = capsys.readouterr()
    assert "0.9041 without memory" in out
    assert re.search(r"recurrent parameters +24; with dense 8×8 matrices 128", out)
    assert "20/20" in err
    for shown in ("loss=", "accuracy=", "defect="):
        assert shown in err


def test_quiet(tmp_path, capsys):
    assert run(f"train adding --length 6 {SMALL} --out {tmp_path}/run --quiet") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "0.1667 for always predicting 1" in out


def test_factors_and_dtype(tmp_path):
    line = f"train copying --delay 3 {SMALL} --dtype float32 --activation relu --quiet"
    assert run(f"{line} --factors 2 4 4 2 --out {tmp_path}/run") == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["factors"] == [[2, 4], [4, 2]]


def test_resume_keeps_the_settings_of_the_run(tmp_path, capsys):
    assert run(f"train copying --delay 3 {SMALL} --out {tmp_path}/run --quiet") == 0
    resume = f"train copying --out {tmp_path}/run --resume --quiet"
    assert run(f"{resume} --updates 30") == 0
    last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["step"] == 30
    capsys.readouterr()
    assert run(f"{resume} --updates 30 --delay 3") == 0
    capsys.readouterr()
    assert run(f"{resume} --updates 30 --delay 4") == 1
    assert "delay is 4, was 3" in capsys.readouterr().err
    assert run(f"train adding --out {tmp_path}/run --resume") == 1
    assert "holds a run of copying, not of adding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train copying --out {out} --resume", "no run to resume"),
        ("train copying --out {out} --activation tanh", "defined on real numbers only"),
        ("train pixels --out {out} --data-dir {out}", "kru-ref data fetch mnist"),
        ("params --hidden 0", "hidden sizes must be at least 1"),
        ("gradcheck --factors 2 3", "multiply to 2×3"),
        ("gradcheck --steps -1", "steps and batch_size must be at least 1"),
        ("params --hidden 2305843009213693951", "hidden_size must be at most"),
        ("train copying --out {out} --delay 100000000000000", "not enough memory"),
        ("train copying --out {out} --matrix dense --hidden-size 10000000", "not enough memory"),
        ("reproduce --list --seed 1", "leave the rest out"),
        ("reproduce copying-1000-kru --list", "leave the rest out"),
        ("reproduce --list --out {out}", "leave the rest out"),
        ("gradcheck --all --cell lstm", "but for --seed, leave the rest out"),
        ("gradcheck --all --steps 6", "but for --seed, leave the rest out"),
        ("gradcheck --cell gru --activation tanh", "activation acts only in the cell rnn"),
        ("gradcheck --matrix restricted --backend cython", "backend 'cython' acts only with"),
        ("gradcheck --steps 1000000000", "their product must be at most 10,000,000"),
        ("gradcheck --batch-size 1000000000", "their product must be at most 10,000,000"),
        ("gradcheck --factors 10000 10000", "their product must be at most 10,000,000"),
        ("gradcheck --seed -1", "seed must be at least 0"),
    ],
)
def test_errors_are_one_sentence(tmp_path, capsys, line, message):
    assert run(line.format(out=tmp_path / "run")) == 1
    err = capsys.readouterr().err
    assert err.startswith("kru-ref: ")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train copying --out x --bogus 3", "--bogus"),
        ("train copying", "--out"),
        ("train juggling --out x", "juggling"),
        ("train copying --out x --updates many", "many"),
        ("gradcheck --dtype int8", "int8"),
        ("train copying --out x --delay 0", "delay must be at least 1"),
        ("train copying --out x --factors 2 2", "hidden_size is 128"),
        ("train copying --out x --layers 1000000000", "layers must be at most 1,000"),
        ("train copying --out x --max-norm inf", "max_norm must be finite"),
        ("train pixels --out x --batch-size 70000", "batch_size must be below 60,000"),
        ("train music --out x --activation tanh", "activation acts only in the cell rnn"),
        ("train copying --out x --cell gru --activation modrelu", "activation acts only"),
        ("train copying --out x --matrix dense --factors 2 2 64 64", "factors acts only"),
        ("train copying --out x --matrix dense --init haar", "init acts only"),
        ("train copying --out x --matrix restricted --penalty 0.1", "penalty acts only"),
        ("train copying --out x --matrix full --penalty 0", "penalty acts only"),
        (
            "train copying --out x --matrix restricted --backend cython",
            "backend 'cython' acts only",
        ),
        ("train pixels --out x --permutation-seed 3", "permutation_seed acts only with permute"),
        ("train pixels --out x --permutation exprnn", "permutation acts only with permute"),
        (
            "train pixels --out x --permute --permutation exprnn --permutation-seed 3",
            "permutation 'exprnn' has a seed of its own",
        ),
    ],
)
def test_options_that_are_refused(capsys, line, message):
    with pytest.raises(SystemExit) as caught:
        run(line)
    assert caught.value.code == 2
    # a box, whose lines break where they are full
    told = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert message in told


def test_params(capsys):
    assert run("params --hidden 512 128") == 0
    out = capsys.readouterr().out
    rows = {line[:28].strip(): line[28:].split() for line in out.splitlines()}
    assert rows["dense, real (RNN)"] == ["262,144", "16,384"]
    assert rows["dense, complex (FC-uRNN)"] == ["524,288", "32,768"]
    assert rows["RC-uRNN"] == ["3,584", "896"]
    assert rows["KRU, real, prime factors"] == ["36", "28"]
    assert rows["KRU, complex, prime factors"] == ["72", "56"]


@pytest.mark.parametrize("matrix", ["kronecker", "dense"])
@pytest.mark.parametrize(
    "more",
    [
        "--one-hot",
        "--dtype float64 --activation tanh",
        "--dtype float64 --activation relu --steps 60",
        "--dtype float64 --steps 50 --seed 2",
        "--dtype complex64",
        "--dtype float32",
        "--factors 2 2 2 2 --backend numpy",
    ],
)
def test_gradcheck(capsys, matrix, more):
    """In every dtype, and where a finite difference meets kinks."""
    assert run(f"gradcheck --matrix {matrix} {more}") == 0
    out = capsys.readouterr().out
    assert "passed: largest relative error" in out
    assert "cell.W" in out
    if "numpy" in more:
        assert "backend numpy" in out


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("matrix", ["kronecker", "dense", "restricted", "full"])
@pytest.mark.parametrize("more", ["", "--one-hot --steps 17", "--dtype float32"])
def test_gradcheck_of_every_cell_and_matrix(capsys, cell, matrix, more):
    assert run(f"gradcheck --cell {cell} --matrix {matrix} {more}") == 0
    out = capsys.readouterr().out
    assert f"{cell} over {matrix}" in out
    assert "cell.W" in out


@pytest.mark.parametrize("what", ["--cell lru", "", "--activation identity"])
def test_gradcheck_of_a_diagonal_matrix(capsys, what):
    assert run(f"gradcheck --matrix diagonal {what}") == 0
    assert "cell.W.theta" in capsys.readouterr().out


@pytest.mark.parametrize("cell", ["rnn", "lru"])
def test_training_over_a_diagonal_matrix(tmp_path, capsys, cell):
    line = f"train copying --cell {cell} --matrix diagonal --delay 3 --hidden-size 8 --updates 5"
    assert run(f"{line} --out {tmp_path}/run --quiet") == 0
    assert "16; with dense 8×8 matrices 128" in capsys.readouterr().out


def test_gradcheck_tells_a_wrong_gradient(capsys, monkeypatch):
    from kru_ref import unitary

    right = unitary.soft_unitary
    monkeypatch.setattr(
        "kru_ref.matrices.soft_unitary", lambda W: (right(W)[0], [2 * d for d in right(W)[1]])
    )
    assert run("gradcheck --dtype float64") == 1
    assert "FAILED" in capsys.readouterr().out


def test_config(capsys):
    assert run("config") == 0
    out = capsys.readouterr().out
    for word in ("kru_ref", "numpy", "scipy", "backend", "threads"):
        assert word in out


@pytest.mark.parametrize(
    "line", ["", "train", "train copying", "train pixels", "data", "gradcheck"]
)
def test_help(line):
    """Through the module's own entry point, in a process of its own."""
    command = [sys.executable, "-m", "kru_ref", *line.split(), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usage: kru-ref" in shown.stdout


@pytest.mark.parametrize("task", TASKS)
def test_each_option_has_its_own_help(task):
    command = [sys.executable, "-m", "kru_ref", "train", task, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = " ".join(shown.replace("│", " ").split())
    for option, text in {
        "cell {rnn,lstm,gru,lru}": "Recurrent cell; rnn over kronecker is the KRU, lru is over",
        "hidden-size INT": "Size N of the hidden state.",
        "batch-size INT": "Sequences in a batch.",
        "optimizer {sgd,rmsprop,adam}": "Rule of the updates.",
        "schedule {constant,cosine}": "How rates change over the run",
        "factor-rate FLOAT": "Learning rate of the recurrent matrices.",
        "checkpoint-every INT": "Updates between two checkpoints.",
    }.items():
        assert f"--{option} {text}" in words, option


class Broken:
    """A standard error whose reader is gone, or that somebody closed."""

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stderr",
    [
        None,
        Broken(BrokenPipeError(32, "Broken pipe")),
        Broken(ValueError("I/O operation on closed file")),
        Broken(UnicodeEncodeError("ascii", "█", 0, 1, "no such character")),
        Broken(RuntimeError("anything")),
    ],
)
def test_a_display_that_fails_ends_no_run(tmp_path, monkeypatch, capsys, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    line = f"train copying --delay 3 {SMALL} --out {tmp_path}/run"
    assert run(line) == 0
    monkeypatch.setattr("kru_ref.training.loop.evaluate", interrupt)
    assert run(f"{line} --resume") == 130
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(row)["step"] for row in rows]
    assert steps == [10, 20]
    assert "unitarity defect" in capsys.readouterr().out


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_bar_in_a_file_is_short(tmp_path, capsys):
    line = f"train copying --delay 3 {SMALL.replace('--updates 20', '--updates 2000')}"
    assert run(f"{line} --out {tmp_path}/run") == 0
    err = capsys.readouterr().err
    assert "2000/2000" in err
    assert len(err) < 1000


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX shells")
@pytest.mark.parametrize(
    "redirection", ["2>&1 | head -c 50", "2>&-", "2>/dev/full", "2>&1 >&- | cat"]
)
def test_a_run_outlives_its_terminal(tmp_path, redirection):
    line = f"train copying --delay 3 {SMALL.replace('20', '300', 1)} --out {tmp_path}/run"
    command = f"{shlex.quote(sys.executable)} -m kru_ref {line} {redirection}"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in shown.stdout + shown.stderr
    last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert "test_loss" in last


def test_a_warning_is_a_sentence(tmp_path, capsys):
    assert run(f"train copying --delay 3 {SMALL} --out {tmp_path}/run --quiet") == 0
    (tmp_path / "run" / "metrics.jsonl").unlink()
    capsys.readouterr()
    assert run(f"train copying --out {tmp_path}/run --resume --quiet") == 0
    err = capsys.readouterr().err
    assert err.startswith("kru-ref: warning: ")
    assert "metrics.jsonl: lines of updates 10, 20 are missing" in err
    assert err.count("\n") == 1


def test_what_ends_a_run_says_which_update_is_saved(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kru_ref.training.loop.evaluate", interrupt)
    line = f"train copying --delay 3 {SMALL} --out {tmp_path}/run --quiet"
    assert run(line) == 130
    err = capsys.readouterr().err
    assert "checkpoint.npz holds update 9\nstopped; continue with: kru-ref train copying" in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("entry", ["module", "script"])
def test_control_c_while_python_imports(tmp_path, entry):
    """At any of these moments: while the package, NumPy or the command line is imported."""
    script = tmp_path / "kru-ref"
    script.write_text("import sys\nfrom kru_ref.__main__ import main\nsys.exit(main())\n")
    hook = (
        "import os, signal, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == os.environ['AT']:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Hook())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(hook)
    command = ["-m", "kru_ref"] if entry == "module" else [str(script)]
    path = os.pathsep.join([str(tmp_path), str(Path(kru_ref.__file__).parents[1])])
    for at in (
        "kru_ref.checks.adjoints",
        "numpy",
        "scipy.linalg",
        "kru_ref.training.cli",
        "tyro",
        "kru_ref.training.tasks",
    ):
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        ended = subprocess.run(
            [sys.executable, *command, "config"],
            env={**os.environ, "AT": at, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        signal.signal(signal.SIGINT, before)
        assert ended.returncode == 130, at
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["train", "copying", "--out", ""],
        ["train", "copying", "--out="],
        ["train", "copying", "--resume", "--out", ""],
        ["train", "pixels", "--out", "x", "--data-dir", ""],
        ["reproduce", "copying-1000-kru", "--out", ""],
        ["reproduce", ""],
        ["data", "list", "--data-dir", ""],
        ["data", "fetch", "mnist", "--url", ""],
        ["vectors", "write", ""],
        ["vectors", "verify", "x", ""],
        [""],
    ],
)
def test_nothing_is_no_name(tmp_path, monkeypatch, capsys, words):
    """As a path it would be the current folder."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert "is followed by nothing: give a value" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_worse_than_nothing(tmp_path, capsys):
    """Its files are there and its summary is printed, but it is no success."""
    line = f"train adding --length 6 {SMALL} --quiet --out {tmp_path}"
    assert run(f"{line}/wild --rate 1e6") == 1
    out, err = capsys.readouterr()
    assert "test" in out
    assert err.startswith("kru-ref: the run diverged: its test loss is ")
    assert "lower rates" in err
    assert (tmp_path / "wild" / "checkpoint.npz").exists()
    assert run(f"{line}/short --updates 1") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("task", ["copying --delay 3", "copying --delay 3000", "adding --length 6"])
@pytest.mark.parametrize("model", ["", "--cell lstm", "--matrix dense", "--hidden-size 1024"])
def test_a_run_that_has_learned_nothing_yet(tmp_path, capsys, task, model):
    line = f"train {task} --updates 1 --batch-size 2 --quiet --held-out-sequences 2 {model}"
    assert run(f"{line} --out {tmp_path}/run") == 0


def test_the_summary_beside_a_dense_matrix_that_no_machine_holds(tmp_path, capsys):
    line = f"train copying --delay 1 --hidden-size {2**20} --batch-size 1 --updates 1 --quiet"
    assert run(f"{line} --held-out-sequences 1 --out {tmp_path}/run") == 0
    assert f"with dense {2**20}×{2**20} matrices {2 * 2**40:,}" in capsys.readouterr().out


LISTINGS = [
    "--help",
    "train --help",
    *(f"train {name} --help" for name in TASKS),
    "reproduce --help",
    "reproduce --list",
    "params --help",
    "params --hidden 6 128",
    "gradcheck --help",
    "gradcheck",
    "vectors --help",
    "vectors write --help",
    "vectors verify --help",
    "data --help",
    "data list --help",
    "data list",
    "data fetch --help",
    "config --help",
    "config",
    "train copying --delay 0 --out x",
    "reproduce ⊗",
]


def in_a_process(line, cwd, **settings):
    """Run a command in a process of its own; settings are environment variables or Popen's."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    popen = {k: settings.pop(k) for k in list(settings) if k.islower()}
    environment = {**os.environ, "PYTHONPATH": str(Path(kru_ref.__file__).parents[1]), **settings}
    command = [sys.executable, "-W", "error", "-m", "kru_ref", *line.split()]
    return subprocess.run(command, cwd=cwd, env=environment, **streams | popen)


@pytest.mark.parametrize("line", LISTINGS)
def test_every_encoding(tmp_path, line):
    """What one lacks is written in its own signs."""
    usual = in_a_process(line, tmp_path, PYTHONIOENCODING="utf-8")
    assert usual.returncode in (0, 1, 2)
    others = ("cp1252", "latin-1", "cp437", "cp932")
    for encoding in ("ascii", others[LISTINGS.index(line) % len(others)]):
        found = in_a_process(line, tmp_path, PYTHONIOENCODING=encoding)
        assert found.returncode == usual.returncode
        for shown, expected in ((found.stdout, usual.stdout), (found.stderr, usual.stderr)):
            shown, expected = shown.decode(encoding), expected.decode()
            assert "Traceback" not in shown
            assert "codec" not in shown
            if line != "config" and not line.startswith("data list"):
                words = r"[A-Za-z]{4,}"
                written = [w for w in re.findall(words, shown) if w not in ("lambda", "omega")]
                assert set(re.findall(words, expected)) <= set(written) | {"lambda", "omega"}


def test_a_run_where_the_encoding_is_poor(tmp_path):
    line = f"train copying --delay 3 {SMALL} --out run"
    for encoding in ("cp1252", "ascii"):
        done = in_a_process(f"{line}-{encoding}", tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert b"unitarity defect" in done.stdout
        assert b"8x8" in done.stdout or "8×8".encode(encoding) in done.stdout


def test_what_no_encoding_can_write(tmp_path):
    """A folder whose name is no text in any encoding."""
    place = os.fsdecode(b"data-\xff")
    for encoding in ("utf-8", "ascii"):
        done = in_a_process(f"data list --data-dir {place}", tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == 0
        assert done.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize(
    "line", ["--help", "data list", "reproduce --list", "params", "data bogus"]
)
def test_nobody_reads(tmp_path, line):
    """As behind `head`: no message, and a shell's status of a process that SIGPIPE ended."""
    usual = in_a_process(line, tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = in_a_process(line, tmp_path, stdout=closed)
        assert done.returncode == (141 if usual.stdout else usual.returncode)
        assert done.stderr == usual.stderr
        both = in_a_process(line, tmp_path, stdout=closed, stderr=closed)
        assert both.returncode in (141, usual.returncode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output(tmp_path):
    with open("/dev/full", "wb") as full:
        done = in_a_process("data list", tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith(b"kru-ref: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize("line", ["--help", "params", "params --hidden 0", "bogus"])
@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(tmp_path, line, closing):
    usual = in_a_process(line, tmp_path).returncode
    command = f"{shlex.quote(sys.executable)} -W error -m kru_ref {line} {closing}"
    environment = {**os.environ, "PYTHONPATH": str(Path(kru_ref.__file__).parents[1])}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == usual
    assert b"Traceback" not in done.stderr
