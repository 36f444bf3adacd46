"""Pixels: the real files, and the permutation."""

import dataclasses

import numpy as np

from kru_ref.training.data.digits import load_digits
from kru_ref.training.tasks import (
    Pixels,
)


def test_pixels_of_the_real_files(real):
    mnist_dir = real("mnist")
    task = Pixels(data_dir=mnist_dir)
    batch = task.batch(0)
    x, labels = batch.x, batch.targets
    assert x.shape == (784, 1, 100)
    assert labels.shape == (100,)
    assert x.dtype == "float32"
    assert x.min() == 0
    assert x.max() == 1
    # the published counts of the labels
    train = load_digits("train", 60_000, mnist_dir)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train.labels).tolist() == counts

    # an epoch shows every training picture once, and none of the validation pictures
    shown = np.concatenate([task.batch(update)[1] for update in range(550)])
    assert np.bincount(shown).tolist() == np.bincount(train.labels[:55_000]).tolist()
    validation = np.concatenate([b.targets for b in task.held_out("validation")])
    np.testing.assert_array_equal(validation, train.labels[55_000:])
    again = np.concatenate([task.batch(update)[1] for update in range(550, 1100)])
    assert np.bincount(again).tolist() == np.bincount(shown).tolist()
    assert not np.array_equal(shown, again)
    perfect = np.eye(10)[labels].T[None]
    assert task.metrics(0.0, perfect, batch) == {"accuracy": 1.0}
    assert task.metrics(0.0, np.roll(perfect, 1, axis=1), batch) == {"accuracy": 0.0}
    assert sum(len(b.targets) for b in task.held_out("test")) == 10_000


def test_permuted_pixels(real):
    mnist_dir = real("mnist")
    plain = Pixels(data_dir=mnist_dir)
    permuted = dataclasses.replace(plain, permute=True)
    other = dataclasses.replace(permuted, permutation_seed=1)
    reseeded = dataclasses.replace(permuted, seed=9)
    x, x_permuted, x_other = (next(t.held_out("test"))[0] for t in (plain, permuted, other))
    order = np.random.default_rng(0).permutation(784)
    np.testing.assert_array_equal(x_permuted, x[order])
    assert not np.array_equal(x_permuted, x_other)
    np.testing.assert_array_equal(next(reseeded.held_out("test"))[0], x_permuted)
    x_theirs = next(dataclasses.replace(permuted, permutation="exprnn").held_out("test"))[0]
    order = np.random.RandomState(92916).permutation(784)
    np.testing.assert_array_equal(x_theirs, x[order])
