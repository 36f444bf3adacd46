"""What a random unitary reservoir does by itself: nothing is learned but a readout, in closed form.

    python benchmarks/ridge_readout.py --json benchmarks/results/ridge_readout.json

The network of a recipe is left as it was drawn, and V and c of its readout are a ridge regression
on its states, of numbers or of targets as one-hot columns; how much it is held back is chosen on
validation data, the test data are read once. Tasks whose losses take probabilities, text and music,
have none of it: least squares gives no probabilities.
"""

import argparse
import dataclasses
import json

import numpy as np

from kru_ref.readout import features
from kru_ref.training.loop import evaluate
from kru_ref.training.recipes import RECIPES

# What measures them, and the batches that the readout is fitted on: an epoch of what there is.
TASKS = {
    "copying-1000-kru": ("accuracy", 100),
    "adding-750-kru": ("loss", 400),
    "tone-kru": ("loss", 400),
    "pixels-kru": ("accuracy", 550),
    "pixels-permuted-kru": ("accuracy", 550),
    "timit-kru-lstm": ("frame_error", 4),
}
STRENGTHS = np.logspace(-8, 2, 11)  # of the mean square of a state's numbers
BETTER = {"accuracy": max, "loss": min, "frame_error": min}


def states_and_targets(task, model, params, batch):
    """Return a column for each step that counts: the numbers of its state and 1; its target."""
    (of_cell,) = model.cell_params(params)
    h, _ = model.cell.forward(of_cell, batch.x)
    if task.last_only:
        z, counts = features(h[-1]), slice(None)
    else:
        z = np.moveaxis(features(h), 1, 0).reshape(model.cell.n_features, -1)
        counts = slice(None) if batch.mask is None else np.asarray(batch.mask).ravel() > 0
    y = batch.targets
    if y.dtype.kind in "iu":
        y = np.eye(task.output_size)[:, y.ravel()]
    z, y = (a.astype(np.float64)[:, counts] for a in (z, y))
    return np.concatenate([z, np.ones((1, z.shape[1]))]), y


def fit(task, n_batches):
    """Yield parameters whose readout is a ridge regression, for each strength."""
    model = task.model()
    params = model.init(task.rng("parameters"))
    gram, moment, n = 0.0, 0.0, 0
    for update in range(n_batches):
        z, y = states_and_targets(task, model, params, task.batch(update))
        gram, moment, n = gram + z @ z.T, moment + y @ z.T, n + z.shape[1]
    size = np.trace(gram[:-1, :-1]) / (len(gram) - 1)
    for strength in STRENGTHS:
        held = strength * size * np.eye(len(gram))
        held[-1, -1] = 0  # c is free
        weights = np.linalg.solve(gram + held, moment.T).T
        readout = {"readout.V": weights[:, :-1], "readout.c": weights[:, -1]}
        yield model, params | {n: w.astype(params[n].dtype) for n, w in readout.items()}


def main():
    """Fit, choose, test, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="PATH")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    found = []
    for name in options.tasks:
        metric, n_batches = TASKS[name]
        for seed in options.seeds:
            task = dataclasses.replace(RECIPES[name], seed=seed)
            key = f"validation_{metric}"
            chosen = BETTER[metric](
                fit(task, n_batches), key=lambda made: evaluate(task, *made, "validation")[key]
            )
            value = evaluate(task, *chosen, "test")[f"test_{metric}"]
            found.append({"recipe": name, "seed": seed, "metric": metric, "test": value})
            print(json.dumps(found[-1]), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
