"""Copying memory."""

import numpy as np
import pytest

from kru_ref.training.tasks import (
    Copying,
)


def test_copying():
    task = Copying(delay=7, batch_size=6)
    batch = task.batch(3)
    x, targets = batch.x, batch.targets
    assert x.shape == targets.shape == (27, 6)
    assert x[:10].max() <= 7
    np.testing.assert_array_equal(x[10:16], 8)
    np.testing.assert_array_equal(x[16], 9)
    np.testing.assert_array_equal(x[17:], 8)
    np.testing.assert_array_equal(targets[:17], 8)
    np.testing.assert_array_equal(targets[17:], x[:10])
    # blanks for certain and then a guess among the 8 symbols costs the baseline
    logits = np.full((27, 9, 6), -1e9)
    logits[:17, 8] = 0
    logits[17:, :8] = 0
    assert task.loss(logits, targets)[0] == pytest.approx(task.baseline[1])
    assert Copying(delay=1000).baseline[1] == pytest.approx(0.0204, abs=5e-5)
    perfect = (targets[:, None] == np.arange(9)[:, None]).astype(float)
    assert task.metrics(0.0, perfect, batch) == {"accuracy": 1.0}
    assert set(np.unique(Copying(batch_size=500).batch(0)[0])) == set(range(10))
