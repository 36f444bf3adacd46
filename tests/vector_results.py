"""Folders of results, the vectors' own but for what is changed in them."""

from pathlib import Path

import numpy as np

from kru_ref.checks import vectors

PUBLISHED = Path(__file__).parent / "vectors"


def results_of(folder, results, change=lambda case, name, a: a, cases=None):
    """Copy outputs and gradients, changed, to a folder of results."""
    results.mkdir(exist_ok=True)
    for case in vectors.read_index(folder)["cases"]:
        if cases is not None and case["name"] not in cases:
            continue
        arrays = vectors.read_arrays(folder / case["file"])
        changed = {
            name: change(case, name, a)
            for name, a in arrays.items()
            if name.startswith(("outputs/", "grads/"))
        }
        np.savez(results / case["file"], **{k: a for k, a in changed.items() if a is not None})
    return results
