"""What was recorded, and what the folder of a run says of itself."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("filelock", reason="training needs the extra 'train'")
from kru_ref import __version__
from kru_ref.training import loop, records
from kru_ref.training.recipes import RECIPES
from kru_ref.training.tasks import Copying


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Train a small recipe, and return the folder of its run."""
    out = tmp_path_factory.mktemp("runs") / "copying"
    with pytest.MonkeyPatch.context() as patch:
        short = Copying(delay=5, updates=30, evaluate_every=10, hidden_size=8)
        patch.setitem(RECIPES, "short", short)
        loop.train(short, out)
    return out


def test_what_was_recorded_is_of_recipes():
    found = records.recorded()
    assert len(found) > 50
    names = [record["recipe"] for record in found]
    assert names == sorted(names, key=list(RECIPES).index)
    for record in found:
        recipe, n = RECIPES[record["recipe"]], record["parameters"]
        assert record["planned_updates"] == recipe.updates
        assert recipe.model().n_parameters == n
        settings = json.loads(json.dumps(records.settings_of(recipe)))
        # what a record does not know was not there yet, and is not in use
        new = {name: value for name, value in settings.items() if name not in record["settings"]}
        assert not any(new.values()), new
        assert record["settings"] == {name: settings[name] for name in record["settings"]}
        assert records.is_whole(record) == ("test_loss" in record["last"])


def test_a_folder_is_recorded(folder, monkeypatch):
    monkeypatch.setitem(RECIPES, "short", Copying(delay=5, updates=30, hidden_size=8))
    record = records.record_of(folder)
    assert (record["recipe"], record["seed"], record["updates"]) == ("short", 0, 30)
    assert records.is_whole(record)
    assert (record["settings"]["delay"], record["settings"]["batch_size"]) == (5, 20)
    assert record["computed"]["kru_ref"] == __version__
    assert record["parameters"] == RECIPES["short"].model().n_parameters
    assert record["baseline"] == pytest.approx(10 * np.log(8) / 25)
    assert [line["step"] for line in record["curve"] if "validation_loss" in line] == [10, 20, 30]
    assert record["last"] == json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    monkeypatch.setitem(RECIPES, "short", Copying(delay=5, updates=31, hidden_size=8))
    assert not records.is_whole(records.record_of(folder))


def test_other_folders_are_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is no run of a recipe"):
        records.record_of(folder)
    monkeypatch.setitem(RECIPES, "short", Copying(delay=5, updates=30, hidden_size=8))
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="has made no update"):
        records.record_of(tmp_path / "copy")
    for line in (b"5", b"[", b'{"a": 1}'):
        (tmp_path / "copy" / "metrics.jsonl").write_bytes(line + b"\n")
        with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged: it has the line"):
            records.record_of(tmp_path / "copy")
    content = (folder / "metrics.jsonl").read_bytes()
    (tmp_path / "copy" / "metrics.jsonl").write_bytes(content[:-9])  # half of the last line
    record = records.record_of(tmp_path / "copy")
    assert record["updates"] == 30
    assert not records.is_whole(record)


def test_runs_of_ones_own_come_behind_what_was_recorded(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "short", Copying(delay=5, updates=30, hidden_size=8))
    shutil.copytree(folder, tmp_path / "short-0")
    shutil.copytree(folder, tmp_path / "short-again")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.warns(records.RunWarning, match="left out: .*other"):
        found = records.recorded_and_in(tmp_path)
    assert found[:-1] == records.recorded()
    assert found[-1]["recipe"] == "short"
    assert records.recorded_and_in(tmp_path / "nowhere") == records.recorded()
