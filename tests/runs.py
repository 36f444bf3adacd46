"""Small runs of training, stopped and compared."""

import json

import numpy as np
import pytest

pytest.importorskip("filelock", reason="training needs the extra 'train'")
from kru_ref.training.loop import train
from kru_ref.training.tasks import Copying

SMALL = Copying(
    delay=5,
    hidden_size=8,
    batch_size=4,
    updates=30,
    log_every=5,
    evaluate_every=10,
    checkpoint_every=10,
    held_out_sequences=6,
)


def metrics(out):
    return [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]


def without_time(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def arrays(out):
    with np.load(out / "checkpoint.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name != "seconds"}


def assert_same_run(a, b):
    first, second = arrays(a), arrays(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert without_time(metrics(a)) == without_time(metrics(b))


class Stop(Exception):
    pass


def stop_after(update, error=Stop):
    def on_update(line):
        if line["step"] == update:
            raise error

    return on_update


def stopped_run(out, update=20):
    """Leave a run that was stopped, with its checkpoint before."""
    with pytest.raises(Stop):
        train(SMALL, out, on_update=stop_after(update))
    assert {p.name for p in out.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.npz",
        "checkpoint.previous.npz",
    }
