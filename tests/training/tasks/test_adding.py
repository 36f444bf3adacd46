"""Adding."""

import numpy as np
import pytest

from kru_ref.training.tasks import (
    Adding,
)


def test_adding():
    task = Adding(length=9, batch_size=4000)
    batch = task.batch(0)
    x, targets = batch.x, batch.targets
    assert x.shape == (9, 2, 4000)
    assert targets.shape == (1, 4000)
    marks = x[:, 1]
    assert set(np.unique(marks)) == {0.0, 1.0}
    np.testing.assert_array_equal(marks[:4].sum(axis=0), 1)
    np.testing.assert_array_equal(marks[4:].sum(axis=0), 1)
    assert (marks.mean(axis=1) > 0.15).all()
    np.testing.assert_allclose(targets[0], (x[:, 0] * marks).sum(axis=0))
    assert 0 <= x[:, 0].min() < x[:, 0].max() <= 1
    ones = np.ones((1, 1, 4000))
    error, _ = task.loss(ones, targets, last_only=True)
    assert error == pytest.approx(task.baseline[1], rel=0.05)
    assert task.metrics(0.0, targets[None] + 0.05, batch) == {"within_0.1": 1.0}
    assert task.metrics(0.0, targets[None] - 0.15, batch) == {"within_0.1": 0.0}


def test_adding_grows():
    task = Adding(length=30, first_length=5, updates=10)
    lengths = [len(task.batch(update).x) for update in range(10)]
    assert lengths == [5, 5, 5, 5, 5, 9, 17, 30, 30, 30]
    assert [len(batch.x) for batch in task.held_out("test")] == [30] * 20
