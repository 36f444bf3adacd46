"""Every recipe starts."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tyro", reason="the command line needs the extra 'train'")
from kru_ref.training.cli import main, parse
from kru_ref.training.recipes import RECIPES


def run(line):
    return main(line.split())


def test_recipes_are_listed(capsys):
    assert run("reproduce --list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    # what is shown is a command that makes the same task
    for line, task in zip(lines, RECIPES.values(), strict=True):
        words = shlex.split(line)[1:]
        assert parse([*words, "--out", "x"]).task == task


def test_a_recipe_runs(tmp_path, capsys):
    line = f"reproduce copying-1000-kru --out {tmp_path}/run --updates 2 --seed 3 --quiet"
    assert run(line) == 0
    assert "0.02039 without memory" in capsys.readouterr().out
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (settings["delay"], settings["seed"], settings["updates"]) == (1000, 3, 2)
    assert run(line) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert run(f"{line} --resume") == 0
    assert run("reproduce") == 1
    assert "got none" in capsys.readouterr().err
    assert run(f"reproduce copying-1000-kru --data-dir {tmp_path}") == 1
    assert "draws its own data: leave --data-dir out" in capsys.readouterr().err
    assert run("reproduce copying-7") == 1
    assert "one of those that `kru-ref reproduce --list` shows" in capsys.readouterr().err
    assert run(f"reproduce jsb-lstm --data-dir {tmp_path} --out {tmp_path}/jsb") == 1
    assert "jsb-chorales-quarter.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_starts(name):
    """Its data is read, its model computes and its optimizer moves it; twenty steps are enough."""
    task = RECIPES[name]
    try:
        batch = task.batch(0)
    except FileNotFoundError as error:
        pytest.skip(f"needs real files: {str(error).splitlines()[0]}")
    model = task.model()
    params = model.init(task.rng("parameters"))
    logits, saved = model.forward(params, batch.x[:20])
    grads = model.backward(params, saved, np.ones_like(logits))
    optimizer = task.optimizer_at(0)
    moved, _ = optimizer.update(params, grads, optimizer.init(params))
    frozen = name.endswith("frozen")
    for key, value in moved.items():
        if key.startswith("cell.W"):
            assert np.array_equal(value, params[key]) == frozen
    if task.matrix == "kronecker":
        dense = replace(task, matrix="dense", factors=None, init=None).model()
        # of Table 3's, one factor alone has a ninth or a quarter of the numbers of a dense matrix
        times = {411: 8, 500: 3}.get(task.hidden_size, 10)
        assert times * model.n_recurrent_parameters < dense.n_recurrent_parameters
