"""What a sweep shows of its runs."""

import io
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="sweeps need the extra 'sweep'")
pytest.importorskip("optuna", reason="sweeps need the extra 'sweep'")
from rich.console import Console

from kru_ref.training import sweep, sweep_report
from kru_ref.training.tasks import Copying


def status(state, loss=None, why="", **varied):
    last = {} if loss is None else {"step": 1000, "loss": loss, "validation_loss": loss}
    run = sweep.Run(Path("sweep") / sweep.name_of(varied), Copying(), varied)
    return sweep.Status(run, state, last, why)


RUNS = [
    status("ended", 0.5, rate=1e-3, seed=0),
    status("ended", 0.7, rate=1e-3, seed=1),
    status("ended", 0.1, rate=1e-1, seed=0),
    status("diverged", 9.0, "the loss is not finite", rate=1e-1, seed=1),
    status("waiting", rate=1.0, seed=0),
]


def in_a_terminal(table):
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()


def test_the_best_settings_come_first_with_the_spread_of_their_seeds():
    lines = sweep_report.summary(RUNS)
    assert lines[0] == "| rate | ended | validation loss | otherwise |"
    assert lines[2:] == [
        "| 0.1 | 1 of 2 | 0.1 | 1 diverged |",
        "| 0.001 | 2 of 2 | 0.6 (0.5 to 0.7) |  |",
        "| 1.0 | 0 of 1 |  | 1 waiting |",
    ]
    assert len(sweep_report.summary([])) == 2


def test_the_view_has_what_needs_to_be_seen():
    shown = in_a_terminal(sweep_report.view(RUNS))
    assert "3 ended, 1 diverged, 1 waiting" in shown
    assert "rate=0.1,seed=1" in shown
    assert "the loss is not finite" in shown
    assert "1,000 of 1,000" in shown
    many = [status("ended", 0.5, seed=n) for n in range(100)] + [status("running", 0.5, seed=100)]
    shown = in_a_terminal(sweep_report.view(many))
    assert f"{sweep_report.MOST_ROWS} of 101 runs" in shown
    assert "seed=100" in shown
    assert shown.count("seed=") == sweep_report.MOST_ROWS


def test_a_file_and_a_picture(tmp_path):
    paths = sweep_report.write(RUNS, tmp_path)
    assert [path.name for path in paths] == ["sweep.csv", "sweep.png"]
    rows = paths[0].read_text().splitlines()
    assert rows[0] == "rate,seed,state,updates,validation_loss,seconds,why"
    assert rows[4].startswith("0.1,1,diverged,1000,9.0")
    assert paths[1].stat().st_size > 5000
    assert sweep_report.write(RUNS[4:], tmp_path) == paths[:1]
    cells = [status("ended", 0.1, cell="rnn"), status("ended", 0.2, cell="gru")]
    assert sweep_report.write(cells, tmp_path) == paths


def test_nothing_is_shown_where_nothing_is_wanted(capsys):
    with sweep_report.watched(lambda: RUNS, quiet=True):
        pass
    assert capsys.readouterr().err == ""
    with sweep_report.watched(lambda: RUNS, quiet=False):
        pass
    assert "3 ended" in capsys.readouterr().err
