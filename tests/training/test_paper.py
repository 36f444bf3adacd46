"""The paper's tables: its figures, ours from records, and the differences."""

import dataclasses
import re

import pytest

pytest.importorskip("tyro", reason="the command line needs the extra 'train'")
from kru_ref.training import paper, records
from kru_ref.training.cli import main
from kru_ref.training.recipes import RECIPES

ALL = [*paper.TABLES.values(), *paper.FIGURES.values()]


def run_of(recipe, seed, loss, *, curve=(), updates=100):
    last = {"step": updates, "test_loss": loss, "test_accuracy": loss, "test_bits": loss}
    steps = [{"step": step, "validation_loss": value} for step, value in curve]
    counts = {"parameters": 12345, "recurrent_parameters": 67, "baseline": 2.0}
    return counts | {
        "recipe": recipe,
        "seed": seed,
        "updates": updates,
        "planned_updates": 100,
        "settings": {"batch_size": 7},
        "last": last,
        "curve": [{"step": 1, "loss": 3.0}, *steps],
    }


@pytest.mark.parametrize("table", ALL, ids=[table.title for table in ALL])
def test_rows_have_an_entry_for_each_column(table):
    for row in table.rows:
        assert len(row.found) == len(row.recipes) == len(table.columns)
        for recipe in filter(None, row.recipes):
            assert RECIPES[recipe].hidden_size == row.hidden_size
    lines = [line for line in paper.lines(table, records.recorded()) if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("number", paper.TABLES)
def test_counts_of_parameters_are_the_paper_s(number):
    """To the thousands printed; of W to its digits."""
    for row in paper.TABLES[number].rows:
        for recipe in filter(None, row.recipes):
            model = RECIPES[recipe].model()
            printed = float(row.recurrent.removesuffix("K")) * (1000 if "K" in row.recurrent else 1)
            assert model.n_recurrent_parameters == pytest.approx(printed, rel=0.02)


def test_a_row_over_seeds():
    one, two = (run_of("pixels-kru", seed, share) for seed, share in ((0, 0.97), (1, 0.96)))
    part = run_of("pixels-kru", 2, 0.5, updates=99)
    frozen = run_of("pixels-permuted-kru-frozen", 0, 0.94)
    more = run_of("pixels-permuted-kru-frozen", 1, 0.9, updates=101)
    lines = list(paper.lines(paper.TABLES[2], [one, two, more, part, frozen]))
    (row,) = (line for line in lines if line.startswith("| KRU |"))
    assert "| 11K | 12,345 | 72 | 67 | 96.40 | 96.50 (96.00 to 97.00, 2 seeds) | +0.10 |" in row
    assert row.endswith("`kru-ref reproduce pixels-kru`, `kru-ref reproduce pixels-permuted-kru` |")
    (row,) = (line for line in lines if line.startswith("| KRU, frozen |"))
    assert "|  |  |  |  | 94.00 |  |" in row
    assert lines[-1] == "Partial: pixels-kru, seed 2, 99 of 100 updates."
    assert lines[-3] == "Partial: pixels-permuted-kru-frozen, seed 1, 101 of 100 updates."
    assert paper.compared(paper.TABLES[3].columns[0], 1.6, [1.5999])[2] == "0.000"


def test_how_long_a_figure_s_runs_took():
    curve = [(10, 1.0), (20, 0.019), (30, 0.3), (40, 0.001)]
    solved = [run_of("copying-1000-kru", seed, 0, curve=curve) for seed in (0, 1)]
    failed = run_of("copying-2000-kru", 0, 2, curve=[(10, 2.0)])
    learned = run_of("copying-2000-kru", 1, 0, curve=curve)
    rows = list(paper.lines(paper.FIGURES[1], [*solved, failed, learned]))
    (row,) = (line for line in rows if line.startswith("| KRU |"))
    assert "| 2,000 | 20 (20 to 20, 2 seeds) | -1,980 | 2,000 | 1 of 2 seeds |  |" in row
    (row,) = (line for line in paper.lines(paper.FIGURES[1], [failed]) if "| KRU |" in line)
    assert "| 2,000 | not reached |  |" in row
    samples = paper.samples_until(0.05)(run_of("adding-750-kru", 0, 0, curve=curve))
    assert samples == 20 * 7  # the run's own batches, whatever its recipe has become


@pytest.mark.parametrize("option", ["--table 2", "--table 3", "--table 4", "--figure 1"])
def test_the_command_prints_what_was_recorded(option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *option.split()]) == 0
    printed = capsys.readouterr().out
    kind, number = option.removeprefix("--").split()
    table = paper.numbered(**{"table": None, "figure": None, kind: int(number)})
    assert printed.rstrip() == "\n".join(paper.lines(table, records.recorded())).rstrip()
    assert re.match(rf"\*\*{kind.title()} {number}: ", printed)


def test_what_a_table_lacks_is_run_first(tmp_path, capsys, monkeypatch):
    """What was recorded is not repeated."""
    pytest.importorskip("joblib", reason="several runs need the extra 'sweep'")
    small = dataclasses.replace(RECIPES["copying-1000-kru"], delay=5, updates=2)
    names = ["copying-1000-kru", "copying-1000-kru-frozen"]
    monkeypatch.setattr(paper, "RECIPES", dict.fromkeys(names, small))
    monkeypatch.setattr("kru_ref.training.cli.RECIPES", dict.fromkeys(names, small))
    monkeypatch.setattr(records, "RECIPES", dict.fromkeys(names, small))
    row = paper.FIGURES[1].rows[0]._replace(recipes=(names[0], None))
    table = paper.FIGURES[1]._replace(rows=(row,))
    monkeypatch.setattr(paper, "FIGURES", {1: table})
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "--figure", "1", "--seeds", "2", "3", "--quiet"]) == 0
    made = sorted(folder.name for folder in (tmp_path / "runs").iterdir())
    assert made == [f"{name}-3" for name in names]
    assert "| KRU | 128 |" in capsys.readouterr().out


def test_a_table_is_printed_alone(capsys):
    assert main(["reproduce", "copying-1000-kru", "--table", "2"]) == 1
    assert "give one alone" in capsys.readouterr().err
    assert main(["reproduce", "--table", "2", "--figure", "1"]) == 1
